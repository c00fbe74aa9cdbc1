//! Keys of volumes: those that hosts wait for, and those that customers give.

use fairmazon_model::{
    DomainError,
    key::{Blob, FIRST_KEY_VERSION, GivenKey, KeyRequest, VolumeHostKey},
};

use super::id;
use crate::v1;

impl From<KeyRequest> for v1::KeyRequest {
    fn from(request: KeyRequest) -> Self {
        Self {
            volume_id: request.volume.to_string(),
            host_id: request.host.to_string(),
            version: request.version,
            key_version: request.made_for,
            host_certificate: request.certificate,
        }
    }
}

impl TryFrom<v1::KeyRequest> for KeyRequest {
    type Error = DomainError;

    fn try_from(message: v1::KeyRequest) -> Result<Self, DomainError> {
        Ok(Self {
            volume: id("volume_id", &message.volume_id)?,
            host: id("host_id", &message.host_id)?,
            version: message.version,
            made_for: message.key_version.max(FIRST_KEY_VERSION),
            certificate: message.host_certificate,
        })
    }
}

impl From<GivenKey> for v1::GivenKey {
    fn from(given: GivenKey) -> Self {
        Self {
            volume_id: given.volume.to_string(),
            host_id: given.host.to_string(),
            version: given.key.version,
            key_version: given.key.made_for,
            fingerprint: given.key.fingerprint,
            sealed: given.key.sealed.0,
            wrapped: given.key.wrapped.0,
        }
    }
}

impl TryFrom<v1::GivenKey> for GivenKey {
    type Error = DomainError;

    fn try_from(message: v1::GivenKey) -> Result<Self, DomainError> {
        Ok(Self {
            volume: id("volume_id", &message.volume_id)?,
            host: id("host_id", &message.host_id)?,
            key: VolumeHostKey {
                version: message.version,
                made_for: message.key_version.max(FIRST_KEY_VERSION),
                fingerprint: message.fingerprint,
                sealed: Blob(message.sealed),
                wrapped: Blob(message.wrapped),
            },
        })
    }
}
