//! A runtime for Terraform and OpenTofu providers in Rust.

#[cfg(test)]
mod arbitrary;
pub mod bridge;
pub mod codec;
pub mod path;
pub mod proto;
pub mod schema;
pub mod types;
pub mod validate;
pub mod value;

pub use bridge::{Attr, ConversionError, decimal, from_value, to_value};
pub use path::AttributePath;
pub use schema::{Attribute, Schema};
pub use types::Type;
pub use value::{Number, Value};
