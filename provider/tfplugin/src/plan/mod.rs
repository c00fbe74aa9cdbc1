//! What a plan is, from what the schema declares: pure functions from state and configuration.
//!
//! [`plan`] goes in this order:
//! 1. Write-only attributes become null, and defaults stand where the configuration is null.
//! 2. If that is the prior state, nothing changes, and the plan is the prior state.
//! 3. Changed attributes that require it are reported for replacement.
//! 4. Computed attributes that the configuration leaves out become unknown: all of them in a
//!    new object, and in an existing one those that the schema does not say to keep.
//!
//! It goes into nested attributes and blocks. Elements of a list are the same object when they
//! have the same index, those of a map the same key, those of a set when all that is not
//! computed is equal. A computed nested attribute that the configuration leaves out is kept or
//! becomes unknown as a whole.
//!
//! A nested attribute that requires replacement speaks for objects that exist before and
//! after; whether adding or removing one requires it is for the attribute that holds them.

mod objects;
mod replace;
mod secrets;
mod unknown;

pub use secrets::{null_write_only, write_only_paths};

use crate::path::AttributePath;
use crate::schema::{Body, Schema};
use crate::value::{Members, Value};

/// What is planned for one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The state that the resource is planned to have; null when it is planned to go.
    pub state: Value,
    /// The changed attributes for which there must be a new resource.
    pub requires_replace: Vec<AttributePath>,
}

/// Plans a change.
///
/// `prior` is the state before, null for a new resource. `proposed` is what the client proposes
/// (the configuration with prior values where it is null), null to destroy. `config` is the
/// configuration.
#[must_use]
pub fn plan(schema: &Schema, prior: &Value, proposed: &Value, config: &Value) -> Planned {
    if proposed.is_null() {
        return Planned { state: Value::Null, requires_replace: Vec::new() };
    }
    let mut state = proposed.clone();
    let body = schema.body();
    objects::visit(body, &mut state, config, &Value::Null, &mut fill_defaults);
    if state == *prior {
        return Planned { state, requires_replace: Vec::new() };
    }
    let requires_replace = replace::paths(schema, prior, &state);
    objects::visit(body, &mut state, config, prior, &mut unknown::mark);
    Planned { state, requires_replace }
}

/// The state of a data source or ephemeral resource before it is read: computed attributes
/// that the configuration leaves out are unknown, defaults stand.
#[must_use]
pub fn unread(schema: &Schema, config: &Value) -> Value {
    plan(schema, &Value::Null, config, config).state
}

/// The configuration with defaults where it is null, as functions without a plan see it.
#[must_use]
pub fn with_defaults(schema: &Schema, config: &Value) -> Value {
    let mut filled = config.clone();
    objects::visit(
        schema.body(),
        &mut filled,
        config,
        &Value::Null,
        &mut |body, members, config, _| {
            for attribute in body.attributes() {
                if let Some(default) = attribute.default_value()
                    && config.member(attribute.name()).is_null()
                {
                    members.insert(attribute.name_arc().clone(), default.clone());
                }
            }
        },
    );
    filled
}

fn fill_defaults(body: &Body, members: &mut Members, config: &Value, _: &Value) {
    for attribute in body.attributes() {
        let value = if attribute.is_write_only() {
            Value::Null
        } else {
            match attribute.default_value() {
                Some(default) if config.member(attribute.name()).is_null() => default.clone(),
                _ => continue,
            }
        };
        members.insert(attribute.name_arc().clone(), value);
    }
}

#[cfg(test)]
mod tests;
