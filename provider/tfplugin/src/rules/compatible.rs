//! Whether a later value keeps what an earlier plan said.

use super::{Found, Rule};
use crate::path::Step;
use crate::schema::Schema;
use crate::value::{Members, Value};

/// Checks `actual` against what was `planned`: what was unknown may have become anything its
/// promises admit, everything else is as it was.
pub(super) fn check(planned: &Value, actual: &Value, found: &mut Found<'_>) {
    match (planned, actual) {
        (Value::Unknown(refinements), _) => {
            if let Some(refinements) = refinements.as_deref()
                && !refinements.admit(actual)
            {
                found.differ(Rule::Refinement, ("planned", planned), ("found", actual));
            }
        }
        (Value::Null, Value::Null) => {}
        (Value::Dynamic(planned), Value::Dynamic(actual)) if planned.ty == actual.ty => {
            check(&planned.value, &actual.value, found);
        }
        (Value::List(planned), Value::List(actual))
        | (Value::Tuple(planned), Value::Tuple(actual))
            if planned.len() == actual.len() =>
        {
            for (index, (planned, actual)) in planned.iter().zip(actual).enumerate() {
                found.within(Step::Index(index), |found| check(planned, actual, found));
            }
        }
        (Value::Map(planned), Value::Map(actual)) => {
            check_members(planned, actual, Step::Key, found);
        }
        (Value::Object(planned), Value::Object(actual)) => {
            check_members(planned, actual, Step::Attribute, found);
        }
        (Value::Set(ones), Value::Set(others)) => {
            if !sets_agree(ones, others, found.schema) {
                found.differ(Rule::PlannedValue, ("planned", planned), ("found", actual));
            }
        }
        _ if planned == actual => {}
        _ => found.differ(Rule::PlannedValue, ("planned", planned), ("found", actual)),
    }
}

fn check_members(
    planned: &Members,
    actual: &Members,
    step: fn(std::sync::Arc<str>) -> Step,
    found: &mut Found<'_>,
) {
    for (name, value) in planned {
        found.within(step(name.clone()), |found| match actual.get(name) {
            Some(actual) => check(value, actual, found),
            None => found.add(Rule::PlannedValue, "was planned, but is absent"),
        });
    }
    for name in actual.keys().filter(|name| !planned.contains_key(*name)) {
        found.within(step(name.clone()), |found| {
            found.add(Rule::PlannedValue, "was not planned, but is there");
        });
    }
}

/// Elements of a set have no names, so each of either side must have a partner on the other.
/// Unknown elements may turn out equal, and then the set has fewer.
fn sets_agree(planned: &[Value], actual: &[Value], schema: &Schema) -> bool {
    let open = planned.iter().any(|element| !element.is_wholly_known());
    if planned.len() != actual.len() && !(open && actual.len() < planned.len()) {
        return false;
    }
    let agree = |planned: &Value, actual: &Value| is_compatible(planned, actual, schema);
    planned.iter().all(|planned| actual.iter().any(|actual| agree(planned, actual)))
        && actual.iter().all(|actual| planned.iter().any(|planned| agree(planned, actual)))
}

/// The same question without a report.
fn is_compatible(planned: &Value, actual: &Value, schema: &Schema) -> bool {
    let mut trial = Found::new(schema);
    check(planned, actual, &mut trial);
    trial.violations.is_empty()
}
