//! What ended steps and looks say: records are brought up to date, failures are paused after.

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    Halt, HypervisorError, Inventory, Machine, OffReason, Result, RunState, Volume,
};
use fairmazon_model::{
    console::with_last_lines,
    id::{InstanceId, VolumeId},
};

use super::{
    Agent, FENCE_AGAIN,
    queue::Target,
    work::{MachineStep, Shown, VolumeStep},
};
use crate::plan::{MachineAction, VolumeAction};

/// Failures in a row after which the broker is told.
pub(super) const TELL_AFTER: u32 = 3;

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Agent {
    pub(super) fn machine_done(
        &mut self,
        instance: InstanceId,
        step: &MachineStep,
        seen: Result<Option<Machine>>,
    ) {
        self.under_way.machines -= 1;
        let now_ms = self.clock.now_ms();
        let target = Target::Machine(instance);
        if let Some(record) = self.book.machines.get_mut(&instance) {
            record.busy = false;
            // What could not be seen is looked at again, whatever there is to do.
            record.look |= seen.is_err();
        }
        let refused = self.growth_refused(instance, step);
        let failure = step.result.as_ref().err().filter(|_| !refused).or(seen.as_ref().err());
        match failure {
            Some(error) => self.machine_failed(instance, step, error, now_ms),
            None => self.machine_succeeded(instance, step.action.as_ref(), now_ms),
        }
        if let Ok(seen) = seen {
            self.sight_machine(instance, seen, now_ms);
        }
        self.queue.push(target);
        self.forget_machine_if_empty(instance);
    }

    /// Notes that a machine could not grow; whether it never will in this run, so that there is
    /// nothing to repeat: it gets its size by a restart. One that has failed for other reasons gets
    /// there after some tries, but not where a restart would help nothing.
    fn growth_refused(&mut self, instance: InstanceId, step: &MachineStep) -> bool {
        let (Some(MachineAction::Resize(..)), Err(error)) = (&step.action, &step.result) else {
            return false;
        };
        let Some(record) = self.book.machines.get_mut(&instance) else { return false };
        match error {
            HypervisorError::Unsupported { what } => {
                tracing::info!(
                    host = %self.config.host, %instance, what,
                    "a machine can't grow while it runs, and restarts"
                );
                record.not_grown = TELL_AFTER;
                true
            }
            HypervisorError::Busy { .. } | HypervisorError::Full { .. } => false,
            _ => {
                record.not_grown += 1;
                false
            }
        }
    }

    pub(super) fn fenced(
        &mut self,
        instance: InstanceId,
        result: Result<()>,
        seen: Result<Option<Machine>>,
    ) {
        let now_ms = self.clock.now_ms();
        if let Some(record) = self.book.machines.get_mut(&instance) {
            record.fencing = false;
        }
        match result.and(seen) {
            Ok(seen) => {
                self.sight_machine(instance, seen, now_ms);
                self.queue.push(Target::Machine(instance));
            }
            Err(error) => {
                tracing::error!(
                    host = %self.config.host, %instance, error = &error as &dyn std::error::Error,
                    "could not stop a machine whose lease has ended; it is tried again"
                );
                self.queue.push_at(now_ms + ms(FENCE_AGAIN), Target::Machine(instance));
            }
        }
        self.forget_machine_if_empty(instance);
    }

    pub(super) fn volume_done(
        &mut self,
        volume: VolumeId,
        step: &VolumeStep,
        seen: Result<Option<Volume>>,
    ) {
        *self.under_way.of_volume(step.action.as_ref()) -= 1;
        self.book.copying.remove(&volume);
        let now_ms = self.clock.now_ms();
        let failure = step.result.as_ref().err().or(seen.as_ref().err());
        let Some(record) = self.book.volumes.get_mut(&volume) else { return };
        record.busy = false;
        let is_refused = record.imports().is_some() && step.refuses_file();
        record.change.under_way = false;
        match (step.action, &step.result) {
            (Some(VolumeAction::GiveKey), Ok(_)) => record.given = step.key,
            (Some(VolumeAction::ForgetKey), Ok(_)) => record.key_lost(),
            (Some(VolumeAction::ChangeKey), Ok(Shown::Changed(fingerprint))) => {
                record.given = step.next_key;
                record.change.done = step.next_key.map(|next| (next, fingerprint.clone()));
                self.report.wanted();
            }
            (Some(VolumeAction::ProveKey), Ok(Shown::Proven(key))) => {
                record.keys.proven = Some(key.clone());
                self.report.wanted();
            }
            (Some(VolumeAction::ChangeKey), Err(_)) => record.change.tried = step.next_key,
            _ if is_refused => record.incoming = None,
            // The hypervisor has ended and begun anew meanwhile.
            (_, Err(HypervisorError::KeyMissing { .. })) => record.key_lost(),
            // It was exchanged, and whoever did that did not live to tell.
            (_, Err(HypervisorError::KeyWrong { .. })) => record.change.tried = None,
            // It has become the volume, or was of no use.
            (Some(VolumeAction::Create | VolumeAction::DropFile), Ok(_)) => record.incoming = None,
            _ => {}
        }
        match failure {
            None => {
                record.backoff.succeeded();
                record.not_before_ms = 0;
                if record.error.take().is_some() {
                    self.report.wanted();
                }
            }
            Some(error) => {
                let pause = self.pauses.after(&mut record.backoff);
                record.not_before_ms = now_ms + pause;
                if tells_at_once(error) || record.backoff.failures() >= TELL_AFTER {
                    record.error = Some(error.for_customer().into());
                    record.lasting = is_refused;
                    self.report.wanted();
                }
                tracing::warn!(
                    host = %self.config.host, %volume, pause_ms = pause,
                    error = error as &dyn std::error::Error, "a step of a volume failed"
                );
            }
        }
        record.unsure = seen.is_err();
        if matches!(seen, Ok(None)) {
            // It was reported as unknown meanwhile.
            self.report.wanted();
        }
        if let Ok(seen) = seen {
            self.sight_volume(volume, seen);
        }
        self.queue.push(Target::Volume(volume));
        // Machines may have waited for its key, which no look shows.
        self.queue.unblock();
        self.forget_volume_if_empty(volume);
    }

    pub(super) fn inventory_done(&mut self, started: u64, result: Result<Inventory>) {
        let now_ms = self.clock.now_ms();
        self.looks.under_way = false;
        let inventory = match result {
            Ok(inventory) => inventory,
            Err(error) => {
                let pause = self.pauses.after(&mut self.looks.failures);
                self.looks.next_at_ms = now_ms + pause;
                tracing::error!(
                    host = %self.config.host, pause_ms = pause,
                    error = &error as &dyn std::error::Error, "could not list machines and volumes"
                );
                return;
            }
        };
        self.looks.failures.succeeded();
        self.looks.next_at_ms = now_ms + ms(self.config.look_every);
        if self.book.images != inventory.images {
            tracing::info!(host = %self.config.host, images = ?inventory.images, "its images");
            self.book.images.clone_from(&inventory.images);
            self.report.wanted();
        }
        self.merge(started, inventory, now_ms);
        if !self.looks.complete {
            self.looks.complete = true;
            self.queue_all();
            self.report.wanted();
        }
    }

    /// Takes over what the look saw, where no step has seen later.
    fn merge(&mut self, started: u64, inventory: Inventory, now_ms: u64) {
        let mut machines: std::collections::BTreeMap<_, _> =
            inventory.machines.into_iter().map(|seen| (seen.instance(), seen)).collect();
        let mut volumes: std::collections::BTreeMap<_, _> =
            inventory.volumes.into_iter().map(|seen| (seen.volume, seen)).collect();
        let mut incoming: std::collections::BTreeMap<_, _> =
            inventory.incoming.into_iter().map(|seen| (seen.volume, seen.bytes)).collect();
        let known: Vec<_> = self.book.machines.keys().copied().collect();
        for instance in known.into_iter().chain(machines.keys().copied().collect::<Vec<_>>()) {
            let record = self.book.machines.entry(instance).or_default();
            if !record.busy && !record.fencing && record.touched <= started {
                self.sight_machine(instance, machines.remove(&instance), now_ms);
            }
            self.forget_machine_if_empty(instance);
        }
        let known: Vec<_> = self.book.volumes.keys().copied().collect();
        let listed = volumes.keys().chain(incoming.keys()).copied().collect::<Vec<_>>();
        for volume in known.into_iter().chain(listed) {
            let record = self.book.volumes.entry(volume).or_default();
            if !record.busy && record.touched <= started {
                let file = incoming.remove(&volume);
                if record.receiving.is_none() && record.incoming != file {
                    record.incoming = file;
                    self.queue.push(Target::Volume(volume));
                }
                self.sight_volume(volume, volumes.remove(&volume));
            }
            self.forget_volume_if_empty(volume);
        }
    }

    fn machine_succeeded(
        &mut self,
        instance: InstanceId,
        action: Option<&MachineAction>,
        now_ms: u64,
    ) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        record.backoff.succeeded();
        record.not_before_ms = 0;
        if record.error.take().is_some() {
            self.report.wanted();
        }
        match action {
            Some(MachineAction::AskToStop) => record.asked_at_ms = Some(now_ms),
            Some(MachineAction::Start) => {
                record.started_at_ms = Some(now_ms);
                record.ended = None;
            }
            Some(MachineAction::Mark(marks) | MachineAction::Define(marks)) => {
                // A count that was just done is kept beside the set as well.
                let known = self.book.done_before.insert(instance, marks.done);
                if known.is_some_and(|known| known != marks.done) {
                    self.saving.wanted();
                }
            }
            // A guest can unplug what it got: it has it again, ever less often.
            Some(&MachineAction::Resize(vcpus, memory)) => {
                let size = (vcpus, memory);
                if record.grown_to.replace(size) == Some(size) {
                    record.not_before_ms = now_ms + self.pauses.after(&mut record.given_back);
                }
            }
            Some(MachineAction::DeleteBoot(volume)) => self.sight_volume(*volume, None),
            _ => {}
        }
    }

    fn machine_failed(
        &mut self,
        instance: InstanceId,
        step: &MachineStep,
        error: &HypervisorError,
        now_ms: u64,
    ) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        let pause = self.pauses.after(&mut record.backoff);
        record.not_before_ms = now_ms + pause;
        // What can't leave is as it shall be otherwise.
        let is_off_well = step.action == Some(MachineAction::Hold);
        let tells = tells_at_once(error) || record.backoff.failures() >= TELL_AFTER;
        if tells && !is_off_well {
            record.error = Some(with_last_lines(&error.for_customer(), &step.said).into());
            self.report.wanted();
        }
        tracing::warn!(
            host = %self.config.host, %instance, pause_ms = pause,
            error = error as &dyn std::error::Error, "a step of a machine failed"
        );
        let doubted = match error {
            HypervisorError::KeyMissing { .. } => self.book.keys_lost_with(instance),
            HypervisorError::KeyWrong { .. } => self.book.keys_doubted_with(instance),
            _ => Vec::new(),
        };
        for volume in doubted {
            self.queue.push(Target::Volume(volume));
        }
    }

    pub(super) fn sight_machine(
        &mut self,
        instance: InstanceId,
        seen: Option<Machine>,
        now_ms: u64,
    ) {
        self.looks.counter += 1;
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        record.touched = self.looks.counter;
        if std::mem::take(&mut record.may_run) {
            self.report.wanted();
        }
        if record.seen == seen {
            return;
        }
        let ran = record.runs();
        let definition = seen.as_ref().map(|seen| Arc::clone(&seen.definition));
        record.seen = seen;
        record.settle_given_up();
        if !record.runs() {
            record.asked_at_ms = None;
            (record.not_grown, record.grown_to) = (0, None);
            record.given_back.succeeded();
            let by_itself = record.seen.as_ref().is_some_and(|m| m.marks.halt == Halt::Started);
            if ran && by_itself {
                self.pause_after_quick_end(instance, now_ms);
            }
        }
        if let Some(definition) = definition {
            self.book.note_users(&definition);
        }
        self.report.wanted();
        self.queue.push(Target::Machine(instance));
        self.queue.unblock();
    }

    /// A guest that ends soon after each start is started again at growing intervals.
    fn pause_after_quick_end(&mut self, instance: InstanceId, now_ms: u64) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        let ran_ms = record.started_at_ms.map(|started| now_ms.saturating_sub(started));
        let Some(ran_ms) = ran_ms.filter(|&ran_ms| ran_ms < ms(self.config.quick_end)) else {
            record.quick_ends.succeeded();
            return;
        };
        self.work.push(self.hands.last_words(instance, ran_ms));
        let pause = self.pauses.after(&mut record.quick_ends);
        record.not_before_ms = record.not_before_ms.max(now_ms + pause);
    }

    /// Tells how a guest ended that is started again; one that stays off did what it was for.
    pub(super) fn ended(&mut self, instance: InstanceId, ran_ms: u64, said: &str) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        // One that was ended from outside has said nothing about that.
        let by_guest = record.seen.as_ref().is_some_and(|seen| {
            matches!(seen.run, RunState::Off(OffReason::Guest | OffReason::Crashed))
        });
        if by_guest && record.restarts() {
            let seconds = ran_ms / 1_000;
            let what = format!("its guest ended {seconds} s after its start and is started again");
            record.ended = Some(with_last_lines(&what, said).into());
            self.report.wanted();
        }
    }

    fn sight_volume(&mut self, volume: VolumeId, seen: Option<Volume>) {
        self.looks.counter += 1;
        let Some(record) = self.book.volumes.get_mut(&volume) else { return };
        record.touched = self.looks.counter;
        record.unsure = false;
        if record.seen == seen {
            return;
        }
        if seen.is_some() {
            record.error = None;
        }
        record.seen = seen;
        self.report.wanted();
        self.queue.push(Target::Volume(volume));
        self.queue.unblock();
    }

    pub(super) fn forget_machine_if_empty(&mut self, instance: InstanceId) {
        if self.book.machines.get(&instance).is_some_and(super::book::MachineRecord::is_empty) {
            self.book.machines.remove(&instance);
            self.book.done_before.remove(&instance);
        }
    }

    pub(super) fn forget_volume_if_empty(&mut self, volume: VolumeId) {
        if self.book.volumes.get(&volume).is_some_and(super::volume::VolumeRecord::is_empty) {
            self.book.volumes.remove(&volume);
            self.book.forget_users(volume);
        }
    }
}

/// Whether repeating is unlikely to help soon, so that the customer is told at once.
fn tells_at_once(error: &HypervisorError) -> bool {
    matches!(
        error,
        HypervisorError::Full { .. }
            | HypervisorError::Unsupported { .. }
            | HypervisorError::Foreign { .. }
            | HypervisorError::Damaged { .. }
            | HypervisorError::KeyMissing { .. }
            | HypervisorError::KeyWrong { .. }
            | HypervisorError::BadFile { .. }
            | HypervisorError::ImageDamaged { .. }
            | HypervisorError::KeySealed { .. }
    )
}
