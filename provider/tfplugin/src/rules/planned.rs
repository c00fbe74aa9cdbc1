//! Whether a plan follows the configuration.

use super::{Found, Rule};
use crate::path::Step;
use crate::schema::{Attribute, Body, Nesting};
use crate::value::Value;

/// Checks the planned object as a whole, then attribute by attribute.
pub(super) fn check(prior: &Value, config: &Value, planned: &Value, found: &mut Found<'_>) {
    match (config.is_null(), planned.is_null()) {
        (true, true) => {}
        (true, false) => found.add(Rule::Existence, "planned to exist, but it is not configured"),
        (false, true) => found.add(Rule::Existence, "planned to go, but it is configured"),
        (false, false) => check_object(found.schema.body(), prior, config, planned, found),
    }
}

fn check_object(
    body: &Body,
    prior: &Value,
    config: &Value,
    planned: &Value,
    found: &mut Found<'_>,
) {
    for attribute in body.attributes().iter().filter(|attribute| !attribute.is_write_only()) {
        let name = attribute.name();
        let (prior, config, planned) =
            (prior.member(name), config.member(name), planned.member(name));
        found.within(Step::Attribute(attribute.name_arc().clone()), |found| {
            check_attribute(attribute, prior, config, planned, found);
        });
    }
    for block in body.blocks() {
        let name = block.name();
        let (prior, config, planned) =
            (prior.member(name), config.member(name), planned.member(name));
        found.within(Step::Attribute(block.name_arc().clone()), |found| {
            check_nested(block.nesting(), block.body(), prior, config, planned, found);
        });
    }
}

fn check_attribute(
    attribute: &Attribute,
    prior: &Value,
    config: &Value,
    planned: &Value,
    found: &mut Found<'_>,
) {
    if config.is_null() && attribute.is_computed() {
        return;
    }
    match attribute.nested_objects() {
        Some((nesting, body)) => check_nested(nesting, body, prior, config, planned, found),
        None => check_value(prior, config, planned, found),
    }
}

/// A value that was configured, or could have been.
fn check_value(prior: &Value, config: &Value, planned: &Value, found: &mut Found<'_>) {
    let kept = !prior.is_null() && !config.is_null() && equal(planned, prior);
    if equal(planned, config) || kept {
        return;
    }
    if config.is_null() {
        found.differ(Rule::NotComputed, ("configured", config), ("planned", planned));
    } else {
        found.differ(Rule::ConfiguredValue, ("configured", config), ("planned", planned));
    }
}

fn check_nested(
    nesting: Nesting,
    body: &Body,
    prior: &Value,
    config: &Value,
    planned: &Value,
    found: &mut Found<'_>,
) {
    match (nesting, config, planned) {
        (Nesting::Single | Nesting::Group, Value::Object(_), Value::Object(_)) => {
            check_object(body, prior, config, planned, found);
        }
        (_, Value::List(configs), Value::List(elements)) if configs.len() == elements.len() => {
            let priors = prior.as_elements().unwrap_or_default();
            for (index, (config, planned)) in configs.iter().zip(elements).enumerate() {
                let prior = priors.get(index).unwrap_or(&Value::Null);
                found.within(Step::Index(index), |found| {
                    check_element(body, prior, config, planned, found);
                });
            }
        }
        (_, Value::Map(configs), Value::Map(elements)) if configs.keys().eq(elements.keys()) => {
            for (key, planned) in elements {
                found.within(Step::Key(key.clone()), |found| {
                    check_element(body, prior.member(key), config.member(key), planned, found);
                });
            }
        }
        (_, Value::Set(configs), Value::Set(elements)) => {
            if !sets_match(body, prior, configs, elements, found) {
                found.differ(Rule::ConfiguredValue, ("configured", config), ("planned", planned));
            }
        }
        _ => check_value(prior, config, planned, found),
    }
}

fn check_element(
    body: &Body,
    prior: &Value,
    config: &Value,
    planned: &Value,
    found: &mut Found<'_>,
) {
    if matches!((config, planned), (Value::Object(_), Value::Object(_))) {
        check_object(body, prior, config, planned, found);
    } else {
        check_value(prior, config, planned, found);
    }
}

/// Whether each planned element follows some configured one, whatever was in the set before.
fn sets_match(
    body: &Body,
    prior: &Value,
    configs: &[Value],
    elements: &[Value],
    found: &Found<'_>,
) -> bool {
    let nothing = [Value::Null];
    let priors = prior.as_elements().filter(|elements| !elements.is_empty()).unwrap_or(&nothing);
    let follows = |config: &Value, planned: &Value| {
        priors.iter().any(|prior| {
            let mut trial = Found::new(found.schema);
            check_element(body, prior, config, planned, &mut trial);
            trial.violations.is_empty()
        })
    };
    configs.len() == elements.len()
        && elements.iter().all(|planned| configs.iter().any(|config| follows(config, planned)))
        && configs.iter().all(|config| elements.iter().any(|planned| follows(config, planned)))
}

/// Equality in which one unknown is like another: a plan may promise more about it.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Unknown(_), Value::Unknown(_)) => true,
        (Value::List(ones), Value::List(others)) | (Value::Tuple(ones), Value::Tuple(others)) => {
            ones.len() == others.len() && ones.iter().zip(others).all(|(a, b)| equal(a, b))
        }
        (Value::Set(ones), Value::Set(others)) => {
            ones.len() == others.len()
                && ones.iter().all(|one| others.iter().any(|other| equal(one, other)))
        }
        (Value::Map(ones), Value::Map(others)) | (Value::Object(ones), Value::Object(others)) => {
            ones.len() == others.len()
                && ones
                    .iter()
                    .zip(others)
                    .all(|((name, a), (other, b))| name == other && equal(a, b))
        }
        (Value::Dynamic(one), Value::Dynamic(other)) => {
            one.ty == other.ty && equal(&one.value, &other.value)
        }
        _ => one == other,
    }
}
