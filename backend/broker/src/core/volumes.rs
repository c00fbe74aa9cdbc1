//! Commands and reads of volumes.

use std::sync::Arc;

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, HostId, InstanceId, VolumeId},
    impact,
    instance::Instance,
    limits,
    migration::Migration,
    operation::{Operation, OperationKind, OperationState},
    units::{Gib, Mib, Revision, Vcpus},
    volume::{Volume, VolumeObserved, VolumeSpec},
};
use fairmazon_scheduler::{Preferences, Size, VolumeBooking};
use fairmazon_store::{Entity, Noun};

use super::{
    answers::{Again, Answer, Request},
    audit,
    books::volume_booking,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    instances::{Labels, has_labels, operation, rely_on_groups, scope},
    rules,
    state::State,
    table::{Page, PageRequest},
    view::VolumeView,
};

/// Stands for the machine of a volume that is attached to none.
const NO_MACHINE: InstanceId = InstanceId::from_parts(0, 0);

/// A changed volume, and the operation that brings the change about.
#[derive(Debug, Clone)]
pub struct VolumeChange {
    /// The volume as it is now.
    pub volume: VolumeView,
    /// Ends when the change has come about.
    pub operation: Arc<Operation>,
}

/// A change of a volume that is asked for.
#[derive(Debug, Clone)]
pub struct VolumeUpdate {
    /// Which volume.
    pub id: VolumeId,
    /// The whole new spec.
    pub spec: VolumeSpec,
    /// Refused when the volume has another revision; 0 means any.
    pub expected_revision: u64,
}

impl Engine {
    /// Makes a volume. It is bound to a host when it is first attached, or to that of the volume
    /// that it is a copy of; one that is imported is bound at once.
    ///
    /// # Errors
    /// `Invalid`, `NotFound` for a group or a source, `LimitExceeded`, `Conflict` for a used key;
    /// `Precondition` for a source without data, `NoCapacity` when its host has no room for a copy, or no host for an
    /// import.
    pub async fn create_volume(
        &self,
        caller: &Caller,
        spec: VolumeSpec,
        key: &str,
    ) -> Result<VolumeChange, DomainError> {
        let account = caller.owner()?;
        spec.check()?;
        rules::check_class(&self.catalogue(), &spec.class)?;
        rules::check_volume_image(&self.catalogue(), &spec)?;
        let request = Request::new(account, "volumes.create", key, &spec)?;
        let id = self.new_id(VolumeId::from_parts);
        let made = self
            .once(
                request,
                |state, request| self.plan_create_volume(state, request, caller, id, &spec),
                |answer, request, row| match row.and_then(Volume::from_row) {
                    Some(row) if row.unconfirmed && row.deleting.is_none() => {
                        self.same_volume(answer, request, OperationKind::Create, &Arc::new(row))
                    }
                    _ => Ok(Again::Retired),
                },
            )
            .await?;
        Ok(self.as_volume_is(made))
    }

    fn plan_create_volume(
        &self,
        state: &mut State,
        request: &Request,
        caller: &Caller,
        id: VolumeId,
        spec: &VolumeSpec,
    ) -> Result<Planned<VolumeChange>, PlanError> {
        let (account, now) = (request.account, self.now());
        let there =
            state.world.volumes.count_of(account) + state.holds.coming(account, Noun::Volume);
        rules::check_count("volumes", there, self.config().volumes_per_account)?;
        let mut draft = Draft::default();
        rely_on_groups(state, &mut draft, account, &spec.placement)?;
        let host = match (spec.source, spec.import) {
            (Some(source), _) => Some(host_of_source(state, account, source, spec)?),
            (None, Some(_)) => {
                check_waiting_imports(state, account, spec.size)?;
                Some(self.host_of_import(state, spec)?)
            }
            (None, None) => None,
        };
        let volume = Volume {
            id,
            account,
            spec: spec.clone(),
            boot_of: None,
            attached_to: None,
            host,
            may_be_on: Default::default(),
            keys: Default::default(),
            next_keys: Default::default(),
            refused_keys: 0,
            made: false,
            observed: VolumeObserved::Unknown,
            deleting: None,
            unconfirmed: true,
            created_at: now,
            revision: Revision(0),
        };
        let mut operation = operation(self, account, OperationKind::Create, &id, 0);
        if let Some(host) = host {
            match spec.source {
                Some(source) => draft.rely_on(source),
                None => draft.rely_on(host),
            }
            check_stays(state, &volume)?;
            claim_room(state, &volume)?;
        } else {
            // Nothing is made before it is attached, so there is nothing to wait for.
            operation = done(self, operation);
        }
        draft.audit(audit::entry(caller, now, "volume.create", &id, None, Some(&volume)));
        draft.answer(request.record(self, &id, Some(operation.id)));
        draft.insert(operation.clone());
        draft.insert(volume.clone());
        let volume = VolumeView::new(state, &self.catalogue(), &Arc::new(volume));
        Ok(Planned { draft, answer: VolumeChange { volume, operation: Arc::new(operation) } })
    }

    /// Replaces the spec of a volume.
    ///
    /// # Errors
    /// `Invalid` when it would shrink or change its class, `NoCapacity` when its host has no
    /// room for what it grows by, `Precondition` when that is lost for good.
    pub async fn update_volume(
        &self,
        caller: &Caller,
        update: VolumeUpdate,
        key: &str,
    ) -> Result<VolumeChange, DomainError> {
        let account = self.owner_of_volume(caller, update.id)?;
        update.spec.check()?;
        let content = (update.id, &update.spec, update.expected_revision);
        let request = Request::new(account, "volumes.update", key, &content)?;
        let changed = self
            .once(
                request,
                |state, request| self.plan_update_volume(state, request, caller, &update),
                |answer, request, _| {
                    let id = answer.target::<VolumeId>()?;
                    let row = self.state().world.volumes.get(id).cloned();
                    let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
                    self.same_volume(answer, request, OperationKind::Update, &row)
                },
            )
            .await?;
        Ok(self.as_volume_is(changed))
    }

    fn plan_update_volume(
        &self,
        state: &mut State,
        request: &Request,
        caller: &Caller,
        update: &VolumeUpdate,
    ) -> Result<Planned<VolumeChange>, PlanError> {
        let (id, now) = (update.id, self.now());
        let old = volume_of(state, request.account, id)?;
        rules::check_not_deleting("volume", &id, old.deleting.is_some())?;
        rules::check_revision(update.expected_revision, old.revision.0)?;
        if let Some(instance) = old.boot_of {
            return Err(rules::precondition(format!("{id} is the boot volume of {instance}"))
                .advise("change boot_volume of the instance")
                .into());
        }
        impact::check_volume_change(&old.spec, &update.spec)?;
        let grows = update.spec.size != old.spec.size;
        if grows {
            check_not_copied(state, &old)?;
        }
        // Also one that was begun before, whose customer went away: it goes on with this one.
        let changes_key = old.key().is_some_and(|key| key.made_for < update.spec.key_version);
        if grows || changes_key {
            state.check_volume_not_lost(&old)?;
        }
        state.holds.free(id)?;
        let mut draft = Draft::default();
        rely_on_groups(state, &mut draft, old.account, &update.spec.placement)?;
        let mut new = Volume { spec: update.spec.clone(), ..Volume::clone(&old) };
        check_stays(state, &new)?;
        claim_room(state, &new)?;
        let mut operation = operation(self, old.account, OperationKind::Update, &id, 0);
        if changes_key {
            new.refused_keys = 0;
        }
        if old.host.is_none() || !grows && !changes_key {
            operation = done(self, operation);
        }
        draft.audit(audit::entry(caller, now, "volume.update", &id, Some(&*old), Some(&new)));
        draft.answer(request.record(self, &id, Some(operation.id)));
        draft.insert(operation.clone());
        draft.update(new.clone());
        // What grows does not move: its copy elsewhere has the size that it had.
        if let Some(row) = state.world.moves_with(id)
            && grows
            && let Some(migration) = row.migration.clone().filter(|migration| !migration.given_up)
        {
            let migration = Some(Migration { given_up: true, ..migration });
            draft.update(Instance { migration, ..Instance::clone(row) });
        }
        let volume = VolumeView::new(state, &self.catalogue(), &Arc::new(new));
        Ok(Planned { draft, answer: VolumeChange { volume, operation: Arc::new(operation) } })
    }

    /// Deletes a volume and its data.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` while it is attached or protected.
    pub async fn delete_volume(
        &self,
        caller: &Caller,
        id: VolumeId,
        key: &str,
    ) -> Result<Arc<Operation>, DomainError> {
        let account =
            self.owner_of_volume(caller, id).or_else(|error| caller.account.ok_or(error))?;
        let request = Request::new(account, "volumes.delete", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = volume_of(state, request.account, id)?;
                rules::check_volume_deletable(&old)?;
                check_not_copied(state, &old)?;
                // One that has failed is over; its host goes on trying, and this one follows it.
                let under_way = old.deleting.and_then(|id| state.world.operations.get(id));
                if let Some(operation) = under_way.filter(|row| !row.state.is_final()).cloned() {
                    let mut draft = Draft::default();
                    draft.answer(request.record(self, &id, Some(operation.id)));
                    return Ok(Planned { draft, answer: operation });
                }
                let mut draft = Draft::default();
                let mut operation = operation(self, old.account, OperationKind::Delete, &id, 0);
                let mut new = Some(Volume { deleting: Some(operation.id), ..Volume::clone(&old) });
                if old.host.is_none() {
                    operation = done(self, operation);
                    new = None;
                }
                let at = self.now();
                let verb = "volume.delete";
                draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), new.as_ref()));
                draft.answer(request.record(self, &id, Some(operation.id)));
                match new {
                    Some(new) => draft.update(new),
                    None => draft.delete(id, old.revision),
                }
                draft.insert(operation.clone());
                Ok(Planned { draft, answer: Arc::new(operation) })
            },
            |answer, request, _| {
                Ok(Again::Same(answer.operation(self, request, OperationKind::Delete)?))
            },
        )
        .await
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn volume(&self, caller: &Caller, id: VolumeId) -> Result<VolumeView, DomainError> {
        let state = self.state();
        let row = state.world.volumes.get(id).filter(|row| caller.sees(row.account));
        let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
        Ok(VolumeView::new(&state, &self.catalogue(), row))
    }

    /// A page of the data volumes that the caller sees and that have all of `labels`, with
    /// boot volumes that their instance left behind.
    pub fn volumes(
        &self,
        caller: &Caller,
        page: PageRequest<VolumeId>,
        labels: &Labels,
    ) -> Page<VolumeView, VolumeId> {
        let state = self.state();
        let wanted = |row: &Volume| row.boot_of.is_none() && has_labels(&row.spec.labels, labels);
        let (rows, more) = state.world.volumes.page(scope(caller), page.after, page.size(), wanted);
        let next = if more { rows.last().map(|row| row.id) } else { None };
        let catalogue = self.catalogue();
        let view = |row: &Arc<Volume>| VolumeView::new(&state, &catalogue, row);
        Page { items: rows.iter().map(view).collect(), next, revision: state.world.revision }
    }

    /// The change with its rows as they are now: the plan did not know their revisions yet.
    fn as_volume_is(&self, change: VolumeChange) -> VolumeChange {
        let state = self.state();
        let row = state.world.volumes.get(change.volume.row.id);
        let view = row.map(|row| VolumeView::new(&state, &self.catalogue(), row));
        let operation = state.world.operations.get(change.operation.id).cloned();
        VolumeChange {
            volume: view.unwrap_or(change.volume),
            operation: operation.unwrap_or(change.operation),
        }
    }

    /// A host for a volume that is imported: nothing but its storage is asked of it.
    fn host_of_import(&self, state: &State, spec: &VolumeSpec) -> Result<HostId, PlanError> {
        let request = fairmazon_scheduler::Request {
            machine: NO_MACHINE,
            sizes: vec![Size { flavor: String::new(), vcpus: Vcpus(0), memory: Mib(0) }],
            storage: [(spec.class.clone(), spec.size)].into(),
            specification: limits::VOLUME_SPECIFICATION_BYTES,
            images: Default::default(),
            placement: spec.placement.clone(),
            features: Default::default(),
            volume_hosts: Default::default(),
            excluded: Default::default(),
            incapable: Default::default(),
            spot: false,
            preferences: Preferences::default(),
            alternatives: Vec::new(),
        };
        let placed = state.books.place(&request);
        let host = placed.map_err(|why| DomainError::from(&*why))?.host;
        if state.holds.changes(host.into()) {
            return Err(PlanError::Held(host.into()));
        }
        Ok(host)
    }

    fn owner_of_volume(&self, caller: &Caller, id: VolumeId) -> Result<AccountId, DomainError> {
        let state = self.state();
        let row = state.world.volumes.get(id).filter(|row| caller.may_change(row.account));
        row.map(|row| row.account).ok_or_else(|| DomainError::not_found("volume", id))
    }

    fn same_volume(
        &self,
        answer: &Answer,
        request: &Request,
        kind: OperationKind,
        row: &Arc<Volume>,
    ) -> Result<Again<VolumeChange>, DomainError> {
        let operation = answer.operation(self, request, kind)?;
        let volume = VolumeView::new(&self.state(), &self.catalogue(), row);
        Ok(Again::Same(VolumeChange { volume, operation }))
    }
}

/// A bound volume stays where it is: its new constraints, with those of the instance that it
/// is attached to, must allow that.
fn check_stays(state: &State, new: &Volume) -> Result<(), DomainError> {
    let Some(host) = new.host else { return Ok(()) };
    let instance = new.attached_to.and_then(|id| state.world.instances.get(id));
    let advice = if instance.is_some() {
        "constrain the instance that it is attached to instead: while that runs, it moves with its \
         volumes"
    } else {
        "make a volume elsewhere and copy the data, or attach it to an instance, which moves with \
         its volumes"
    };
    let (machine, placement) = match instance {
        Some(instance) => {
            let mut volumes = state.volumes_of(instance);
            volumes.retain(|volume| volume.id != new.id);
            let volumes = volumes.iter().map(AsRef::as_ref).chain([new]);
            (instance.id, rules::join_placements(&instance.spec.placement, volumes)?)
        }
        None => (NO_MACHINE, new.spec.placement.clone()),
    };
    state.books.check_stays(machine, host, &placement).map_err(|why| {
        rules::precondition(format!("the volume can't stay where it is: {why}")).advise(advice)
    })?;
    // A carrier asks nobody where its volumes may be once they have come.
    let carrier = state.world.moves_with(new.id).filter(|moving| moving.carrier);
    let Some(to) = carrier.and_then(|carrier| carrier.migration.as_ref()) else { return Ok(()) };
    state.books.check_obeys(NO_MACHINE, to.to, &placement).map_err(|why| {
        rules::precondition(format!("the volume can't go where it moves to: {why}"))
            .advise("repeat when it is there")
    })
}

/// The host on which a volume with this spec is copied: that of its source, which has data there.
fn host_of_source(
    state: &State,
    account: AccountId,
    source: VolumeId,
    spec: &VolumeSpec,
) -> Result<HostId, DomainError> {
    let row = volume_of(state, account, source)
        .map_err(|error| DomainError { field: Some("source".into()), ..error })?;
    rules::check_not_deleting("volume", &source, row.deleting.is_some())?;
    state.check_volume_not_lost(&row)?;
    if let Some(instance) = state.world.moves_with(source) {
        let with = if instance.carrier { String::new() } else { format!(" with {}", instance.id) };
        let text = format!("{source} moves to another host{with}");
        return Err(rules::precondition(text).advise("repeat when it is there"));
    }
    let Some(host) = row.host.filter(|_| row.observed.is_present()) else {
        return Err(rules::precondition(format!("{source} has no data yet to be copied"))
            .advise("attach it to an instance first, and write to it"));
    };
    if spec.size < row.spec.size || spec.read_only && spec.size != row.spec.size {
        let size = row.spec.size.0;
        let need = if spec.read_only { "exactly" } else { "at least" };
        return Err(DomainError::invalid(
            "size_gib",
            format!("a copy of {source} has to have {need} its {size} GiB"),
        ));
    }
    Ok(host)
}

/// Books the room that a volume takes on its host.
fn claim_room(state: &mut State, volume: &Volume) -> Result<(), DomainError> {
    let no_room = |host: &str, why: String| {
        DomainError::new(ErrorKind::NoCapacity, format!("{host} has no room: {why}"))
            .advise("ask for less, or delete what is not needed there")
    };
    // What is kept for it where it will go has to do for all of it.
    let reserved = volume.attached_to.and_then(|id| state.world.instances.get(id)?.reserved);
    if let (Some(host), Some(here)) = (reserved, volume_booking(volume))
        && let Some(id) = volume.attached_to
    {
        let share = (volume.id, VolumeBooking { host, ..here });
        let claimed = state.books.claim_coming(id, None, std::iter::once(share));
        claimed.map_err(|why| no_room("the host that it moves to", why))?;
    }
    state.books.claim(None, std::iter::once(volume)).map_err(|why| {
        state.settle(std::iter::once(volume.id.into()));
        no_room("its host", why)
    })
}

/// No copy of the volume is being made.
pub(super) fn check_not_copied(state: &State, row: &Volume) -> Result<(), DomainError> {
    let Some(host) = row.host.filter(|host| !state.is_lost(*host)) else { return Ok(()) };
    let mut copies = state.world.copies_of(row.id);
    let Some(copy) = copies.find(|copy| copy.host == Some(host)) else { return Ok(()) };
    let text = format!("{} is still being made as a copy of {}", copy.id, row.id);
    Err(rules::precondition(text).advise("wait until it is there, or delete it first"))
}

/// The operation as one that has nothing left to do.
fn done(engine: &Engine, operation: Operation) -> Operation {
    Operation { state: OperationState::Done, finished_at: Some(engine.now()), ..operation }
}

fn volume_of(state: &State, account: AccountId, id: VolumeId) -> Result<Arc<Volume>, DomainError> {
    let row = state.world.volumes.get(id).filter(|row| row.account == account);
    row.cloned().ok_or_else(|| DomainError::not_found("volume", id))
}

/// What waits for its file holds room that it does not use yet: an account has little of that.
fn check_waiting_imports(state: &State, account: AccountId, size: Gib) -> Result<(), DomainError> {
    let rows = state.world.volumes.of_account(account);
    let waiting: Vec<_> =
        rows.filter(|row| row.imports().is_some()).map(|row| row.spec.size.0).collect();
    let noun = "volumes that wait for the files that they are imported from";
    rules::check_count(noun, waiting.len() as u64, limits::IMPORTS_WAITING)?;
    let sum = waiting.iter().sum::<u64>().saturating_add(size.0);
    if sum <= limits::VOLUME_GIB_MAX {
        return Ok(());
    }
    let (most, text) = (limits::VOLUME_GIB_MAX, "imports that wait for their files");
    let text = format!("{text} have {most} GiB together at most, and would have {sum}");
    Err(DomainError::new(ErrorKind::LimitExceeded, text)
        .advise("send the files of those that wait, or delete them"))
}
