//! Machines that have to be on one host (`placement.with`), and go to another one together: what is
//! asked of each, and which host will do for all.
//!
//! The ways there begin one after the other. Until it is there, each has its room at that host, and
//! its row says which one it is (`Instance::reserved`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::{HostId, InstanceId},
    instance::Instance,
    placement::Placement,
    units::{Mib, UnixMs, Vcpus},
    volume::Volume,
};
use fairmazon_scheduler::{Member, Placed, Request as PlaceRequest, Rule, Size};

use super::{
    migrations::{Begun, Bound, check_can_leave, elsewhere, set_out},
    rules::precondition,
    state::State,
};

/// Most machines that an explanation names.
const NAMED: usize = 3;

/// One of the machines that have to be on one host.
pub(crate) struct Companion {
    pub(crate) row: Arc<Instance>,
    /// All of its own.
    pub(crate) volumes: Vec<Arc<Volume>>,
    /// Its constraints with those of its volumes.
    pub(crate) placement: Placement,
    /// Whether its host will do, as far as it alone is concerned.
    pub(crate) stays: bool,
}

/// When they are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// As all of them are now.
    Now,
    /// When what is under way with them has ended.
    Later,
}

/// The host that a machine goes to for good: nothing else is chosen for it meanwhile.
pub(crate) fn set_for(row: &Instance) -> Option<HostId> {
    row.open_migration().map(|migration| migration.to).or(row.reserved)
}

/// Finds the host for all of these; some may be there, or on their way.
///
/// # Errors
/// `Precondition` when one of them can't leave its host, `NoCapacity` when no host will do for all.
pub(crate) fn find_host(
    state: &State,
    catalogue: &Catalogue,
    companions: &[Companion],
    when: When,
    now: UnixMs,
) -> Result<HostId, DomainError> {
    let goals: BTreeSet<_> = companions.iter().filter_map(|one| set_for(&one.row)).collect();
    if goals.len() > 1 {
        return Err(precondition("they are on their ways to different hosts"));
    }
    let only = goals.into_iter().next();
    let (mut members, mut bound) = (Vec::new(), None);
    for one in companions {
        let Some(at) = one.row.decision.as_ref().map(|decision| decision.host) else { continue };
        if let Some(goal) = set_for(&one.row) {
            members.push(Member { at: goal, stays: true, elsewhere: None });
            continue;
        }
        let elsewhere = match check_can_leave(state, &one.row, &one.volumes, now) {
            Err(Bound::ForNow(_)) if when == When::Later => {
                Some(request(state, catalogue, one, at))
            }
            Err(error) => {
                let is_there = only == Some(at) && one.stays;
                bound = bound.or_else(|| (!is_there).then_some((one.row.id, error)));
                None
            }
            Ok(_) => Some(request(state, catalogue, one, at)),
        }
        .map(|request| match when {
            When::Now => request,
            // So do copies that were left behind elsewhere.
            When::Later => PlaceRequest { excluded: [at].into(), ..request },
        });
        members.push(Member { at, stays: one.stays, elsewhere });
    }
    state.books.gather(&members, only).map_err(|why| match bound {
        Some((id, error)) => {
            let DomainError { message, advice, .. } = error.into();
            precondition(format!("{id} can't leave its host: {message}")).advise(advice)
        }
        None => DomainError::new(ErrorKind::NoCapacity, why.text.clone()),
    })
}

fn request(state: &State, catalogue: &Catalogue, one: &Companion, from: HostId) -> PlaceRequest {
    elsewhere(state, catalogue, &one.row, &one.volumes, one.placement.clone(), from)
}

/// Begins the way of a machine to the host that keeps room for it.
///
/// # Errors
/// `NoCapacity` when that host can't take it now.
pub(super) fn follow(
    state: &mut State,
    request: PlaceRequest,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    to: HostId,
    now: UnixMs,
) -> Result<Begun, DomainError> {
    let flavor = instance.actual_flavor().to_owned();
    // Its room is booked.
    let nothing = Size { flavor: flavor.clone(), vcpus: Vcpus(0), memory: Mib(0) };
    let request = PlaceRequest {
        sizes: vec![nothing],
        storage: BTreeMap::new(),
        specification: 0,
        ..request
    };
    match state.books.first_broken(&request, to) {
        // It is closed to new machines, and those that this one has to be with are there.
        None | Some(Rule::Schedulable) => {}
        Some(Rule::Excluded) => {
            let text = "what is left there of an earlier way is deleted first";
            return Err(DomainError::new(ErrorKind::NoCapacity, text));
        }
        Some(rule) => {
            let text = format!("it goes where those are or go that it has to be with: {rule}");
            return Err(DomainError::new(ErrorKind::NoCapacity, text));
        }
    }
    let site = state.world.hosts.get(to).map_or("", |host| &host.spec.site.name);
    let reason = format!("{site}: with the machines of its groups");
    set_out(state, instance, volumes, Placed { host: to, flavor, reason, candidates: 1 }, now)
}

/// Which machines this one has to be with, and why they don't go, for people.
pub(crate) fn why_all_stay(
    id: InstanceId,
    all: impl Iterator<Item = InstanceId>,
    error: &DomainError,
) -> String {
    let others: Vec<_> = all.filter(|other| *other != id).collect();
    let mut names: Vec<_> = others.iter().take(NAMED).map(ToString::to_string).collect();
    if let more @ 1.. = others.len().saturating_sub(NAMED) {
        names.push(format!("{more} more"));
    }
    format!("it goes only together with {}: {}", names.join(", "), error.message)
}
