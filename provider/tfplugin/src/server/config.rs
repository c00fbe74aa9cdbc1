//! Objects that come in with a call: decoded, their secrets noted, their rules checked.

use super::{call::Call, wire};
use crate::{Diagnostic, Diagnostics, Value, proto::tfplugin6 as pb, schema::Schema, validate};

/// Reads an object of the schema. What is secret in it stays out of the call's diagnostics.
pub(super) fn decode<D>(
    call: &mut Call<D>,
    schema: &Schema,
    wire: Option<&pb::DynamicValue>,
) -> Result<Value, Diagnostics> {
    let value = wire::decode(wire, schema.object_type())?;
    call.hide(&schema.sensitive_strings(&value));
    Ok(value)
}

/// Applies the validators that the schema declares, which are the author's code.
pub(super) fn check<D>(call: &Call<D>, schema: &Schema, value: &Value) -> Result<(), Diagnostics> {
    let problems = call.guard_now(|| Ok(validate::config(schema, value)))?;
    let problems = problems
        .into_iter()
        .map(|problem| Diagnostic::error(problem.summary).detail(problem.detail).at(problem.path));
    problems.collect::<Diagnostics>().into_result()
}
