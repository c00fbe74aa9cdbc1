//! The reading half: a serde deserializer over a [`Value`].

use std::sync::Arc;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::{ATTR, ConversionError, NUMBER};
use crate::path::Step;
use crate::value::{Members, Number, Value};

/// Reads one value.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    value: &'a Value,
}

impl<'a> Reader<'a> {
    pub(super) fn new(value: &'a Value) -> Self {
        Self { value: value.undynamic() }
    }

    fn mismatch(self, expected: &str) -> ConversionError {
        let reason = match self.value {
            Value::Unknown(_) => "the value is not known yet, and must be here".to_owned(),
            Value::Null => format!("expected {expected}, but it is not set"),
            other => format!("expected {expected}, found {}", other.kind()),
        };
        ConversionError::new(reason)
    }

    fn number(self) -> Result<&'a Number, ConversionError> {
        match self.value {
            Value::Number(number) => Ok(number),
            _ => Err(self.mismatch("a number")),
        }
    }

    fn integer<T>(self, fit: impl FnOnce(&Number) -> Option<T>) -> Result<T, ConversionError> {
        let number = self.number()?;
        fit(number).ok_or_else(|| {
            let why = if number.is_integer() { "too large or too small" } else { "not whole" };
            ConversionError::new(format!("the number is {why} for an integer of its kind"))
        })
    }
}

macro_rules! signed {
    ($($method:ident $visit:ident $int:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
            let fit = |number: &Number| number.as_i64().and_then(|int| <$int>::try_from(int).ok());
            visitor.$visit(self.integer(fit)?)
        }
    )*};
}

macro_rules! unsigned {
    ($($method:ident $visit:ident $int:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
            let fit = |number: &Number| number.as_u64().and_then(|int| <$int>::try_from(int).ok());
            visitor.$visit(self.integer(fit)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ConversionError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Unknown(_) => Err(self.mismatch("a known value")),
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::String(text) => visitor.visit_str(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => visitor.visit_i64(int),
                (None, Some(int)) => visitor.visit_u64(int),
                (None, None) => visitor.visit_f64(number.to_f64()),
            },
            Value::List(_) | Value::Set(_) | Value::Tuple(_) => self.deserialize_seq(visitor),
            Value::Map(_) | Value::Object(_) => self.deserialize_map(visitor),
            Value::Dynamic(typed) => Reader::new(&typed.value).deserialize_any(visitor),
        }
    }

    signed!(
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64
    );

    unsigned!(
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64
    );

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        visitor.visit_i128(self.integer(Number::as_i128)?)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        let fit = |number: &Number| number.as_i128().and_then(|int| u128::try_from(int).ok());
        visitor.visit_u128(self.integer(fit)?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        visitor.visit_f64(self.number()?.to_f64())
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        visitor.visit_f64(self.number()?.to_f64())
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::Bool(truth) => visitor.visit_bool(*truth),
            _ => Err(self.mismatch("a bool")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::String(text) => visitor.visit_str(text),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ConversionError> {
        Err(self.mismatch("binary data"))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ConversionError> {
        Err(self.mismatch("binary data"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            // A nested `Attr` says itself what it makes of unknown.
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            _ => Err(self.mismatch("null")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        match name {
            ATTR if matches!(self.value, Value::Unknown(_)) => visitor.visit_unit(),
            NUMBER => visitor.visit_string(self.number()?.to_string()),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        let in_set = matches!(self.value, Value::Set(_));
        match self.value.as_elements() {
            Some(elements) => visitor.visit_seq(Elements { elements, next: 0, in_set }),
            None => Err(self.mismatch("a list or set")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        match self.value.as_elements() {
            Some(elements) if elements.len() != length => {
                let found = elements.len();
                Err(ConversionError::new(format!("expected {length} elements, found {found}")))
            }
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::Map(members) => visitor.visit_map(Entries::new(members, Step::Key)),
            Value::Object(members) => visitor.visit_map(Entries::new(members, Step::Attribute)),
            _ => Err(self.mismatch("a map or object")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        match self.value {
            Value::String(text) => visitor.visit_enum(StrDeserializer::new(text)),
            // One attribute that is set, named like the variant.
            Value::Object(members) | Value::Map(members) => {
                let mut set = members.iter().filter(|(_, value)| !value.is_null());
                match (set.next(), set.next()) {
                    (Some((name, value)), None) => visitor.visit_enum(Variant { name, value }),
                    _ => Err(ConversionError::new("exactly one attribute must be set")),
                }
            }
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        visitor.visit_unit()
    }
}

struct Elements<'a> {
    elements: &'a [Value],
    next: usize,
    in_set: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = ConversionError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ConversionError> {
        let Some(value) = self.elements.get(self.next) else { return Ok(None) };
        let step = if self.in_set { Step::Element } else { Step::Index(self.next) };
        self.next += 1;
        seed.deserialize(Reader::new(value)).map(Some).map_err(|error| error.inside(step))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len() - self.next)
    }
}

struct Entries<'a, S> {
    entries: std::collections::btree_map::Iter<'a, Arc<str>, Value>,
    value: Option<(&'a Arc<str>, &'a Value)>,
    step: S,
}

impl<'a, S> Entries<'a, S> {
    fn new(members: &'a Members, step: S) -> Self {
        Self { entries: members.iter(), value: None, step }
    }
}

impl<'de, S: Fn(Arc<str>) -> Step> MapAccess<'de> for Entries<'_, S> {
    type Error = ConversionError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ConversionError> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let inside = |error: ConversionError| error.inside((self.step)(Arc::clone(key)));
        let key: StrDeserializer<'_, ConversionError> = (**key).into_deserializer();
        seed.deserialize(key).map(Some).map_err(inside)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ConversionError> {
        let Some((key, value)) = self.value.take() else {
            return Err(ConversionError::new("a value was asked for before its key"));
        };
        seed.deserialize(Reader::new(value))
            .map_err(|error| error.inside((self.step)(Arc::clone(key))))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Variant<'a> {
    name: &'a str,
    value: &'a Value,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = ConversionError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), ConversionError> {
        let name: StrDeserializer<'_, ConversionError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = ConversionError;

    fn unit_variant(self) -> Result<(), ConversionError> {
        Err(ConversionError::new("a string was expected"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, ConversionError> {
        let step = Step::Attribute(self.name.into());
        seed.deserialize(Reader::new(self.value)).map_err(|error| error.inside(step))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        let step = Step::Attribute(self.name.into());
        let reader = Reader::new(self.value);
        reader.deserialize_tuple(length, visitor).map_err(|error| error.inside(step))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConversionError> {
        let step = Step::Attribute(self.name.into());
        Reader::new(self.value).deserialize_map(visitor).map_err(|error| error.inside(step))
    }
}
