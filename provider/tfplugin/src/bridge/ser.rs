//! The writing half: a serde serializer that makes a [`Value`] of a given type.

use std::sync::Arc;

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
    SerializeTupleStruct, Serializer,
};

use super::{ConversionError, NUMBER, UNKNOWN, infer};
use crate::path::Step;
use crate::types::{ObjectType, Type};
use crate::value::{Members, Number, Value};

type Result<T> = std::result::Result<T, ConversionError>;

/// Writes one value.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    ty: &'a Type,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(ty: &'a Type) -> Self {
        Self { ty }
    }

    fn mismatch(self, found: &str) -> ConversionError {
        ConversionError::new(format!("the type is {}, the field holds {found}", self.ty))
    }

    fn number(self, number: impl TryInto<Number>) -> Result<Value> {
        let number = number.try_into().map_err(|_| ConversionError::new("not a finite number"))?;
        match self.ty {
            Type::Number => Ok(Value::Number(number)),
            Type::Dynamic => Ok(Value::dynamic(Type::Number, Value::Number(number))),
            _ => Err(self.mismatch("a number")),
        }
    }

    fn float(self, float: f64) -> Result<Value> {
        let number =
            Number::from_f64(float).map_err(|error| ConversionError::new(error.to_string()));
        self.number(number?)
    }

    fn variant(self, name: &'static str, value: Value) -> Result<Value> {
        let mut members = self.serialize_map(None)?;
        members.put(name, value)?;
        SerializeMap::end(members)
    }

    /// The type of the attribute or element that a variant's content becomes.
    fn variant_type(self, name: &str) -> Result<&'a Type> {
        match self.ty {
            Type::Object(object) => object.get(name),
            Type::Map(element) => Some(&**element),
            _ => None,
        }
        .ok_or_else(|| self.mismatch("a variant with content"))
    }
}

macro_rules! numbers {
    ($($method:ident $number:ty),*) => {$(
        fn $method(self, number: $number) -> Result<Value> {
            self.number(number)
        }
    )*};
}

impl<'a> Serializer for Writer<'a> {
    type Ok = Value;
    type Error = ConversionError;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Elements<'a>;
    type SerializeTupleStruct = Elements<'a>;
    type SerializeTupleVariant = Impossible<Value, ConversionError>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Impossible<Value, ConversionError>;

    numbers!(
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64,
        serialize_i128 i128, serialize_u8 u8, serialize_u16 u16, serialize_u32 u32,
        serialize_u64 u64, serialize_u128 u128
    );

    fn serialize_bool(self, truth: bool) -> Result<Value> {
        match self.ty {
            Type::Bool => Ok(Value::Bool(truth)),
            Type::Dynamic => Ok(Value::dynamic(Type::Bool, Value::Bool(truth))),
            _ => Err(self.mismatch("a bool")),
        }
    }

    fn serialize_f32(self, float: f32) -> Result<Value> {
        // Through the shortest text, so that 0.1 stays one tenth.
        self.float(float.to_string().parse().unwrap_or(f64::NAN))
    }

    fn serialize_f64(self, float: f64) -> Result<Value> {
        self.float(float)
    }

    fn serialize_char(self, c: char) -> Result<Value> {
        self.serialize_str(c.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<Value> {
        match self.ty {
            Type::String => Ok(text.into()),
            Type::Dynamic => Ok(Value::dynamic(Type::String, text.into())),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Value> {
        Err(self.mismatch("binary data"))
    }

    fn serialize_none(self) -> Result<Value> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Value> {
        Ok(if name == UNKNOWN { Value::UNKNOWN } else { Value::Null })
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value> {
        if name != NUMBER {
            return value.serialize(self);
        }
        let text = value.serialize(Writer::new(&Type::String))?;
        let number: Option<Number> = text.as_str().and_then(|text| text.parse().ok());
        self.number(number.ok_or_else(|| ConversionError::new("the text is no number"))?)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value> {
        let inside = |error: ConversionError| error.inside(Step::Attribute(variant.into()));
        let value = value.serialize(Writer::new(self.variant_type(variant)?)).map_err(inside)?;
        self.variant(variant, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'a>> {
        let types = match self.ty {
            Type::List(element) => Types::All(element),
            Type::Set(element) => Types::All(element),
            Type::Tuple(types) => Types::Each(types),
            Type::Dynamic => Types::All(&Type::Dynamic),
            _ => return Err(self.mismatch("a sequence")),
        };
        Ok(Elements { writer: self, types, elements: Vec::new() })
    }

    fn serialize_tuple(self, length: usize) -> Result<Elements<'a>> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Elements<'a>> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        Err(self.mismatch("a variant of several parts"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>> {
        let target = match self.ty {
            Type::Map(element) => Target::Map(element),
            Type::Object(object) => Target::Object(object),
            Type::Dynamic => Target::Map(&Type::Dynamic),
            _ => return Err(self.mismatch("a map or struct")),
        };
        Ok(Entries { writer: self, target, members: Members::new(), key: None })
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Entries<'a>> {
        self.serialize_map(Some(length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        Err(self.mismatch("a variant of several parts"))
    }
}

enum Types<'a> {
    All(&'a Type),
    Each(&'a [Type]),
}

/// A list, set or tuple in the making.
pub(super) struct Elements<'a> {
    writer: Writer<'a>,
    types: Types<'a>,
    elements: Vec<Value>,
}

impl SerializeSeq for Elements<'_> {
    type Ok = Value;
    type Error = ConversionError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let index = self.elements.len();
        let ty = match self.types {
            Types::All(ty) => ty,
            Types::Each(types) => {
                types.get(index).ok_or_else(|| self.writer.mismatch("more elements"))?
            }
        };
        let in_set = matches!(self.writer.ty, Type::Set(_));
        let step = if in_set { Step::Element } else { Step::Index(index) };
        let value = value.serialize(Writer::new(ty)).map_err(|error| error.inside(step))?;
        self.elements.push(value);
        Ok(())
    }

    fn end(self) -> Result<Value> {
        match self.writer.ty {
            Type::Set(_) => Ok(Value::Set(self.elements.into())),
            Type::Tuple(types) if types.len() != self.elements.len() => {
                Err(self.writer.mismatch("fewer elements"))
            }
            Type::Tuple(_) => Ok(Value::Tuple(self.elements)),
            Type::Dynamic => Ok(infer::tuple(self.elements)),
            _ => Ok(Value::List(self.elements)),
        }
    }
}

impl SerializeTuple for Elements<'_> {
    type Ok = Value;
    type Error = ConversionError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for Elements<'_> {
    type Ok = Value;
    type Error = ConversionError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<Value> {
        SerializeSeq::end(self)
    }
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Map(&'a Type),
    Object(&'a ObjectType),
}

/// A map or object in the making.
pub(super) struct Entries<'a> {
    writer: Writer<'a>,
    target: Target<'a>,
    members: Members,
    key: Option<Arc<str>>,
}

impl<'a> Entries<'a> {
    /// The shared key, the step to it and the type of what belongs there.
    fn place(&self, key: &str) -> Result<(Arc<str>, Step, &'a Type)> {
        match self.target {
            Target::Map(ty) => {
                let key: Arc<str> = key.into();
                Ok((Arc::clone(&key), Step::Key(key), ty))
            }
            Target::Object(object) => match object.get_entry(key) {
                Some((name, ty)) => Ok((Arc::clone(name), Step::Attribute(Arc::clone(name)), ty)),
                None => Err(ConversionError::new("the schema has no attribute for this field")
                    .inside(Step::Attribute(key.into()))),
            },
        }
    }

    fn write<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        let (key, step, ty) = self.place(key)?;
        let value = value.serialize(Writer::new(ty)).map_err(|error| error.inside(step))?;
        self.members.insert(key, value);
        Ok(())
    }

    fn put(&mut self, key: &str, value: Value) -> Result<()> {
        let (key, _, _) = self.place(key)?;
        self.members.insert(key, value);
        Ok(())
    }
}

impl SerializeMap for Entries<'_> {
    type Ok = Value;
    type Error = ConversionError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let key = match key.serialize(Writer::new(&Type::Dynamic))?.undynamic() {
            Value::String(key) => key.as_str().into(),
            Value::Number(number) => number.to_string().into(),
            _ => return Err(ConversionError::new("a key must be a string")),
        };
        self.key = Some(key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        match self.key.take() {
            Some(key) => self.write(&key, value),
            None => Err(ConversionError::new("a value came before its key")),
        }
    }

    fn end(mut self) -> Result<Value> {
        match (self.target, self.writer.ty) {
            (_, Type::Dynamic) => Ok(infer::object(self.members)),
            (Target::Map(_), _) => Ok(Value::Map(self.members)),
            (Target::Object(object), _) => {
                if self.members.len() < object.len() {
                    for (name, _) in object.iter() {
                        self.members.entry(Arc::clone(name)).or_insert(Value::Null);
                    }
                }
                Ok(Value::Object(self.members))
            }
        }
    }
}

impl SerializeStruct for Entries<'_> {
    type Ok = Value;
    type Error = ConversionError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<()> {
        self.write(key, value)
    }

    fn end(self) -> Result<Value> {
        SerializeMap::end(self)
    }
}
