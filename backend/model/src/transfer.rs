//! Volumes' files on their way between their hosts and their customers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
        let wrong = |_| DomainError::invalid("transfer_id", "it has to be 16 bytes");
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

/// What a host is asked to take. It may be lost: the customer asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveVolume {
    /// The transfer to take it with.
    pub transfer: TransferId,
    /// Whose file.
    pub volume: VolumeId,
}

/// What a host says of a file that it takes, in this order: one `Begin`, then one `Stored`; a
/// `Failed` ends it at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It takes the bytes from here on.
    Begin {
        /// How many it has.
        offset: u64,
    },
    /// It has all of them.
    Stored,
    /// It can't go on.
    Failed {
        /// Why, for the customer.
        reason: String,
        /// Asking again may help.
        passing: bool,
    },
}

/// The SHA-256 of a file; 64 hexadecimal digits as a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(<sha2::Sha256 as sha2::Digest>::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let wrong = |_| DomainError::invalid("sha256", "it has to be 64 hexadecimal digits");
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(wrong)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_shown() {
        let hash = Sha256(std::array::from_fn(|at| u8::try_from(at * 7).unwrap()));
        assert_eq!(hash.to_string().parse::<Sha256>().unwrap(), hash);
        assert_eq!(
            serde_json::from_str::<Sha256>(&serde_json::to_string(&hash).unwrap()).unwrap(),
            hash
        );
        for wrong in ["", "00", &"g".repeat(64), &"ü".repeat(32)] {
            wrong.parse::<Sha256>().unwrap_err();
        }
    }
}
