//! A volume's key wrapped for its customer: an age file, which age's own tools open too.

use std::fmt;

use fairmazon_model::id::VolumeId;
use zeroize::Zeroizing;

use crate::{Identity, KeyError, Recipient, VolumeKey};

/// Bytes of a wrapped key at most, its format's header and all.
const MAX: usize = 1024;

/// A volume's key that only its customer's identity opens.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey(Vec<u8>);

impl WrappedKey {
    /// Bytes of one at most.
    pub const MAX: usize = MAX;

    /// Wraps a volume's key.
    ///
    /// # Errors
    /// `BadRecipient` when age does not take the recipient.
    pub fn wrap(key: &VolumeKey, volume: VolumeId, to: &Recipient) -> Result<Self, KeyError> {
        let mut text = Zeroizing::new(Vec::with_capacity(VolumeKey::LENGTH * 2 + 64));
        text.extend_from_slice(key.passphrase().as_bytes());
        text.extend_from_slice(b"\n");
        text.extend_from_slice(volume.to_string().as_bytes());
        text.extend_from_slice(b"\n");
        age::encrypt(&to.0, &text).map(Self).map_err(|_| KeyError::BadRecipient)
    }

    /// As it came over the wire; whether it is one shows when it is opened.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// For the wire, and for a file that `age --decrypt` opens: the first line in it is the
    /// passphrase of the volume's LUKS header, the second the volume.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Opens it with the identity that it was wrapped for.
    ///
    /// # Errors
    /// `NotUnwrapped` for another identity or another volume, and for every changed byte.
    pub fn open(&self, volume: VolumeId, identity: &Identity) -> Result<VolumeKey, KeyError> {
        let (of, key) = self.read(identity).ok_or(KeyError::NotUnwrapped { volume })?;
        if of == volume { Ok(key) } else { Err(KeyError::NotUnwrapped { volume }) }
    }

    /// Opens it with the identity that it was wrapped for, and says which volume it is of.
    ///
    /// # Errors
    /// `NotAWrappedKey` for another identity, and for every changed byte.
    pub fn open_any(&self, identity: &Identity) -> Result<(VolumeId, VolumeKey), KeyError> {
        self.read(identity).ok_or(KeyError::NotAWrappedKey)
    }

    fn read(&self, identity: &Identity) -> Option<(VolumeId, VolumeKey)> {
        if self.0.len() > MAX {
            return None;
        }
        let text = age::decrypt(&identity.0, &self.0).map(Zeroizing::new).ok()?;
        let mut lines = str::from_utf8(&text).ok()?.lines();
        let (Some(key), Some(of), None) = (lines.next(), lines.next(), lines.next()) else {
            return None;
        };
        Some((of.parse().ok()?, from_hex(key)?))
    }
}

fn from_hex(text: &str) -> Option<VolumeKey> {
    let mut bytes = Zeroizing::new([0_u8; VolumeKey::LENGTH]);
    if text.len() != 2 * VolumeKey::LENGTH {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(VolumeKey::new(&bytes))
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_customer_opens_it_and_only_for_its_volume() {
        let (identity, key) = (Identity::generate(), VolumeKey::random().unwrap());
        let volume = VolumeId::from_parts(1, 1);
        let wrapped = WrappedKey::wrap(&key, volume, &identity.recipient()).unwrap();
        assert!(wrapped.bytes().len() <= WrappedKey::MAX);
        let opened = wrapped.open(volume, &identity).unwrap();
        assert_eq!(opened.bytes(), key.bytes());
        let (of, opened) = wrapped.open_any(&identity).unwrap();
        assert_eq!((of, opened.bytes()), (volume, key.bytes()));
        let refused = KeyError::NotUnwrapped { volume };
        assert_eq!(wrapped.open(volume, &Identity::generate()).unwrap_err(), refused);
        let other = VolumeId::from_parts(1, 2);
        wrapped.open(other, &identity).unwrap_err();
        let mut changed = wrapped.bytes().to_vec();
        *changed.last_mut().unwrap() ^= 1;
        let changed = WrappedKey::from_bytes(changed);
        assert_eq!(changed.open(volume, &identity).unwrap_err(), refused);
        assert_eq!(changed.open_any(&identity).unwrap_err(), KeyError::NotAWrappedKey);
        WrappedKey::from_bytes(vec![0; 5_000]).open(volume, &identity).unwrap_err();
    }
}
