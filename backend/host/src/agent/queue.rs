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

/// The work that waits. Times are ms of the agent's clock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Target>,
    queued: FxHashSet<Target>,
    later: BinaryHeap<Reverse<(u64, Target)>>,
    blocked: FxHashSet<Target>,
}

impl Queue {
    /// To be looked at now.
    pub(super) fn push(&mut self, target: Target) {
        if self.queued.insert(target) {
            self.ready.push_back(target);
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

    /// The next thing to look at now.
    pub(super) fn pop(&mut self) -> Option<Target> {
        let target = self.ready.pop_front()?;
        self.queued.remove(&target);
        Some(target)
    }

    /// Puts back what was popped, to come next again.
    pub(super) fn put_back(&mut self, target: Target) {
        if self.queued.insert(target) {
            self.ready.push_front(target);
        }
    }

    /// How much there is to look at now.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// When the next thing is due.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        self.later.peek().map(|Reverse((at, _))| *at)
    }
}
