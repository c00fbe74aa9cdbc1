//! Values to bytes and back, in the two forms of the wire.
//!
//! Both directions are driven by the [`Type`](crate::types::Type): the bytes alone do not tell
//! a map from an object, or a list from a set. The decoders take bytes from strangers: they
//! never panic, and what they allocate is bounded by the bytes that are really there.

mod error;
pub mod json;
mod limits;
pub mod msgpack;
#[cfg(test)]
mod tests;

pub use error::{DecodeError, DecodeFault, EncodeError, EncodeFault};
pub use limits::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};
