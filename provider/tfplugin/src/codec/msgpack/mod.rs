//! The msgpack form: what clients send and prefer.

mod decode;
mod encode;
mod reader;
mod refinement;

pub use decode::decode;
pub use encode::encode;
