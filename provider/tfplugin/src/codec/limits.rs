//! How large a value on the wire may be.

use super::error::DecodeFault;

/// The longest encoded value, in bytes: the longest message that a client sends.
pub const MAX_BYTES: usize = 64 << 20;
/// How deep values and types may be nested.
pub const MAX_DEPTH: usize = 64;
/// How many values one value may hold. A value of one byte on the wire takes some dozens in
/// memory, so bytes alone are no bound.
pub const MAX_VALUES: usize = 2_000_000;

/// What is left of the limits while one value is decoded.
#[derive(Debug)]
pub(super) struct Budget {
    values: usize,
    depth: usize,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self { values: MAX_VALUES, depth: MAX_DEPTH }
    }

    /// Counts one more value, one level further in.
    pub(super) fn enter(&mut self) -> Result<(), DecodeFault> {
        self.values = self.values.checked_sub(1).ok_or(DecodeFault::TooMany)?;
        self.depth = self.depth.checked_sub(1).ok_or(DecodeFault::TooDeep)?;
        Ok(())
    }

    /// Steps out of the level again.
    pub(super) const fn leave(&mut self) {
        self.depth += 1;
    }
}

/// Refuses what is too long to be looked at.
pub(super) const fn check_size(bytes: &[u8]) -> Result<(), DecodeFault> {
    if bytes.len() > MAX_BYTES { Err(DecodeFault::TooLarge) } else { Ok(()) }
}

/// The capacity to set aside for `declared` elements: never more than a page or two, since the
/// length is only a claim.
pub(super) fn capacity(declared: usize) -> usize {
    declared.min(64)
}
