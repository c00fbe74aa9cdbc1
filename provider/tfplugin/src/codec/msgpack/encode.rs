//! Values to bytes, each piece in its shortest form.

use std::sync::Arc;

use rmp::Marker;

use super::super::error::{EncodeError, EncodeFault};
use super::refinement;
use crate::path::Step;
use crate::types::{ObjectType, Type};
use crate::value::{Compact, Number, Value};

/// Encodes a value of type `ty`. An attribute that the object lacks is written as null.
///
/// # Errors
/// When the value does not have the type.
pub fn encode(value: &Value, ty: &Type) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(256);
    encode_into(value, ty, &mut out)?;
    Ok(out)
}

fn encode_into(value: &Value, ty: &Type, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match (value, ty) {
        (Value::Null, _) => out.push(Marker::Null.to_u8()),
        // A promise about a value whose type is open has no form on the wire.
        (Value::Unknown(_), Type::Dynamic) => refinement::write(None, out),
        (Value::Unknown(refinements), _) => refinement::write(refinements.as_deref(), out),
        (Value::Bool(truth), Type::Bool) => bool(*truth, out),
        (Value::Number(value), Type::Number) => number(value, out),
        (Value::String(string), Type::String) => text(string, out),
        (Value::List(elements), Type::List(element)) => {
            array_len(elements.len(), out);
            encode_elements(elements.iter().map(|value| (value, &**element)), out)?;
        }
        (Value::Set(elements), Type::Set(element)) => {
            array_len(elements.len(), out);
            for value in elements.iter() {
                encode_into(value, element, out).map_err(|error| error.inside(Step::Element))?;
            }
        }
        (Value::Tuple(elements), Type::Tuple(types)) if elements.len() == types.len() => {
            array_len(elements.len(), out);
            encode_elements(elements.iter().zip(types.iter()), out)?;
        }
        (Value::Map(members), Type::Map(element)) => {
            map_len(length(members.len()), out);
            for (key, value) in members {
                text(key, out);
                encode_into(value, element, out)
                    .map_err(|error| error.inside(Step::Key(Arc::clone(key))))?;
            }
        }
        (Value::Object(_), Type::Object(object)) => encode_object(value, object, out)?,
        (Value::Dynamic(typed), Type::Dynamic) => {
            array_len(2, out);
            binary(&typed.ty.to_json(), out);
            encode_into(&typed.value, &typed.ty, out)?;
        }
        _ => {
            let expected = ty.to_string();
            return Err(EncodeFault::Mismatch { expected, found: value.kind() }.into());
        }
    }
    Ok(())
}

fn encode_elements<'a>(
    elements: impl Iterator<Item = (&'a Value, &'a Type)>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    for (index, (value, ty)) in elements.enumerate() {
        encode_into(value, ty, out).map_err(|error| error.inside(Step::Index(index)))?;
    }
    Ok(())
}

fn encode_object(value: &Value, object: &ObjectType, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Value::Object(members) = value else { return Ok(()) };
    map_len(length(object.len()), out);
    let mut found = 0;
    for (name, ty) in object.iter() {
        text(name, out);
        match members.get(name) {
            Some(value) => {
                found += 1;
                encode_into(value, ty, out)
                    .map_err(|error| error.inside(Step::Attribute(Arc::clone(name))))?;
            }
            None => out.push(Marker::Null.to_u8()),
        }
    }
    if found < members.len()
        && let Some(name) = members.keys().find(|name| object.get(name).is_none())
    {
        let error = EncodeError::from(EncodeFault::NoSuchAttribute);
        return Err(error.inside(Step::Attribute(Arc::clone(name))));
    }
    Ok(())
}

/// A length as the wire has it. Nothing in memory comes near the bound.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(super) fn bool(truth: bool, out: &mut Vec<u8>) {
    out.push(if truth { Marker::True } else { Marker::False }.to_u8());
}

pub(super) fn number(number: &Number, out: &mut Vec<u8>) {
    match number.compact() {
        Compact::Int(value) => int(value, out),
        Compact::Uint(value) => uint(value, out),
        Compact::Float(value) => {
            out.push(Marker::F64.to_u8());
            out.extend(value.to_be_bytes());
        }
        Compact::Text => text(&number.to_string(), out),
    }
}

fn int(value: i64, out: &mut Vec<u8>) {
    if let Ok(value) = u64::try_from(value) {
        uint(value, out);
    } else if let Ok(value) = i8::try_from(value) {
        if value < -32 {
            out.push(Marker::I8.to_u8());
        }
        // From -32 on, the byte is its own marker.
        out.extend(value.to_be_bytes());
    } else if let Ok(value) = i16::try_from(value) {
        out.push(Marker::I16.to_u8());
        out.extend(value.to_be_bytes());
    } else if let Ok(value) = i32::try_from(value) {
        out.push(Marker::I32.to_u8());
        out.extend(value.to_be_bytes());
    } else {
        out.push(Marker::I64.to_u8());
        out.extend(value.to_be_bytes());
    }
}

pub(super) fn uint(value: u64, out: &mut Vec<u8>) {
    if let Ok(value) = u8::try_from(value) {
        if value > 127 {
            out.push(Marker::U8.to_u8());
        }
        // Up to 127, the byte is its own marker.
        out.push(value);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(Marker::U16.to_u8());
        out.extend(value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(Marker::U32.to_u8());
        out.extend(value.to_be_bytes());
    } else {
        out.push(Marker::U64.to_u8());
        out.extend(value.to_be_bytes());
    }
}

pub(super) fn text(text: &str, out: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..32) => out.push(Marker::FixStr(length).to_u8()),
        Ok(length) => out.extend([Marker::Str8.to_u8(), length]),
        Err(_) => wide_length(Marker::Str16, Marker::Str32, text.len(), out),
    }
    out.extend(text.as_bytes());
}

fn binary(bytes: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(bytes.len()) {
        Ok(length) => out.extend([Marker::Bin8.to_u8(), length]),
        Err(_) => wide_length(Marker::Bin16, Marker::Bin32, bytes.len(), out),
    }
    out.extend(bytes);
}

pub(super) fn extension(code: i8, payload: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(payload.len()) {
        Ok(length) => out.extend([Marker::Ext8.to_u8(), length]),
        Err(_) => wide_length(Marker::Ext16, Marker::Ext32, payload.len(), out),
    }
    out.extend(code.to_be_bytes());
    out.extend(payload);
}

pub(super) fn array_len(count: usize, out: &mut Vec<u8>) {
    match u8::try_from(count) {
        Ok(count @ 0..16) => out.push(Marker::FixArray(count).to_u8()),
        _ => wide_length(Marker::Array16, Marker::Array32, count, out),
    }
}

pub(super) fn map_len(count: u32, out: &mut Vec<u8>) {
    match u8::try_from(count) {
        Ok(count @ 0..16) => out.push(Marker::FixMap(count).to_u8()),
        _ => wide_length(Marker::Map16, Marker::Map32, count as usize, out),
    }
}

fn wide_length(narrow: Marker, wide: Marker, count: usize, out: &mut Vec<u8>) {
    match u16::try_from(count) {
        Ok(count) => {
            out.push(narrow.to_u8());
            out.extend(count.to_be_bytes());
        }
        Err(_) => {
            out.push(wide.to_u8());
            out.extend(length(count).to_be_bytes());
        }
    }
}
