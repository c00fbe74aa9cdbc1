//! Walks the objects of a planned state side by side with the configuration and the prior
//! state of each.

use std::cmp::Reverse;
use std::mem;

use crate::schema::{Attribute, Body, Nesting};
use crate::value::{Members, Value};

/// What is done to each object: its body, its planned members, its configuration and its prior
/// state (null when it is new).
pub(super) type Visit<'a> = dyn FnMut(&Body, &mut Members, &Value, &Value) + 'a;

/// Visits an object and then those nested in it. Stops where the configuration does: what it
/// leaves out has no objects of its own.
pub(super) fn visit(
    body: &Body,
    planned: &mut Value,
    config: &Value,
    prior: &Value,
    each: &mut Visit<'_>,
) {
    let (Value::Object(members), Value::Object(_)) = (planned, config) else { return };
    each(body, members, config, prior);
    for attribute in body.attributes() {
        if let (Some((nesting, body)), Some(planned)) =
            (attribute.nested_objects(), members.get_mut(attribute.name()))
        {
            let (config, prior) = (config.member(attribute.name()), prior.member(attribute.name()));
            visit_nested(nesting, body, planned, config, prior, each);
        }
    }
    for block in body.blocks() {
        if let Some(planned) = members.get_mut(block.name()) {
            let (config, prior) = (config.member(block.name()), prior.member(block.name()));
            visit_nested(block.nesting(), block.body(), planned, config, prior, each);
        }
    }
}

fn visit_nested(
    nesting: Nesting,
    body: &Body,
    planned: &mut Value,
    config: &Value,
    prior: &Value,
    each: &mut Visit<'_>,
) {
    match (nesting, planned) {
        (Nesting::Single | Nesting::Group, planned) => visit(body, planned, config, prior, each),
        (_, Value::List(elements)) => {
            let configs = config.as_elements().unwrap_or_default();
            let priors = prior.as_elements().unwrap_or_default();
            for (index, planned) in elements.iter_mut().enumerate() {
                let Some(config) = configs.get(index) else { continue };
                let prior = priors.get(index).unwrap_or(&Value::Null);
                visit(body, planned, config, prior, each);
            }
        }
        (_, Value::Map(elements)) => {
            for (key, planned) in elements {
                visit(body, planned, config.member(key), prior.member(key), each);
            }
        }
        (_, Value::Set(elements)) => {
            let mut changed = mem::take(elements).into_vec();
            visit_set(body, &mut changed, config, prior, each);
            *elements = changed.into();
        }
        _ => {}
    }
}

fn visit_set(
    body: &Body,
    elements: &mut [Value],
    config: &Value,
    prior: &Value,
    each: &mut Visit<'_>,
) {
    let configs = config.as_elements().unwrap_or_default();
    let priors = prior.as_elements().unwrap_or_default();
    let from = pair(elements, configs, |planned, config| {
        likeness(body, planned, config, config, left_out)
    });
    let config_of = |index: usize| from[index].map(|at| &configs[at]);
    let continued = pair_indexed(elements, priors, |index, planned, prior| {
        likeness(body, planned, prior, config_of(index)?, chosen)
    });
    for (index, planned) in elements.iter_mut().enumerate() {
        let Some(config) = config_of(index) else { continue };
        let prior = continued[index].map_or(&Value::Null, |at| &priors[at]);
        visit(body, planned, config, prior, each);
    }
}

fn pair(
    ones: &[Value],
    others: &[Value],
    likeness: impl Fn(&Value, &Value) -> Option<usize>,
) -> Vec<Option<usize>> {
    pair_indexed(ones, others, |_, one, other| likeness(one, other))
}

/// For each of `ones`, the index of its partner among `others`. No two share a partner, and
/// the most alike come together first: what is left open would otherwise take the partner of
/// what is exact.
fn pair_indexed(
    ones: &[Value],
    others: &[Value],
    likeness: impl Fn(usize, &Value, &Value) -> Option<usize>,
) -> Vec<Option<usize>> {
    let mut pairs = Vec::new();
    for (at, one) in ones.iter().enumerate() {
        for (partner, other) in others.iter().enumerate() {
            pairs.extend(likeness(at, one, other).map(|alike| (alike, at, partner)));
        }
    }
    pairs.sort_by_key(|(alike, ..)| Reverse(*alike));
    let mut partners = vec![None; ones.len()];
    let mut taken = vec![false; others.len()];
    for (_, at, partner) in pairs {
        if partners[at].is_none() && !taken[partner] {
            partners[at] = Some(partner);
            taken[partner] = true;
        }
    }
    partners
}

/// Whether the configuration leaves it to the provider or the default.
fn left_out(attribute: &Attribute, config: &Value) -> bool {
    attribute.is_write_only() || (attribute.is_computed() && config.is_null())
}

/// Whether only the provider can say what it is.
fn chosen(attribute: &Attribute, config: &Value) -> bool {
    left_out(attribute, config) && attribute.default_value().is_none()
}

/// How many attributes two objects have in common, given the configuration of the first;
/// `None` when they differ in one that must not be ignored.
fn likeness(
    body: &Body,
    one: &Value,
    other: &Value,
    config: &Value,
    ignore: fn(&Attribute, &Value) -> bool,
) -> Option<usize> {
    if !matches!((one, other), (Value::Object(_), Value::Object(_))) {
        return alike(one, other);
    }
    let mut total = 0;
    for attribute in body.attributes() {
        let name = attribute.name();
        let (one, other, config) = (one.member(name), other.member(name), config.member(name));
        total += if ignore(attribute, config) {
            usize::from(one == other || attribute.default_value() == Some(one))
        } else if let Some((nesting, body)) = attribute.nested_objects() {
            likeness_nested(nesting, body, one, other, config, ignore)?
        } else {
            alike(one, other)?
        };
    }
    for block in body.blocks() {
        let name = block.name();
        let (one, other, config) = (one.member(name), other.member(name), config.member(name));
        total += likeness_nested(block.nesting(), block.body(), one, other, config, ignore)?;
    }
    Some(total)
}

fn alike(one: &Value, other: &Value) -> Option<usize> {
    (one == other).then_some(1)
}

fn likeness_nested(
    nesting: Nesting,
    body: &Body,
    one: &Value,
    other: &Value,
    config: &Value,
    ignore: fn(&Attribute, &Value) -> bool,
) -> Option<usize> {
    match (nesting, one, other) {
        (Nesting::Single | Nesting::Group, ..) => likeness(body, one, other, config, ignore),
        (_, Value::List(ones), Value::List(others)) if ones.len() == others.len() => {
            let configs = config.as_elements().unwrap_or_default();
            let pairs = ones.iter().zip(others).enumerate().map(|(index, (one, other))| {
                likeness(body, one, other, configs.get(index).unwrap_or(&Value::Null), ignore)
            });
            pairs.sum()
        }
        (_, Value::Map(ones), Value::Map(others)) if ones.len() == others.len() => {
            let pairs = ones.iter().map(|(key, one)| {
                likeness(body, one, others.get(key)?, config.member(key), ignore)
            });
            pairs.sum()
        }
        _ => alike(one, other),
    }
}
