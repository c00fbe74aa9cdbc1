//! Desired sets: refused when older, made durable, then applied. Never the other way round: a set
//! that was acted on and then lost in a crash could bring a machine back that runs elsewhere.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use fairmazon_hypervisor::Counters;
use fairmazon_model::{
    instance::ObservedState,
    machine::{
        DesiredSet, HostVolume, MachineSeen, ObservedSet, VolumeCopy, VolumeSeen, VolumeWish,
    },
    units::Generation,
    volume::VolumeObserved,
};

use super::{Agent, keep::keep_keys, observe::TELL_AFTER, queue::Target, work::Done};
use crate::{
    backoff::Backoff,
    state::{SavedState, StateError},
};

/// What customers are told while a set can't be saved.
const UNSAVED: &str = "its host can't write down what it is told, so it begins nothing; the host's \
    operator has to see to its disk";

/// What is being made durable. One save at a time; of the sets that wait only the last counts.
#[derive(Debug, Default)]
pub(super) struct Saving {
    under_way: bool,
    waiting: Option<SavedState>,
    /// The last set, once it could not be saved and until one is.
    unsaved: Option<SavedState>,
    /// How many sets were applied.
    applied: u64,
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
        let (state, is_known) = self.take_over(set);
        let newest = self.saving.waiting.is_none() && !self.saving.under_way;
        let is_applied = newest && is_known && self.names_all(&state);
        self.stream.took(state.generation, is_applied);
        if is_applied && self.generation() == state.generation {
            // Every new stream brings the set again: that is no reason to write it again.
            return;
        }
        if self.saving.unsaved.is_some() {
            self.saving.unsaved = Some(state.clone());
            self.report.wanted();
        }
        self.saving.waiting = Some(state);
    }

    /// Adds to a report what is not begun because the set that asks for it can't be saved: nobody
    /// else could say why.
    pub(super) fn tell_unsaved(&self, report: &mut ObservedSet) {
        let unsaved = self.saving.unsaved.as_ref();
        let Some(set) = unsaved.filter(|_| self.saving.failures.failures() >= TELL_AFTER) else {
            return;
        };
        tell_of_machines(set, report);
        tell_of_volumes(set, report);
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
                self.saving.unsaved = None;
                if let Some(set) = set {
                    self.stream.applied(set.generation, self.clock.now_ms());
                    self.apply(set);
                    self.report.wanted();
                }
            }
            Err(error) => {
                let pause = self.pauses.after(&mut self.saving.failures);
                self.saving.retry_at_ms = self.clock.now_ms() + pause;
                match set {
                    Some(set) => {
                        let last = self.saving.waiting.take().unwrap_or(set);
                        self.saving.unsaved = Some(last.clone());
                        self.saving.waiting = Some(last);
                    }
                    None => self.saving.again = true,
                }
                if self.saving.failures.failures() == TELL_AFTER {
                    self.report.wanted();
                }
                tracing::error!(
                    host = %self.config.host, pause_ms = pause,
                    error = &error as &dyn std::error::Error,
                    "the desired set could not be saved, so it is not acted on yet"
                );
            }
        }
    }

    /// Makes the set what is desired. Most of a set is so already, and that takes little.
    pub(super) fn apply(&mut self, set: SavedState) {
        self.saving.applied += 1;
        let number = self.saving.applied;
        self.meter.told(&set);
        self.book.generation = Some(set.generation);
        self.stream.accepts_from = self.stream.accepts_from.max(set.generation);
        self.watch_memory(set.machines.iter().any(|spec| spec.spot));
        for spec in set.machines {
            let target = Target::Machine(spec.instance);
            let record = self.book.machines.entry(spec.instance).or_default();
            record.named_by = number;
            if record.desired.as_ref() != Some(&spec) {
                record.desire(Some(Arc::clone(&spec)));
                self.book.note_users(&spec);
                self.queue.push(target);
            }
        }
        for wish in set.volumes {
            let target = Target::Volume(wish.volume);
            let record = self.book.volumes.entry(wish.volume).or_default();
            record.named_by = number;
            if record.desired.as_ref() != Some(&wish) {
                record.desire(Some(wish));
                self.queue.push(target);
            }
        }
        for record in self.book.volumes.values_mut() {
            record.unnamed = None;
        }
        for wish in set.unnamed {
            let volume = wish.volume;
            self.book.volumes.entry(volume).or_default().unnamed = Some(wish);
        }
        self.book.machines.retain(|&instance, record| {
            if record.named_by != number && record.desired.is_some() {
                record.desire(None);
                self.queue.push(Target::Machine(instance));
            }
            !record.is_empty()
        });
        self.book.volumes.retain(|&volume, record| {
            if record.named_by != number && record.desired.is_some() {
                record.desire(None);
                self.queue.push(Target::Volume(volume));
            }
            !record.is_empty()
        });
        self.book.done_before.retain(|instance, _| self.book.machines.contains_key(instance));
        self.make_wanted_keys();
        self.queue.unblock();
    }

    /// The set in the form that is kept, sharing what has not changed, and whether that is all
    /// of it.
    fn take_over(&mut self, set: DesiredSet) -> (SavedState, bool) {
        let mut is_known = self.book.generation.is_some();
        let machines = set.machines.into_iter().map(|spec| {
            let had = self.book.machines.get(&spec.instance).and_then(|r| r.desired.as_ref());
            let had = had.filter(|had| **had == spec);
            is_known &= had.is_some();
            had.map_or(spec, Arc::clone)
        });
        let machines = machines.collect();
        let mut volumes = Vec::with_capacity(set.volumes.len());
        for mut wish in set.volumes {
            self.keep_keys_of(&mut wish);
            let record = self.book.volumes.get(&wish.volume);
            let had = record.and_then(|record| record.desired.as_ref());
            let had = had.filter(|had| ***had == wish);
            is_known &= had.is_some();
            volumes.push(had.map_or_else(|| Arc::new(wish), Arc::clone));
        }
        let unnamed = self.unnamed_beside(&volumes);
        let (generation, done) = (set.generation, BTreeMap::new());
        let state = SavedState { generation, machines, volumes, unnamed, done };
        (state, is_known)
    }

    /// Has the wish of a set name the keys that are to be used, and notes what the broker is to be
    /// told of them.
    fn keep_keys_of(&mut self, wish: &mut HostVolume) {
        let hands = &self.hands;
        let opens = |key: &_| hands.opens_seal(wish.volume, key);
        let refused = wish.next_key.take_if(|next| !opens(next));
        // What was not looked for yet may be there.
        let may_be_there = !self.looks.complete;
        let record = self.book.volumes.entry(wish.volume).or_default();
        let had = record.had().filter(|_| may_be_there || record.seen.is_some()).cloned();
        let untold = had.map_or_else(Vec::new, |had| {
            let volume = wish.volume;
            keep_keys(&had, wish, |key| hands.opens_seal(volume, key))
        });
        if (&record.keys.untold, &record.keys.refused) != (&untold, &refused) {
            (record.keys.untold, record.keys.refused) = (untold, refused);
            self.report.wanted();
            self.queue.push(Target::Volume(wish.volume));
        }
    }

    /// What has data here and had a key, and the set of these volumes does not name: a broker that
    /// was restored may know nothing of it yet, and it is opened by nothing else.
    fn unnamed_beside(&self, volumes: &[Arc<HostVolume>]) -> Vec<Arc<HostVolume>> {
        let named: HashSet<_> = volumes.iter().map(|wish| wish.volume).collect();
        let records = self.book.volumes.iter().filter(|(volume, _)| !named.contains(volume));
        let may_be_there = !self.looks.complete;
        let mut unnamed: Vec<_> = records
            .filter(|(_, record)| may_be_there || record.seen.is_some())
            .filter_map(|(_, record)| record.had().filter(|had| had.key.is_some()).cloned())
            .collect();
        unnamed.sort_unstable_by_key(|wish| wish.volume);
        unnamed
    }

    /// Whether the set, all of which is desired, is all that is.
    fn names_all(&self, state: &SavedState) -> bool {
        let (machines, volumes) = (&self.book.machines, &self.book.volumes);
        machines.values().filter(|r| r.desired.is_some()).count() == state.machines.len()
            && volumes.values().filter(|r| r.desired.is_some()).count() == state.volumes.len()
    }

    /// The set that is applied now.
    fn applied(&self) -> SavedState {
        let machines = self.book.machines.values().filter_map(|record| record.desired.clone());
        let volumes = self.book.volumes.values().filter_map(|record| record.desired.clone());
        SavedState {
            generation: self.generation(),
            machines: machines.collect(),
            volumes: volumes.collect(),
            unnamed: self.book.volumes.values().filter_map(|r| r.unnamed.clone()).collect(),
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

fn tell_of_machines(set: &SavedState, report: &mut ObservedSet) {
    let wanted: HashSet<_> = set.machines.iter().map(|spec| spec.instance).collect();
    for seen in report.machines.iter_mut().filter(|seen| !wanted.contains(&seen.instance)) {
        seen.failure.get_or_insert_with(|| UNSAVED.to_owned());
    }
    for spec in &set.machines {
        let at = report.machines.binary_search_by_key(&spec.instance, |seen| seen.instance);
        match at {
            Ok(at) => {
                let seen = &mut report.machines[at];
                if seen.epoch == spec.epoch && seen.spec_version < spec.spec_version {
                    seen.failure.get_or_insert_with(|| UNSAVED.to_owned());
                }
            }
            // What comes from another host is there for that one to tell.
            Err(_) if spec.arrival.is_some() => {}
            Err(at) => {
                let state = ObservedState::Failed { reason: UNSAVED.to_owned() };
                let seen = MachineSeen {
                    instance: spec.instance,
                    epoch: spec.epoch,
                    spec_version: 0,
                    state,
                    failure: None,
                    addresses: Vec::new(),
                    guest: Default::default(),
                    handover: None,
                    lacks_memory: false,
                };
                report.machines.insert(at, seen);
            }
        }
    }
}

/// Of volumes that are to be made only copies: of others the machine tells that uses them.
fn tell_of_volumes(set: &SavedState, report: &mut ObservedSet) {
    for spec in &set.volumes {
        match report.volumes.binary_search_by_key(&spec.volume, |seen| seen.volume) {
            Ok(at) => {
                let seen = &mut report.volumes[at].state;
                if let VolumeObserved::Present { size, failure } = seen
                    && (spec.wish == VolumeWish::Delete || *size < spec.size)
                {
                    failure.get_or_insert_with(|| UNSAVED.to_owned());
                }
            }
            Err(at)
                if spec.wish == VolumeWish::Keep
                    && matches!(spec.copy, Some(VolumeCopy::Of(_) | VolumeCopy::Import(_))) =>
            {
                let reason = UNSAVED.to_owned();
                let seen = VolumeSeen {
                    volume: spec.volume,
                    state: VolumeObserved::Failed { reason, lasting: false },
                    changed_key: None,
                    refused_key: None,
                };
                report.volumes.insert(at, seen);
            }
            Err(_) => {}
        }
    }
}
