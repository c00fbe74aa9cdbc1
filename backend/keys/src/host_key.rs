//! A host's own key pair, which volume keys are sealed to: X25519 for HPKE.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hpke::{Deserializable as _, Kem as _, Serializable as _, kem::X25519HkdfSha256 as Kem};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::KeyError;

/// What fingerprints are made under, so that none is the hash of anything else.
const FINGERPRINT: &[u8] = b"fairmazon sealing key fingerprint 1\0";

/// What only a host's agent has: opens the keys that were sealed for the host.
pub struct HostSecret(pub(crate) <Kem as hpke::Kem>::PrivateKey);

impl HostSecret {
    /// Bytes of one.
    pub const LENGTH: usize = 32;

    /// A new one, of random bytes of the system.
    pub fn generate() -> Self {
        Self(Kem::gen_keypair().0)
    }

    /// From the bytes that [`bytes`](Self::bytes) gave.
    ///
    /// # Errors
    /// `BadSealingKey` for another length.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes);
        secret.map(Self).map_err(|_| KeyError::BadSealingKey)
    }

    /// Its bytes, for the agent's own file.
    pub fn bytes(&self) -> Zeroizing<[u8; Self::LENGTH]> {
        let mut bytes = Zeroizing::new([0; Self::LENGTH]);
        self.0.write_exact(bytes.as_mut_slice());
        bytes
    }

    /// What others seal to.
    pub fn sealing_key(&self) -> SealingKey {
        let mut bytes = [0; SealingKey::LENGTH];
        Kem::sk_to_pk(&self.0).write_exact(&mut bytes);
        SealingKey(bytes)
    }
}

impl fmt::Debug for HostSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostSecret(secret)")
    }
}

/// What volume keys are sealed to: the public key of a host's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealingKey([u8; Self::LENGTH]);

impl SealingKey {
    /// Bytes of one.
    pub const LENGTH: usize = 32;

    /// From its bytes.
    ///
    /// # Errors
    /// `BadSealingKey` for another length.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes.try_into().map(Self).map_err(|_| KeyError::BadSealingKey)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// What people compare and what is pinned: `SHA256:` and a hash in Base64.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::new().chain_update(FINGERPRINT).chain_update(self.0).finalize();
        format!("SHA256:{}", STANDARD_NO_PAD.encode(hash))
    }

    /// Whether a text has the form of a fingerprint.
    pub(crate) fn is_fingerprint(text: &str) -> bool {
        let hash = text.strip_prefix("SHA256:").and_then(|hash| STANDARD_NO_PAD.decode(hash).ok());
        hash.is_some_and(|hash| hash.len() == Sha256::output_size())
    }

    pub(crate) fn point(&self) -> Result<<Kem as hpke::Kem>::PublicKey, KeyError> {
        <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).map_err(|_| KeyError::BadSealingKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_bytes_and_is_never_shown() {
        let secret = HostSecret::generate();
        let again = HostSecret::new(secret.bytes().as_slice()).unwrap();
        assert_eq!(again.sealing_key(), secret.sealing_key());
        assert_eq!(format!("{secret:?}"), "HostSecret(secret)");
        assert_eq!(HostSecret::new(&[1; 31]).unwrap_err(), KeyError::BadSealingKey);
        assert_eq!(SealingKey::new(&[1; 33]).unwrap_err(), KeyError::BadSealingKey);
    }
}
