//! Rules for one answer by itself: its type, unknown values, write-only attributes.

use super::{Found, Rule};
use crate::path::Step;
use crate::plan::write_only_paths;
use crate::value::Value;

/// Checks the type. Nothing else can be said of an answer that has another.
pub(super) fn check_type(answer: &Value, found: &mut Found<'_>) -> bool {
    match answer.conforms_to(found.schema.object_type()) {
        Ok(()) => true,
        Err(mismatch) => {
            let detail = format!("{} where {} is needed", mismatch.found, mismatch.expected);
            found.path = mismatch.path;
            found.add(Rule::Type, detail);
            false
        }
    }
}

/// Checks what holds for every state. Whether the type is right.
pub(super) fn check_state(state: &Value, found: &mut Found<'_>) -> bool {
    if !check_type(state, found) {
        return false;
    }
    check_known(state, found);
    check_write_only(state, found);
    true
}

pub(super) fn check_write_only(answer: &Value, found: &mut Found<'_>) {
    for path in write_only_paths(found.schema, answer) {
        found.path = path;
        found.add(Rule::WriteOnly, "the write-only attribute is set");
    }
    found.path = crate::path::AttributePath::root();
}

fn check_known(value: &Value, found: &mut Found<'_>) {
    match value {
        Value::Unknown(_) => found.add(Rule::Known, "the value is still unknown"),
        Value::List(elements) | Value::Tuple(elements) => {
            for (index, element) in elements.iter().enumerate() {
                found.within(Step::Index(index), |found| check_known(element, found));
            }
        }
        Value::Set(elements) => {
            for element in elements.iter() {
                found.within(Step::Element, |found| check_known(element, found));
            }
        }
        Value::Map(members) => {
            for (key, value) in members {
                found.within(Step::Key(key.clone()), |found| check_known(value, found));
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                found.within(Step::Attribute(name.clone()), |found| check_known(value, found));
            }
        }
        Value::Dynamic(typed) => check_known(&typed.value, found),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
