//! Values to JSON, objects in order of their names.

use std::sync::Arc;

use super::super::error::{EncodeError, EncodeFault};
use crate::path::Step;
use crate::types::{ObjectType, Type};
use crate::value::Value;

/// Encodes a value of type `ty`. An attribute that the object lacks is written as null.
///
/// # Errors
/// When the value does not have the type, or something in it is unknown.
pub fn encode(value: &Value, ty: &Type) -> Result<Vec<u8>, EncodeError> {
    let mut out = String::with_capacity(256);
    encode_into(value, ty, &mut out)?;
    Ok(out.into_bytes())
}

fn encode_into(value: &Value, ty: &Type, out: &mut String) -> Result<(), EncodeError> {
    match (value, ty) {
        (Value::Null, _) => out.push_str("null"),
        (Value::Unknown(_), _) => return Err(EncodeFault::Unknown.into()),
        (Value::Bool(truth), Type::Bool) => out.push_str(if *truth { "true" } else { "false" }),
        (Value::Number(number), Type::Number) => out.push_str(&number.to_string()),
        (Value::String(string), Type::String) => text(string, out),
        (Value::List(elements), Type::List(element)) => {
            encode_elements(elements.iter().map(|value| (value, &**element)), Step::Index, out)?;
        }
        (Value::Set(elements), Type::Set(element)) => {
            let elements = elements.iter().map(|value| (value, &**element));
            encode_elements(elements, |_| Step::Element, out)?;
        }
        (Value::Tuple(elements), Type::Tuple(types)) if elements.len() == types.len() => {
            encode_elements(elements.iter().zip(types.iter()), Step::Index, out)?;
        }
        (Value::Map(members), Type::Map(element)) => {
            out.push('{');
            for (position, (key, value)) in members.iter().enumerate() {
                separate(position, out);
                text(key, out);
                out.push(':');
                encode_into(value, element, out)
                    .map_err(|error| error.inside(Step::Key(Arc::clone(key))))?;
            }
            out.push('}');
        }
        (Value::Object(_), Type::Object(object)) => encode_object(value, object, out)?,
        (Value::Dynamic(typed), Type::Dynamic) => {
            out.push_str("{\"value\":");
            encode_into(&typed.value, &typed.ty, out)?;
            out.push_str(",\"type\":");
            out.push_str(&String::from_utf8_lossy(&typed.ty.to_json()));
            out.push('}');
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
    step: impl Fn(usize) -> Step,
    out: &mut String,
) -> Result<(), EncodeError> {
    out.push('[');
    for (index, (value, ty)) in elements.enumerate() {
        separate(index, out);
        encode_into(value, ty, out).map_err(|error| error.inside(step(index)))?;
    }
    out.push(']');
    Ok(())
}

fn encode_object(value: &Value, object: &ObjectType, out: &mut String) -> Result<(), EncodeError> {
    let Value::Object(members) = value else { return Ok(()) };
    if let Some(name) = members.keys().find(|name| object.get(name).is_none()) {
        let error = EncodeError::from(EncodeFault::NoSuchAttribute);
        return Err(error.inside(Step::Attribute(Arc::clone(name))));
    }
    out.push('{');
    for (position, (name, ty)) in object.iter().enumerate() {
        separate(position, out);
        text(name, out);
        out.push(':');
        encode_into(members.get(name).unwrap_or(&Value::Null), ty, out)
            .map_err(|error| error.inside(Step::Attribute(Arc::clone(name))))?;
    }
    out.push('}');
    Ok(())
}

fn separate(position: usize, out: &mut String) {
    if position > 0 {
        out.push(',');
    }
}

fn text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
