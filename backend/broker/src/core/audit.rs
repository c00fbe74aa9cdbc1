//! What the audit log says of a change: who, what, before and after, without secrets.

use fairmazon_model::{
    id::VolumeId,
    instance::{Decision, Instance, ObservedState},
    units::UnixMs,
    volume::Volume,
};
use fairmazon_store::{Actor, AuditEntry};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::caller::Caller;

/// A row that may be written into the audit log.
pub(crate) trait Audited: Serialize {
    /// The row without its secrets.
    fn redacted(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}

impl Audited for fairmazon_model::access::Account {}
impl Audited for fairmazon_model::access::Credential {}
impl Audited for fairmazon_model::host::Host {}
impl Audited for fairmazon_model::placement::PlacementGroup {}
impl Audited for Decision {}
impl Audited for fairmazon_model::interruption::Interruption {}
impl Audited for fairmazon_model::migration::Migration {}

/// A decision, with the volumes that are bound to its host by it.
#[derive(Serialize)]
pub(crate) struct Placing<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<VolumeId>,
}

impl<'a> Placing<'a> {
    pub(crate) fn new(decision: &'a Decision, bound: &[Volume]) -> Self {
        Self { decision, volumes: bound.iter().map(|volume| volume.id).collect() }
    }
}

impl Audited for Placing<'_> {}

impl Audited for Volume {
    /// Which keys there are, without what opens them for somebody: the log outlives the volume.
    fn redacted(&self) -> Option<Value> {
        let mut value = serde_json::to_value(self).ok()?;
        for keys in ["keys", "next_keys"] {
            for key in value.get_mut(keys).and_then(Value::as_object_mut).into_iter().flatten() {
                if let Some(key) = key.1.as_object_mut() {
                    key.retain(|field, _| matches!(field.as_str(), "version" | "fingerprint"));
                }
            }
        }
        Some(value)
    }
}

impl Audited for Instance {
    /// User data often holds passwords: its hash shows that it changed, and nothing else. Why a
    /// guest failed can have what it said on its console.
    fn redacted(&self) -> Option<Value> {
        let mut row = self.clone();
        row.observed.failure = None;
        if let ObservedState::Failed { reason } = &mut row.observed.state {
            reason.clear();
        }
        let user_data = &mut row.spec.user_data;
        if !user_data.is_empty() {
            let hash = hex::encode(Sha256::digest(user_data.as_bytes()));
            *user_data = format!("sha256:{hash}");
        }
        serde_json::to_value(&row).ok()
    }
}

/// An entry for what a caller did.
pub(crate) fn entry<T: Audited>(
    caller: &Caller,
    at: UnixMs,
    verb: &str,
    target: &impl ToString,
    before: Option<&T>,
    after: Option<&T>,
) -> AuditEntry {
    AuditEntry {
        at,
        actor: caller.actor(),
        verb: verb.to_owned(),
        target: target.to_string(),
        before: before.and_then(Audited::redacted),
        after: after.and_then(Audited::redacted),
    }
}

/// An entry for what the platform did by itself.
pub(crate) fn own_entry<T: Audited>(
    at: UnixMs,
    verb: &str,
    target: &impl ToString,
    before: Option<&T>,
    after: Option<&T>,
) -> AuditEntry {
    AuditEntry {
        actor: Actor::default(),
        ..entry(&Caller::platform(), at, verb, target, before, after)
    }
}
