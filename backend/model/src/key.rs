//! Keys of volumes as the platform carries them: blobs that it can't open, and what it knows of
//! them. What is in them, and how they are made and opened, is the crate `fairmazon-keys`'.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    DomainError,
    id::{HostId, VolumeId},
};

/// Bytes of a sealed key that are taken at most.
pub const SEALED_MAX: usize = 512;
/// Bytes of a wrapped key that are taken at most.
pub const WRAPPED_MAX: usize = 1_024;
/// The `key_version` of a volume whose customer has never raised it.
pub const FIRST_KEY_VERSION: u32 = 1;

/// So many next keys in a row may be given that the volume's host can't open, before its customer
/// has to look for the cause: clients answer at once, and would do so for ever.
pub const REFUSED_KEYS_MAX: u32 = 3;

pub(crate) const fn first_key_version() -> u32 {
    FIRST_KEY_VERSION
}

/// Bytes that the platform carries and can't read; Base64 in JSON.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The key of a volume on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeHostKey {
    /// Ascending for each volume and host, from 1.
    pub version: u32,
    /// The `key_version` of the volume's spec that it was made for: a customer who raises that
    /// wants another key.
    #[serde(default = "first_key_version")]
    pub made_for: u32,
    /// Tells keys apart and says nothing of them.
    pub fingerprint: String,
    /// For the host's agent alone.
    pub sealed: Blob,
    /// For the customer alone.
    pub wrapped: Blob,
}

impl VolumeHostKey {
    /// Checks sizes and forms.
    ///
    /// # Errors
    /// `Invalid` with the path of the field.
    pub fn check(&self) -> Result<(), DomainError> {
        let is_print = self.fingerprint.strip_prefix("SHA256:").is_some_and(|hash| {
            hash.len() == 43
                && hash.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        });
        if !is_print {
            return Err(DomainError::invalid(
                "fingerprint",
                "it has to be `SHA256:` and a hash in Base64 without padding",
            ));
        }
        let blobs = [("sealed", &self.sealed, SEALED_MAX), ("wrapped", &self.wrapped, WRAPPED_MAX)];
        for (field, blob, most) in blobs {
            if !(1..=most).contains(&blob.0.len()) {
                return Err(DomainError::invalid(
                    field,
                    format!("it has to have 1 to {most} bytes, and has {}", blob.0.len()),
                ));
            }
        }
        Ok(())
    }
}

/// A volume's key as its host is sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedVolumeKey {
    /// Which of the volume's keys on this host.
    pub version: u32,
    /// What only the host's agent opens.
    pub sealed: Blob,
}

/// What a joined host shows to customers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSealing {
    /// The public key that volume keys are sealed to: X25519.
    pub key: Blob,
    /// The certificate that says whose it is, with its chain, as PEM.
    pub certificate: String,
}

/// A key that a host waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// Of which volume.
    pub volume: VolumeId,
    /// For which host.
    pub host: HostId,
    /// The version that the key shall have.
    pub version: u32,
    /// The `key_version` of the volume's spec that it is for.
    pub made_for: u32,
    /// The host's certificate with its chain, as PEM.
    pub certificate: String,
}

/// The key of one volume for one host, as its customer gives it, or a host that has the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenKey {
    /// Of which volume.
    pub volume: VolumeId,
    /// For which host.
    pub host: HostId,
    /// What was sealed and wrapped.
    pub key: VolumeHostKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> VolumeHostKey {
        VolumeHostKey {
            version: 1,
            made_for: 1,
            fingerprint: format!("SHA256:{}", "A".repeat(43)),
            sealed: Blob(vec![1, 2]),
            wrapped: Blob(vec![3]),
        }
    }

    #[test]
    fn blobs_survive_json_and_are_not_shown() {
        let json = serde_json::to_string(&key()).unwrap();
        assert_eq!(serde_json::from_str::<VolumeHostKey>(&json).unwrap(), key());
        assert_eq!(format!("{:?}", key().sealed), "Blob(2 bytes)");
        serde_json::from_str::<Blob>("\"no base64!\"").unwrap_err();
    }

    #[test]
    fn a_key_of_before_rotation_was_made_for_the_first_version() {
        let mut json = serde_json::to_value(key()).unwrap();
        json.as_object_mut().unwrap().remove("made_for").unwrap();
        assert_eq!(serde_json::from_value::<VolumeHostKey>(json).unwrap(), key());
    }

    #[test]
    fn odd_keys_are_refused() {
        key().check().unwrap();
        let field = |change: &dyn Fn(&mut VolumeHostKey)| {
            let mut key = key();
            change(&mut key);
            key.check().unwrap_err().field.unwrap()
        };
        assert_eq!(field(&|key| key.sealed = Blob(Vec::new())), "sealed");
        assert_eq!(field(&|key| key.wrapped = Blob(vec![0; WRAPPED_MAX + 1])), "wrapped");
        assert_eq!(field(&|key| key.fingerprint = "the key itself".into()), "fingerprint");
    }
}
