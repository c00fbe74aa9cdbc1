//! What hosts report, taken into the rows: only what changes something is written.
//!
//! A report is the host's whole view. States in between (starting, stopping) follow from what
//! is desired and are not written; a report of an older run says nothing about this one.

use fairmazon_model::{
    id::{HostId, VolumeId},
    instance::{Instance, InstanceObserved, ObservedState},
    machine::{GuestSeen, MachineSeen, ObservedSet, VolumeSeen},
    units::UnixMs,
    volume::{Volume, VolumeObserved},
};
use fairmazon_store::Key;
use std::collections::{BTreeSet, HashSet};

use super::batch::Batch;

impl Batch<'_> {
    /// Takes a host's report. False when a command under way holds one of its rows: the report
    /// is then to be taken again.
    pub(super) fn observe(&mut self, host: HostId, report: &ObservedSet) -> bool {
        let mut complete = true;
        let machines = ById::new(&report.machines, |seen| seen.instance);
        let volumes = ById::new(&report.volumes, |seen| seen.volume);
        self.note_gone(host, report, |key| match key {
            Key::Instance(id) => {
                machines.get(id).is_some_and(|seen| seen.state != ObservedState::Absent)
            }
            Key::Volume(id) => {
                volumes.get(id).is_some_and(|seen| seen.state != VolumeObserved::Absent)
            }
            _ => false,
        });
        self.note_moving(host, &machines, &volumes);
        self.note_off(host, report, &machines);
        self.note_let_go(host, report);
        self.note_memory(host, report);
        for made in &report.keys {
            complete &= self.take_reported_key(host, made);
        }
        for seen in &report.machines {
            complete &= self.outrun(host, seen);
        }
        for seen in &report.volumes {
            complete &= self.adopt(host, seen);
        }
        let mut ran = BTreeSet::new();
        for seen in &report.machines {
            complete &= self.keep_what_ran(host, seen, &mut ran);
        }
        let here: Vec<_> = self.state.world.instances_on(host).map(|row| row.id).collect();
        for id in here {
            let Some(row) = self.instance(id) else { continue };
            let Some(new) = observed_instance(&row, host, machines.get(id)) else {
                continue;
            };
            if !self.may_change(id) {
                complete = false;
                continue;
            }
            let observed = InstanceObserved { at: self.now, ..new };
            let mut new = Instance { observed, ..Instance::clone(&row) };
            if let Some(decision) = &mut new.decision {
                decision.may_run |= is_there(&new.observed.state);
            }
            self.change_instance(new);
            self.look_at_instance(id);
        }
        let here: Vec<_> = self.state.world.volumes_on(host).map(|row| row.id).collect();
        for id in here {
            let Some(row) = self.volume(id) else { continue };
            let news = observed_volume(&row, volumes.get(id));
            let boots = row.boot_of.and_then(|id| self.instance(id));
            let mut new = Volume { made: row.was_shown(boots.as_deref()), ..Volume::clone(&row) };
            if news.is_none() && new.made == row.made {
                continue;
            }
            if !self.may_change(id) {
                complete = false;
                continue;
            }
            if let Some(observed) = news {
                new.observed = observed;
                new.made = new.was_shown(boots.as_deref());
            }
            self.change_volume(new);
            self.look_at_volume(id);
        }
        for seen in &report.volumes {
            complete &= self.take_changed_key(host, seen);
            complete &= self.drop_refused_key(host, seen);
        }
        self.note_strays(host, report, &ran);
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

    /// Notes volumes whose rows say that their data is decided to be elsewhere. Those that were
    /// decided to be here in vain are to be deleted; what else is here may be a customer's data
    /// that a restored store knows nothing of, and is kept.
    fn note_strays(&mut self, host: HostId, report: &ObservedSet, ran: &BTreeSet<VolumeId>) {
        let (mut strays, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for seen in report.volumes.iter().filter(|seen| seen.state != VolumeObserved::Absent) {
            let Some(row) = self.state.world.volumes.get(seen.volume) else { continue };
            if row.host.is_none_or(|decided| decided == host) {
                continue;
            }
            if row.may_be_on.contains(&host) && !ran.contains(&row.id) {
                strays.insert(row.id);
            } else if seen.state.is_present() {
                kept.insert(row.id);
            }
        }
        let now = self.state.hosts.entry(host);
        if now.kept != kept {
            for volume in kept.difference(&now.kept) {
                tracing::warn!(
                    %host, %volume,
                    "a host has data of a volume that is bound to another host: it is kept; \
                     remove it by hand if the other one is right"
                );
            }
            now.kept = kept;
        }
        if now.strays != strays {
            now.strays = strays;
            now.wake.notify_one();
        }
    }
}

/// Parts of a report, to be found by id. Hosts send them in this order already.
pub(super) struct ById<'a, T, Id> {
    parts: Vec<&'a T>,
    id: fn(&T) -> Id,
}

impl<'a, T, Id: Copy + Ord> ById<'a, T, Id> {
    fn new(parts: &'a [T], id: fn(&T) -> Id) -> Self {
        let mut parts: Vec<_> = parts.iter().collect();
        parts.sort_by_key(|part| id(part));
        Self { parts, id }
    }

    pub(super) fn get(&self, id: Id) -> Option<&'a T> {
        let found = self.parts.binary_search_by_key(&id, |part| (self.id)(part));
        found.ok().and_then(|index| self.parts.get(index).copied())
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
            guest: GuestSeen::default(),
            ..old.clone()
        });
    };
    // What went wrong with a stop is over when it is not said any more.
    let had_trouble = is_this_run && old.state == ObservedState::Stopping && old.failure.is_some();
    let is_lasting = matches!(
        seen.state,
        ObservedState::Running | ObservedState::Stopped | ObservedState::Failed { .. }
    ) || (seen.state == ObservedState::Stopping
        && (seen.failure.is_some() || had_trouble));
    // One that has been handed over is for the other host to show, whatever is left of it here.
    if seen.epoch != decision.epoch || !is_lasting || seen.handover.is_some() {
        return None;
    }
    let same = is_this_run
        && old.state == seen.state
        && old.spec_version == seen.spec_version
        && old.failure == seen.failure
        && old.addresses == seen.addresses
        && old.guest == seen.guest;
    (!same).then(|| observed(seen, old.at))
}

/// Whether a machine was made that is in this state.
const fn is_there(state: &ObservedState) -> bool {
    !matches!(state, ObservedState::Unknown | ObservedState::Absent | ObservedState::Failed { .. })
}

/// What a host's report says of a machine, as the row keeps it.
pub(super) fn observed(seen: &MachineSeen, at: UnixMs) -> InstanceObserved {
    InstanceObserved {
        state: seen.state.clone(),
        epoch: seen.epoch,
        spec_version: seen.spec_version,
        failure: seen.failure.clone(),
        addresses: seen.addresses.clone(),
        guest: seen.guest,
        at,
    }
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

#[cfg(test)]
mod tests {
    use fairmazon_model::instance::RestartPolicy;

    use super::{
        super::step_tests::{decision, instance},
        *,
    };

    #[test]
    fn trouble_with_a_stop_is_over_when_it_is_not_said_any_more() {
        let mut row = instance(RestartPolicy::Always);
        let decision = decision(1);
        let host = decision.host;
        row.decision = Some(decision);
        let mut seen = MachineSeen {
            instance: row.id,
            epoch: row.decision.as_ref().unwrap().epoch,
            spec_version: 1,
            state: ObservedState::Stopping,
            failure: Some("it was not heard".into()),
            addresses: Vec::new(),
            guest: GuestSeen::default(),
            handover: None,
            lacks_memory: false,
        };
        row.observed = observed_instance(&row, host, Some(&seen)).unwrap();
        assert!(row.observed.failure().is_some());
        seen.failure = None;
        row.observed = observed_instance(&row, host, Some(&seen)).unwrap();
        assert_eq!(row.observed.failure(), None);
        assert_eq!(observed_instance(&row, host, Some(&seen)), None, "no news");
    }
}
