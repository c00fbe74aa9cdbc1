//! The simulated world: its hosts, its clock, its ledger, and what befalls machines by themselves.

use std::sync::Arc;

use fairmazon_model::{
    host::Capacity,
    id::{HostId, InstanceId, VolumeId},
};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::{
    host::{HostCell, SimHost},
    ledger::Ledger,
};
use crate::OffReason;

/// Tells the time of a world in ms, from any origin.
pub type WorldClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// All simulated hosts. Outlives every agent.
pub struct World {
    clock: WorldClock,
    ledger: Ledger,
    hosts: RwLock<FxHashMap<HostId, Arc<HostCell>>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("hosts", &self.hosts.read().len()).finish_non_exhaustive()
    }
}

impl World {
    /// An empty world under this clock.
    pub fn new(clock: WorldClock) -> Arc<Self> {
        Arc::new(Self { clock, ledger: Ledger::default(), hosts: RwLock::default() })
    }

    /// Adds a host, or gives the one that is there already; its capacity then stays.
    pub fn add_host(self: &Arc<Self>, host: HostId, capacity: Capacity) -> SimHost {
        let cell = Arc::clone(
            self.hosts
                .write()
                .entry(host)
                .or_insert_with(|| Arc::new(HostCell::new(host, capacity))),
        );
        SimHost::new(Arc::clone(self), cell)
    }

    /// The ledger of all that happened.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The guest shuts down by itself.
    pub fn guest_powers_off(&self, host: HostId, instance: InstanceId) {
        self.with(host, |cell| cell.end(self, instance, OffReason::Guest));
    }

    /// The guest crashes.
    pub fn guest_crashes(&self, host: HostId, instance: InstanceId) {
        self.with(host, |cell| cell.end(self, instance, OffReason::Crashed));
    }

    /// The host loses power: every machine on it is off, definitions and volumes stay.
    pub fn host_loses_power(&self, host: HostId) {
        self.with(host, |cell| cell.end_all(self, OffReason::Host));
    }

    /// The host is lost for good with all it has, also where it is seen again: what others have of its
    /// volumes is the newest that there is.
    pub fn host_is_lost(&self, host: HostId) {
        let hosts = self.hosts.read();
        let Some(lost) = hosts.get(&host) else { return };
        let others = || hosts.iter().filter(|(id, _)| **id != host).map(|(_, cell)| cell);
        for volume in lost.volumes() {
            let newest = others().filter_map(|cell| cell.writes(volume)).max();
            self.ledger.newest(volume, newest);
        }
    }

    /// Something that the platform did not make takes a machine's place at this host.
    pub fn add_foreign(&self, host: HostId, instance: InstanceId) {
        self.with(host, |cell| cell.add_foreign(instance));
    }

    /// Whether what [`World::add_foreign`] made is still as it was.
    pub fn foreign_is_untouched(&self, host: HostId, instance: InstanceId) -> bool {
        self.hosts.read().get(&host).is_some_and(|cell| cell.has_foreign(instance))
    }

    /// A number that no other making of a volume has; none when it is not there.
    pub fn volume_serial(&self, host: HostId, volume: VolumeId) -> Option<u64> {
        self.hosts.read().get(&host).and_then(|cell| cell.volume_serial(volume))
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    fn with(&self, host: HostId, act: impl FnOnce(&HostCell)) {
        let cell = self.hosts.read().get(&host).map(Arc::clone);
        if let Some(cell) = cell {
            act(&cell);
        }
    }
}
