//! What the agent knows of each machine and volume: what is desired, what was last seen, what is
//! under way. Makes the cases that the pure step functions decide, and the report.

use std::sync::Arc;

use fairmazon_hypervisor::{Counters, Features, Halt, Machine, OffReason, RunState, keeps};
use fairmazon_model::{
    catalogue::ImageVersions,
    id::{HostId, InstanceId, VolumeId},
    instance::{ObservedState, Power},
    key::GivenKey,
    machine::{
        Disk, GuestSeen, MachineSeen, MachineSpec, ObservedSet, VolumeCopy, VolumeSeen, VolumeWish,
    },
    migration::{Arrival, Handover, ShownCertificates},
    units::{Generation, Mib, Vcpus},
    volume::VolumeObserved,
};
use rustc_hash::FxHashMap;

use super::{memory::Standing, migrate::Transit, observe::TELL_AFTER, volume::VolumeRecord};
use crate::{
    backoff::Backoff,
    plan::{
        ChangeCase, DiskReady, KeyCase, MachineAction, MachineCase, Step, VolumeAction, VolumeCase,
        Wish, may_restart, next_machine_step, next_volume_step, stop_timeout_ms,
    },
};

/// What the customer is told of a machine whose guest stands still.
const STALLED: &str = "its guest stands still: the host has no room on its disk for what it writes; \
     nothing is lost, and it goes on by itself when there is room";

/// What is known of one machine.
#[derive(Debug, Default)]
pub(super) struct MachineRecord {
    pub(super) desired: Option<Arc<MachineSpec>>,
    /// The last set that named it, counted.
    pub(super) named_by: u64,
    pub(super) seen: Option<Machine>,
    /// A step is under way.
    pub(super) busy: bool,
    /// A stop for want of a lease is under way.
    pub(super) fencing: bool,
    /// A start was begun, and the machine has not been seen since: it may run.
    pub(super) may_run: bool,
    /// A hint came since it was last looked at.
    pub(super) look: bool,
    /// It was settled when last decided on.
    pub(super) settled: bool,
    pub(super) asked_at_ms: Option<u64>,
    pub(super) started_at_ms: Option<u64>,
    pub(super) not_before_ms: u64,
    pub(super) backoff: Backoff,
    pub(super) quick_ends: Backoff,
    pub(super) error: Option<Box<str>>,
    /// How its guest ended soon after its last start, for the customer.
    pub(super) ended: Option<Box<str>>,
    /// Which look or step last changed it.
    pub(super) touched: u64,
    /// It is on its way to or from another host.
    pub(super) transit: Option<Transit>,
    /// How often it could not grow in this run.
    pub(super) not_grown: u32,
    /// What it was made to grow to last in this run, and how often its guest gave that back since.
    pub(super) grown_to: Option<(Vcpus, Mib)>,
    pub(super) given_back: Backoff,
    /// The host has no memory left for it, a spot machine: it is ended, and not started here before
    /// there is some. When that was decided.
    pub(super) given_up_at_ms: Option<u64>,
}

/// A key that was made for another host.
#[derive(Debug)]
pub(super) struct MadeKey {
    pub(super) key: GivenKey,
    /// The version of the key here that it is wrapped like.
    pub(super) like: u32,
}

/// All that the agent knows of its host.
#[derive(Debug)]
pub(super) struct Book {
    /// Whose it is.
    pub(super) host: HostId,
    pub(super) machines: FxHashMap<InstanceId, MachineRecord>,
    pub(super) volumes: FxHashMap<VolumeId, VolumeRecord>,
    /// The set that is being brought about; none before the first.
    pub(super) generation: Option<Generation>,
    /// Counted wishes that an earlier run of the agent knew to be done.
    pub(super) done_before: FxHashMap<InstanceId, Counters>,
    pub(super) features: Features,
    /// What is known of the host's memory.
    pub(super) memory: Standing,
    /// The images that it had when it was looked at last; none where it has every one.
    pub(super) images: Option<ImageVersions>,
    /// The keys that were made for other hosts and are still wanted.
    pub(super) made_keys: Vec<MadeKey>,
    /// The copies that are being made, each with its source.
    pub(super) copying: FxHashMap<VolumeId, VolumeId>,
    /// Machines that may use a volume: all that do are here, some here do no more.
    users: FxHashMap<VolumeId, Vec<InstanceId>>,
}

impl Book {
    pub(super) fn new(host: HostId, features: Features) -> Self {
        Self {
            host,
            machines: FxHashMap::default(),
            volumes: FxHashMap::default(),
            generation: None,
            done_before: FxHashMap::default(),
            features,
            images: None,
            memory: if features.balloon { Standing::Unknown } else { Standing::Unable },
            made_keys: Vec::new(),
            copying: FxHashMap::default(),
            users: FxHashMap::default(),
        }
    }

    /// Notes that this machine uses its volumes.
    pub(super) fn note_users(&mut self, spec: &MachineSpec) {
        for disk in spec.all_disks() {
            let users = self.users.entry(disk.volume).or_default();
            if !users.contains(&spec.instance) {
                users.push(spec.instance);
            }
        }
    }

    /// Forgets who used a volume that is not there and not desired.
    pub(super) fn forget_users(&mut self, volume: VolumeId) {
        let Self { users, machines, .. } = self;
        if let Some(known) = users.get_mut(&volume) {
            known.retain(|user| machines.get(user).is_some_and(|record| record.needs(volume)));
            if known.is_empty() {
                users.remove(&volume);
            }
        }
    }

    /// The machines that may use a volume.
    pub(super) fn users(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = (InstanceId, &MachineRecord)> {
        let users = self.users.get(&volume).map(Vec::as_slice).unwrap_or_default();
        users.iter().filter_map(|&user| Some((user, self.machines.get(&user)?)))
    }

    /// The next step of a machine.
    pub(super) fn decide_machine(
        &self,
        instance: InstanceId,
        leased: bool,
        now_ms: u64,
    ) -> Option<Step<MachineAction>> {
        let record = self.machines.get(&instance)?;
        let case = MachineCase {
            wish: self.wish(record.desired.as_ref()),
            seen: record.seen.as_ref(),
            leased,
            asked_ms_ago: record.asked_at_ms.map(|at| now_ms.saturating_sub(at)),
            features: self.features,
            may_grow: record.not_grown < TELL_AFTER,
            memory: self.memory_case(record),
            done_before: self.done_before.get(&instance).copied(),
            disk_ready: &|disk| self.disk_ready(instance, disk),
            boot_is_small: record.desired.as_ref().is_some_and(|spec| self.is_small(&spec.boot)),
            volume_there: &|volume| {
                self.volumes.get(&volume).is_some_and(|record| record.seen.is_some())
            },
        };
        Some(next_machine_step(&case))
    }

    /// When the time is over that the guest has to shut down; none when it was not asked to.
    pub(super) fn stop_is_over_at(&self, instance: InstanceId) -> Option<u64> {
        let record = self.machines.get(&instance)?;
        let seen = record.seen.as_ref()?;
        Some(record.asked_at_ms? + stop_timeout_ms(&self.wish(record.desired.as_ref()), seen))
    }

    /// The next step of a volume.
    pub(super) fn decide_volume(&self, volume: VolumeId) -> Option<Step<VolumeAction>> {
        let record = self.volumes.get(&volume)?;
        let wish = self.wish(record.desired.as_ref());
        let deletes = record.desired.as_ref().is_some_and(|w| w.wish == VolumeWish::Delete);
        let missing = record.seen.is_none() && !deletes;
        let made = record.desired.as_ref().is_some_and(|w| w.copy == Some(VolumeCopy::Made));
        Some(next_volume_step(&VolumeCase {
            wish,
            seen: record.seen.as_ref(),
            held: missing && self.users(volume).any(|(_, machine)| machine.rebuilds(volume)),
            in_use: deletes && self.users(volume).any(|(_, machine)| machine.needs(volume)),
            must_be_there: missing
                && self.features.durable
                && (made || self.users(volume).any(|(_, machine)| machine.had(volume))),
            source_ready: self.source_ready(record),
            file: record.file_case(),
            key: self.key_case(record),
            change: self.change_case(volume, record),
        }))
    }

    /// Whether what a volume is to be a copy of is there and can be opened.
    fn source_ready(&self, record: &VolumeRecord) -> bool {
        let Some(source) = record.copies() else { return true };
        self.volumes
            .get(&source)
            .is_some_and(|found| found.seen.is_some() && self.opens(source, found))
    }

    /// Whether the hypervisor has the key that opens the volume, and keeps it for now.
    fn opens(&self, volume: VolumeId, record: &VolumeRecord) -> bool {
        self.key_case(record).opens()
            && !record.change.under_way
            && self.change_case(volume, record) != ChangeCase::Untried
    }

    /// Notes that the hypervisor has not the keys of a machine's volumes any more; which those are.
    pub(super) fn keys_lost_with(&mut self, instance: InstanceId) -> Vec<VolumeId> {
        self.each_volume_of(instance, VolumeRecord::key_lost)
    }

    /// Notes that an exchange may have gone further with the keys of a machine's volumes than this
    /// process knows; which those are.
    pub(super) fn keys_doubted_with(&mut self, instance: InstanceId) -> Vec<VolumeId> {
        self.each_volume_of(instance, |record| record.change.tried = None)
    }

    fn each_volume_of(
        &mut self,
        instance: InstanceId,
        note: impl Fn(&mut VolumeRecord),
    ) -> Vec<VolumeId> {
        let spec = self.machines.get(&instance).and_then(|record| record.desired.clone());
        let volumes: Vec<_> =
            spec.iter().flat_map(|spec| spec.all_disks()).map(|disk| disk.volume).collect();
        for volume in &volumes {
            if let Some(record) = self.volumes.get_mut(volume) {
                note(record);
            }
        }
        volumes
    }

    fn key_case(&self, record: &VolumeRecord) -> KeyCase {
        let desired = record.desired.as_ref().and_then(|wish| wish.key.as_ref());
        match (desired, record.given) {
            (Some(key), Some(given)) if given == key.version => KeyCase::Given,
            (Some(_), Some(given)) if record.change.done_with(given).is_some() => KeyCase::Given,
            (Some(_), _) => KeyCase::Sealed,
            (None, Some(_)) => KeyCase::Given,
            (None, None) if self.features.encrypts => KeyCase::Awaited,
            (None, None) => KeyCase::NotNeeded,
        }
    }

    /// All that there is, as the broker is told.
    pub(super) fn observed(&self, leased: bool) -> ObservedSet {
        let machines = self.machines.iter();
        let mut machines: Vec<_> = machines
            .filter(|(_, record)| record.seen.is_some() || record.desired.is_some())
            .map(|(&instance, record)| self.machine_seen(instance, record, leased))
            .collect();
        machines.sort_unstable_by_key(|seen| seen.instance);
        let mut volumes: Vec<_> = self
            .volumes
            .iter()
            .filter_map(|(&volume, record)| {
                let state = match (&record.seen, &record.error) {
                    (Some(seen), error) => VolumeObserved::Present {
                        size: seen.size,
                        failure: error.as_ref().map(ToString::to_string),
                    },
                    (None, Some(error)) => {
                        let (reason, lasting) = (error.to_string(), record.lasting);
                        VolumeObserved::Failed { reason, lasting }
                    }
                    // Not there by now; only when nothing is under way is that its absence.
                    (None, None) if record.busy || record.unsure => VolumeObserved::Unknown,
                    (None, None) if record.has_unwanted_file() => VolumeObserved::Unknown,
                    (None, None) => return None,
                };
                let refused_key = record.keys.refused.clone();
                let changed_key = record.changed_key();
                Some(VolumeSeen { volume, state, changed_key, refused_key })
            })
            .collect();
        volumes.sort_unstable_by_key(|seen| seen.volume);
        let generation = self.generation.unwrap_or_default();
        let keys = self.keys_to_tell();
        let images = self.images.clone();
        ObservedSet { generation, machines, volumes, keys, images, ..ObservedSet::default() }
    }

    fn machine_seen(
        &self,
        instance: InstanceId,
        record: &MachineRecord,
        leased: bool,
    ) -> MachineSeen {
        let state = self.state(record, leased);
        match &record.seen {
            Some(seen) => MachineSeen {
                instance,
                epoch: seen.marks.epoch,
                spec_version: seen.marks.spec_version,
                failure: self.trouble(record, &state),
                state,
                addresses: seen.addresses.clone(),
                guest: seen.guest,
                handover: handover(seen),
                lacks_memory: record.lacks_memory(),
            },
            None => MachineSeen {
                instance,
                epoch: record.desired.as_ref().map(|spec| spec.epoch).unwrap_or_default(),
                spec_version: 0,
                state,
                failure: None,
                addresses: Vec::new(),
                guest: GuestSeen::default(),
                handover: record.arrival().map(|_| Handover::Awaited),
                lacks_memory: false,
            },
        }
    }

    /// A machine that runs, or may run, is never called failed or stopped, whatever else does not
    /// work: the broker may only take for ended what has ended.
    fn state(&self, record: &MachineRecord, leased: bool) -> ObservedState {
        let Some(seen) = &record.seen else {
            if record.arrival().is_some_and(|arrival| !arrival.open) {
                return ObservedState::Absent;
            }
            return self.failure(record).unwrap_or(ObservedState::Starting);
        };
        match (seen.marks.halt, seen.run) {
            (_, RunState::Unread) => return ObservedState::Unknown,
            // What was last seen is older than what is done with it now.
            (Halt::Leaving | Halt::Held, _) if record.transit.is_some() => {
                return ObservedState::Unknown;
            }
            (Halt::Arriving, RunState::Off(_)) | (_, RunState::Incoming | RunState::Arrived) => {
                return self.failure(record).unwrap_or(ObservedState::Starting);
            }
            // Handed over a moment ago, and not marked so yet.
            (Halt::Leaving, RunState::Off(OffReason::Moved)) => {
                return ObservedState::Stopping;
            }
            (Halt::Leaving | Halt::Left, RunState::Off(_)) | (_, RunState::Held) => {
                return ObservedState::Stopped;
            }
            _ => {}
        }
        if seen.runs() {
            let stopping = record.asked_at_ms.is_some() || seen.marks.halt == Halt::Stopping;
            return if stopping { ObservedState::Stopping } else { ObservedState::Running };
        }
        if record.may_run {
            return ObservedState::Starting;
        }
        let shall_run = record.desired.as_ref().is_some_and(|spec| spec.power == Power::Running);
        if !shall_run || record.settled || !leased {
            return ObservedState::Stopped;
        }
        self.failure(record).unwrap_or(ObservedState::Starting)
    }

    fn failure(&self, record: &MachineRecord) -> Option<ObservedState> {
        record.desired.as_ref()?;
        let ended = || record.ended.as_ref().map(ToString::to_string);
        Some(ObservedState::Failed { reason: self.error_of(record).or_else(ended)? })
    }

    /// What does not work with a machine that is there, beside the state that it is in.
    fn trouble(&self, record: &MachineRecord, state: &ObservedState) -> Option<String> {
        if record.seen.as_ref().is_some_and(|seen| seen.stalled) {
            return Some(STALLED.to_owned());
        }
        let told = record.settled || matches!(state, ObservedState::Failed { .. });
        if told { None } else { self.error_of(record) }
    }

    /// What failed of a machine, or of a volume that it needs.
    fn error_of(&self, record: &MachineRecord) -> Option<String> {
        let of_volume = || {
            record.desired.as_ref()?.all_disks().find_map(|disk| {
                let error = self.volumes.get(&disk.volume)?.error.as_ref()?;
                Some(format!("{}: {error}", disk.volume))
            })
        };
        record.error.as_ref().map(ToString::to_string).or_else(of_volume)
    }

    /// Whether the disk's volume is there and smaller than desired.
    fn is_small(&self, disk: &Disk) -> bool {
        let record = self.volumes.get(&disk.volume);
        record.is_some_and(|record| match (&record.seen, &record.desired) {
            (Some(seen), Some(wish)) => seen.size < wish.size,
            _ => false,
        })
    }

    fn wish<'a, T>(&self, desired: Option<&'a T>) -> Wish<'a, T> {
        match (self.generation, desired) {
            (None, _) => Wish::Unknown,
            (Some(_), None) => Wish::Absent,
            (Some(_), Some(desired)) => Wish::Present(desired),
        }
    }

    /// Whether a copy is being made of it.
    pub(super) fn is_copied(&self, volume: VolumeId) -> bool {
        self.copying.values().any(|source| *source == volume)
    }

    pub(super) fn disk_ready(&self, instance: InstanceId, disk: &Disk) -> DiskReady {
        if self.volumes.get(&disk.volume).is_none_or(|record| record.seen.is_none()) {
            return DiskReady::Missing;
        }
        let locked = |record| !self.opens(disk.volume, record);
        if self.volumes.get(&disk.volume).is_some_and(locked) {
            return DiskReady::Locked;
        }
        // A copy is being made of it, and nobody may write to it meanwhile.
        let copied = !disk.read_only && self.is_copied(disk.volume);
        let taken = copied
            || self.users(disk.volume).any(|(other, record)| {
                other != instance
                    && record
                        .seen
                        .as_ref()
                        .is_some_and(|seen| seen.runs() && keeps(&seen.definition, disk))
            });
        if taken { DiskReady::Taken } else { DiskReady::Ready }
    }
}

impl MachineRecord {
    /// Something else is desired from now on: what went wrong with the wish before is over.
    pub(super) fn desire(&mut self, spec: Option<Arc<MachineSpec>>) {
        if let Some(transit) = &self.transit {
            let change = self.desired.as_ref().zip(spec.as_ref());
            match change.and_then(|(had, new)| same_way(had, new)) {
                Some(shows) => transit.meets(shows),
                None => transit.end(),
            }
        }
        // It is asked again, so that it has all of the time that it is given from now on.
        let stops = spec.as_ref().filter(|spec| spec.power == Power::Stopped);
        if let (Some(had), Some(new)) = (&self.desired, stops)
            && (had.power, had.stop_timeout_ms) != (new.power, new.stop_timeout_ms)
        {
            self.asked_at_ms = None;
        }
        self.desired = spec;
        self.settle_given_up();
        self.not_before_ms = 0;
        self.error = None;
    }

    /// Whether it runs, as far as was last seen.
    pub(super) fn runs(&self) -> bool {
        self.seen.as_ref().is_some_and(Machine::runs)
    }

    /// Whether it is being started, or is on its way to or from another host.
    pub(super) fn starts_or_moves(&self) -> bool {
        let moves = |seen: &Machine| {
            matches!(seen.marks.halt, Halt::Leaving | Halt::Held | Halt::Arriving) && seen.runs()
        };
        self.may_run || self.transit.is_some() || self.seen.as_ref().is_some_and(moves)
    }

    /// From where it shall come, if from anywhere.
    fn arrival(&self) -> Option<&Arrival> {
        self.desired.as_ref().and_then(|spec| spec.arrival.as_ref())
    }

    /// Whether it is off and shall be started again.
    pub(super) fn restarts(&self) -> bool {
        match (&self.desired, &self.seen) {
            (Some(spec), Some(seen)) => {
                !self.may_run && spec.power == Power::Running && may_restart(seen, spec.restart)
            }
            _ => false,
        }
    }

    /// Whether there is nothing left to know of it.
    pub(super) fn is_empty(&self) -> bool {
        self.desired.is_none() && self.seen.is_none() && !self.busy && !self.fencing
    }

    /// Whether a rebuild of it is asked for that has this volume made anew.
    fn rebuilds(&self, volume: VolumeId) -> bool {
        match (&self.desired, &self.seen) {
            (Some(spec), Some(seen)) => {
                seen.definition.boot.volume == volume && spec.rebuilds > seen.marks.done.rebuilds
            }
            _ => false,
        }
    }

    /// Whether it is defined or to be defined with this volume.
    fn needs(&self, volume: VolumeId) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.uses(volume).is_some())
            || self
                .desired
                .as_ref()
                .is_some_and(|spec| spec.all_disks().any(|d| d.volume == volume))
    }

    /// Whether it is defined with this volume and once had it.
    fn had(&self, volume: VolumeId) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.marks.whole && seen.uses(volume).is_some())
    }
}

/// What the other host of a machine's way shows from now on, when nothing has changed but that and
/// how it is reached; none also when nothing that it shows counts any more.
fn same_way<'a>(had: &MachineSpec, new: &'a MachineSpec) -> Option<&'a ShownCertificates> {
    let shows = match (&had.departure, &new.departure, &had.arrival, &new.arrival) {
        (Some(before), Some(now), None, None)
            if (before.to, before.epoch) == (now.to, now.epoch) =>
        {
            (&before.shows, &now.shows)
        }
        (None, None, Some(before), Some(now))
            if (before.from, before.open) == (now.from, now.open) =>
        {
            (&before.shows, &now.shows)
        }
        _ => return None,
    };
    let (showed, shows) = shows;
    let is_revoked = shows.is_empty() && !showed.is_empty();
    let (departure, arrival) = (new.departure.clone(), new.arrival.clone());
    let is_same = *new == MachineSpec { departure, arrival, ..had.clone() };
    (is_same && !is_revoked).then_some(shows)
}

/// How far a machine's migration is, as its marks and its run say.
const fn handover(seen: &Machine) -> Option<Handover> {
    match (seen.marks.halt, seen.run) {
        (_, RunState::Unread) => None,
        (Halt::Left, _) => Some(Handover::Left),
        (Halt::Arriving, RunState::Arrived) => Some(Handover::Arrived),
        (Halt::Arriving, RunState::Incoming | RunState::Off(_)) => Some(Handover::Awaited),
        _ => None,
    }
}
