//! Values to the author's own types and back, through serde.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tfplugin::{Attr, Type, Value, from_value, to_value};
//!
//! #[derive(Debug, PartialEq, Deserialize, Serialize)]
//! struct Volume {
//!     name: String,
//!     size_gib: Option<i64>,
//!     id: Attr<String>,
//! }
//!
//! let value = Value::object([
//!     ("name", "data".into()),
//!     ("size_gib", Value::Null),
//!     ("id", Value::UNKNOWN),
//! ]);
//! let volume: Volume = from_value(&value)?;
//! assert_eq!(volume.size_gib, None);
//! assert!(volume.id.is_unknown());
//!
//! let ty = Type::object([
//!     ("name", Type::String),
//!     ("size_gib", Type::Number),
//!     ("id", Type::String),
//! ]);
//! assert_eq!(to_value(&volume, &ty)?, value);
//! # Ok::<(), tfplugin::ConversionError>(())
//! ```
//!
//! | field | reads |
//! |---|---|
//! | `String`, `bool`, integers, floats, [`Number`](crate::Number) | that value; null and unknown are errors naming the path |
//! | `Option<T>` | null or `T` |
//! | [`Attr<T>`] | null, unknown or `T` |
//! | `Vec<T>`, `HashSet<T>`, `BTreeSet<T>`, tuples, arrays | lists, sets and tuples |
//! | `HashMap<String, T>`, `BTreeMap<String, T>` | maps and objects |
//! | structs | objects; attributes without a field are passed over |
//! | enums of unit variants | strings |
//! | `serde_json::Value` | anything known |
//! | `BigDecimal` with `#[serde(with = "tfplugin::decimal")]` | numbers, exactly |
//!
//! `#[serde(flatten)]` and `#[serde(untagged)]` work for what is wholly known only: serde
//! buffers what is inside, and the buffer has no place for unknown.

mod attr;
mod de;
pub mod decimal;
mod error;
mod infer;
mod retype;
mod ser;
#[cfg(test)]
mod tests;

pub use attr::Attr;
pub use error::ConversionError;
pub use retype::keep_types;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::Type;
use crate::value::Value;

/// Names under which the wrappers of this crate pass through serde. They cannot be names of
/// types, so nobody else's are taken for them.
const ATTR: &str = "$tfplugin::Attr";
const UNKNOWN: &str = "$tfplugin::Unknown";
const NUMBER: &str = "$tfplugin::Number";

/// Reads an author's type from a value.
///
/// # Errors
/// When the value does not fit: the path says where.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, ConversionError> {
    T::deserialize(de::Reader::new(value))
}

/// Makes a value of type `ty` from an author's type. Attributes that have no field are null.
///
/// # Errors
/// When it does not fit the type: the path says where.
pub fn to_value<T: Serialize + ?Sized>(value: &T, ty: &Type) -> Result<Value, ConversionError> {
    value.serialize(ser::Writer::new(ty))
}
