//! Exact numbers through serde: [`Number`] as a field, and `#[serde(with = "tfplugin::decimal")]`
//! for fields of type `BigDecimal`.

use std::fmt;

use bigdecimal::BigDecimal;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};

use super::NUMBER;
use crate::value::Number;

/// Writes an exact decimal.
///
/// # Errors
/// When it is past the limits of a [`Number`], or the format refuses it.
pub fn serialize<S: Serializer>(decimal: &BigDecimal, serializer: S) -> Result<S::Ok, S::Error> {
    Number::try_from(decimal.clone()).map_err(S::Error::custom)?.serialize(serializer)
}

/// Reads an exact decimal.
///
/// # Errors
/// When the value is no number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BigDecimal, D::Error> {
    Number::deserialize(deserializer).map(|number| number.to_bigdecimal())
}

/// Other formats than a [`Value`](crate::Value) get the decimal text.
impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(NUMBER, &self.to_string())
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NUMBER, NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Number, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E>(self, int: i64) -> Result<Number, E> {
        Ok(int.into())
    }

    fn visit_u64<E>(self, int: u64) -> Result<Number, E> {
        Ok(int.into())
    }

    fn visit_f64<E: serde::de::Error>(self, float: f64) -> Result<Number, E> {
        Number::from_f64(float).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_hold_numbers_too() {
        let number: Number = serde_json::from_str("0.1").unwrap();
        assert_eq!(number, "0.1".parse().unwrap());
        let text = serde_json::to_string(&number).unwrap();
        assert_eq!(serde_json::from_str::<Number>(&text).unwrap(), number);
        assert!(serde_json::from_str::<Number>("true").is_err());
    }
}
