//! Desired sets: refused when older, made durable, then applied. Never the other way round: a set
//! that was acted on and then lost in a crash could bring a machine back that runs elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_hypervisor::Counters;
use fairmazon_model::{machine::DesiredSet, units::Generation};
use rustc_hash::FxHashMap;

use super::{Agent, observe::ms, queue::Target, work::Done};
use crate::{
    backoff::Backoff,
    state::{SavedState, StateError},
};

/// What is being made durable. One save at a time; of the sets that wait only the last counts.
#[derive(Debug, Default)]
pub(super) struct Saving {
    under_way: bool,
    waiting: Option<SavedState>,
    /// The set as it is applied is to be saved again, for its counts.
    again: bool,
    retry_at_ms: u64,
    failures: Backoff,
}

impl Saving {
    /// The counts have changed.
    pub(super) fn wanted(&mut self) {
        self.again = true;
    }

    pub(super) fn next_at_ms(&self) -> Option<u64> {
        let waits = !self.under_way && (self.waiting.is_some() || self.again);
        waits.then_some(self.retry_at_ms)
    }
}

impl Agent {
    /// Takes a set that the broker sent.
    pub(super) fn on_desired(&mut self, set: DesiredSet) {
        if set.generation < self.stream.accepts_from {
            tracing::debug!(
                host = %self.config.host, generation = %set.generation, "an older set is refused"
            );
            return;
        }
        self.stream.accepts_from = set.generation;
        let state = self.take_over(set);
        let newest = self.saving.waiting.is_none() && !self.saving.under_way;
        let is_applied = newest && self.is_applied(&state);
        self.stream.took(state.generation, is_applied);
        if is_applied && self.generation() == state.generation {
            // Every new stream brings the set again: that is no reason to write it again.
            return;
        }
        self.saving.waiting = Some(state);
    }

    pub(super) fn tend_saving(&mut self, now_ms: u64) {
        if self.saving.next_at_ms().is_none_or(|at| at > now_ms) {
            return;
        }
        let set = self.saving.waiting.take();
        let state = match &set {
            Some(set) => SavedState { done: self.counts(), ..set.clone() },
            None => self.applied(),
        };
        self.saving.under_way = true;
        self.saving.again = false;
        let store = Arc::clone(&self.config.state);
        self.work.push(Box::pin(async move {
            let result = store.save(state).await;
            Done::Saved { set, result }
        }));
    }

    pub(super) fn saved(&mut self, set: Option<SavedState>, result: Result<(), StateError>) {
        self.saving.under_way = false;
        match result {
            Ok(()) => {
                self.saving.failures.succeeded();
                if let Some(set) = set {
                    self.stream.applied(set.generation);
                    self.apply(set);
                    self.report.wanted();
                }
            }
            Err(error) => {
                let pause = self.saving.failures.failed(
                    ms(self.config.first_pause),
                    ms(self.config.longest_pause),
                    &mut self.random,
                );
                self.saving.retry_at_ms = self.clock.now_ms() + pause;
                match set {
                    Some(set) => self.saving.waiting = self.saving.waiting.take().or(Some(set)),
                    None => self.saving.again = true,
                }
                tracing::error!(
                    host = %self.config.host, pause_ms = pause,
                    error = &error as &dyn std::error::Error,
                    "the desired set could not be saved, so it is not acted on yet"
                );
            }
        }
    }

    /// Makes the set what is desired.
    pub(super) fn apply(&mut self, set: SavedState) {
        self.book.generation = Some(set.generation);
        set.machines.iter().for_each(|spec| self.book.note_users(spec));
        self.stream.accepts_from = self.stream.accepts_from.max(set.generation);
        let mut machines: FxHashMap<_, _> =
            set.machines.into_iter().map(|spec| (spec.instance, spec)).collect();
        for (&instance, record) in &mut self.book.machines {
            let desired = machines.remove(&instance);
            if record.desired != desired {
                record.desired = desired;
                record.not_before_ms = 0;
                record.error = None;
                self.queue.push(Target::Machine(instance));
            }
        }
        for (instance, spec) in machines {
            self.book.machines.entry(instance).or_default().desired = Some(spec);
            self.queue.push(Target::Machine(instance));
        }
        let mut volumes: FxHashMap<_, _> =
            set.volumes.into_iter().map(|wish| (wish.volume, wish)).collect();
        for (&volume, record) in &mut self.book.volumes {
            let desired = volumes.remove(&volume);
            if record.desired != desired {
                record.desired = desired;
                record.not_before_ms = 0;
                record.error = None;
                self.queue.push(Target::Volume(volume));
            }
        }
        for (volume, wish) in volumes {
            self.book.volumes.entry(volume).or_default().desired = Some(wish);
            self.queue.push(Target::Volume(volume));
        }
        self.book.machines.retain(|_, record| !record.is_empty());
        self.book.volumes.retain(|_, record| !record.is_empty());
        self.book.done_before.retain(|instance, _| self.book.machines.contains_key(instance));
        self.queue.unblock();
    }

    /// The set in the form that is kept, sharing what has not changed.
    fn take_over(&self, set: DesiredSet) -> SavedState {
        let machines = set.machines.into_iter().map(|spec| {
            let had = self.book.machines.get(&spec.instance).and_then(|r| r.desired.as_ref());
            had.filter(|had| ***had == spec).map_or_else(|| Arc::new(spec), Arc::clone)
        });
        let volumes = set.volumes.into_iter().map(|wish| {
            let had = self.book.volumes.get(&wish.volume).and_then(|r| r.desired.as_ref());
            had.filter(|had| ***had == wish).map_or_else(|| Arc::new(wish), Arc::clone)
        });
        SavedState {
            generation: set.generation,
            machines: machines.collect(),
            volumes: volumes.collect(),
            done: BTreeMap::new(),
        }
    }

    /// Whether the set names just what is applied, under whatever generation;
    /// [`Self::take_over`] has shared its parts.
    fn is_applied(&self, state: &SavedState) -> bool {
        let (machines, volumes) = (&self.book.machines, &self.book.volumes);
        self.book.generation.is_some()
            && machines.values().filter(|r| r.desired.is_some()).count() == state.machines.len()
            && volumes.values().filter(|r| r.desired.is_some()).count() == state.volumes.len()
            && state.machines.iter().all(|spec| {
                let had = machines.get(&spec.instance).and_then(|record| record.desired.as_ref());
                had.is_some_and(|had| Arc::ptr_eq(had, spec))
            })
            && state.volumes.iter().all(|wish| {
                let had = volumes.get(&wish.volume).and_then(|record| record.desired.as_ref());
                had.is_some_and(|had| Arc::ptr_eq(had, wish))
            })
    }

    /// The set that is applied now.
    fn applied(&self) -> SavedState {
        let machines = self.book.machines.values().filter_map(|record| record.desired.clone());
        let volumes = self.book.volumes.values().filter_map(|record| record.desired.clone());
        SavedState {
            generation: self.generation(),
            machines: machines.collect(),
            volumes: volumes.collect(),
            done: self.counts(),
        }
    }

    fn counts(&self) -> BTreeMap<fairmazon_model::id::InstanceId, Counters> {
        self.book.done_before.iter().map(|(k, v)| (*k, *v)).collect()
    }

    /// The generation of the set that is applied; 0 before the first.
    pub(super) fn generation(&self) -> Generation {
        self.book.generation.unwrap_or_default()
    }
}
