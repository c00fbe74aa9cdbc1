//! Volumes' files on their way.

use fairmazon_model::{
    DomainError,
    transfer::{CHUNK_MAX, Part, SendVolume, TransferId},
};

use super::{id, required};
use crate::host::v1::{self, volume_part};

impl From<&SendVolume> for v1::Send {
    fn from(asked: &SendVolume) -> Self {
        Self {
            transfer_id: asked.transfer.0.to_vec(),
            volume_id: asked.volume.to_string(),
            offset: asked.offset,
        }
    }
}

impl TryFrom<v1::Send> for SendVolume {
    type Error = DomainError;

    fn try_from(message: v1::Send) -> Result<Self, DomainError> {
        Ok(Self {
            transfer: TransferId::read(&message.transfer_id)?,
            volume: id("volume_id", &message.volume_id)?,
            offset: message.offset,
        })
    }
}

impl From<Part> for v1::VolumePart {
    fn from(part: Part) -> Self {
        let part = match part {
            Part::Begin { bytes } => {
                volume_part::Part::Begin(v1::VolumeBegin { total_bytes: bytes })
            }
            Part::Data(data) => volume_part::Part::Data(data),
            Part::Failed { reason } => volume_part::Part::Failed(v1::VolumeFailed { reason }),
        };
        Self { part: Some(part), transfer_id: Vec::new() }
    }
}

impl TryFrom<v1::VolumePart> for Part {
    type Error = DomainError;

    fn try_from(message: v1::VolumePart) -> Result<Self, DomainError> {
        Ok(match required("part", message.part)? {
            volume_part::Part::Begin(begin) => Self::Begin { bytes: begin.total_bytes },
            volume_part::Part::Data(data) if data.len() > CHUNK_MAX => {
                let text = format!("{} bytes, at most {CHUNK_MAX} are one message", data.len());
                return Err(DomainError::invalid("data", text));
            }
            volume_part::Part::Data(data) => Self::Data(data),
            volume_part::Part::Failed(failed) => Self::Failed { reason: failed.reason },
        })
    }
}
