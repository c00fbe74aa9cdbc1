//! Which computed attributes of an object a change leaves open.

use crate::schema::{Attribute, Body, OnUpdate};
use crate::value::{Members, Value};

/// Makes computed attributes unknown that the provider is still to choose.
pub(super) fn mark(body: &Body, planned: &mut Members, config: &Value, prior: &Value) {
    let open: Vec<&Attribute> = body
        .attributes()
        .iter()
        .filter(|attribute| {
            attribute.is_computed()
                && attribute.default_value().is_none()
                && config.member(attribute.name()).is_null()
        })
        .collect();
    for attribute in reopened(body, &open, planned, prior) {
        planned.insert(attribute.name_arc().clone(), Value::UNKNOWN);
    }
}

/// Those of the `open` attributes that become unknown. One that is recomputed may be the reason
/// to recompute the next, so this goes on until nothing more follows.
fn reopened<'a>(
    body: &Body,
    open: &[&'a Attribute],
    planned: &Members,
    prior: &Value,
) -> Vec<&'a Attribute> {
    if prior.is_null() {
        return open.to_vec();
    }
    let (mut reopened, mut waiting): (Vec<_>, Vec<_>) =
        open.iter().copied().partition(|attribute| *attribute.on_update() == OnUpdate::Unknown);
    waiting.retain(|attribute| matches!(attribute.on_update(), OnUpdate::RecomputeWhen(_)));
    loop {
        let changes = |name: &str| {
            let is_reopened = reopened.iter().any(|attribute| attribute.name() == name);
            // Write-only values leave no trace to compare; their version attribute does.
            is_reopened || (declared(body, name) && planned.get(name) != prior.get(name))
        };
        let (more, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|attribute| match attribute.on_update() {
                OnUpdate::RecomputeWhen(names) => names.iter().any(|name| changes(name)),
                OnUpdate::Unknown | OnUpdate::KeepState => false,
            });
        if more.is_empty() {
            return reopened;
        }
        reopened.extend(more);
        waiting = rest;
    }
}

fn declared(body: &Body, name: &str) -> bool {
    body.attribute(name).is_some() || body.block(name).is_some()
}
