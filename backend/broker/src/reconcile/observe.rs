//! What hosts report, taken into the rows: only what changes something is written.
//!
//! A report is the host's whole view. States in between (starting, stopping) follow from what
//! is desired and are not written; a report of an older run says nothing about this one.

use fairmazon_model::{
    id::HostId,
    instance::{Instance, InstanceObserved, ObservedState},
    machine::{MachineSeen, ObservedSet, VolumeSeen},
    volume::{Volume, VolumeObserved},
};
use fairmazon_store::Key;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::batch::Batch;

impl Batch<'_> {
    /// Takes a host's report. False when a command under way holds one of its rows: the report
    /// is then to be taken again.
    pub(super) fn observe(&mut self, host: HostId, report: &ObservedSet) -> bool {
        let mut complete = true;
        let machines: BTreeMap<_, _> =
            report.machines.iter().map(|seen| (seen.instance, seen)).collect();
        let volumes: BTreeMap<_, _> =
            report.volumes.iter().map(|seen| (seen.volume, seen)).collect();
        self.note_gone(host, report, |key| match key {
            Key::Instance(id) => {
                machines.get(&id).is_some_and(|seen| seen.state != ObservedState::Absent)
            }
            Key::Volume(id) => {
                volumes.get(&id).is_some_and(|seen| seen.state != VolumeObserved::Absent)
            }
            _ => false,
        });
        let here: Vec<_> = self.state.world.instances_on(host).map(|row| row.id).collect();
        for id in here {
            let Some(row) = self.instance(id) else { continue };
            let Some(new) = observed_instance(&row, host, machines.get(&id).copied()) else {
                continue;
            };
            if !self.may_change(id) {
                complete = false;
                continue;
            }
            let observed = InstanceObserved { at: self.now, ..new };
            self.change_instance(Instance { observed, ..Instance::clone(&row) });
            self.look_at_instance(id);
        }
        let here: Vec<_> = self.state.world.volumes_on(host).map(|row| row.id).collect();
        for id in here {
            let Some(row) = self.volume(id) else { continue };
            let Some(observed) = observed_volume(&row, volumes.get(&id).copied()) else {
                continue;
            };
            if !self.may_change(id) {
                complete = false;
                continue;
            }
            self.change_volume(Volume { observed, ..Volume::clone(&row) });
            self.look_at_volume(id);
        }
        self.note_strays(host, report);
        complete
    }

    /// Notes which of the things that shall be gone are gone, and looks at them.
    fn note_gone(&mut self, host: HostId, report: &ObservedSet, is_there: impl Fn(Key) -> bool) {
        let now = self.state.hosts.entry(host);
        now.observed = report.generation;
        let gone: HashSet<Key> =
            now.gone_since.keys().copied().filter(|key| !is_there(*key)).collect();
        for key in &gone {
            match *key {
                Key::Instance(id) => {
                    self.state.dirty.instances.insert(id);
                }
                Key::Volume(id) => {
                    self.state.dirty.volumes.insert(id);
                }
                _ => {}
            }
        }
        self.state.hosts.entry(host).gone = gone;
    }

    /// Notes volumes whose rows say that their data is decided to be elsewhere.
    fn note_strays(&mut self, host: HostId, report: &ObservedSet) {
        let is_stray = |seen: &&VolumeSeen| {
            let row = self.state.world.volumes.get(seen.volume);
            seen.state != VolumeObserved::Absent
                && row.is_some_and(|row| row.host.is_some_and(|decided| decided != host))
        };
        let strays: BTreeSet<_> =
            report.volumes.iter().filter(is_stray).map(|seen| seen.volume).collect();
        let now = self.state.hosts.entry(host);
        if now.strays != strays {
            now.strays = strays;
            now.wake.notify_one();
        }
    }
}

/// What is new of an instance in its host's report; none when nothing is.
fn observed_instance(
    row: &Instance,
    host: HostId,
    seen: Option<&MachineSeen>,
) -> Option<InstanceObserved> {
    let decision = row.decision.as_ref().filter(|decision| decision.host == host)?;
    let old = &row.observed;
    let is_this_run = old.epoch == decision.epoch;
    let Some(seen) = seen else {
        // It was there and is not any more; what was never there is no news.
        let was_there =
            is_this_run && !matches!(old.state, ObservedState::Absent | ObservedState::Unknown);
        return was_there.then(|| InstanceObserved {
            state: ObservedState::Absent,
            spec_version: 0,
            failure: None,
            addresses: Vec::new(),
            ..old.clone()
        });
    };
    let is_lasting = matches!(
        seen.state,
        ObservedState::Running | ObservedState::Stopped | ObservedState::Failed { .. }
    ) || (seen.state == ObservedState::Stopping && seen.failure.is_some());
    if seen.epoch != decision.epoch || !is_lasting {
        return None;
    }
    let same = is_this_run
        && old.state == seen.state
        && old.spec_version == seen.spec_version
        && old.failure == seen.failure
        && old.addresses == seen.addresses;
    (!same).then(|| InstanceObserved {
        state: seen.state.clone(),
        epoch: seen.epoch,
        spec_version: seen.spec_version,
        failure: seen.failure.clone(),
        addresses: seen.addresses.clone(),
        at: old.at,
    })
}

/// What is new of a volume in its host's report; none when nothing is.
fn observed_volume(row: &Volume, seen: Option<&VolumeSeen>) -> Option<VolumeObserved> {
    let new = match seen {
        Some(seen) => seen.state.clone(),
        None if row.observed == VolumeObserved::Unknown => return None,
        None => VolumeObserved::Absent,
    };
    (new != row.observed && new != VolumeObserved::Unknown).then_some(new)
}
