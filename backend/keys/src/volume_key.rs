//! The key of a volume: a secret that is wiped when it is dropped and never shown.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::KeyError;

/// What fingerprints are made under, so that none is the hash of anything else.
const FINGERPRINT: &[u8] = b"fairmazon volume key fingerprint 1\0";

/// The key that a volume's data is encrypted with: random, the customer's, and on a host only in
/// memory. It can't be cloned, printed or compared, and its bytes are overwritten at its end.
pub struct VolumeKey(Box<Zeroizing<[u8; Self::LENGTH]>>);

impl VolumeKey {
    /// Bytes of a key.
    pub const LENGTH: usize = 32;

    /// A new one, of random bytes of the system.
    ///
    /// # Errors
    /// `NoRandomness` when the system has none.
    pub fn random() -> Result<Self, KeyError> {
        let mut key = Self(Box::new(Zeroizing::new([0; Self::LENGTH])));
        getrandom::fill(&mut **key.0)
            .map_err(|error| KeyError::NoRandomness { reason: error.to_string() })?;
        Ok(key)
    }

    /// Takes the bytes over; the caller's own copy is the caller's to wipe.
    pub fn new(bytes: &[u8; Self::LENGTH]) -> Self {
        let mut key = Box::new(Zeroizing::new([0; Self::LENGTH]));
        key.copy_from_slice(bytes);
        Self(key)
    }

    pub(crate) fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The key as the passphrase that drivers give to LUKS: its bytes in hexadecimal, since
    /// passphrases have to be text.
    pub fn passphrase(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // As large as it gets: a string that grows leaves its old bytes behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * Self::LENGTH));
        for byte in self.0.iter() {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        }
        text
    }

    /// What tells two keys apart and says nothing about either: `SHA256:` and a hash in Base64.
    /// Nobody can guess 256 random bits from it.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::new().chain_update(FINGERPRINT).chain_update(self.bytes()).finalize();
        format!("SHA256:{}", STANDARD_NO_PAD.encode(hash))
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = VolumeKey::new(&[0xab; 32]);
        assert_eq!(format!("{key:?} {key:#?}"), "VolumeKey(secret) VolumeKey(secret)");
    }

    #[test]
    fn the_passphrase_is_hexadecimal() {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (0x0f, 0xa0);
        let passphrase = VolumeKey::new(&bytes).passphrase();
        assert_eq!(passphrase.len(), 64);
        assert!(passphrase.starts_with("0f00") && passphrase.ends_with("00a0"));
    }

    #[test]
    fn keys_differ_and_their_fingerprints_too() {
        let (one, two) = (VolumeKey::random().unwrap(), VolumeKey::random().unwrap());
        assert_ne!(one.bytes(), two.bytes());
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.fingerprint(), VolumeKey::new(one.bytes()).fingerprint());
    }
}
