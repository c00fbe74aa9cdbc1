//! What begins a migration: an instance that runs, or is off, goes to another host with its volumes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::{HostId, InstanceId, VolumeId},
    instance::{Instance, InstanceSpec, ObservedState},
    limits,
    migration::Migration,
    operation::{Operation, OperationKind},
    placement::{Placement, Prefer},
    units::{Gib, Mib, UnixMs, Vcpus},
    volume::Volume,
};
use fairmazon_scheduler::{MachineBooking, Placed, Request as PlaceRequest, Size, VolumeBooking};

use super::{
    answers::{Again, Request},
    audit,
    books::volume_booking,
    caller::Caller,
    draft::Draft,
    engine::{Engine, Planned},
    hosts_now::{Agent, Standing},
    instances::{instance_of, operation},
    preferences::weighed,
    rules::{self, precondition},
    state::State,
    together::{Companion, When, find_host, follow, set_for},
    view::wants_to_run,
};
use crate::reconcile::step::is_brought_about;

/// The rows of an instance that begins to go to another host.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) instance: Instance,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) to: HostId,
}

impl Engine {
    /// Moves an instance to another host: while it runs, or while it is off, as it is. The
    /// operation is done when it is there, and fails when it stays where it is.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` when it is on no host, is not as it shall be, is moving already,
    /// or its host can't let it go; `NoCapacity` when no other host can take it.
    pub async fn migrate_instance(
        &self,
        caller: &Caller,
        id: InstanceId,
        key: &str,
    ) -> Result<Arc<Operation>, DomainError> {
        let account = self.owner_of_instance(caller, id)?;
        let request = Request::new(account, "instances.migrate", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = instance_of(state, request.account, id)?;
                rules::check_not_deleting("instance", &id, old.deleting.is_some())?;
                state.check_machine_not_lost(&old)?;
                state.holds.free(id)?;
                let volumes = state.all_volumes_of(&old);
                for volume in &volumes {
                    state.holds.free(volume.id)?;
                }
                let begun = begin(state, &self.catalogue(), &old, &volumes, self.now())?;
                let kind = OperationKind::Migrate;
                let operation = operation(self, old.account, kind, &id, old.spec_version);
                let mut draft = Draft::default();
                let (at, verb) = (self.now(), "instance.migrate");
                let after = Some(&begun.instance);
                draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), after));
                draft.answer(request.record(self, &id, Some(operation.id)));
                draft.rely_on(begun.to);
                draft.insert(operation.clone());
                draft.update(begun.instance);
                begun.volumes.into_iter().for_each(|volume| draft.update(volume));
                Ok(Planned { draft, answer: Arc::new(operation) })
            },
            |answer, request, _| {
                Ok(Again::Same(answer.operation(self, request, OperationKind::Migrate)?))
            },
        )
        .await
    }
}

/// Finds the host that the instance goes to and claims what it needs there. `volumes` are all of
/// its own; nobody else changes it or them meanwhile.
///
/// # Errors
/// `Precondition` when it can't leave its host now, `NoCapacity` when no other can take it.
pub(crate) fn begin(
    state: &mut State,
    catalogue: &Catalogue,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    now: UnixMs,
) -> Result<Begun, DomainError> {
    let from = check_can_leave(state, instance, volumes, now)?;
    let placement = rules::placement_of(instance, volumes)?;
    let request = elsewhere(state, catalogue, instance, volumes, placement, from);
    if let Some(to) = instance.reserved {
        return follow(state, request, instance, volumes, to, now);
    }
    let placed = state.books.place(&request).map_err(|why| DomainError::from(&*why))?;
    set_out(state, instance, volumes, placed, now)
}

/// Claims what the instance, a machine or a carrier, needs where it goes.
///
/// # Errors
/// `NoCapacity` when the other host has no room after all.
pub(super) fn set_out(
    state: &mut State,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    placed: Placed,
    now: UnixMs,
) -> Result<Begun, DomainError> {
    let to = placed.host;
    claim_at(state, instance, volumes, to).map_err(|why| {
        DomainError::new(ErrorKind::NoCapacity, format!("the other host has no room: {why}"))
            .advise("repeat it: another host is chosen then")
    })?;
    let epoch = instance.next_epoch();
    let migration = Migration {
        to,
        epoch,
        flavor: instance.actual_flavor().to_owned(),
        reason: placed.reason,
        volumes: volumes.iter().map(|volume| volume.id).collect(),
        off: !wants_to_run(instance, now),
        at: now,
        given_up: false,
    };
    let volumes = volumes.iter().map(|volume| {
        let mut volume = Volume::clone(volume);
        volume.may_be_on.insert(to);
        volume
    });
    let volumes = volumes.collect();
    let instance =
        Instance { migration: Some(migration), last_epoch: epoch, ..Instance::clone(instance) };
    Ok(Begun { instance, volumes, to })
}

/// Claims room at another host for the instance with its volumes, as much as they have where they
/// are.
///
/// # Errors
/// What that host lacks, for people.
pub(crate) fn claim_at(
    state: &mut State,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    to: HostId,
) -> Result<(), String> {
    let booking = state.booking(instance).map(|here| MachineBooking { host: to, ..here });
    let shares = volumes.iter().filter_map(|volume| {
        let here = volume_booking(volume)?;
        Some((volume.id, VolumeBooking { host: to, ..here }))
    });
    state.books.claim_coming(instance.id, booking, shares)
}

/// What is asked of the scheduler for an instance that leaves `from` with its volumes.
pub(super) fn elsewhere(
    state: &State,
    catalogue: &Catalogue,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    placement: Placement,
    from: HostId,
) -> PlaceRequest {
    // A carrier goes for the machine that its volumes are to be with, if there is one.
    let flavor = if instance.carrier { &instance.spec.flavor } else { instance.actual_flavor() };
    let size = catalogue.flavor(flavor).map(Size::from);
    // One that is interrupted has no room to lose, and is best off where it may have some again.
    let needs_none = instance.carrier || size.is_some() && !instance.holds_room();
    let nothing = || Size { flavor: flavor.to_owned(), vcpus: Vcpus(0), memory: Mib(0) };
    let nothing = needs_none.then(nothing);
    let (mut storage, mut excluded) = (BTreeMap::new(), BTreeSet::from([from]));
    let mut specification = instance.spec.specification_bytes();
    for volume in volumes {
        let sum = storage.entry(volume.spec.class.clone()).or_insert(Gib(0));
        *sum = sum.saturating_add(volume.spec.size);
        specification += limits::VOLUME_SPECIFICATION_BYTES;
        // What may be left there of an earlier stay is to be gone first.
        excluded.extend(&volume.may_be_on);
    }
    // Nor what may be the right data, on a host that a restored store knows nothing of.
    let keeps = |host: &HostId| {
        let now = state.hosts.get(*host);
        now.is_some_and(|now| volumes.iter().any(|volume| now.kept.contains(&volume.id)))
    };
    excluded.extend(state.world.hosts.iter().map(|row| row.id).filter(keeps));
    PlaceRequest {
        machine: instance.id,
        sizes: size.into_iter().chain(nothing).collect(),
        storage,
        specification,
        images: catalogue.image_versions([&instance.spec.image]),
        placement,
        features: Default::default(),
        volume_hosts: BTreeSet::new(),
        excluded,
        incapable: incapable(state, from, instance),
        spot: instance.spec.spot.is_some(),
        preferences: weighed(state, &instance.spec.preferences),
        alternatives: Vec::new(),
    }
}

/// Whether a placed instance has to go to another host for what its placement becomes: the one
/// that it is on does not obey that.
///
/// # Errors
/// `Precondition` when it would have to and can't as it is; `NoCapacity` when no other host will do
/// now.
pub(super) fn check_place(
    state: &State,
    catalogue: &Catalogue,
    instance: &Instance,
    placement: &Placement,
    now: UnixMs,
) -> Result<bool, DomainError> {
    let Some(from) = instance.decision.as_ref().map(|decision| decision.host) else {
        return Ok(false);
    };
    let Err(why) = state.books.check_obeys(instance.id, from, placement) else { return Ok(false) };
    let can_t = |error: DomainError| DomainError {
        field: Some("placement".into()),
        message: format!(
            "the instance can't stay where it is, as {why}, and it can't move: {}",
            error.message
        ),
        ..error
    };
    let volumes = state.all_volumes_of(instance);
    let others = state.books.gathers_with(instance.id, placement);
    let others = others.iter().filter_map(|id| state.world.instances.get(*id)).cloned();
    let others: Vec<_> = others.collect();
    let is_here = |row: &Arc<Instance>| {
        row.migration.is_none() && row.decision.as_ref().is_some_and(|at| at.host == from)
    };
    // Those that would go elsewhere together, and have not left, stay together as well.
    if instance.reserved.is_some() && instance.migration.is_none() && others.iter().all(is_here) {
        let own = Placement { with: BTreeSet::new(), ..placement.clone() };
        if state.books.check_obeys(instance.id, from, &own).is_ok() {
            return Ok(false);
        }
    }
    let goes_there = |to: HostId| state.books.check_obeys(instance.id, to, placement).is_ok();
    if set_for(instance).is_some_and(goes_there) {
        return Ok(true);
    }
    // What is under way ends, and then it goes.
    if let Err(Bound::AsItIs(error)) = check_can_leave(state, instance, &volumes, now) {
        return Err(can_t(error));
    }
    if !others.is_empty() {
        let mut all: Vec<_> = others
            .into_iter()
            .filter_map(|row| {
                let volumes = state.all_volumes_of(&row);
                let placement = rules::placement_of(&row, &volumes).ok()?;
                Some(Companion { row, volumes, placement, stays: true })
            })
            .collect();
        // It looks for another host than the one that it goes to.
        let row = Arc::new(Instance { reserved: None, migration: None, ..instance.clone() });
        all.push(Companion { row, volumes, placement: placement.clone(), stays: false });
        find_host(state, catalogue, &all, When::Later, now).map_err(can_t)?;
        return Ok(true);
    }
    let request = elsewhere(state, catalogue, instance, &volumes, placement.clone(), from);
    // So do copies that were left behind elsewhere.
    let request = PlaceRequest { excluded: [from].into(), ..request };
    state.books.place(&request).map_err(|why| can_t(DomainError::from(&*why)))?;
    Ok(true)
}

/// Whether another host is better for the instance by at least `percent`, and it can go there now.
pub(crate) fn is_better_elsewhere(
    state: &State,
    catalogue: &Catalogue,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    percent: u8,
    now: UnixMs,
) -> bool {
    let Ok(from) = check_can_leave(state, instance, volumes, now) else { return false };
    // One that is off gains nothing.
    if !wants_to_run(instance, now) {
        return false;
    }
    // One that likes full hosts would follow those that like empty ones for ever.
    if instance.spec.preferences.prefer == Prefer::Pack {
        return false;
    }
    let Ok(placement) = rules::placement_of(instance, volumes) else { return false };
    let request = elsewhere(state, catalogue, instance, volumes, placement, from);
    // Nobody waits for this, so what comes to a host comes one after the other.
    let takes_one = |host| state.world.instances_coming_to(host).next().is_none();
    state.books.better(&request, from, percent).is_some_and(|placed| takes_one(placed.host))
}

/// Why an instance can't leave its host.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Something is under way that ends.
    ForNow(DomainError),
    /// Somebody would have to do something first.
    AsItIs(DomainError),
}

impl From<Bound> for DomainError {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::ForNow(error) | Bound::AsItIs(error) => error,
        }
    }
}

/// The instance runs, or is off, as it shall on a host that can let it go, which is the answer.
pub(crate) fn check_can_leave(
    state: &State,
    instance: &Instance,
    volumes: &[Arc<Volume>],
    now: UnixMs,
) -> Result<HostId, Bound> {
    let id = instance.id;
    if instance.deleting.is_some() {
        let error = precondition(format!("{id} is being deleted"));
        return Err(Bound::ForNow(error.advise("wait until it is gone")));
    }
    if instance.migration.is_some() {
        let error = precondition(format!("{id} moves to another host already"));
        return Err(Bound::ForNow(error.advise("wait until that has ended")));
    }
    let runs = wants_to_run(instance, now);
    let Some(decision) = &instance.decision else {
        let error = precondition(format!("{id} is on no host yet"));
        return Err(Bound::ForNow(error.advise("repeat when it is")));
    };
    let from = decision.host;
    let is_as_it_shall = is_brought_about(instance, runs, instance.spec_version);
    if runs && is_as_it_shall && instance.observed.state == ObservedState::Stopped {
        let text = format!("{id} has powered off by itself, and would be started by moving it");
        let advice = "stop it, to have it move as it is, or reboot it";
        return Err(Bound::AsItIs(precondition(text).advise(advice)));
    }
    if runs && let Some(volume) = only_read(instance) {
        let text = format!("{id} runs with {volume}, which it may only read, and can't take along");
        let advice = "stop it, to have both move, or attach that with the right to write, or not";
        return Err(Bound::AsItIs(precondition(text).advise(advice)));
    }
    if !is_as_it_shall || state.standing(from) != Standing::Connected || instance.notice().is_some()
    {
        let state = if runs { "running" } else { "off" };
        let error = precondition(format!(
            "{id} is not seen {state} as it shall: its host is changing it, or does not answer"
        ));
        return Err(Bound::ForNow(error.advise("repeat when it is")));
    }
    check_lets_go(state, from, &id, volumes)?;
    match volumes.iter().find(|volume| volume.host != Some(from)) {
        Some(volume) => {
            let error = precondition(format!("{} is not on the host of {id}", volume.id));
            Err(Bound::ForNow(error.advise("repeat when it is")))
        }
        None => Ok(from),
    }
}

/// A volume that the instance may only read: while it runs, nothing copies that to another host.
fn only_read(instance: &Instance) -> Option<VolumeId> {
    let mut attached = instance.spec.volumes.values();
    attached.find(|attached| attached.read_only).map(|attached| attached.volume_id)
}

/// Whether the host can let these volumes go, with what they belong to.
pub(super) fn check_lets_go(
    state: &State,
    from: HostId,
    what: &impl Display,
    volumes: &[Arc<Volume>],
) -> Result<(), Bound> {
    if state.hosts.agent(from).is_none_or(|agent| agent.migration_address.is_empty()) {
        let error = precondition(format!(
            "the agent of the host that {what} is on takes no part in moves: it runs without \
             `--migration-listen`"
        ));
        let advice = "ask the host's operator to start its agent with that";
        return Err(Bound::AsItIs(error.advise(advice)));
    }
    let mut copies = volumes.iter().flat_map(|volume| state.world.copies_of(volume.id));
    if let Some(copy) = copies.find(|copy| copy.host == Some(from)) {
        let text = format!("{} is being made as a copy of a volume of it", copy.id);
        return Err(Bound::ForNow(precondition(text).advise("wait until that is there")));
    }
    Ok(())
}

/// Connected hosts that can't take this instance from its host.
fn incapable(state: &State, from: HostId, instance: &Instance) -> BTreeSet<HostId> {
    let source = state.hosts.agent(from);
    let runs = !instance.carrier && instance.observed.state == ObservedState::Running;
    // A guest that runs goes on by what it was started with.
    let goes_on = |here: &Agent, there: &Agent| {
        let said = [&here.accelerator, &there.accelerator];
        !runs || here.accelerator == there.accelerator || said.iter().any(|it| it.is_empty())
    };
    let takes = |host: HostId| {
        state.hosts.agent(host).is_none_or(|agent| {
            !agent.migration_address.is_empty()
                && source.is_some_and(|source| {
                    source.hypervisor == agent.hypervisor && goes_on(source, agent)
                })
        })
    };
    state.world.hosts.iter().map(|row| row.id).filter(|host| !takes(*host)).collect()
}

/// What is new to the instance does not move with anything, and nothing is given to one that moves:
/// nobody knows yet on which host its data will be. A machine that is on no host yet may be given
/// what a carrier moves: it is placed when that has come.
pub(super) fn check_is_settled(
    state: &State,
    row: Arc<Volume>,
    instance: InstanceId,
) -> Result<Arc<Volume>, DomainError> {
    let moves = |row: &&Arc<Instance>| row.migration.is_some();
    let itself = state.world.instances.get(instance);
    let is_placed = itself.is_some_and(|row| row.decision.is_some());
    let moving = state.world.moves_with(row.id).or(itself.filter(moves));
    let moving = moving.filter(|moving| is_placed || !moving.carrier);
    match moving.filter(|_| row.attached_to != Some(instance)) {
        None => Ok(row),
        Some(moving) => {
            let (text, advice) = if moving.carrier {
                ("it moves to another host".to_owned(), "repeat when it is there")
            } else {
                let text = format!("{} moves to another host", moving.id);
                (text, "repeat when it is there: its operations say when")
            };
            let text = format!("{} can't be attached now: {text}", row.id);
            Err(DomainError::new(ErrorKind::Conflict, text).advise(advice))
        }
    }
}

/// A move is given up when what the machine is made of changes under it.
pub(super) fn stays_for(old: &InstanceSpec, new: &InstanceSpec, rebuild: bool) -> bool {
    rebuild
        || old.flavor != new.flavor
        || old.boot_volume.size != new.boot_volume.size
        || old.volumes != new.volumes
}
