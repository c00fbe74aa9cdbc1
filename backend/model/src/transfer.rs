//! Volumes' files on their way between their hosts and their customers.

use std::fmt;

use crate::{DomainError, id::VolumeId};

/// What is in one message of a transfer at most, in bytes.
pub const CHUNK_MAX: usize = 1024 * 1024;
/// What a sender puts into one message, in bytes.
pub const CHUNK: usize = 256 * 1024;

/// One transfer: random, of one host, one volume and one caller. It ends with the caller's call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub [u8; 16]);

impl TransferId {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid` for what is not 16 bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, DomainError> {
        let wrong = |_| DomainError::invalid("transfer_id", "it is not 16 bytes");
        bytes.try_into().map(Self).map_err(wrong)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever has all of it may take part in it.
        write!(f, "TransferId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// What a host is asked for. It may be lost: the customer asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendVolume {
    /// The transfer to send it with.
    pub transfer: TransferId,
    /// Whose file.
    pub volume: VolumeId,
    /// From which byte on.
    pub offset: u64,
}

/// A part of a transfer, in this order: one `Begin`, then `Data`; a `Failed` ends it at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The file is there.
    Begin {
        /// All that the file has, also before the offset.
        bytes: u64,
    },
    /// The next bytes, at most [`CHUNK_MAX`].
    Data(Vec<u8>),
    /// It can't go on.
    Failed {
        /// Why, for the customer.
        reason: String,
    },
}
