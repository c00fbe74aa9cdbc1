//! What clients demand of a provider's answers, checked here first.
//!
//! A client that finds an answer inconsistent blames the provider in terms of its own core.
//! These checks find the same in the provider's tests and in debug builds, and name the
//! attribute and the rule. They are pure, and empty answers mean that all is well.

mod answer;
mod compatible;
mod config;
mod planned;

use std::fmt;

pub use config::config;

use crate::path::AttributePath;
use crate::schema::{Body, Schema};
use crate::value::Value;

/// A rule of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// An answer has the type of its schema.
    Type,
    /// What is configured is planned as configured, or stays as it was.
    ConfiguredValue,
    /// Only computed attributes are chosen by the provider.
    NotComputed,
    /// A plan to destroy is null, and no other is.
    Existence,
    /// What a plan says is what the next plan and the state say.
    PlannedValue,
    /// What is promised about an unknown value holds.
    Refinement,
    /// A state has no unknown values.
    Known,
    /// Write-only attributes are null outside the configuration.
    WriteOnly,
    /// A path that requires replacement names an attribute.
    ReplacePath,
    /// A block is there as often as it must and may be.
    BlockCount,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "an answer has the type of its schema",
            Self::ConfiguredValue => {
                "a configured value is planned as configured or kept as it was"
            }
            Self::NotComputed => "only computed attributes are chosen by the provider",
            Self::Existence => "a plan to destroy is null, and no other is",
            Self::PlannedValue => "a planned value does not change afterwards",
            Self::Refinement => "what is promised about an unknown value holds",
            Self::Known => "a state has no unknown values",
            Self::WriteOnly => "a write-only attribute is null outside the configuration",
            Self::ReplacePath => "a path that requires replacement names an attribute",
            Self::BlockCount => "a block is there as often as it must and may be",
        })
    }
}

/// An answer that a client would refuse, or a configuration that it would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {detail} (the rule: {rule})")]
pub struct Violation {
    /// The attribute at fault.
    pub path: AttributePath,
    /// The rule that is broken.
    pub rule: Rule,
    /// How. Shows no secrets.
    pub detail: String,
}

/// Checks a plan: `prior` is null for a new resource, `config` when it shall go.
#[must_use]
pub fn plan(schema: &Schema, prior: &Value, config: &Value, planned: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    if answer::check_type(planned, &mut found) {
        planned::check(prior, config, planned, &mut found);
        answer::check_write_only(planned, &mut found);
    }
    found.violations
}

/// Checks that a second plan says what the first did, wherever the first said something.
#[must_use]
pub fn replan(schema: &Schema, first: &Value, second: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    compatible::check(first, second, &mut found);
    found.violations
}

/// Checks the state after a successful apply. After a failed one, [`read`] is what holds.
#[must_use]
pub fn apply(schema: &Schema, planned: &Value, applied: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    if answer::check_state(applied, &mut found) {
        compatible::check(planned, applied, &mut found);
    }
    found.violations
}

/// Checks a state that was read; null when the resource is gone.
#[must_use]
pub fn read(schema: &Schema, state: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    answer::check_state(state, &mut found);
    found.violations
}

/// Checks a state that was upgraded, imported or moved.
#[must_use]
pub fn upgrade(schema: &Schema, state: &Value) -> Vec<Violation> {
    let mut found = Found::new(schema);
    if state.is_null() {
        found.add(Rule::Existence, "the state is null, but the resource exists");
    }
    answer::check_state(state, &mut found);
    found.violations
}

/// Checks what a data source or ephemeral resource answers to `config`.
#[must_use]
pub fn data(schema: &Schema, config: &Value, state: &Value) -> Vec<Violation> {
    apply(schema, &crate::plan::unread(schema, config), state)
}

/// Checks the paths that a plan says require replacement.
#[must_use]
pub fn requires_replace(schema: &Schema, paths: &[AttributePath]) -> Vec<Violation> {
    let mut found = Found::new(schema);
    for path in paths.iter().filter(|path| !names_attribute(schema.body(), path)) {
        found.path = path.clone();
        found.add(Rule::ReplacePath, "the schema has no such attribute");
    }
    found.violations
}

fn names_attribute(body: &Body, path: &AttributePath) -> bool {
    use crate::path::Step;
    let mut body = Some(body);
    let names = path.steps().iter().filter_map(|step| match step {
        Step::Attribute(name) => Some(name),
        _ => None,
    });
    let mut any = false;
    for name in names {
        any = true;
        // Below a plain attribute the type decides, which the client checks by itself.
        let Some(here) = body else { return true };
        body = match (here.attribute(name), here.block(name)) {
            (Some(attribute), _) => attribute.body(),
            (None, Some(block)) => Some(block.body()),
            (None, None) => return false,
        };
    }
    any
}

/// The violations so far, and where the check stands.
struct Found<'a> {
    schema: &'a Schema,
    path: AttributePath,
    violations: Vec<Violation>,
}

impl<'a> Found<'a> {
    fn new(schema: &'a Schema) -> Self {
        Self { schema, path: AttributePath::root(), violations: Vec::new() }
    }

    fn add(&mut self, rule: Rule, detail: impl Into<String>) {
        self.violations.push(Violation { path: self.path.clone(), rule, detail: detail.into() });
    }

    /// Reports two values that should agree, unless they are secret.
    fn differ(&mut self, rule: Rule, one: (&str, &Value), other: (&str, &Value)) {
        let detail = if self.schema.is_sensitive_at(&self.path) {
            format!("the {} and the {} secret value differ", one.0, other.0)
        } else {
            let hidden = |value: &Value| match self.path.is_root() {
                true => self.schema.redacted(value).to_string(),
                false => self.shown(value),
            };
            format!("{} {}, but {} {}", one.0, hidden(one.1), other.0, hidden(other.1))
        };
        self.add(rule, detail);
    }

    /// A value for a message. One that may have secrets inside is only named.
    fn shown(&self, value: &Value) -> String {
        let nested = self.schema.attribute_at(&self.path).is_none_or(|it| it.body().is_some());
        match value {
            Value::Null | Value::Unknown(_) => value.to_string(),
            _ if nested => value.kind().to_owned(),
            _ => value.to_string(),
        }
    }

    fn within(&mut self, step: crate::path::Step, check: impl FnOnce(&mut Self)) {
        self.path.push(step);
        check(self);
        self.path.pop();
    }
}

#[cfg(test)]
mod tests;
