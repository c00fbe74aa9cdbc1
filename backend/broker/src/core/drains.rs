//! Emptying hosts: what begins and ends it, and what is left on a host and why.

use std::{fmt::Display, sync::Arc};

use fairmazon_model::{
    DomainError,
    host::{DrainCause, Draining, Host},
    id::HostId,
    instance::Instance,
    limits::{DRAIN_MS_MAX, DRAIN_MS_MIN},
    migration::Migration,
    units::UnixMs,
    volume::Volume,
};

use fairmazon_store::Key;

use super::{
    answers::{Again, Request},
    audit,
    caller::Caller,
    carriers::Load,
    draft::Draft,
    engine::{Engine, Planned},
    hosts::host_of,
    migrations::{Bound, check_can_leave},
    rules,
    state::State,
    view::HostView,
};

/// What is still on a host that is being emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainView {
    /// Since when, and until when.
    pub draining: Draining,
    /// Why, for its operator.
    pub reason: String,
    /// Whether its deadline has passed: nothing begins to move any more.
    pub is_over: bool,
    /// Its machines.
    pub machines: Vec<DrainItem>,
    /// Its volumes.
    pub volumes: Vec<DrainItem>,
}

impl DrainView {
    /// Whether nothing is left, or nothing begins to move any more.
    pub const fn has_ended(&self) -> bool {
        self.is_over || (self.machines.is_empty() && self.volumes.is_empty())
    }
}

/// A machine or a volume that is still on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainItem {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub state: DrainState,
    /// Why, for people.
    pub reason: String,
}

/// What becomes of what is still on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainState {
    /// It moves later, or goes by itself.
    Waiting,
    /// It is on its way.
    Migrating,
    /// It can't move as things are.
    Staying,
}

fn item(id: impl Display, name: &str, (state, reason): (DrainState, String)) -> DrainItem {
    DrainItem { id: id.to_string(), name: name.to_owned(), state, reason }
}

impl Engine {
    /// Empties a host: it takes nothing new, and its machines move to others for
    /// `deadline_ms` from now. Repeated, it sets another deadline. A drain that the platform began
    /// is the operator's from here on.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a deadline that is too soon or too late.
    pub async fn drain_host(
        &self,
        caller: &Caller,
        id: HostId,
        deadline_ms: i64,
        key: &str,
    ) -> Result<HostView, DomainError> {
        let account = self.owner_of_host(caller, id)?;
        if !(DRAIN_MS_MIN..=DRAIN_MS_MAX).contains(&deadline_ms) {
            return Err(DomainError::invalid(
                "deadline_ms",
                format!(
                    "it has to be {DRAIN_MS_MIN} ms (a second) to {DRAIN_MS_MAX} ms (30 days), and is {deadline_ms}"
                ),
            ));
        }
        let request = Request::new(account, "hosts.drain", key, &(id, deadline_ms))?;
        let row = self
            .once(
                request,
                |state, request| {
                    let (old, at) = (host_of(state, account, id)?, self.now());
                    let draining = Draining {
                        since: old.draining.map_or(at, |draining| draining.since),
                        deadline: UnixMs(at.0.saturating_add(deadline_ms)),
                        cause: DrainCause::Operator,
                        taken_over: None,
                    };
                    let new = Host { draining: Some(draining), ..Host::clone(&old) };
                    let mut draft = Draft::default();
                    let verb = "host.drain";
                    draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), Some(&new)));
                    draft.answer(request.record(self, &id, None));
                    draft.update(new.clone());
                    Ok(Planned { draft, answer: Arc::new(new) })
                },
                |_, _, _| Ok(Again::Same(host_of(&self.state(), account, id)?)),
            )
            .await?;
        Ok(self.host_as_it_is(row))
    }

    /// Lets a host take new machines again. What is on its way goes on.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` when the platform empties it.
    pub async fn cancel_drain(
        &self,
        caller: &Caller,
        id: HostId,
        key: &str,
    ) -> Result<HostView, DomainError> {
        let account = self.owner_of_host(caller, id)?;
        let request = Request::if_named(account, "hosts.cancel_drain", key, &id)?;
        let plan = |state: &mut State, request: Option<&Request>| {
            let old = host_of(state, account, id)?;
            let mut draft = Draft::default();
            draft.answer(request.and_then(|request| request.record(self, &id, None)));
            let Some(draining) = old.draining else {
                return Ok(Planned { draft, answer: old });
            };
            if draining.cause == DrainCause::Standard {
                return Err(stays_drained(&old).into());
            }
            let new = Host { draining: None, ..Host::clone(&old) };
            let (at, verb) = (self.now(), "host.cancel_drain");
            draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), Some(&new)));
            draft.update(new);
            Ok(Planned { draft, answer: old })
        };
        let again = |_: &_, _: &_, _| Ok(Again::Same(host_of(&self.state(), account, id)?));
        let row = self.once_if_named(request, plan, again).await?;
        Ok(self.host_as_it_is(row))
    }

    /// What is still on a host that is being emptied, and why.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` when it is not being emptied.
    pub fn drain(&self, caller: &Caller, id: HostId) -> Result<DrainView, DomainError> {
        let now = self.now();
        let state = self.state();
        let row = state.world.hosts.get(id).filter(|row| caller.sees(row.account));
        let row = row.ok_or_else(|| DomainError::not_found("host", id))?;
        let draining = row.draining.ok_or_else(|| {
            rules::precondition(format!("the host {id} is not being emptied"))
                .advise("begin with `fairmazon host drain`")
        })?;
        let is_over = draining.deadline <= now;
        let machine = |row: &Arc<Instance>| {
            item(row.id, &row.spec.name, self.drain_state(&state, row, is_over, now))
        };
        let here = state.world.volumes_on(id);
        let left = state.world.volumes_maybe_on(id);
        let left = left.filter_map(|id| state.world.volumes.get(id)).map(|row| {
            let goes = "what is left of it here is being deleted";
            item(row.id, &row.spec.name, (DrainState::Waiting, goes.into()))
        });
        let volume = |row: &Arc<Volume>| {
            item(row.id, &row.spec.name, self.drain_state_of_volume(&state, row, is_over, now))
        };
        Ok(DrainView {
            draining,
            reason: row.drain_reason().unwrap_or_default(),
            is_over,
            machines: state
                .world
                .instances_on(id)
                .filter(|row| !row.carrier)
                .map(machine)
                .collect(),
            volumes: here.map(volume).chain(left).collect(),
        })
    }

    fn drain_state(
        &self,
        state: &State,
        row: &Instance,
        is_over: bool,
        now: UnixMs,
    ) -> (DrainState, String) {
        if let Some(migration) = &row.migration {
            return on_its_way(state, row.id.into(), migration);
        }
        let volumes = state.all_volumes_of(row);
        match check_can_leave(state, row, &volumes, now) {
            Err(Bound::ForNow(error)) if row.deleting.is_some() => {
                (DrainState::Waiting, error.message)
            }
            may => how_it_stands(state, row.id.into(), may.map(|_| ()), is_over),
        }
    }

    fn drain_state_of_volume(
        &self,
        state: &State,
        row: &Arc<Volume>,
        is_over: bool,
        now: UnixMs,
    ) -> (DrainState, String) {
        if row.deleting.is_some() {
            return (DrainState::Waiting, "it is being deleted".into());
        }
        let carrier = state.world.moves_with(row.id).filter(|moving| moving.carrier);
        if let Some(migration) = carrier.and_then(|carrier| carrier.migration.as_ref()) {
            if row.is_missing() {
                let why = "it moves, and its host says that it is not there: look at both hosts";
                return (DrainState::Staying, why.into());
            }
            return on_its_way(state, row.id.into(), migration);
        }
        let instance = row.attached_to.and_then(|id| state.world.instances.get(id));
        if let Some(instance) = instance.filter(|row| row.decision.is_some()) {
            let (goes, _) = self.drain_state(state, instance, is_over, now);
            return (goes, format!("it goes with {}", instance.id));
        }
        let load = Load::of(row, instance.cloned(), |row| state.all_volumes_of(row));
        let may = load.check_can_leave(state, |volume| self.is_exported(volume)).map(|_| ());
        how_it_stands(state, row.id.into(), may, is_over)
    }
}

/// What becomes of what is on its way, or was.
fn on_its_way(state: &State, key: Key, migration: &Migration) -> (DrainState, String) {
    if migration.given_up {
        let why = state.staying.get(&key).map_or("it was changed", String::as_str);
        (DrainState::Waiting, format!("its move was given up: {why}"))
    } else {
        (DrainState::Migrating, format!("to {}", migration.reason))
    }
}

/// What becomes of what is not on its way, by whether it may leave.
fn how_it_stands(
    state: &State,
    key: Key,
    may_leave: Result<(), Bound>,
    is_over: bool,
) -> (DrainState, String) {
    match may_leave {
        Err(Bound::AsItIs(error)) => (DrainState::Staying, error.message),
        _ if is_over => (DrainState::Staying, "the deadline has passed".into()),
        Err(Bound::ForNow(error)) => (DrainState::Waiting, error.message),
        Ok(()) => match state.staying.get(&key) {
            Some(why) => (DrainState::Staying, why.clone()),
            None => (DrainState::Waiting, "others move first".into()),
        },
    }
}

/// A host that the platform empties is let work again by conforming, not by a wish.
fn stays_drained(host: &Host) -> DomainError {
    let why = host.drain_reason().unwrap_or_default();
    rules::precondition(format!("the platform empties the host {}: {why}", host.id)).advise(
        "see what to do with `fairmazon host show`, and do it: it ends when the host conforms again",
    )
}
