//! The JSON form: what stored states hold, and what clients may send instead of msgpack.

mod decode;
mod encode;
mod reader;

pub use decode::{decode, decode_lenient};
pub use encode::encode;
