//! Interruptions in the reconciler: the rows that their steps change.

use std::collections::{BTreeSet, HashMap};

use fairmazon_model::{
    id::{HostId, InstanceId},
    instance::{Instance, ObservedState},
    interruption::{Interruption, InterruptionCause},
    machine::{MachineSeen, ObservedSet},
    operation::OperationKind,
};
use fairmazon_scheduler::{MachineBooking, MadeRoom, Request};

use super::{batch::Batch, observe::ById};
use crate::core::{
    audit, boot_volumes::check_boot_not_copied, instances::operation, view::is_asked_to_run,
};

impl Batch<'_> {
    /// Where room can be made for a machine that no host has room for. Spot machines make none
    /// for each other.
    pub(super) fn room_for(&self, instance: &Instance, request: &Request) -> Option<MadeRoom> {
        if instance.spec.spot.is_some() {
            return None;
        }
        self.state.books.make_room(request)
    }

    /// Whether all of these may be interrupted in this batch.
    pub(super) fn may_interrupt(&self, victims: &BTreeSet<InstanceId>) -> bool {
        victims.iter().all(|id| {
            let row = self.instance(*id);
            self.may_change(*id) && row.is_some_and(|row| row.interruptible().is_some())
        })
    }

    /// Begins the interruption of a machine.
    pub(super) fn interrupt(&mut self, instance: &Instance, cause: InterruptionCause) {
        let Some(spot) = instance.interruptible() else { return };
        let interruption = Interruption {
            cause,
            at: self.now,
            notice_ms: u64::from(spot.notice_seconds) * 1_000,
            off_since: None,
            deletes: false,
        };
        let (id, verb) = (instance.id, "broker.interrupt");
        tracing::info!(instance = %id, ?cause, notice_seconds = spot.notice_seconds, "interrupted");
        self.log(audit::own_entry(self.now, verb, &id, None, Some(&interruption)));
        let new = Instance { interruption: Some(interruption), ..instance.clone() };
        // The next question of this batch must not count on its room once more.
        let booking = self.state.booking(&new);
        self.state.books.settle_machine(id, booking);
        self.change_instance(new);
    }

    /// The host of an interrupted machine has shown that it is off. Its terms may have it deleted
    /// then, unless it is protected or was to be off anyway.
    pub(super) fn give_room(&mut self, instance: &Instance) {
        let Some(before) = &instance.interruption else { return };
        let deletes = instance.spec.ends_when_interrupted() && is_asked_to_run(instance, self.now);
        let after = Interruption { off_since: Some(self.now), deletes, ..before.clone() };
        let (id, verb) = (instance.id, "broker.interrupted");
        self.log(audit::own_entry(self.now, verb, &id, Some(before), Some(&after)));
        self.change_instance(Instance { interruption: Some(after), ..instance.clone() });
    }

    /// Notes which spot machines the host has ended as it had no memory left for them.
    pub(super) fn note_memory(&mut self, host: HostId, report: &ObservedSet) {
        let lacking = report.machines.iter().filter(|seen| seen.lacks_memory);
        let lacking: HashMap<_, _> = lacking.map(|seen| (seen.instance, seen.epoch)).collect();
        self.state.dirty.instances.extend(lacking.keys());
        self.state.hosts.entry(host).lacks_memory = lacking;
    }

    /// Lets an interrupted machine run again, if its host has room for it.
    pub(super) fn return_interrupted(&mut self, instance: &Instance) {
        let new = Instance { interruption: None, ..instance.clone() };
        let Some(host) = new.decision.as_ref().map(|decision| decision.host) else { return };
        if !self.may_rely_on(host) {
            self.hold(instance.id);
            return;
        }
        let Some(booking) = self.state.booking(&new) else { return };
        // Where it will go it needs the same.
        if let Some(to) = new.comes_to() {
            let coming = Some(MachineBooking { host: to, ..booking.clone() });
            if self.state.books.claim_coming(new.id, coming, std::iter::empty()).is_err() {
                return;
            }
        }
        if self.state.books.claim(Some((new.id, booking)), std::iter::empty()).is_err() {
            self.state.settle(std::iter::once(new.id.into()));
            return;
        }
        let (id, verb) = (instance.id, "broker.return_interrupted");
        self.log(audit::own_entry(self.now, verb, &id, instance.interruption.as_ref(), None));
        self.rely_on(host);
        self.change_instance(new);
    }

    /// Has an interrupted machine deleted, as its spot terms say.
    pub(super) fn delete_interrupted(&mut self, instance: &Instance) {
        let deletes_boot = instance.spec.boot_volume.delete_with_instance;
        if deletes_boot && check_boot_not_copied(self.state, instance).is_err() {
            // It waits until the copy is made.
            return;
        }
        let (id, kind) = (instance.id, OperationKind::Delete);
        let operation = operation(self.engine, instance.account, kind, &id, 0);
        let new = Instance { deleting: Some(operation.id), ..instance.clone() };
        let verb = "broker.delete_interrupted";
        self.log(audit::own_entry(self.now, verb, &id, Some(instance), Some(&new)));
        self.begin_operation(operation);
        self.change_instance(new);
    }

    /// The spot machines that were in the way of a new one are off: its host is told of it.
    pub(super) fn enter(&mut self, instance: &Instance) {
        let mut new = instance.clone();
        let before = new.decision.clone();
        if let Some(decision) = &mut new.decision {
            decision.after = BTreeSet::new();
        }
        new.waiting_for = String::new();
        let (id, verb) = (new.id, "broker.enter");
        self.log(audit::own_entry(self.now, verb, &id, before.as_ref(), new.decision.as_ref()));
        self.change_instance(new);
    }

    /// Whether an interrupted machine has been off for long enough, so that hosts don't start and
    /// stop machines in turns.
    pub(super) fn has_paused(&self, instance: &Instance) -> bool {
        let off_since = instance.interruption.as_ref().and_then(|it| it.off_since);
        off_since.is_some_and(|since| {
            self.now.0.saturating_sub(since.0) >= self.engine.config().spot_pause_ms
        })
    }

    /// Whether spot machines still have the room that it gets.
    pub(super) fn awaits_room(&self, instance: &Instance) -> bool {
        let Some(decision) = &instance.decision else { return false };
        decision.after.iter().filter_map(|id| self.instance(*id)).any(|row| {
            row.notice().is_some()
                && row.decision.as_ref().is_some_and(|theirs| theirs.host == decision.host)
        })
    }

    /// Notes which interrupted machines the host shows off, under a set that says that they shall
    /// be. Neither a machine that runs nor one that may run is ever called stopped or failed, and
    /// one that is missing is not there: what its set can't name, as the catalogue has lost its
    /// image or flavor, is ended and undefined.
    pub(super) fn note_off(
        &mut self,
        host: HostId,
        report: &ObservedSet,
        machines: &ById<'_, MachineSeen, InstanceId>,
    ) {
        let now = self.state.hosts.entry(host);
        let told = now.interrupted_since.iter().filter(|(_, since)| **since <= report.generation);
        let is_off = |id: InstanceId| {
            machines.get(id).is_none_or(|seen| {
                matches!(
                    seen.state,
                    ObservedState::Absent | ObservedState::Stopped | ObservedState::Failed { .. }
                )
            })
        };
        now.off = told.map(|(id, _)| *id).filter(|id| is_off(*id)).collect();
        self.state.dirty.instances.extend(&now.off);
    }
}
