//! Secrets and keys that a command makes itself.

use rand::{TryRngCore, rngs::OsRng};

use crate::error::CommandError;

/// A new bearer token: 32 random bytes in hex behind the platform's prefix.
pub(crate) fn token() -> Result<String, CommandError> {
    random().map(|hex| format!("{}{hex}", fairmazon_broker::core::TOKEN_PREFIX))
}

/// A new idempotency key for a change that is asked for once.
pub(crate) fn idempotency() -> Result<String, CommandError> {
    random()
}

/// A key for a volume that is made for a moment.
pub(crate) fn volume() -> Result<[u8; 32], CommandError> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| CommandError::System(std::io::Error::other(error)))?;
    Ok(bytes)
}

fn random() -> Result<String, CommandError> {
    volume().map(hex::encode)
}
