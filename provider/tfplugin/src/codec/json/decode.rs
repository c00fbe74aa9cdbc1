//! JSON to values.

use std::sync::Arc;

use super::super::error::{DecodeError, DecodeFault};
use super::super::limits::{Budget, check_size};
use super::reader::{Kind, Reader};
use crate::path::Step;
use crate::types::{ObjectType, Type};
use crate::value::{Members, Value};

/// Decodes one value of type `ty`, which takes all of `bytes`. Every attribute of an object
/// must be there, and no other.
///
/// # Errors
/// When the bytes are not JSON, not of the type, or past the limits of [`crate::codec`].
pub fn decode(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    decode_as(bytes, ty, Attributes::Exact)
}

/// The same for what people and older versions wrote: attributes that are missing are null,
/// and those that the type does not have are dropped.
///
/// # Errors
/// When the bytes are not JSON, not of the type, or past the limits of [`crate::codec`].
pub fn decode_lenient(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    decode_as(bytes, ty, Attributes::Lenient)
}

/// How the attributes of an object must match its type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attributes {
    Exact,
    Lenient,
}

fn decode_as(bytes: &[u8], ty: &Type, attributes: Attributes) -> Result<Value, DecodeError> {
    check_size(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeFault::Utf8)?;
    let mut budget = Budget::new();
    let mut decoder = Decoder { reader: Reader::new(text), budget: &mut budget, attributes };
    let value = decoder.value(ty)?;
    decoder.reader.finish()?;
    Ok(value)
}

struct Decoder<'a, 'b> {
    reader: Reader<'a>,
    budget: &'b mut Budget,
    attributes: Attributes,
}

impl Decoder<'_, '_> {
    fn value(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        self.budget.enter()?;
        let value = self.entered(ty)?;
        self.budget.leave();
        Ok(value)
    }

    fn entered(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        let kind = self.reader.kind()?;
        match (ty, kind) {
            (_, Kind::Null) => {
                self.reader.null()?;
                Ok(Value::Null)
            }
            (Type::Bool | Type::Number | Type::String, _) => Ok(self.primitive(ty, kind)?),
            (Type::List(element), Kind::Array) => {
                Ok(Value::List(self.elements(Step::Index, element)?))
            }
            (Type::Set(element), Kind::Array) => {
                Ok(Value::Set(self.elements(|_| Step::Element, element)?.into()))
            }
            (Type::Tuple(types), Kind::Array) => self.tuple(types),
            (Type::Map(element), Kind::Object) => self.map(element),
            (Type::Object(object), Kind::Object) => self.object(object),
            (Type::Dynamic, Kind::Object) => self.dynamic(),
            (Type::List(_) | Type::Set(_) | Type::Tuple(_), _) => {
                Err(expected("an array", kind).into())
            }
            (Type::Map(_) | Type::Object(_) | Type::Dynamic, _) => {
                Err(expected("an object", kind).into())
            }
        }
    }

    /// A primitive, also in the form of another one that says the same, as clients accept it:
    /// stored states hold such after an attribute has changed its type.
    fn primitive(&mut self, ty: &Type, kind: Kind) -> Result<Value, DecodeFault> {
        match (ty, kind) {
            (Type::Bool, Kind::Bool) => Ok(Value::Bool(self.reader.bool()?)),
            (Type::String, Kind::Bool) => Ok(Value::String(self.reader.bool()?.to_string())),
            (Type::String, Kind::String) => Ok(Value::String(self.reader.string()?.into_owned())),
            (Type::String, Kind::Number) => Ok(Value::String(self.reader.number()?.to_owned())),
            (Type::Number, Kind::Number) => {
                self.reader.number()?.parse().map(Value::Number).map_err(DecodeFault::Number)
            }
            (Type::Number, Kind::String) => {
                self.reader.string()?.parse().map(Value::Number).map_err(DecodeFault::Number)
            }
            (Type::Bool, Kind::String) => match &*self.reader.string()? {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(expected("a bool", kind)),
            },
            (Type::Bool, _) => Err(expected("a bool", kind)),
            (Type::Number, _) => Err(expected("a number", kind)),
            _ => Err(expected("a string", kind)),
        }
    }

    fn elements(
        &mut self,
        step: impl Fn(usize) -> Step,
        element: &Type,
    ) -> Result<Vec<Value>, DecodeError> {
        let mut elements = Vec::new();
        self.reader.expect(b'[', "expected an array")?;
        if self.reader.accept(b']') {
            return Ok(elements);
        }
        loop {
            let index = elements.len();
            elements.push(self.value(element).map_err(|error| error.inside(step(index)))?);
            if self.reader.accept(b']') {
                return Ok(elements);
            }
            self.reader.expect(b',', "expected a comma or the end of the array")?;
        }
    }

    fn tuple(&mut self, types: &[Type]) -> Result<Value, DecodeError> {
        self.reader.expect(b'[', "expected an array")?;
        let mut elements = Vec::with_capacity(types.len());
        for (index, ty) in types.iter().enumerate() {
            if index > 0 {
                self.reader.expect(b',', "expected another element of the tuple")?;
            }
            elements.push(self.value(ty).map_err(|error| error.inside(Step::Index(index)))?);
        }
        self.reader.expect(b']', "expected the end of the tuple")?;
        Ok(Value::Tuple(elements))
    }

    /// Calls `member` with each key of an object, the reader standing before its value.
    fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        self.reader.expect(b'{', "expected an object")?;
        if self.reader.accept(b'}') {
            return Ok(());
        }
        loop {
            let key = self.reader.string()?;
            self.reader.expect(b':', "expected a colon")?;
            member(self, &key)?;
            if self.reader.accept(b'}') {
                return Ok(());
            }
            self.reader.expect(b',', "expected a comma or the end of the object")?;
        }
    }

    fn map(&mut self, element: &Type) -> Result<Value, DecodeError> {
        let mut members = Members::new();
        self.members(|this, key| {
            let key: Arc<str> = key.into();
            let inside = |error: DecodeError| error.inside(Step::Key(Arc::clone(&key)));
            let value = this.value(element).map_err(inside)?;
            if members.contains_key(&key) {
                return Err(inside(DecodeFault::Duplicate.into()));
            }
            members.insert(key, value);
            Ok(())
        })?;
        Ok(Value::Map(members))
    }

    fn object(&mut self, object: &ObjectType) -> Result<Value, DecodeError> {
        let mut members = Members::new();
        self.members(|this, key| {
            let Some((name, ty)) = object.get_entry(key) else {
                if this.attributes == Attributes::Lenient {
                    this.reader.raw()?;
                    return Ok(());
                }
                let step = Step::Attribute(key.into());
                return Err(DecodeError::from(DecodeFault::NoSuchAttribute).inside(step));
            };
            let inside = |error: DecodeError| error.inside(Step::Attribute(Arc::clone(name)));
            let value = this.value(ty).map_err(inside)?;
            if members.insert(Arc::clone(name), value).is_some() {
                return Err(inside(DecodeFault::Duplicate.into()));
            }
            Ok(())
        })?;
        if members.len() == object.len() {
            return Ok(Value::Object(members));
        }
        for (name, _) in object.iter() {
            if members.contains_key(name) {
                continue;
            }
            if self.attributes == Attributes::Exact {
                let step = Step::Attribute(Arc::clone(name));
                return Err(DecodeError::from(DecodeFault::Missing).inside(step));
            }
            members.insert(Arc::clone(name), Value::Null);
        }
        Ok(Value::Object(members))
    }

    /// `{"type": ..., "value": ...}`, in either order.
    fn dynamic(&mut self) -> Result<Value, DecodeError> {
        let (mut ty, mut value) = (None, None);
        self.members(|this, key| {
            let place = match key {
                "type" => &mut ty,
                "value" => &mut value,
                _ => return Err(DecodeFault::NoSuchAttribute.into()),
            };
            match place.replace(this.reader.raw()?) {
                Some(_) => Err(DecodeFault::Duplicate.into()),
                None => Ok(()),
            }
        })?;
        let (Some(ty), Some(value)) = (ty, value) else {
            let expected = "an object with `type` and `value`";
            return Err(DecodeFault::Expected { expected, found: "an object without" }.into());
        };
        let ty = Type::from_json(ty.as_bytes()).map_err(DecodeFault::Type)?;
        let reader = Reader::new(value);
        let budget = &mut *self.budget;
        let mut inner = Decoder { reader, budget, attributes: self.attributes };
        let value = inner.value(&ty)?;
        inner.reader.finish()?;
        Ok(Value::dynamic(ty, value))
    }
}

const fn expected(expected: &'static str, kind: Kind) -> DecodeFault {
    DecodeFault::Expected { expected, found: kind.name() }
}
