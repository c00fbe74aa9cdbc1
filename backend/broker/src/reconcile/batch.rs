//! Steps of many instances and volumes, gathered into one commit.
//!
//! Works under the state's lock on top of the rows: what one step changed, the next one of
//! the same batch sees. What a command under way holds is left for later.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairmazon_model::{
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::Instance,
    machine::ObservedSet,
    operation::{Operation, OperationKind, OperationState},
    units::{Generation, Revision, UnixMs},
    volume::Volume,
};
use fairmazon_store::{AuditEntry, Key};
use rustc_hash::FxHashMap;

use super::step::{
    InstanceFacts, Patience, Step, VolumeFacts, VolumeStep, Waiting, is_brought_about, next_step,
    next_volume_step, operation_state, volume_operation_state,
};
use crate::core::{
    Standing, audit,
    draft::Draft,
    engine::Engine,
    instances::operation,
    state::State,
    view::{is_asked_to_run, spot_allows},
};

/// Most rows of one batch: well below the most that a commit may write.
const ROWS_MAX: usize = 6_000;

/// A commit of the reconciler in the making.
pub(super) struct Batch<'a> {
    pub(super) engine: &'a Engine,
    pub(super) state: &'a mut State,
    pub(super) now: UnixMs,
    instances: FxHashMap<InstanceId, Arc<Instance>>,
    volumes: FxHashMap<VolumeId, Arc<Volume>>,
    operations: BTreeMap<OperationId, Operation>,
    /// Those that are new.
    new_operations: Vec<Operation>,
    /// As well: carriers, whose ways begin.
    pub(super) new_carriers: Vec<Instance>,
    removed: FxHashMap<Key, Revision>,
    relies_on: BTreeSet<Key>,
    /// Whether an instance has begun to move to a better host. What this batch begins is not seen
    /// in the world yet, so it begins one.
    pub(super) has_rebalanced: bool,
    audit: Vec<AuditEntry>,
    pub(super) kept: Kept,
}

/// What is to be known of a batch when its commit has ended.
#[derive(Default)]
pub(super) struct Kept {
    /// What was looked at: to be looked at again when the commit fails.
    pub(super) instances: Vec<InstanceId>,
    pub(super) volumes: Vec<VolumeId>,
    /// What commands under way hold: to be looked at when one has ended.
    pub(super) held_instances: BTreeSet<InstanceId>,
    pub(super) held_volumes: Vec<VolumeId>,
    /// Machines that are decided away from a host by this batch.
    pub(super) leaving: Vec<(HostId, InstanceId)>,
    /// Reports that were taken whole, each with the stream that it came on: to be taken again
    /// when the commit fails, as a host says nothing twice.
    pub(super) reports: Vec<(HostId, Option<u64>, ObservedSet)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(engine: &'a Engine, state: &'a mut State) -> Self {
        Self {
            engine,
            state,
            now: engine.now(),
            instances: FxHashMap::default(),
            volumes: FxHashMap::default(),
            operations: BTreeMap::new(),
            new_operations: Vec::new(),
            new_carriers: Vec::new(),
            removed: FxHashMap::default(),
            relies_on: BTreeSet::new(),
            has_rebalanced: false,
            audit: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// Whether no more should be added.
    pub(super) fn is_full(&self) -> bool {
        let rows = self.instances.len() + self.volumes.len() + self.operations.len();
        rows + self.removed.len() >= ROWS_MAX
            || self.instances.len() + self.volumes.len() >= self.engine.config().batch * 2
    }

    /// The draft of all that was gathered, and what is to be known of it afterwards.
    pub(super) fn into_draft(self) -> (Draft, Kept) {
        let mut draft = Draft::default();
        // In order of their ids: the store finds neighbours on the same page.
        for (id, row) in in_order(self.instances) {
            if !self.removed.contains_key(&Key::Instance(id)) {
                draft.update(Arc::unwrap_or_clone(row));
            }
        }
        for (id, row) in in_order(self.volumes) {
            if !self.removed.contains_key(&Key::Volume(id)) {
                draft.update(Arc::unwrap_or_clone(row));
            }
        }
        for row in self.operations.into_values() {
            draft.update(row);
        }
        for row in self.new_operations {
            draft.insert(row);
        }
        for row in self.new_carriers {
            draft.insert(row);
        }
        for (key, revision) in in_order(self.removed) {
            draft.delete(key, revision);
        }
        for key in self.relies_on {
            draft.rely_on(key);
        }
        for entry in self.audit {
            draft.audit(entry);
        }
        (draft, self.kept)
    }

    pub(super) fn instance(&self, id: InstanceId) -> Option<Arc<Instance>> {
        if self.removed.contains_key(&Key::Instance(id)) {
            return None;
        }
        self.instances.get(&id).or_else(|| self.state.world.instances.get(id)).cloned()
    }

    pub(super) fn volume(&self, id: VolumeId) -> Option<Arc<Volume>> {
        if self.removed.contains_key(&Key::Volume(id)) {
            return None;
        }
        self.volumes.get(&id).or_else(|| self.state.world.volumes.get(id)).cloned()
    }

    pub(super) fn change_instance(&mut self, row: Instance) {
        self.instances.insert(row.id, Arc::new(row));
    }

    pub(super) fn change_volume(&mut self, row: Volume) {
        self.volumes.insert(row.id, Arc::new(row));
    }

    /// Begins an operation of the platform's own.
    pub(super) fn begin_operation(&mut self, operation: Operation) {
        self.new_operations.push(operation);
    }

    pub(super) fn rely_on(&mut self, key: impl Into<Key>) {
        self.relies_on.insert(key.into());
    }

    pub(super) fn log(&mut self, entry: AuditEntry) {
        self.audit.push(entry);
    }

    pub(super) fn may_change(&self, key: impl Into<Key>) -> bool {
        self.state.holds.may_change(key)
    }

    /// Whether all these volumes may change together with the instance; it is left for later where
    /// not.
    pub(super) fn may_change_with(
        &mut self,
        id: InstanceId,
        volumes: impl IntoIterator<Item = VolumeId>,
    ) -> bool {
        let may = volumes.into_iter().all(|volume| self.may_change(volume));
        if !may {
            self.hold(id);
        }
        may
    }

    /// Leaves an instance for later: a command under way holds what its step needs.
    pub(super) fn hold(&mut self, id: InstanceId) {
        self.kept.held_instances.insert(id);
    }

    /// Whether the batch may rely on the host: no draft under way changes its row.
    pub(super) fn may_rely_on(&self, host: HostId) -> bool {
        !self.state.holds.changes(host.into())
    }

    /// The volume that an instance boots from, and its data volumes.
    pub(super) fn volumes_of(&self, instance: &Instance) -> Vec<Arc<Volume>> {
        let data = instance.spec.volumes.values().map(|attachment| attachment.volume_id);
        std::iter::once(instance.boot_volume_id)
            .chain(data)
            .filter_map(|id| self.volume(id))
            .collect()
    }

    /// Takes the next step of an instance.
    pub(super) fn look_at_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instance(id) else { return };
        if !self.may_change(id) {
            self.hold(id);
            return;
        }
        self.kept.instances.push(id);
        if self.gives_up_room(&instance) {
            return;
        }
        let is_restless = self.state.dirty.restless.remove(&id);
        match next_step(&self.facts(&instance)) {
            Step::Remove => return self.remove(&instance),
            Step::Find(host) => self.settle_where_found(&instance, host),
            Step::Land => self.land(&instance),
            Step::GiveUp(why) => self.give_up(&instance, &why),
            Step::Stay { anew } => self.stay(&instance, anew),
            Step::Place => self.place(&instance, None),
            Step::Vacate => self.vacate(&instance),
            Step::Replace => {
                let host = instance.decision.as_ref().map(|decision| decision.host);
                self.place(&instance, host);
            }
            Step::Enter => self.enter(&instance),
            Step::Interrupt(cause) => self.interrupt(&instance, cause),
            Step::GiveRoom => self.give_room(&instance),
            Step::Delete => self.delete_interrupted(&instance),
            Step::Return => {
                self.return_interrupted(&instance);
                // Without room it leaves as it is, where it has to.
                if self.instance(id).is_some_and(|row| row.interruption.is_some()) {
                    self.drain(&instance);
                }
            }
            Step::Settled => {
                self.drain(&instance);
                if is_restless && let Some(instance) = self.instance(id) {
                    self.rebalance(&instance);
                }
            }
            Step::Wait(_) => {}
        }
        // What was decided just now is for its host to do.
        let after = self.instance(id).unwrap_or(instance);
        let facts = self.facts(&after);
        let step = next_step(&facts);
        self.wait_in_time(&after, &step);
        self.tell_operations(&facts, &step);
    }

    fn facts<'b>(&self, instance: &'b Instance) -> InstanceFacts<'b> {
        let host = instance.decision.as_ref().map(|decision| decision.host);
        let standing = host.map_or(Standing::Lapsed, |host| self.state.standing(host));
        let catalogue = self.engine.catalogue();
        let key = Key::Instance(instance.id);
        let now = host.and_then(|host| self.state.hosts.get(host));
        let is_asked_to_run = is_asked_to_run(instance, self.now);
        let wants_to_run = is_asked_to_run && instance.interruption.is_none();
        let is_made = |volume: &Arc<Volume>| volume.is_made();
        InstanceFacts {
            instance,
            standing,
            is_asked_to_run,
            spot_allows: spot_allows(instance, &catalogue),
            lost: host.is_some_and(|host| self.state.is_lost(host)),
            gone: now.is_some_and(|now| now.is_gone(key)),
            lacks_key: standing == Standing::Connected
                && !is_brought_about(instance, wants_to_run, instance.spec_version)
                && self.volumes_of(instance).iter().any(|row| self.state.lacks_key(row)),
            // Asked only where it matters: it takes several lookups.
            has_data: host.is_some()
                && standing == Standing::Lapsed
                && self.volumes_of(instance).iter().any(is_made),
            is_off: now.is_some_and(|now| now.off.contains(&instance.id)),
            lacks_memory: now.zip(instance.decision.as_ref()).is_some_and(|(now, decision)| {
                now.lacks_memory.get(&instance.id) == Some(&decision.epoch)
            }),
            has_paused: self.has_paused(instance),
            awaits_room: self.awaits_room(instance),
            stays: if instance.displaced.is_some() {
                self.state.staying.get(&instance.id.into()).cloned().unwrap_or_default()
            } else {
                String::new()
            },
            found_on: self.found_on(instance),
            moving: instance.migration.as_ref().map(|to| self.moving(instance, to)),
        }
    }

    /// Some waits end by themselves: those instances are looked at again at each tick.
    fn wait_in_time(&mut self, instance: &Instance, step: &Step) {
        let id = instance.id;
        let dirty = &mut self.state.dirty;
        if *step == Step::Place {
            dirty.unplaced.insert(id);
        } else {
            dirty.unplaced.remove(&id);
        }
        let is_to_move = instance.displaced.is_some()
            || instance.reserved.is_some()
            || self.state.books.is_apart(id);
        let dirty = &mut self.state.dirty;
        if is_to_move && instance.deleting.is_none() {
            dirty.displaced.insert(id);
        } else {
            dirty.displaced.remove(&id);
        }
        let again = instance.migration.is_some()
            || instance.later_run().is_some()
            || instance.interruption.is_some()
            || matches!(step, Step::Replace | Step::Wait(Waiting::Failure(_)));
        if again {
            dirty.waiting.insert(id);
        } else {
            dirty.waiting.remove(&id);
        }
    }

    fn tell_operations(&mut self, facts: &InstanceFacts<'_>, step: &Step) {
        let target = Key::Instance(facts.instance.id);
        let open: Vec<_> = self.state.world.open_operations(target).cloned().collect();
        let patience = self.patience();
        for operation in open {
            let to = operation_state(&operation, facts, step, self.now, patience);
            self.tell(&operation, to);
        }
    }

    fn patience(&self) -> Patience {
        let config = self.engine.config();
        Patience {
            placement_ms: config.placement_patience_ms,
            failure_ms: config.failure_patience_ms,
        }
    }

    pub(super) fn tell(&mut self, operation: &Operation, to: OperationState) {
        // What has ended in this batch has ended.
        let has_ended = self.operations.get(&operation.id).is_some_and(|row| row.state.is_final());
        if operation.state == to || has_ended {
            return;
        }
        let finished_at = to.is_final().then_some(self.now);
        let row = Operation { state: to, finished_at, ..operation.clone() };
        self.operations.insert(row.id, row);
    }

    /// Ends all operations on a row that is gone.
    fn end_operations(&mut self, target: Key) {
        let open: Vec<_> = self.state.world.open_operations(target).cloned().collect();
        for operation in open {
            let to = if operation.kind == OperationKind::Delete {
                OperationState::Done
            } else {
                OperationState::Failed {
                    error: crate::core::rules::precondition(format!("{target} was deleted")),
                }
            };
            self.tell(&operation, to);
        }
    }

    /// Removes an instance that is nowhere; its data volumes stay, its boot volume goes or
    /// stays as the spec says.
    fn remove(&mut self, instance: &Instance) {
        let volumes = self.volumes_of(instance);
        if !self.may_change_with(instance.id, volumes.iter().map(|volume| volume.id)) {
            return;
        }
        // A carrier has none of its own.
        let own = |volume: &Arc<Volume>| volume.attached_to == Some(instance.id);
        for volume in volumes.into_iter().filter(own) {
            let goes = volume.id == instance.boot_volume_id
                && instance.spec.boot_volume.delete_with_instance;
            let left = Volume { boot_of: None, attached_to: None, ..Volume::clone(&volume) };
            match (goes, volume.host) {
                (false, _) => self.change_volume(left),
                (true, Some(_)) => {
                    self.change_volume(Volume { deleting: instance.deleting, ..left });
                }
                (true, None) => self.remove_volume(&volume),
            }
        }
        let after = None::<&Instance>;
        let id = instance.id;
        self.log(audit::own_entry(self.now, "broker.remove_instance", &id, Some(instance), after));
        self.removed.insert(Key::Instance(id), instance.revision);
        self.end_operations(Key::Instance(id));
    }

    fn remove_volume(&mut self, volume: &Volume) {
        let after = None::<&Volume>;
        let verb = "broker.remove_volume";
        self.log(audit::own_entry(self.now, verb, &volume.id, Some(volume), after));
        self.removed.insert(volume.id.into(), volume.revision);
        self.end_operations(volume.id.into());
    }

    /// Takes the next step of a volume.
    pub(super) fn look_at_volume(&mut self, id: VolumeId) {
        let Some(volume) = self.volume(id) else { return };
        if !self.may_change(id) {
            self.kept.held_volumes.push(id);
            return;
        }
        self.kept.volumes.push(id);
        let key = Key::Volume(id);
        // Where it comes to with its instance nothing of it is to be gone.
        let comes_to = self.comes_to(&volume);
        let is_gone = |host| {
            let now = self.state.hosts.get(host);
            comes_to != Some(host)
                && (self.state.is_lost(host) || now.is_some_and(|now| now.is_gone(key)))
        };
        let gone = volume.host.is_some_and(is_gone);
        let may_be_on: BTreeSet<_> =
            volume.may_be_on.iter().copied().filter(|host| !is_gone(*host)).collect();
        let volume = if may_be_on == volume.may_be_on {
            volume
        } else {
            let mut row = Volume { may_be_on, ..Volume::clone(&volume) };
            // There is nothing that its key opens, and the host may seal with another one when it
            // is decided on again.
            let Volume { keys, next_keys, host, may_be_on, .. } = &mut row;
            keys.retain(|of, _| *host == Some(*of) || may_be_on.contains(of));
            next_keys.retain(|of, _| keys.contains_key(of));
            if row.keys != volume.keys {
                let (before, after) = (Some(&*volume), Some(&row));
                self.log(audit::own_entry(self.now, "broker.drop_key", &id, before, after));
            }
            self.change_volume(row.clone());
            Arc::new(row)
        };
        if next_volume_step(&volume, gone) == VolumeStep::Remove {
            return self.remove_volume(&volume);
        }
        let volume = self.expire(volume);
        let open: Vec<_> = self.state.world.open_operations(key).cloned().collect();
        // Patience with a failure ends by itself, and with a file that does not come.
        let mut waits = volume.imports().is_some();
        for operation in open {
            let facts = VolumeFacts {
                lacks_key: self.state.lacks_key(&volume) || self.state.lacks_next_key(&volume),
                lost: self.state.is_volume_lost(&volume),
            };
            let (now, patience) = (self.now, self.patience());
            let to = volume_operation_state(&operation, &volume, facts, now, patience);
            waits |= !to.is_final() && volume.observed.failure().is_some();
            self.tell(&operation, to);
        }
        if waits {
            self.state.dirty.waiting_volumes.insert(id);
        } else {
            self.state.dirty.waiting_volumes.remove(&id);
        }
        self.drain_volume(&volume);
    }

    /// Deletes a volume whose file has not come for too long: it holds room that nobody pays for.
    fn expire(&mut self, volume: Arc<Volume>) -> Arc<Volume> {
        let waited_ms = self.now.0.saturating_sub(volume.created_at.0);
        let patience_ms = self.engine.config().import_patience_ms;
        if volume.imports().is_none() || waited_ms < patience_ms {
            return volume;
        }
        // All of it may be there by now: a host that was away says so with its first report, and
        // one that is lost says nothing any more.
        let has_said = |host: HostId| {
            let now = self.state.hosts.get(host);
            self.state.is_lost(host)
                || self.state.standing(host) == Standing::Connected
                    && now.is_some_and(|now| now.observed > Generation::default())
        };
        if !volume.host.is_none_or(has_said) {
            return volume;
        }
        let (id, kind) = (volume.id, OperationKind::Delete);
        let operation = operation(self.engine, volume.account, kind, &id, 0);
        let new = Volume { deleting: Some(operation.id), ..Volume::clone(&volume) };
        let (before, after) = (Some(volume.as_ref()), Some(&new));
        self.log(audit::own_entry(self.now, "broker.expire_import", &id, before, after));
        self.begin_operation(operation);
        self.change_volume(new.clone());
        Arc::new(new)
    }
}

fn in_order<Id: Copy + Ord, T>(rows: FxHashMap<Id, T>) -> Vec<(Id, T)> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable_by_key(|(id, _)| *id);
    rows
}
