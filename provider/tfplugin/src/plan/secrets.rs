//! Write-only attributes: known to the configuration alone.

use crate::path::{AttributePath, Step};
use crate::schema::{Attribute, Body, Nesting, Schema};
use crate::value::Value;

/// The object with every write-only attribute null, as each state must be.
#[must_use]
pub fn null_write_only(schema: &Schema, value: &Value) -> Value {
    let mut value = value.clone();
    clear(schema.body(), &mut value);
    value
}

/// The paths of the write-only attributes that are set, unknown ones included.
#[must_use]
pub fn write_only_paths(schema: &Schema, value: &Value) -> Vec<AttributePath> {
    let mut found = Vec::new();
    collect(schema.body(), value, &mut AttributePath::root(), &mut found);
    found
}

/// Whether there is anything write-only in objects of this body.
fn concerned(body: &Body) -> bool {
    let attribute = |attribute: &Attribute| {
        attribute.is_write_only() || attribute.body().is_some_and(concerned)
    };
    body.attributes().iter().any(attribute)
        || body.blocks().iter().any(|block| concerned(block.body()))
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
    if !concerned(body) {
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

fn collect(body: &Body, value: &Value, at: &mut AttributePath, found: &mut Vec<AttributePath>) {
    if !concerned(body) {
        return;
    }
    for attribute in body.attributes() {
        let value = value.member(attribute.name());
        at.push(Step::Attribute(attribute.name_arc().clone()));
        if attribute.is_write_only() {
            if !value.is_null() {
                found.push(at.clone());
            }
        } else if let Some((nesting, body)) = attribute.nested_objects() {
            collect_nested(nesting, body, value, at, found);
        }
        at.pop();
    }
    for block in body.blocks() {
        at.push(Step::Attribute(block.name_arc().clone()));
        collect_nested(block.nesting(), block.body(), value.member(block.name()), at, found);
        at.pop();
    }
}

fn collect_nested(
    nesting: Nesting,
    body: &Body,
    value: &Value,
    at: &mut AttributePath,
    found: &mut Vec<AttributePath>,
) {
    if value.is_null() || value.is_unknown() {
        return;
    }
    if matches!(nesting, Nesting::Single | Nesting::Group) {
        return collect(body, value, at, found);
    }
    let is_set = matches!(value, Value::Set(_));
    for (index, element) in value.as_elements().unwrap_or_default().iter().enumerate() {
        at.push(if is_set { Step::Element } else { Step::Index(index) });
        collect(body, element, at, found);
        at.pop();
    }
    for (key, element) in value.as_members().into_iter().flatten() {
        at.push(Step::Key(key.clone()));
        collect(body, element, at, found);
        at.pop();
    }
}
