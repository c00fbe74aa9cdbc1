//! What a client checks of a configuration before a provider sees it: for test harnesses.

use super::{Found, Rule, Violation, answer};
use crate::path::Step;
use crate::schema::{Body, Nesting, Schema};
use crate::value::Value;

/// Checks the type and how often blocks are there. A client also looks for arguments that are
/// missing; null ones, and values of what only the provider sets, it hands on: refusing those is
/// for the provider ([`crate::validate::config`]).
#[must_use]
pub fn config(schema: &Schema, config: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    if answer::check_type(config, &mut found) {
        check_object(schema.body(), config, &mut found);
    }
    found.violations
}

fn check_object(body: &Body, config: &Value, found: &mut Found<'_>) {
    let Value::Object(_) = config else { return };
    for attribute in body.attributes() {
        let value = config.member(attribute.name());
        found.within(Step::Attribute(attribute.name_arc().clone()), |found| {
            if let Some((nesting, body)) = attribute.nested_objects() {
                check_nested(nesting, body, value, found);
            }
        });
    }
    for block in body.blocks() {
        let value = config.member(block.name());
        found.within(Step::Attribute(block.name_arc().clone()), |found| {
            let (min, max) = block.items();
            let count = match value {
                Value::Unknown(_) => None,
                Value::Null => Some(0),
                _ => Some(value.as_elements().map_or(1, <[Value]>::len)),
            };
            if count.is_some_and(|count| count < min as usize) {
                found.add(Rule::BlockCount, format!("at least {min} of this block are needed"));
            }
            if count.is_some_and(|count| max > 0 && count > max as usize) {
                found.add(Rule::BlockCount, format!("at most {max} of this block are allowed"));
            }
            check_nested(block.nesting(), block.body(), value, found);
        });
    }
}

fn check_nested(nesting: Nesting, body: &Body, value: &Value, found: &mut Found<'_>) {
    if matches!(nesting, Nesting::Single | Nesting::Group) {
        return check_object(body, value, found);
    }
    let is_set = matches!(value, Value::Set(_));
    for (index, element) in value.as_elements().unwrap_or_default().iter().enumerate() {
        let step = if is_set { Step::Element } else { Step::Index(index) };
        found.within(step, |found| check_object(body, element, found));
    }
    if let Value::Map(members) = value {
        for (key, element) in members {
            found.within(Step::Key(key.clone()), |found| check_object(body, element, found));
        }
    }
}
