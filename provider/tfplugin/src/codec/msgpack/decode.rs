//! Bytes to values.

use std::sync::Arc;

use rmp::Marker;

use super::super::error::{DecodeError, DecodeFault};
use super::super::limits::{Budget, capacity, check_size};
use super::reader::{Reader, expected};
use super::refinement;
use crate::path::Step;
use crate::types::{ObjectType, Type};
use crate::value::{Members, Value};

/// Decodes one value of type `ty`, which takes all of `bytes`.
///
/// # Errors
/// When the bytes are not msgpack, not of the type, or past the limits of [`crate::codec`].
pub fn decode(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    check_size(bytes)?;
    let mut decoder = Decoder { reader: Reader::new(bytes), budget: Budget::new() };
    let value = decoder.value(ty)?;
    match decoder.reader.left() {
        0 => Ok(value),
        left => Err(DecodeFault::Trailing(left).into()),
    }
}

struct Decoder<'a> {
    reader: Reader<'a>,
    budget: Budget,
}

impl Decoder<'_> {
    fn value(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        self.budget.enter()?;
        let value = self.entered(ty)?;
        self.budget.leave();
        Ok(value)
    }

    fn entered(&mut self, ty: &Type) -> Result<Value, DecodeError> {
        let marker = self.reader.marker()?;
        if marker == Marker::Null {
            return Ok(Value::Null);
        }
        if let Some((code, payload)) = self.reader.extension(marker)? {
            return Ok(refinement::read(code, payload)?);
        }
        match ty {
            Type::Bool => match marker {
                Marker::True => Ok(Value::Bool(true)),
                Marker::False => Ok(Value::Bool(false)),
                other => Err(expected("a bool", other).into()),
            },
            Type::Number => Ok(Value::Number(self.reader.number(marker)?)),
            Type::String => Ok(Value::String(self.reader.text(marker)?.to_owned())),
            Type::List(element) => Ok(Value::List(self.elements(marker, element, false)?)),
            Type::Set(element) => Ok(Value::Set(self.elements(marker, element, true)?.into())),
            Type::Tuple(types) => self.tuple(marker, types),
            Type::Map(element) => self.map(marker, element),
            Type::Object(object) => self.object(marker, object),
            Type::Dynamic => self.dynamic(marker),
        }
    }

    fn elements(
        &mut self,
        marker: Marker,
        element: &Type,
        in_set: bool,
    ) -> Result<Vec<Value>, DecodeError> {
        let length = self.reader.array_len(marker)?;
        let mut elements = Vec::with_capacity(capacity(length));
        for index in 0..length {
            let step = || if in_set { Step::Element } else { Step::Index(index) };
            elements.push(self.value(element).map_err(|error| error.inside(step()))?);
        }
        Ok(elements)
    }

    fn tuple(&mut self, marker: Marker, types: &[Type]) -> Result<Value, DecodeError> {
        let found = self.reader.array_len(marker)?;
        if found != types.len() {
            return Err(DecodeFault::Length { expected: types.len(), found }.into());
        }
        let decode = |(index, ty): (usize, &Type)| {
            self.value(ty).map_err(|error| error.inside(Step::Index(index)))
        };
        Ok(Value::Tuple(types.iter().enumerate().map(decode).collect::<Result<_, _>>()?))
    }

    fn key(&mut self) -> Result<&str, DecodeFault> {
        let marker = self.reader.marker()?;
        self.reader.text(marker)
    }

    fn map(&mut self, marker: Marker, element: &Type) -> Result<Value, DecodeError> {
        let length = self.reader.map_len(marker)?;
        let mut members = Members::new();
        for _ in 0..length {
            let key: Arc<str> = self.key()?.into();
            let inside = |error: DecodeError| error.inside(Step::Key(Arc::clone(&key)));
            let value = self.value(element).map_err(inside)?;
            if members.contains_key(&key) {
                return Err(inside(DecodeFault::Duplicate.into()));
            }
            members.insert(key, value);
        }
        Ok(Value::Map(members))
    }

    fn object(&mut self, marker: Marker, object: &ObjectType) -> Result<Value, DecodeError> {
        let length = self.reader.map_len(marker)?;
        let mut members = Vec::with_capacity(object.len().min(length));
        // Clients send attributes in the order of their names: as long as one does, nothing has
        // to be looked up.
        let (mut declared, mut in_order) = (object.iter(), true);
        for _ in 0..length {
            let key = self.key()?;
            let next = declared.next().filter(|(name, _)| in_order && ***name == *key);
            in_order = next.is_some();
            let Some((name, ty)) = next.or_else(|| object.get_entry(key)) else {
                let step = Step::Attribute(key.into());
                return Err(DecodeError::from(DecodeFault::NoSuchAttribute).inside(step));
            };
            let inside = |error: DecodeError| error.inside(Step::Attribute(Arc::clone(name)));
            let value = self.value(ty).map_err(inside)?;
            if !in_order && members.iter().any(|(known, _)| known == name) {
                return Err(inside(DecodeFault::Duplicate.into()));
            }
            members.push((Arc::clone(name), value));
        }
        let members: Members = members.into_iter().collect();
        if members.len() == object.len() {
            return Ok(Value::Object(members));
        }
        match object.iter().find(|(name, _)| !members.contains_key(*name)) {
            Some((name, _)) => {
                let step = Step::Attribute(Arc::clone(name));
                Err(DecodeError::from(DecodeFault::Missing).inside(step))
            }
            None => Ok(Value::Object(members)),
        }
    }

    fn dynamic(&mut self, marker: Marker) -> Result<Value, DecodeError> {
        let found = self.reader.array_len(marker)?;
        if found != 2 {
            return Err(DecodeFault::Length { expected: 2, found }.into());
        }
        let marker = self.reader.marker()?;
        let ty = Type::from_json(self.reader.bytes(marker)?).map_err(DecodeFault::Type)?;
        let value = self.value(&ty)?;
        Ok(Value::dynamic(ty, value))
    }
}
