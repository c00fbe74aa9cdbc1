//! What is to be looked at: now, each thing once, in the order it came; or later.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use fairmazon_model::id::{InstanceId, VolumeId};
use rustc_hash::FxHashSet;

/// A machine or a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    Machine(InstanceId),
    Volume(VolumeId),
}

/// The work that waits. Times are ms of the agent's clock. Machines and volumes wait in lines of
/// their own, since the steps of one kind never wait for those of the other.
#[derive(Debug, Default)]
pub(super) struct Queue {
    machines: VecDeque<InstanceId>,
    volumes: VecDeque<VolumeId>,
    queued: FxHashSet<Target>,
    /// Volumes that wait until another one is made.
    to_make: VecDeque<VolumeId>,
    queued_to_make: FxHashSet<VolumeId>,
    later: BinaryHeap<Reverse<(u64, Target)>>,
    blocked: FxHashSet<Target>,
}

impl Queue {
    /// To be looked at now.
    pub(super) fn push(&mut self, target: Target) {
        if self.queued.insert(target) {
            match target {
                Target::Machine(instance) => self.machines.push_back(instance),
                Target::Volume(volume) => self.volumes.push_back(volume),
            }
        }
    }

    /// To be looked at once another volume is made, in the order they came.
    pub(super) fn push_to_make(&mut self, volume: VolumeId) {
        if self.queued_to_make.insert(volume) {
            self.to_make.push_back(volume);
        }
    }

    /// To be looked at from this time on.
    pub(super) fn push_at(&mut self, at_ms: u64, target: Target) {
        self.later.push(Reverse((at_ms, target)));
    }

    /// To be looked at once anything else has changed.
    pub(super) fn block(&mut self, target: Target) {
        self.blocked.insert(target);
    }

    /// Something has changed.
    pub(super) fn unblock(&mut self) {
        for target in std::mem::take(&mut self.blocked) {
            self.push(target);
        }
    }

    /// Moves what is due to what is to be looked at now.
    pub(super) fn due(&mut self, now_ms: u64) {
        while self.later.peek().is_some_and(|Reverse((at, _))| *at <= now_ms) {
            if let Some(Reverse((_, target))) = self.later.pop() {
                self.push(target);
            }
        }
    }

    /// The next machine to look at now.
    pub(super) fn pop_machine(&mut self) -> Option<InstanceId> {
        let instance = self.machines.pop_front()?;
        self.queued.remove(&Target::Machine(instance));
        Some(instance)
    }

    /// The next volume to look at now.
    pub(super) fn pop_volume(&mut self) -> Option<VolumeId> {
        let volume = self.volumes.pop_front()?;
        self.queued.remove(&Target::Volume(volume));
        Some(volume)
    }

    /// The next volume that waited until another one was made.
    pub(super) fn pop_to_make(&mut self) -> Option<VolumeId> {
        let volume = self.to_make.pop_front()?;
        self.queued_to_make.remove(&volume);
        Some(volume)
    }

    /// Leaves of the machines to look at now those that are to be kept.
    pub(super) fn retain_machines(&mut self, mut keep: impl FnMut(InstanceId) -> bool) {
        let Self { machines, queued, .. } = self;
        machines.retain(|&instance| {
            let keeps = keep(instance);
            if !keeps {
                queued.remove(&Target::Machine(instance));
            }
            keeps
        });
    }

    /// How much there is to look at now.
    pub(super) fn len(&self) -> usize {
        self.machines.len() + self.volumes.len()
    }

    /// When the next thing is due.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        self.later.peek().map(|Reverse((at, _))| *at)
    }
}
