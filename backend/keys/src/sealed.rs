//! A volume's key on its way to a host: sealed with HPKE (RFC 9180, base mode, the suite
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305) to the key of the host's agent.
//!
//! What a seal is for is bound into it ([`Binding`]): one that is carried to another host, volume
//! or purpose, or shown as another version, does not open. With the key goes the customer's
//! recipient, so that a host that passes the data on can wrap the next key for its customer
//! without asking the platform who that is.

use std::fmt;

use fairmazon_model::{
    id::{HostId, VolumeId},
    key::Blob,
};
use hpke::{
    Deserializable as _, OpModeR, OpModeS, Serializable as _,
    aead::{AeadTag, ChaCha20Poly1305 as Aead},
    inout::InOutBuf,
    kdf::HkdfSha256 as Kdf,
    kem::X25519HkdfSha256 as Kem,
    single_shot_open_inout_detached, single_shot_seal_inout_detached,
};
use zeroize::Zeroizing;

use crate::{HostSecret, KeyError, Recipient, SealingKey, VolumeKey, WrappedKey};

/// HPKE's `info`: what this use of it is for.
const INFO: &[u8] = b"fairmazon sealed volume key 1";
/// Bytes of the encapsulated key, which a sealed key begins with.
const ENCAPSULATED: usize = 32;
/// Bytes of the tag, which it ends with.
const TAG: usize = 16;
/// Bytes of a recipient's text at most; those of X25519 have 62.
const RECIPIENT_MAX: usize = 128;

/// What a host may use a key for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To run a machine with the volume.
    Run,
    /// To keep a copy that takes over when the host that runs the machine is lost.
    Standby,
    /// To keep backups.
    Backup,
}

/// What a sealed key is bound to. Nothing of it is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The volume that it opens.
    pub volume: VolumeId,
    /// The host that may open it.
    pub host: HostId,
    /// What for.
    pub purpose: Purpose,
    /// Which of the volume's keys on that host, ascending from 1: no seal passes for another one.
    pub version: u32,
}

impl Binding {
    /// HPKE's associated data.
    fn associated_data(&self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Run => "run",
            Purpose::Standby => "standby",
            Purpose::Backup => "backup",
        };
        let Self { volume, host, version, .. } = self;
        format!("{volume}\n{host}\n{purpose}\n{version}").into_bytes()
    }
}

/// A volume's key that only one host can open.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKey(Vec<u8>);

/// What a host finds in a seal.
#[derive(Debug)]
pub struct Opened {
    /// The volume's key.
    pub key: VolumeKey,
    /// Its customer's recipient.
    pub recipient: Recipient,
}

impl Opened {
    /// The key wrapped anew for its customer.
    ///
    /// # Errors
    /// As of [`WrappedKey::wrap`].
    pub fn wrap(&self, volume: VolumeId) -> Result<Blob, KeyError> {
        let wrapped = WrappedKey::wrap(&self.key, volume, &self.recipient)?;
        Ok(Blob(wrapped.bytes().to_vec()))
    }
}

impl SealedKey {
    /// Bytes of one at most.
    pub const MAX: usize = ENCAPSULATED + VolumeKey::LENGTH + RECIPIENT_MAX + TAG;

    /// Seals a key for the host with this sealing key.
    ///
    /// # Errors
    /// `BadSealingKey` and `NotSealed` when nothing can be sealed to it.
    pub fn seal(
        key: &VolumeKey,
        recipient: &Recipient,
        to: &SealingKey,
        binding: &Binding,
    ) -> Result<Self, KeyError> {
        let recipient = recipient.to_string();
        let mut text = Zeroizing::new(Vec::with_capacity(VolumeKey::LENGTH + recipient.len()));
        text.extend_from_slice(key.bytes());
        text.extend_from_slice(recipient.as_bytes());
        let (encapsulated, tag) = single_shot_seal_inout_detached::<Aead, Kdf, Kem>(
            &OpModeS::Base,
            &to.point()?,
            INFO,
            InOutBuf::from(text.as_mut_slice()),
            &binding.associated_data(),
        )
        .map_err(|_| KeyError::NotSealed { volume: binding.volume, host: binding.host })?;
        let mut bytes = Vec::with_capacity(ENCAPSULATED + text.len() + TAG);
        bytes.extend_from_slice(&encapsulated.to_bytes());
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(&tag.to_bytes());
        Ok(Self(bytes))
    }

    /// As it came over the wire; whether it is one shows when it is opened.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// For the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Opens it on the host that it is for.
    ///
    /// # Errors
    /// `NotOpened` for every other host, volume, purpose or version, and for every changed byte.
    pub fn open(&self, secret: &HostSecret, binding: &Binding) -> Result<Opened, KeyError> {
        let refused = || KeyError::NotOpened { volume: binding.volume, host: binding.host };
        let least = ENCAPSULATED + VolumeKey::LENGTH + TAG;
        if !(least..=Self::MAX).contains(&self.0.len()) {
            return Err(refused());
        }
        let (encapsulated, rest) = self.0.split_at(ENCAPSULATED);
        let (text, tag) = rest.split_at(rest.len() - TAG);
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated);
        let tag = AeadTag::<Aead>::from_bytes(tag);
        let (Ok(encapsulated), Ok(tag)) = (encapsulated, tag) else { return Err(refused()) };
        let mut text = Zeroizing::new(text.to_vec());
        single_shot_open_inout_detached::<Aead, Kdf, Kem>(
            &OpModeR::Base,
            &secret.0,
            &encapsulated,
            INFO,
            InOutBuf::from(text.as_mut_slice()),
            &binding.associated_data(),
            &tag,
        )
        .map_err(|_| refused())?;
        let (key, recipient) = text.split_first_chunk().ok_or_else(refused)?;
        let recipient = str::from_utf8(recipient).map_err(|_| refused())?;
        let recipient = recipient.parse().map_err(|_| refused())?;
        Ok(Opened { key: VolumeKey::new(key), recipient })
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedKey({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Identity;

    fn binding() -> Binding {
        Binding {
            volume: VolumeId::from_parts(1, 1),
            host: HostId::from_parts(1, 2),
            purpose: Purpose::Run,
            version: 1,
        }
    }

    fn sealed(secret: &HostSecret) -> (VolumeKey, Recipient, SealedKey) {
        let key = VolumeKey::random().unwrap();
        let recipient = Identity::generate().recipient();
        let sealed = SealedKey::seal(&key, &recipient, &secret.sealing_key(), &binding()).unwrap();
        (key, recipient, sealed)
    }

    #[test]
    fn only_the_host_opens_it_and_only_for_what_it_is() {
        let secret = HostSecret::generate();
        let (key, recipient, sealed) = sealed(&secret);
        let opened = sealed.open(&secret, &binding()).unwrap();
        assert_eq!(opened.key.bytes(), key.bytes());
        assert_eq!(opened.recipient, recipient);
        let others = [
            Binding { volume: VolumeId::from_parts(1, 3), ..binding() },
            Binding { host: HostId::from_parts(1, 3), ..binding() },
            Binding { purpose: Purpose::Backup, ..binding() },
            Binding { purpose: Purpose::Standby, ..binding() },
            Binding { version: 2, ..binding() },
        ];
        for other in others {
            let error = sealed.open(&secret, &other).unwrap_err();
            assert!(matches!(error, KeyError::NotOpened { .. }), "{other:?}");
        }
        sealed.open(&HostSecret::generate(), &binding()).unwrap_err();
    }

    #[test]
    fn the_key_is_nowhere_in_it() {
        let secret = HostSecret::generate();
        let (key, _, sealed) = sealed(&secret);
        assert!(!sealed.bytes().windows(8).any(|part| key.bytes().windows(8).any(|k| k == part)));
        assert!(sealed.bytes().len() <= SealedKey::MAX);
        assert_eq!(format!("{sealed:?}"), format!("SealedKey({} bytes)", sealed.bytes().len()));
    }

    #[test]
    fn two_seals_of_one_key_differ() {
        let secret = HostSecret::generate();
        let (key, recipient, first) = sealed(&secret);
        let second = SealedKey::seal(&key, &recipient, &secret.sealing_key(), &binding()).unwrap();
        assert_ne!(first, second);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_byte_and_a_cut_end_are_refused(at in 0_usize..142, bit in 0_u8..8, cut in 1_usize..142) {
            let secret = HostSecret::generate();
            let (_, _, sealed) = sealed(&secret);
            let mut changed = sealed.bytes().to_vec();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            // The top bit of an X25519 point is ignored by its definition (RFC 7748, section 5),
            // and the encapsulated key is bound by HPKE as it was sent.
            prop_assert!(SealedKey::from_bytes(changed).open(&secret, &binding()).is_err());
            let mut short = sealed.bytes().to_vec();
            short.truncate(short.len().saturating_sub(cut));
            prop_assert!(SealedKey::from_bytes(short).open(&secret, &binding()).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let secret = HostSecret::generate();
            prop_assert!(SealedKey::from_bytes(bytes).open(&secret, &binding()).is_err());
        }
    }
}
