//! The ledger of a simulated world: every run of every machine, and what must never happen.

use fairmazon_model::{
    id::{HostId, InstanceId, VolumeId},
    units::Epoch,
};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// One run of a machine, from a start to the next time it was off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which machine.
    pub instance: InstanceId,
    /// Where.
    pub host: HostId,
    /// Under which epoch it was defined.
    pub epoch: Epoch,
    /// When it started, in ms of the world's clock.
    pub from_ms: u64,
    /// When it ended; none while it runs.
    pub until_ms: Option<u64>,
}

/// A machine that was ended by force while it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forced {
    /// Which machine.
    pub instance: InstanceId,
    /// Where.
    pub host: HostId,
    /// When its guest was asked to shut down in this run, the last time; none when it was not.
    pub asked_ms: Option<u64>,
    /// When it was ended, in ms of the world's clock.
    pub at_ms: u64,
}

/// What must never happen, and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A machine ran at two hosts at once.
    RunsTwice {
        /// Which machine.
        instance: InstanceId,
        /// Where it ran.
        first: HostId,
        /// Where it was started as well.
        second: HostId,
        /// When, in ms of the world's clock.
        at_ms: u64,
    },
    /// A run had an epoch below that of an earlier run.
    EpochWentBack {
        /// Which machine.
        instance: InstanceId,
        /// The highest epoch that it ran under before.
        had: Epoch,
        /// The epoch of the new run.
        got: Epoch,
    },
    /// A machine was let run at a host that it had come to, though it had gone on where it came
    /// from since: what it did there is undone.
    WentBack {
        /// Which machine.
        instance: InstanceId,
        /// Where it was let run.
        host: HostId,
    },
    /// A volume was in use by two machines, and one of them could write.
    TwoWriters {
        /// Which volume.
        volume: VolumeId,
        /// Who had it.
        first: InstanceId,
        /// Who got it as well.
        second: InstanceId,
    },
    /// A machine was let run with a volume that has not what was last written to it.
    OldData {
        /// Which volume.
        volume: VolumeId,
        /// Where it was let run.
        host: HostId,
    },
}

/// Sees all that happens in a world; kept for the life of the world.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    runs: Vec<Run>,
    open: FxHashMap<InstanceId, Vec<u32>>,
    highest: FxHashMap<InstanceId, Epoch>,
    users: FxHashMap<VolumeId, Vec<(InstanceId, bool)>>,
    deleted: Vec<VolumeId>,
    /// When the guests of machines that run were asked to shut down.
    asked: FxHashMap<InstanceId, u64>,
    forced: Vec<Forced>,
    /// How often each machine began or went on to run.
    turns: FxHashMap<InstanceId, u64>,
    /// How many runs have written to each volume, wherever its data was then.
    writes: FxHashMap<VolumeId, u64>,
    violations: Vec<Violation>,
}

impl Ledger {
    /// Every run so far, in the order of their starts.
    pub fn runs(&self) -> Vec<Run> {
        self.0.lock().runs.clone()
    }

    /// How often the machine was started.
    pub fn starts(&self, instance: InstanceId) -> usize {
        self.0.lock().runs.iter().filter(|run| run.instance == instance).count()
    }

    /// Every machine that was ended by force, in order.
    pub fn forced(&self) -> Vec<Forced> {
        self.0.lock().forced.clone()
    }

    /// Every volume that was deleted, in order, also those that were made again.
    pub fn deleted_volumes(&self) -> Vec<VolumeId> {
        self.0.lock().deleted.clone()
    }

    /// All that must never happen and did; empty in a world that is right.
    pub fn violations(&self) -> Vec<Violation> {
        self.0.lock().violations.clone()
    }

    /// How many machines run now, all hosts together.
    pub fn running(&self) -> usize {
        self.0.lock().open.values().map(Vec::len).sum()
    }

    /// How many runs have written to the volume, in all.
    pub fn writes(&self, volume: VolumeId) -> u64 {
        self.0.lock().writes.get(&volume).copied().unwrap_or(0)
    }

    /// How far the machine's guest is: whoever took it at an earlier turn has something old.
    pub(super) fn turn(&self, instance: InstanceId) -> u64 {
        self.0.lock().turns.get(&instance).copied().unwrap_or(0)
    }

    /// Whether no later run of the machine has begun anywhere.
    pub(super) fn is_last(&self, instance: InstanceId, epoch: Epoch) -> bool {
        self.0.lock().highest.get(&instance).is_none_or(|highest| epoch >= *highest)
    }

    /// The machine goes on where it was.
    pub(super) fn went_on(&self, instance: InstanceId) {
        *self.0.lock().turns.entry(instance).or_default() += 1;
    }

    /// The machine was let run at a host that it came to at this turn; told right after its start.
    pub(super) fn resumed(&self, instance: InstanceId, host: HostId, turn: u64) {
        let mut book = self.0.lock();
        if book.turns.get(&instance).copied().unwrap_or(0) != turn + 1 {
            book.violations.push(Violation::WentBack { instance, host });
        }
    }

    pub(super) fn asked(&self, instance: InstanceId, at_ms: u64) {
        self.0.lock().asked.insert(instance, at_ms);
    }

    pub(super) fn forced_off(&self, instance: InstanceId, host: HostId, at_ms: u64) {
        let mut book = self.0.lock();
        let asked_ms = book.asked.get(&instance).copied();
        book.forced.push(Forced { instance, host, asked_ms, at_ms });
    }

    pub(super) fn started(&self, run: Run) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        book.asked.remove(&run.instance);
        *book.turns.entry(run.instance).or_default() += 1;
        let others = book.open.entry(run.instance).or_default();
        let first = others.first().and_then(|&index| book.runs.get(index as usize));
        if let Some(first) = first {
            book.violations.push(Violation::RunsTwice {
                instance: run.instance,
                first: first.host,
                second: run.host,
                at_ms: run.from_ms,
            });
        }
        others.push(u32::try_from(book.runs.len()).unwrap_or(u32::MAX));
        book.runs.push(run);
        let highest = book.highest.entry(run.instance).or_default();
        if run.epoch < *highest {
            book.violations.push(Violation::EpochWentBack {
                instance: run.instance,
                had: *highest,
                got: run.epoch,
            });
        }
        *highest = run.epoch.max(*highest);
    }

    pub(super) fn ended(&self, instance: InstanceId, host: HostId, at_ms: u64) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        if let Some(open) = book.open.get_mut(&instance) {
            open.retain(|&index| match book.runs.get_mut(index as usize) {
                Some(run) if run.host == host => {
                    run.until_ms = Some(at_ms);
                    false
                }
                _ => true,
            });
            if open.is_empty() {
                book.open.remove(&instance);
            }
        }
    }

    pub(super) fn opened(&self, volume: VolumeId, user: InstanceId, read_only: bool) {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let users = book.users.entry(volume).or_default();
        let rival = users.iter().find(|(other, theirs)| *other != user && !(*theirs && read_only));
        if let Some((first, _)) = rival {
            book.violations.push(Violation::TwoWriters { volume, first: *first, second: user });
        }
        users.push((user, read_only));
    }

    pub(super) fn closed(&self, volume: VolumeId, user: InstanceId) {
        let mut book = self.0.lock();
        if let Some(users) = book.users.get_mut(&volume) {
            users.retain(|(other, _)| *other != user);
            if users.is_empty() {
                book.users.remove(&volume);
            }
        }
    }

    /// A run begins to write to a volume that has what so many runs have written; what it has then.
    pub(super) fn wrote(&self, volume: VolumeId, host: HostId, had: u64) -> u64 {
        let mut guard = self.0.lock();
        let book = &mut *guard;
        let writes = book.writes.entry(volume).or_default();
        if had < *writes {
            book.violations.push(Violation::OldData { volume, host });
        }
        *writes = had + 1;
        *writes
    }

    /// So many runs have written to the newest data of a volume that is left; none when there is none.
    pub(super) fn newest(&self, volume: VolumeId, writes: Option<u64>) {
        match writes {
            Some(writes) => _ = self.0.lock().writes.insert(volume, writes),
            None => self.emptied(volume),
        }
    }

    /// What was in a volume is gone.
    pub(super) fn emptied(&self, volume: VolumeId) {
        self.0.lock().writes.remove(&volume);
    }

    pub(super) fn deleted(&self, volume: VolumeId) {
        self.0.lock().deleted.push(volume);
    }
}
