//! Commands and reads of instances.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, InstanceId, OperationId, VolumeId},
    impact,
    instance::{Instance, InstanceObserved, InstanceSpec, Power},
    operation::{Operation, OperationKind, OperationState},
    units::{Epoch, Revision},
    volume::Volume,
};
use fairmazon_scheduler::{MachineBooking, VolumeBooking};
use fairmazon_store::{Entity, Noun};

use super::{
    answers::{Again, Answer, Request},
    attachments::{attachable, detached},
    audit,
    books::{machine_booking, volume_booking},
    boot_volumes::{boot_volume, changed_boot_volume, check_boot_not_copied},
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    migrations::{check_place, stays_for},
    preferences::check_near,
    rules,
    state::State,
    table::{Page, PageRequest},
    view::{InstanceState, InstanceView, instance_counts},
};

/// Labels that a listed row must have, all of them.
pub type Labels = BTreeMap<String, String>;

/// A changed instance, and the operation that brings the change about.
#[derive(Debug, Clone)]
pub struct InstanceChange {
    /// The instance as it is now.
    pub instance: InstanceView,
    /// Ends when the change has come about.
    pub operation: Arc<Operation>,
}

/// A change of an instance that is asked for.
#[derive(Debug, Clone)]
pub struct InstanceUpdate {
    /// Which instance.
    pub id: InstanceId,
    /// The whole new spec.
    pub spec: InstanceSpec,
    /// Refused when the instance has another revision; 0 means any.
    pub expected_revision: u64,
    /// A changed image may destroy what is on the boot volume.
    pub allow_rebuild: bool,
}

impl Engine {
    /// Makes an instance. It has its id at once and is placed and started afterwards.
    ///
    /// # Errors
    /// `Invalid` for the spec, `NotFound` for what it names, `Precondition` when a volume is
    /// not free, `LimitExceeded`, `Conflict` when the key was used for something else.
    pub async fn create_instance(
        &self,
        caller: &Caller,
        spec: InstanceSpec,
        key: &str,
    ) -> Result<InstanceChange, DomainError> {
        let account = caller.owner()?;
        spec.check()?;
        rules::check_catalogue(&self.catalogue(), &spec)?;
        let request = Request::new(account, "instances.create", key, &spec)?;
        let id = self.new_id(InstanceId::from_parts);
        let made = self
            .once(
                request,
                |state, request| self.plan_create(state, request, caller, id, &spec),
                |answer, request, row| {
                    let row = row.and_then(Instance::from_row);
                    match row {
                        Some(row) if row.unconfirmed && row.deleting.is_none() => {
                            self.same(answer, request, OperationKind::Create, &Arc::new(row))
                        }
                        _ => Ok(Again::Retired),
                    }
                },
            )
            .await?;
        Ok(self.as_it_is(made))
    }

    fn plan_create(
        &self,
        state: &mut State,
        request: &Request,
        caller: &Caller,
        id: InstanceId,
        spec: &InstanceSpec,
    ) -> Result<Planned<InstanceChange>, PlanError> {
        let (account, now) = (request.account, self.now());
        check_room(self, state, account)?;
        let mut draft = Draft::default();
        rely_on_groups(state, &mut draft, account, &spec.placement)?;
        check_near(state, None, &spec.preferences)?;
        let volumes = attachable(state, account, id, &spec.volumes)?;
        rules::common_host(volumes.iter().map(AsRef::as_ref))?;
        rules::join_placements(&spec.placement, volumes.iter().map(AsRef::as_ref))?;
        let operation = operation(self, account, OperationKind::Create, &id, 1);
        let boot_volume_id = self.new_id(VolumeId::from_parts);
        let instance = Instance {
            id,
            account,
            spec: spec.clone(),
            spec_version: 1,
            reboots: 0,
            rebuilds: 0,
            first_boots: 0,
            migration: None,
            interruption: None,
            carrier: false,
            in_vain: Default::default(),
            later: None,
            reserved: None,
            displaced: None,
            boot_volume_id,
            decision: None,
            last_epoch: Epoch(0),
            observed: InstanceObserved::default(),
            waiting_for: String::new(),
            deleting: None,
            unconfirmed: true,
            created_at: now,
            revision: Revision(0),
        };
        for volume in volumes {
            draft.update(Volume { attached_to: Some(id), ..Volume::clone(&volume) });
        }
        draft.audit(audit::entry(caller, now, "instance.create", &id, None, Some(&instance)));
        draft.answer(request.record(self, &id, Some(operation.id)));
        draft.insert(boot_volume(&instance));
        draft.insert(operation.clone());
        draft.insert(instance.clone());
        let view = InstanceView::new(state, &self.catalogue(), &Arc::new(instance), now);
        let answer = InstanceChange { instance: view, operation: Arc::new(operation) };
        Ok(Planned { draft, answer })
    }

    /// Replaces the spec of an instance.
    ///
    /// # Errors
    /// As of a creation; `Invalid` and `Precondition` for what can't change in place, and for what
    /// nobody brings about, as its host is lost for good.
    pub async fn update_instance(
        &self,
        caller: &Caller,
        update: InstanceUpdate,
        key: &str,
    ) -> Result<InstanceChange, DomainError> {
        let account = self.owner_of_instance(caller, update.id)?;
        update.spec.check()?;
        rules::check_catalogue(&self.catalogue(), &update.spec)?;
        let content = (update.id, &update.spec, update.expected_revision, update.allow_rebuild);
        let request = Request::new(account, "instances.update", key, &content)?;
        let changed = self
            .once(
                request,
                |state, request| self.plan_update(state, request, caller, &update),
                |answer, request, _| self.same_change(answer, request, OperationKind::Update),
            )
            .await?;
        Ok(self.as_it_is(changed))
    }

    fn plan_update(
        &self,
        state: &mut State,
        request: &Request,
        caller: &Caller,
        update: &InstanceUpdate,
    ) -> Result<Planned<InstanceChange>, PlanError> {
        let (id, spec, now) = (update.id, &update.spec, self.now());
        let old = instance_of(state, request.account, id)?;
        rules::check_not_deleting("instance", &id, old.deleting.is_some())?;
        rules::check_revision(update.expected_revision, old.revision.0)?;
        impact::check_instance_change(&old.spec, spec)?;
        let renamed = self.catalogue().with_image_named_as(&old.spec, spec);
        rules::check_rebuild(&renamed, spec, update.allow_rebuild)?;
        state.holds.free(id)?;
        let mut draft = Draft::default();
        rely_on_groups(state, &mut draft, old.account, &spec.placement)?;
        check_near(state, Some(&old.spec.preferences), &spec.preferences)?;
        let volumes = attachable(state, old.account, id, &spec.volumes)?;
        let placement = rules::join_placements(&spec.placement, volumes.iter().map(AsRef::as_ref))?;
        let effect = rules::effect(&renamed, spec);
        let moves = !state.books.is_booked_under(id, &placement);
        if effect.on_host || moves {
            state.check_machine_not_lost(&old)?;
        }
        let mut new = Instance { spec: spec.clone(), ..Instance::clone(&old) };
        new.spec_version += u64::from(effect.on_host);
        new.rebuilds += u64::from(effect.rebuild);
        new.first_boots += u64::from(effect.first_boot);
        if let Some(migration) = &mut new.migration {
            migration.given_up |= stays_for(&old.spec, spec, effect.rebuild);
        }
        let boot = changed_boot_volume(state, &old, spec, &effect)?;
        if boot.is_some() {
            check_boot_not_copied(state, &old)?;
        }
        let mut operation =
            operation(self, old.account, OperationKind::Update, &id, new.spec_version);
        if old.spec.flavor != spec.flavor
            && let Some(decision) = &mut new.decision
        {
            decision.flavor.clone_from(&spec.flavor);
        }
        if moves {
            let goes = check_place(state, &self.catalogue(), &new, &placement, now)?;
            if goes && spec.placement == old.spec.placement {
                return Err(rules::precondition(
                    "a volume may not be where the instance is, as its placement says",
                )
                .advise("change the placement of the instance first: it moves then")
                .into());
            }
            new.displaced = goes.then_some(operation.id);
        }
        let attached = self.attach(state, &old, &volumes)?;
        for volume in attached.iter().chain(&boot) {
            state.holds.free(volume.id)?;
        }
        self.claim_change(state, &new, &placement, attached.iter().chain(&boot))?;
        for volume in detached(state, &old, spec) {
            draft.update(Volume { attached_to: None, ..Volume::clone(&volume) });
        }
        for volume in attached.into_iter().chain(boot) {
            draft.update(volume);
        }
        if !effect.on_host && new.displaced != Some(operation.id) {
            operation.state = OperationState::Done;
            operation.finished_at = Some(now);
        }
        draft.audit(audit::entry(caller, now, "instance.update", &id, Some(&*old), Some(&new)));
        draft.answer(request.record(self, &id, Some(operation.id)));
        draft.insert(operation.clone());
        draft.update(new.clone());
        let view = InstanceView::new(state, &self.catalogue(), &Arc::new(new), now);
        let answer = InstanceChange { instance: view, operation: Arc::new(operation) };
        Ok(Planned { draft, answer })
    }

    /// The volumes of the spec as they are with this instance: those that are new to it are
    /// attached, and bound to its host where it has one.
    fn attach(
        &self,
        state: &State,
        old: &Instance,
        volumes: &[Arc<Volume>],
    ) -> Result<Vec<Volume>, DomainError> {
        let host = old.decision.as_ref().map(|decision| decision.host);
        let bound = rules::common_host(volumes.iter().map(AsRef::as_ref))?;
        if let (Some(host), Some(bound)) = (host, bound)
            && host != bound
        {
            let site = |id| {
                let host = state.world.hosts.get(id);
                host.map_or_else(String::new, |host| host.spec.site.name.clone())
            };
            return Err(rules::precondition(format!(
                "the data of a volume is on a host in {}, the instance on another in {}",
                site(bound),
                site(host)
            ))
            .advise("data is local to its host: make the volume anew and copy the data"));
        }
        let changed = volumes.iter().filter(|volume| {
            volume.attached_to != Some(old.id) || (host.is_some() && volume.host.is_none())
        });
        Ok(changed
            .map(|volume| Volume {
                attached_to: Some(old.id),
                host: volume.host.or(host),
                ..Volume::clone(volume)
            })
            .collect())
    }

    /// Claims what a placed instance needs more on its host.
    fn claim_change<'a>(
        &self,
        state: &mut State,
        new: &Instance,
        placement: &fairmazon_model::placement::Placement,
        volumes: impl Iterator<Item = &'a Volume>,
    ) -> Result<(), DomainError> {
        if new.decision.is_none() {
            return Ok(());
        }
        let booking = machine_booking(&self.catalogue(), new, placement.clone());
        let volumes: Vec<_> = volumes.collect();
        // It may come to where it goes all the same, as large as it is then.
        if let Some(to) = new.comes_to() {
            let coming = booking.clone().map(|here| MachineBooking { host: to, ..here });
            let migration = new.migration.as_ref();
            let goes = |id| migration.is_none_or(|migration| migration.volumes.contains(id));
            let moving = volumes.iter().filter(|volume| goes(&volume.id));
            let shares = moving.filter_map(|volume| {
                Some((volume.id, VolumeBooking { host: to, ..volume_booking(volume)? }))
            });
            state.books.claim_coming(new.id, coming, shares).map_err(|why| {
                let text = format!("the host that it moves to has no room: {why}");
                DomainError::new(ErrorKind::NoCapacity, text).advise("repeat when it is there")
            })?;
        }
        let machine = booking.map(|booking| (new.id, booking));
        state.books.claim(machine, volumes.iter().copied()).map_err(|why| {
            let claimed = volumes.iter().map(|volume| volume.id.into());
            state.settle(std::iter::once(new.id.into()).chain(claimed));
            DomainError::new(ErrorKind::NoCapacity, format!("its host has no room: {why}"))
                .advise("choose a smaller size, or replace the instance so that it is placed anew")
        })
    }

    /// Deletes an instance; its boot volume goes with it or stays as the spec says.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` while it is protected.
    pub async fn delete_instance(
        &self,
        caller: &Caller,
        id: InstanceId,
        key: &str,
    ) -> Result<Arc<Operation>, DomainError> {
        let account = self.owner_or_former(caller, id);
        let request = Request::new(account?, "instances.delete", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = instance_of(state, request.account, id)?;
                rules::check_deletable(&old)?;
                if old.spec.boot_volume.delete_with_instance {
                    check_boot_not_copied(state, &old)?;
                }
                // One that has failed is over; its host goes on trying, and this one follows it.
                let under_way = old.deleting.and_then(|id| state.world.operations.get(id));
                if let Some(operation) = under_way.filter(|row| !row.state.is_final()).cloned() {
                    let mut draft = Draft::default();
                    draft.answer(request.record(self, &id, Some(operation.id)));
                    return Ok(Planned { draft, answer: operation });
                }
                let operation = operation(self, old.account, OperationKind::Delete, &id, 0);
                let new = Instance { deleting: Some(operation.id), ..Instance::clone(&old) };
                let mut draft = Draft::default();
                draft.audit(audit::entry(
                    caller,
                    self.now(),
                    "instance.delete",
                    &id,
                    Some(&*old),
                    Some(&new),
                ));
                draft.answer(request.record(self, &id, Some(operation.id)));
                draft.insert(operation.clone());
                draft.update(new);
                Ok(Planned { draft, answer: Arc::new(operation) })
            },
            |answer, request, _| {
                Ok(Again::Same(answer.operation(self, request, OperationKind::Delete)?))
            },
        )
        .await
    }

    /// Reboots a running instance once.
    ///
    /// # Errors
    /// `NotFound`, `Precondition` when it shall not run, was never placed, or is lost with its host.
    pub async fn reboot_instance(
        &self,
        caller: &Caller,
        id: InstanceId,
        key: &str,
    ) -> Result<Arc<Operation>, DomainError> {
        let account = self.owner_of_instance(caller, id)?;
        let request = Request::new(account, "instances.reboot", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = instance_of(state, request.account, id)?;
                rules::check_not_deleting("instance", &id, old.deleting.is_some())?;
                state.check_machine_not_lost(&old)?;
                if old.decision.is_none() || old.spec.power == Power::Stopped {
                    return Err(rules::precondition(format!("the instance {id} does not run"))
                        .advise("start it first")
                        .into());
                }
                let mut new = Instance::clone(&old);
                new.reboots += 1;
                new.spec_version += 1;
                let kind = OperationKind::Reboot;
                let operation = operation(self, old.account, kind, &id, new.spec_version);
                let mut draft = Draft::default();
                let at = self.now();
                let verb = "instance.reboot";
                draft.audit(audit::entry(caller, at, verb, &id, Some(&*old), Some(&new)));
                draft.answer(request.record(self, &id, Some(operation.id)));
                draft.insert(operation.clone());
                draft.update(new);
                Ok(Planned { draft, answer: Arc::new(operation) })
            },
            |answer, request, _| {
                Ok(Again::Same(answer.operation(self, request, OperationKind::Reboot)?))
            },
        )
        .await
    }

    /// One instance.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn instance(&self, caller: &Caller, id: InstanceId) -> Result<InstanceView, DomainError> {
        let state = self.state();
        let row = state.world.machine(id).filter(|row| caller.sees(row.account));
        let row = row.ok_or_else(|| DomainError::not_found("instance", id))?;
        Ok(InstanceView::new(&state, &self.catalogue(), row, self.now()))
    }

    /// A page of the instances that the caller sees and that have all of `labels`.
    pub fn instances(
        &self,
        caller: &Caller,
        page: PageRequest<InstanceId>,
        labels: &Labels,
    ) -> Page<InstanceView, InstanceId> {
        let now = self.now();
        let state = self.state();
        let wanted = |row: &Instance| !row.carrier && has_labels(&row.spec.labels, labels);
        let (rows, more) =
            state.world.instances.page(scope(caller), page.after, page.size(), wanted);
        let next = if more { rows.last().map(|row| row.id) } else { None };
        let catalogue = self.catalogue();
        let view = |row: &Arc<Instance>| InstanceView::new(&state, &catalogue, row, now);
        Page { items: rows.iter().map(view).collect(), next, revision: state.world.revision }
    }

    /// The change with its rows as they are now: the plan did not know their revisions yet.
    fn as_it_is(&self, change: InstanceChange) -> InstanceChange {
        let now = self.now();
        let state = self.state();
        let row = state.world.instances.get(change.instance.row.id);
        let view = row.map(|row| InstanceView::new(&state, &self.catalogue(), row, now));
        let operation = state.world.operations.get(change.operation.id).cloned();
        InstanceChange {
            instance: view.unwrap_or(change.instance),
            operation: operation.unwrap_or(change.operation),
        }
    }

    /// How many instances there are in each state: for metrics.
    pub fn instance_counts(&self) -> BTreeMap<InstanceState, u64> {
        let now = self.now();
        instance_counts(&self.state(), now)
    }

    pub(super) fn owner_of_instance(
        &self,
        caller: &Caller,
        id: InstanceId,
    ) -> Result<AccountId, DomainError> {
        let state = self.state();
        let row = state.world.machine(id).filter(|row| caller.may_change(row.account));
        row.map(|row| row.account).ok_or_else(|| DomainError::not_found("instance", id))
    }

    /// The account for a deletion that may be a repetition, when the row is gone already.
    fn owner_or_former(&self, caller: &Caller, id: InstanceId) -> Result<AccountId, DomainError> {
        self.owner_of_instance(caller, id).or_else(|error| caller.account.ok_or(error))
    }

    fn same(
        &self,
        answer: &Answer,
        request: &Request,
        kind: OperationKind,
        row: &Arc<Instance>,
    ) -> Result<Again<InstanceChange>, DomainError> {
        let operation = answer.operation(self, request, kind)?;
        let instance = InstanceView::new(&self.state(), &self.catalogue(), row, self.now());
        Ok(Again::Same(InstanceChange { instance, operation }))
    }

    fn same_change(
        &self,
        answer: &Answer,
        request: &Request,
        kind: OperationKind,
    ) -> Result<Again<InstanceChange>, DomainError> {
        let id = answer.target::<InstanceId>()?;
        let row = self.state().world.instances.get(id).cloned();
        let row = row.ok_or_else(|| DomainError::not_found("instance", id))?;
        self.same(answer, request, kind, &row)
    }
}

/// The rows that a caller sees: its account's, or all.
pub(crate) fn scope(caller: &Caller) -> Option<AccountId> {
    if caller.sees_all() { None } else { caller.account }
}

pub(crate) fn has_labels(there: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| there.get(key) == Some(value))
}

/// A running operation on a target.
pub(crate) fn operation(
    engine: &Engine,
    account: AccountId,
    kind: OperationKind,
    target: &impl ToString,
    spec_version: u64,
) -> Operation {
    Operation {
        id: engine.new_id(OperationId::from_parts),
        account,
        kind,
        target: target.to_string(),
        spec_version,
        state: OperationState::running(""),
        created_at: engine.now(),
        finished_at: None,
        revision: Revision(0),
    }
}

/// The groups that a placement names exist, are the account's own, and stay.
pub(crate) fn rely_on_groups(
    state: &State,
    draft: &mut Draft,
    account: AccountId,
    placement: &fairmazon_model::placement::Placement,
) -> Result<(), DomainError> {
    for (field, groups) in [("not_with", &placement.not_with), ("with", &placement.with)] {
        for id in groups {
            let group = state.world.groups.get(*id).filter(|group| group.account == account);
            if group.is_none() {
                let error = DomainError::not_found("placement group", id);
                return Err(DomainError { field: Some(format!("placement.{field}")), ..error });
            }
            draft.rely_on(*id);
        }
    }
    Ok(())
}

fn check_room(engine: &Engine, state: &State, account: AccountId) -> Result<(), DomainError> {
    let (world, holds, config) = (&state.world, &state.holds, engine.config());
    let instances = world.machines_of(account) + holds.coming(account, Noun::Instance);
    rules::check_count("instances", instances, config.instances_per_account)?;
    let volumes = world.volumes.count_of(account) + holds.coming(account, Noun::Volume);
    rules::check_count("volumes", volumes, config.volumes_per_account)
}

pub(super) fn instance_of(
    state: &State,
    account: AccountId,
    id: InstanceId,
) -> Result<Arc<Instance>, DomainError> {
    let row = state.world.machine(id).filter(|row| row.account == account);
    row.cloned().ok_or_else(|| DomainError::not_found("instance", id))
}
