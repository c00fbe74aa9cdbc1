//! Migrations in the reconciler: what is known of them, and the rows that their steps change.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::{Decision, Instance, ObservedState},
    machine::{MachineSeen, VolumeSeen},
    migration::{Handover, Migration},
    operation::{OperationKind, OperationState},
    placement::Placement,
    units::UnixMs,
    volume::Volume,
};
use fairmazon_store::Key;

use super::{
    batch::Batch,
    moving::Moving,
    observe::{ById, observed},
    place::bound,
};
use crate::core::{
    Standing,
    audit::{self, Audited, Placing},
    carriers::Load,
    migrations::{begin, is_better_elsewhere},
    rules,
};

impl Batch<'_> {
    /// What the next step of this migration depends on.
    pub(super) fn moving<'b>(
        &self,
        instance: &'b Instance,
        migration: &'b Migration,
    ) -> Moving<'b> {
        let (id, to) = (instance.id, migration.to);
        let decision = instance.decision.as_ref();
        let source = decision.and_then(|decision| self.state.hosts.get(decision.host));
        let seen_under = |epoch| source.and_then(|now| now.moving(id, epoch)).cloned();
        // What one that is given up has said last is of a machine that nobody sees again.
        let destination = self.state.hosts.get(to).filter(|_| !self.state.is_given_up(to));
        // What had left its host, whole, is there as it was then.
        let lost_there = self.state.is_lost(to);
        let is_missing = || self.volumes_of(instance).iter().any(|row| row.is_missing());
        Moving {
            migration,
            source: decision.and_then(|decision| seen_under(decision.epoch)),
            source_knows: source.is_some_and(|now| now.knows_that_it_stays(id)),
            destination: destination.and_then(|now| now.moving(id, migration.epoch)).cloned(),
            destination_standing: self.state.standing(to),
            gone: lost_there || destination.is_some_and(|now| now.is_gone(Key::Instance(id))),
            lost: instance.carrier && !lost_there && is_missing(),
            // Asked only where it matters.
            hindrance: if migration.given_up { None } else { self.hindrance(instance, migration) },
        }
    }

    fn hindrance(&self, instance: &Instance, migration: &Migration) -> Option<String> {
        let took = self.now.0.saturating_sub(migration.at.0);
        if took >= self.engine.config().migration_patience_ms {
            return Some("its move took too long".into());
        }
        if self.is_lost(instance, migration) {
            return Some("it was lost at the host that it was going to".into());
        }
        let world = &self.state.world;
        if world.hosts.get(migration.to).is_none_or(|host| host.draining.is_some()) {
            return Some("the host that it was going to is being emptied itself".into());
        }
        if self.state.books.level(migration.to).is_none() {
            return Some("the host that it was going to does not conform to the standard".into());
        }
        let from = instance.decision.as_ref().and_then(|at| world.hosts.get(at.host));
        let draining = from.and_then(|host| host.draining);
        // One that began after that was not for the host's sake.
        let is_over = |end: UnixMs| end <= self.now && migration.at < end;
        if draining.is_some_and(|draining| is_over(draining.deadline)) {
            return Some("the time to empty its host is over".into());
        }
        let volumes = self.volumes_of(instance);
        if instance.carrier && volumes.iter().any(|volume| volume.deleting.is_some()) {
            return Some("it is being deleted".into());
        }
        if volumes.iter().any(|volume| !migration.volumes.contains(&volume.id)) {
            return Some("it was given another volume while it moved".into());
        }
        let why = self.disobeys(instance, migration.to);
        why.map(|why| format!("where it was going it must not be any more: {why}"))
    }

    /// Which constraint of the instance and its volumes the host does not obey, for people.
    pub(super) fn disobeys(&self, instance: &Instance, host: HostId) -> Option<String> {
        let placement = rules::placement_of(instance, &self.volumes_of(instance)).ok()?;
        self.state.books.check_obeys(instance.id, host, &placement).err()
    }

    /// Whether the host that it leaves has let it go, and the next one, which answers, waits for it
    /// in vain. All of it had come there, and was let run by nobody, so what is left where it was is
    /// the same. A report that is older than its arrival looks the same for a moment.
    fn is_lost(&self, instance: &Instance, migration: &Migration) -> bool {
        let (id, to) = (instance.id, migration.to);
        let left = instance.decision.as_ref().and_then(|decision| {
            self.state.hosts.get(decision.host)?.left_since(id, decision.epoch)
        });
        let awaited = || {
            let seen = self.state.hosts.get(to).and_then(|now| now.moving(id, migration.epoch));
            seen.is_some_and(|seen| seen.handover == Some(Handover::Awaited))
        };
        let patience = self.engine.config().landing_patience_ms;
        left.is_some_and(|at| self.now.0.saturating_sub(at.0) >= patience)
            && self.state.standing(to) == Standing::Connected
            && awaited()
    }

    /// Where the volume comes to with its instance.
    pub(super) fn comes_to(&self, volume: &Volume) -> Option<HostId> {
        let began_with = self.state.world.moves_with(volume.id).map(|row| row.id);
        let rows = volume.attached_to.into_iter().chain(began_with);
        let rows = rows.filter_map(|id| self.instance(id)?.migration.clone());
        let new = self.new_carriers.iter().filter_map(|row| row.migration.clone());
        rows.chain(new).find(|to| to.volumes.contains(&volume.id)).map(|to| to.to)
    }

    /// Decides the instance where it went, with the volumes that went with it.
    pub(super) fn land(&mut self, instance: &Instance) {
        let (Some(decision), Some(migration)) = (&instance.decision, &instance.migration) else {
            return;
        };
        if !self.may_rely_on(migration.to) {
            self.hold(instance.id);
            return;
        }
        let Some(volumes) = self.free_volumes(instance.id, migration) else { return };
        let (from, to) = (decision.host, migration.to);
        let decided = Decision {
            host: to,
            epoch: migration.epoch,
            flavor: decision.flavor.clone(),
            reason: migration.reason.clone(),
            at: self.now,
            after: BTreeSet::new(),
            may_run: true,
        };
        let seen = self.state.hosts.get(to).and_then(|now| now.moving(instance.id, decided.epoch));
        let observed = seen
            .filter(|seen| {
                seen.handover.is_none()
                    && matches!(seen.state, ObservedState::Running | ObservedState::Stopped)
            })
            .map(|seen| observed(seen, self.now));
        // It had come already when its placement became one that this host does not obey.
        let displaced = instance.displaced.or_else(|| self.strays_on(instance, to));
        let bound: Vec<Volume> = volumes
            .into_iter()
            .filter(|volume| volume.host == Some(from))
            .map(|volume| {
                let mut volume = bound(volume, to);
                volume.may_be_on.insert(from);
                let there = self.state.hosts.get(to).and_then(|now| now.coming.get(&volume.id));
                volume.observed = there.cloned().unwrap_or_default();
                volume
            })
            .collect();
        let (before, after) = (Placing::new(decision, &[]), Placing::new(&decided, &bound));
        self.log_way("broker.land", instance, Some(&before), Some(&after));
        self.rely_on(to);
        bound.into_iter().for_each(|volume| self.change_volume(volume));
        self.change_instance(Instance {
            displaced,
            decision: Some(decided),
            migration: None,
            reserved: None,
            observed: observed.unwrap_or_else(|| instance.observed.clone()),
            ..instance.clone()
        });
        self.end_migrations(instance.id, &OperationState::Done);
    }

    /// That the instance is to leave the host, once it is there, as that does not obey its placement.
    /// A level that lacks is seen to when that lasts.
    pub(super) fn strays_on(&self, instance: &Instance, host: HostId) -> Option<OperationId> {
        let placement = rules::placement_of(instance, &self.volumes_of(instance)).ok()?;
        let placement = Placement { min_conformity: 0, ..placement };
        let obeys = self.state.books.check_obeys(instance.id, host, &placement).is_ok();
        (!obeys).then(|| self.engine.new_id(OperationId::from_parts))
    }

    /// The volumes of a migration, when all of them may change now.
    fn free_volumes(&mut self, id: InstanceId, migration: &Migration) -> Option<Vec<Volume>> {
        if !self.may_change_with(id, migration.volumes.iter().copied()) {
            return None;
        }
        let rows = migration.volumes.iter().filter_map(|volume| self.volume(*volume));
        Some(rows.map(|row| Volume::clone(&row)).collect())
    }

    /// Decides that the instance stays where it is; what there is at the other host is seen to
    /// from here on.
    pub(super) fn give_up(&mut self, instance: &Instance, why: &str) {
        let Some(migration) = &instance.migration else { return };
        tracing::info!(instance = %instance.id, to = %migration.to, why, "a migration is given up");
        let given_up = Migration { given_up: true, ..migration.clone() };
        for key in travellers(instance) {
            self.state.staying.insert(key, why.to_owned());
        }
        let verb = "broker.give_up_migration";
        self.log_way(verb, instance, Some(migration), Some(&given_up));
        self.change_instance(Instance { migration: Some(given_up), ..instance.clone() });
        self.end_migrations(instance.id, &stays(why));
    }

    /// Ends a migration that was given up.
    pub(super) fn stay(&mut self, instance: &Instance, anew: bool) {
        let mut new = Instance { migration: None, ..instance.clone() };
        if anew && let Some(decision) = &mut new.decision {
            decision.epoch = instance.next_epoch();
            new.last_epoch = decision.epoch;
        }
        self.log_way("broker.stay", instance, Some(instance), Some(&new));
        self.change_instance(new);
    }

    /// Lets an instance leave a host that is being emptied, that lacks the level that the
    /// instance asks for, or that does not obey what its placement has become, if that can be now.
    pub(super) fn drain(&mut self, instance: &Instance) {
        let Some(host) = instance.decision.as_ref().map(|decision| decision.host) else { return };
        if instance.migration.is_some() {
            return;
        }
        if instance.displaced.is_some() && self.disobeys(instance, host).is_none() {
            self.state.staying.remove(&instance.id.into());
            self.change_instance(Instance { displaced: None, ..instance.clone() });
            return;
        }
        let others = self.state.books.companions(instance.id);
        if !others.is_empty() || instance.reserved.is_some() {
            return self.leave_together(instance, host, &others);
        }
        if !self.is_to_leave(instance) {
            self.state.staying.remove(&instance.id.into());
            return;
        }
        if self.leaving(host) < self.engine.config().migrations_per_host {
            self.leave(instance, &self.volumes_of(instance), "broker.migrate");
        }
    }

    /// Lets a running instance go to a host that is better for it by far, while nothing else leaves
    /// its own.
    pub(super) fn rebalance(&mut self, instance: &Instance) {
        let Some(host) = instance.decision.as_ref().map(|decision| decision.host) else { return };
        if self.has_rebalanced || instance.migration.is_some() || self.leaving(host) > 0 {
            return;
        }
        let (percent, catalogue) =
            (self.engine.config().rebalance_percent, self.engine.catalogue());
        let volumes = self.volumes_of(instance);
        if is_better_elsewhere(self.state, &catalogue, instance, &volumes, percent, self.now) {
            self.has_rebalanced = true;
            self.leave(instance, &volumes, "broker.rebalance");
        }
    }

    /// Begins the way of an instance and all its volumes to the best other host; where there is
    /// none, it is noted why.
    pub(super) fn leave(&mut self, instance: &Instance, volumes: &[Arc<Volume>], verb: &str) {
        if !self.may_change_with(instance.id, volumes.iter().map(|volume| volume.id)) {
            return;
        }
        let catalogue = self.engine.catalogue();
        let begun = match begin(self.state, &catalogue, instance, volumes, self.now) {
            Ok(begun) => begun,
            Err(error) => {
                self.state.staying.insert(instance.id.into(), error.message);
                return;
            }
        };
        if !self.may_rely_on(begun.to) {
            let claimed = std::iter::once(instance.id.into());
            self.state.settle(claimed.chain(volumes.iter().map(|volume| volume.id.into())));
            self.hold(instance.id);
            return;
        }
        self.state.staying.remove(&instance.id.into());
        self.log_way(verb, &begun.instance, None, begun.instance.migration.as_ref());
        self.rely_on(begun.to);
        begun.volumes.into_iter().for_each(|volume| self.change_volume(volume));
        self.change_instance(begun.instance);
    }

    /// Lets a volume that no machine has on its host leave that, where it is being emptied, with what
    /// has to stay together with it.
    pub(super) fn drain_volume(&mut self, volume: &Arc<Volume>) {
        let (id, Some(host)) = (volume.id, volume.host) else { return };
        let row = self.state.world.hosts.get(host);
        let draining = row.and_then(|row| row.draining);
        if draining.is_none_or(|draining| draining.deadline <= self.now) {
            self.state.staying.remove(&id.into());
            return;
        }
        let instance = volume.attached_to.and_then(|id| self.instance(id));
        let has_a_place = instance.as_ref().is_some_and(|row| row.decision.is_some());
        if has_a_place || self.comes_to(volume).is_some() {
            return;
        }
        let load = Load::of(volume, instance, |row| self.volumes_of(row));
        if self.leaving(host) >= self.engine.config().migrations_per_host {
            return;
        }
        if !load.volumes.iter().all(|volume| self.may_change(volume.id)) {
            self.kept.held_volumes.push(id);
            return;
        }
        let (engine, now) = (self.engine, self.now);
        let carrier = engine.new_id(InstanceId::from_parts);
        let is_sent = |volume| engine.is_exported(volume);
        let begun = match load.begin(self.state, &engine.catalogue(), carrier, is_sent, now) {
            Ok(begun) => begun,
            Err(error) => {
                self.state.staying.insert(id.into(), error.message);
                return;
            }
        };
        if !self.may_rely_on(begun.to) {
            let claimed = load.volumes.iter().map(|volume| volume.id.into());
            self.state.settle(std::iter::once(carrier.into()).chain(claimed));
            self.kept.held_volumes.push(id);
            return;
        }
        for volume in &load.volumes {
            self.state.staying.remove(&volume.id.into());
        }
        self.log_way("broker.carry", &begun.instance, None, begun.instance.migration.as_ref());
        self.rely_on(begun.to);
        begun.volumes.into_iter().for_each(|volume| self.change_volume(volume));
        self.new_carriers.push(begun.instance);
    }

    /// How many machines and carriers are on their way from the host, with those of this batch.
    pub(super) fn leaving(&self, host: HostId) -> usize {
        let there = self.state.world.instances_on(host);
        there
            .filter_map(|row| self.instance(row.id))
            .filter(|row| row.migration.is_some())
            .filter(|row| is_decided_on(row, host))
            .count()
            + self.new_carriers.iter().filter(|row| is_decided_on(row, host)).count()
    }

    /// Notes a step of a way, of all that goes it.
    pub(super) fn log_way<T: Audited>(
        &mut self,
        verb: &str,
        instance: &Instance,
        before: Option<&T>,
        after: Option<&T>,
    ) {
        for key in travellers(instance) {
            self.log(audit::own_entry(self.now, verb, &key, before, after));
        }
    }

    /// Ends the operations that wait for the migration.
    fn end_migrations(&mut self, id: InstanceId, to: &OperationState) {
        let open = self.state.world.open_operations(Key::Instance(id));
        let waiting = open.filter(|operation| operation.kind == OperationKind::Migrate);
        for operation in waiting.cloned().collect::<Vec<_>>() {
            self.tell(&operation, to.clone());
        }
    }

    /// Notes what a host reports of the machines that migrate from it and to it.
    pub(super) fn note_moving(
        &mut self,
        host: HostId,
        machines: &ById<'_, MachineSeen, InstanceId>,
        volumes: &ById<'_, VolumeSeen, VolumeId>,
    ) {
        let world = &self.state.world;
        let coming = world.instances_coming_to(host).filter_map(|row| row.migration.as_ref());
        let coming = coming.flat_map(|migration| &migration.volumes);
        let coming = coming.filter_map(|id| Some((*id, volumes.get(*id)?.state.clone())));
        let coming = coming.collect();
        let leaving = world.instances_on(host).filter(|row| row.migration.is_some());
        let ids: Vec<_> =
            leaving.chain(world.instances_coming_to(host)).map(|row| row.id).collect();
        let seen = ids.iter().filter_map(|id| Some((*id, machines.get(*id)?.clone())));
        let seen = seen.collect::<HashMap<_, _>>();
        self.state.hosts.entry(host).note_moving(seen, coming, self.now);
        self.state.dirty.instances.extend(ids);
    }
}

fn is_decided_on(row: &Instance, host: HostId) -> bool {
    row.decision.as_ref().is_some_and(|decision| decision.host == host)
}

/// What customers and operators know of what moves: a machine, or the volumes of a carrier.
fn travellers(instance: &Instance) -> Vec<Key> {
    if !instance.carrier {
        return vec![instance.id.into()];
    }
    let rest = instance.spec.volumes.values().map(|attachment| attachment.volume_id);
    std::iter::once(instance.boot_volume_id).chain(rest).map(Key::from).collect()
}

/// What an operation comes to whose migration is given up.
fn stays(why: &str) -> OperationState {
    let error = DomainError::new(
        ErrorKind::Unavailable,
        format!("the instance stays on the host that it is on: {why}"),
    );
    OperationState::Failed { error: error.advise("move it again later") }
}
