//! Write-only attributes: known to the configuration alone.

use crate::path::AttributePath;
use crate::schema::{Body, Mark, Schema, each_marked};
use crate::value::Value;

/// The object with every write-only attribute null, as each state must be.
#[must_use]
pub fn null_write_only(schema: &Schema, mut value: Value) -> Value {
    clear_nested(schema.body(), &mut value);
    value
}

/// The paths of the write-only attributes that are set, unknown ones included.
#[must_use]
pub fn write_only_paths(schema: &Schema, value: &Value) -> Vec<AttributePath> {
    let mut found = Vec::new();
    each_marked(schema.body(), value, Mark::WriteOnly, &mut |path, _| {
        found.push(path.clone());
    });
    found
}

fn clear(body: &Body, value: &mut Value) {
    let Value::Object(members) = value else { return };
    for attribute in body.attributes() {
        let Some(value) = members.get_mut(attribute.name()) else { continue };
        if attribute.is_write_only() {
            *value = Value::Null;
        } else if let Some(body) = attribute.body() {
            clear_nested(body, value);
        }
    }
    for block in body.blocks() {
        if let Some(value) = members.get_mut(block.name()) {
            clear_nested(block.body(), value);
        }
    }
}

fn clear_nested(body: &Body, value: &mut Value) {
    if !body.can_hold(Mark::WriteOnly) {
        return;
    }
    match value {
        Value::List(elements) => elements.iter_mut().for_each(|element| clear(body, element)),
        Value::Map(members) => members.values_mut().for_each(|element| clear(body, element)),
        Value::Set(elements) => {
            let mut changed = std::mem::take(elements).into_vec();
            changed.iter_mut().for_each(|element| clear(body, element));
            *elements = changed.into();
        }
        _ => clear(body, value),
    }
}
