//! Volumes' files on their way.

use fairmazon_model::{
    DomainError,
    transfer::{CHUNK_MAX, Part, ReceiveVolume, SendVolume, Taken, TransferId},
};

use super::{id, required};
use crate::host::v1::{self, volume_part, volume_taken};

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
            Part::Failed { reason } => {
                volume_part::Part::Failed(v1::VolumeFailed { reason, passing: false })
            }
        };
        Self { part: Some(part), transfer_id: Vec::new() }
    }
}

impl TryFrom<v1::VolumePart> for Part {
    type Error = DomainError;

    fn try_from(message: v1::VolumePart) -> Result<Self, DomainError> {
        Ok(match required("part", message.part)? {
            volume_part::Part::Begin(begin) => Self::Begin { bytes: begin.total_bytes },
            volume_part::Part::Data(data) => Self::Data(chunk(data)?),
            volume_part::Part::Failed(failed) => Self::Failed { reason: failed.reason },
        })
    }
}

impl From<&ReceiveVolume> for v1::Receive {
    fn from(asked: &ReceiveVolume) -> Self {
        Self { transfer_id: asked.transfer.0.to_vec(), volume_id: asked.volume.to_string() }
    }
}

impl TryFrom<v1::Receive> for ReceiveVolume {
    type Error = DomainError;

    fn try_from(message: v1::Receive) -> Result<Self, DomainError> {
        Ok(Self {
            transfer: TransferId::read(&message.transfer_id)?,
            volume: id("volume_id", &message.volume_id)?,
        })
    }
}

impl From<Taken> for v1::VolumeTaken {
    fn from(taken: Taken) -> Self {
        let taken = match taken {
            Taken::Begin { offset } => volume_taken::Taken::Begin(v1::VolumeTakenBegin { offset }),
            Taken::Stored => volume_taken::Taken::Stored(v1::VolumeStored {}),
            Taken::Failed { reason, passing } => {
                volume_taken::Taken::Failed(v1::VolumeFailed { reason, passing })
            }
        };
        Self { taken: Some(taken), transfer_id: Vec::new() }
    }
}

impl TryFrom<v1::VolumeTaken> for Taken {
    type Error = DomainError;

    fn try_from(message: v1::VolumeTaken) -> Result<Self, DomainError> {
        Ok(match required("taken", message.taken)? {
            volume_taken::Taken::Begin(begin) => Self::Begin { offset: begin.offset },
            volume_taken::Taken::Stored(_) => Self::Stored,
            volume_taken::Taken::Failed(failed) => {
                Self::Failed { reason: failed.reason, passing: failed.passing }
            }
        })
    }
}

/// The bytes of one message of a transfer.
///
/// # Errors
/// `Invalid` for more than [`CHUNK_MAX`].
pub fn chunk(data: Vec<u8>) -> Result<Vec<u8>, DomainError> {
    if data.len() <= CHUNK_MAX {
        return Ok(data);
    }
    let text = format!("{} bytes, at most {CHUNK_MAX} are one message", data.len());
    Err(DomainError::invalid("data", text))
}
