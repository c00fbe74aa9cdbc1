//! What one simulated host has, and the books of its memory and storage. Pure: no faults, no
//! hints, no clock.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::{
    catalogue::ImageVersions,
    host::Capacity,
    id::{InstanceId, VolumeId},
    machine::{CloudInit, Disk, GuestSeen, HostVolume, MachineSpec, VolumeCopy},
    units::{Epoch, Gib, Mib, Vcpus},
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{import::SimIncoming, memory::Load};
use crate::{
    Damage, HypervisorError, Machine, Marks, OffReason, Promised, Result, RunState, Statistics,
    Traffic, Volume, keeps, same_disks, same_shape,
};

/// What an agent says of a simulated guest, which boots at once.
const AGENT: GuestSeen = GuestSeen { agent: true, cloud_init: CloudInit::Done };

/// One machine; kept small, as there are many.
#[derive(Debug)]
pub(super) struct SimMachine {
    pub(super) definition: Arc<MachineSpec>,
    pub(super) marks: Marks,
    pub(super) run: RunState,
    /// Whether its guest stands still for want of room on the disk.
    pub(super) stalled: bool,
    /// How often it was started, and when it was last, in ms of its world.
    pub(super) incarnation: u64,
    pub(super) started_at_ms: u64,
    /// Whether it has memory of the host.
    pub(super) has_memory: bool,
    /// How far its guest was when it came from another host, as the ledger counts.
    pub(super) turn: u64,
    /// What its guest has said.
    pub(super) console: Vec<u8>,
    /// What its guest was let have last; all of it where that is none.
    pub(super) balloon: Option<Mib>,
    /// What its guest does with its memory.
    pub(super) load: Load,
}

#[derive(Debug)]
pub(super) struct SimVolume {
    pub(super) size: Gib,
    pub(super) class: Arc<str>,
    pub(super) serial: u64,
    /// Fingerprints of the keys that open it; none when it was made without.
    pub(super) keys: Vec<Box<str>>,
    /// Its file, of one that was imported.
    pub(super) file: Option<Arc<[u8]>>,
    /// How many runs have written to it: what is to be found in it.
    pub(super) writes: u64,
    pub(super) damage: Option<Damage>,
}

impl SimVolume {
    pub(super) fn seen(&self, volume: VolumeId) -> Volume {
        Volume { volume, size: self.size, damage: self.damage }
    }

    fn require_sound(&self, volume: VolumeId) -> Result<()> {
        let Some(damage) = self.damage else { return Ok(()) };
        let source = "a test has damaged it".into();
        Err(HypervisorError::Damaged { what: volume.to_string(), damage, source })
    }
}

#[derive(Debug, Default)]
pub(super) struct HostState {
    pub(super) machines: FxHashMap<InstanceId, SimMachine>,
    pub(super) volumes: FxHashMap<VolumeId, SimVolume>,
    pub(super) incoming: FxHashMap<VolumeId, SimIncoming>,
    pub(super) foreign: FxHashSet<InstanceId>,
    /// Fingerprints of the keys that were given.
    pub(super) keys: FxHashMap<VolumeId, Box<str>>,
    /// Whether volumes are made with a key from now on.
    pub(super) encrypts: bool,
    /// Whether all of it ends with this process.
    pub(super) is_fleeting: bool,
    /// Whether guests have no agent.
    pub(super) no_agents: bool,
    /// Whether guests have no room to grow while they run.
    pub(super) no_growth: bool,
    /// The images that it can boot; none for every one.
    pub(super) images: Option<ImageVersions>,
    /// Whether the disk that volumes are on has no room for what guests write.
    pub(super) disk_is_full: bool,
    storage_used: BTreeMap<Arc<str>, u64>,
    next_serial: u64,
}

impl HostState {
    pub(super) fn machine(&self, instance: InstanceId) -> Result<&SimMachine> {
        self.machines.get(&instance).ok_or_else(|| HypervisorError::not_found(instance))
    }

    pub(super) fn machine_mut(&mut self, instance: InstanceId) -> Result<&mut SimMachine> {
        self.machines.get_mut(&instance).ok_or_else(|| HypervisorError::not_found(instance))
    }

    pub(super) fn define(&mut self, spec: &Arc<MachineSpec>, marks: Marks) -> Result<()> {
        if self.foreign.contains(&spec.instance) {
            return Err(HypervisorError::Foreign { what: spec.instance.to_string() });
        }
        let Some(machine) = self.machines.get_mut(&spec.instance) else {
            let run = RunState::Off(OffReason::NeverStarted);
            let definition = Arc::clone(spec);
            let machine = SimMachine {
                definition,
                marks,
                run,
                stalled: false,
                incarnation: 0,
                started_at_ms: 0,
                has_memory: false,
                turn: 0,
                console: Vec::new(),
                balloon: None,
                load: Load::default(),
            };
            self.machines.insert(spec.instance, machine);
            return Ok(());
        };
        let old = &machine.definition;
        let changes_guest = !same_shape(old, spec) || !same_disks(old, spec);
        if machine.is_on() && changes_guest {
            return Err(HypervisorError::busy(spec.instance, "it runs with another shape"));
        }
        machine.definition = Arc::clone(spec);
        machine.marks = marks;
        Ok(())
    }

    /// Starts the machine; `false` when it ran already.
    pub(super) fn start(
        &mut self,
        instance: InstanceId,
        capacity: &Capacity,
        now_ms: u64,
    ) -> Result<bool> {
        let machine = self.machine(instance)?;
        if machine.is_on() {
            return Ok(false);
        }
        self.occupy(instance, capacity.memory)?;
        let machine = self.machine_mut(instance)?;
        machine.run = RunState::Running;
        machine.incarnation += 1;
        machine.started_at_ms = now_ms;
        Ok(true)
    }

    /// Has a machine take its memory anew, once its disks are seen to be there and free.
    pub(super) fn occupy(&mut self, instance: InstanceId, memory: Mib) -> Result<()> {
        self.check_disks(instance)?;
        let definition = Arc::clone(&self.machine(instance)?.definition);
        let others = self.with_memory().map(|other| other.definition.as_ref());
        others.chain([definition.as_ref()]).collect::<Promised>().check(memory)?;
        let machine = self.machine_mut(instance)?;
        (machine.balloon, machine.has_memory) = (None, true);
        Ok(())
    }

    /// Has a machine that runs grow.
    pub(super) fn resize(
        &mut self,
        instance: InstanceId,
        (vcpus, memory): (Vcpus, Mib),
        capacity: &Capacity,
    ) -> Result<()> {
        let machine = self.machine(instance)?;
        if machine.run != RunState::Running {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        let had = &machine.definition;
        if (had.vcpus, had.memory) == (vcpus, memory) {
            return Ok(());
        }
        if self.no_growth || vcpus < had.vcpus || memory < had.memory {
            return Err(HypervisorError::Unsupported { what: "resize this machine while it runs" });
        }
        let grown = MachineSpec { vcpus, memory, ..MachineSpec::clone(had) };
        let others = self.with_memory().map(|other| other.definition.as_ref());
        let others = others.filter(|other| other.instance != instance);
        others.chain([&grown]).collect::<Promised>().check(capacity.memory)?;
        self.machine_mut(instance)?.definition = Arc::new(grown);
        Ok(())
    }

    /// Has a machine that runs keep only this.
    pub(super) fn give_back(&mut self, instance: InstanceId, (vcpus, memory): (Vcpus, Mib)) {
        let Ok(machine) = self.machine_mut(instance) else { return };
        let had = Arc::make_mut(&mut machine.definition);
        if machine.run == RunState::Running && vcpus <= had.vcpus && memory <= had.memory {
            (had.vcpus, had.memory) = (vcpus, memory);
        }
    }

    /// That a machine's disks are there and free.
    pub(super) fn check_disks(&self, instance: InstanceId) -> Result<()> {
        let definition = &self.machine(instance)?.definition;
        definition.all_disks().try_for_each(|disk| self.check_disk(instance, disk))
    }

    /// Ends the machine; its definition, and whether its guest ran, when it was on.
    pub(super) fn end(
        &mut self,
        instance: InstanceId,
        reason: OffReason,
    ) -> Option<(Arc<MachineSpec>, bool)> {
        let machine = self.machines.get_mut(&instance)?;
        if !machine.is_on() {
            return None;
        }
        let ran = machine.run == RunState::Running;
        machine.run = RunState::Off(reason);
        (machine.has_memory, machine.balloon, machine.stalled) = (false, None, false);
        Some((Arc::clone(&machine.definition), ran))
    }

    /// That the disk's volume is there and free for this machine.
    pub(super) fn check_disk(&self, instance: InstanceId, disk: &Disk) -> Result<()> {
        let found = self.volumes.get(&disk.volume);
        let missing = || HypervisorError::not_found(disk.volume);
        found.ok_or_else(missing)?.require_sound(disk.volume)?;
        let taken = self
            .running()
            .any(|other| other.definition.instance != instance && keeps(&other.definition, disk));
        if taken {
            return Err(HypervisorError::busy(disk.volume, "another machine uses it"));
        }
        self.check_key(disk.volume)
    }

    pub(super) fn in_use(&self, volume: VolumeId) -> bool {
        self.running()
            .any(|machine| machine.definition.all_disks().any(|disk| disk.volume == volume))
    }

    /// Whether a machine is defined with the volume, among those that count.
    pub(super) fn is_named(
        &self,
        volume: VolumeId,
        among: impl Fn(InstanceId, Epoch) -> bool,
    ) -> bool {
        let machines = self.machines.iter();
        let mut machines =
            machines.filter(|(id, machine)| among(**id, machine.marks.epoch)).map(|(_, it)| it);
        machines.any(|machine| machine.definition.all_disks().any(|disk| disk.volume == volume))
    }

    pub(super) fn create_volume(&mut self, wish: &HostVolume, capacity: &Capacity) -> Result<()> {
        if self.volumes.contains_key(&wish.volume) {
            return Ok(());
        }
        let key = self.keys.get(&wish.volume).filter(|_| self.encrypts).cloned();
        if self.encrypts && key.is_none() {
            return Err(HypervisorError::KeyMissing { what: wish.volume.to_string() });
        }
        if let Some(VolumeCopy::Import(import)) = wish.copy {
            return self.finish_import(wish, &import, key);
        }
        if let Some(VolumeCopy::Of(source)) = wish.copy {
            let found = self.volumes.get(&source);
            let found = found.ok_or_else(|| HypervisorError::not_found(source))?;
            if found.size > wish.size {
                return Err(HypervisorError::busy(source, "it is larger than its copy"));
            }
            self.check_key(source)?;
        }
        let class = self.take_storage(&wish.class, wish.size.0, capacity)?;
        self.insert_volume(wish, class, key, None);
        Ok(())
    }

    pub(super) fn insert_volume(
        &mut self,
        wish: &HostVolume,
        class: Arc<str>,
        key: Option<Box<str>>,
        file: Option<Arc<[u8]>>,
    ) {
        self.next_serial += 1;
        let serial = self.next_serial;
        let (size, keys) = (wish.size, key.into_iter().collect());
        let made = SimVolume { size, class, serial, keys, file, writes: 0, damage: None };
        self.volumes.insert(wish.volume, made);
    }

    /// Whether the volume's key is here and one that opens it.
    fn check_key(&self, volume: VolumeId) -> Result<()> {
        let opened_by = self.volumes.get(&volume).map_or(&[][..], |found| &found.keys);
        let what = || volume.to_string();
        match self.keys.get(&volume) {
            _ if opened_by.is_empty() => Ok(()),
            None => Err(HypervisorError::KeyMissing { what: what() }),
            Some(given) if opened_by.contains(given) => Ok(()),
            Some(_) => Err(HypervisorError::KeyWrong { what: what() }),
        }
    }

    /// Whether the key with this fingerprint opens a volume.
    pub(super) fn key_opens(&self, volume: VolumeId, key: &str) -> Result<bool> {
        let found = self.volumes.get(&volume);
        let found = found.ok_or_else(|| HypervisorError::not_found(volume))?;
        Ok(found.keys.is_empty() || found.keys.iter().any(|has| **has == *key))
    }

    /// Has a second key open a volume that one of the two opens.
    pub(super) fn add_key(&mut self, volume: VolumeId, old: &str, new: &str) -> Result<()> {
        let found = self.volumes.get_mut(&volume);
        let found = found.ok_or_else(|| HypervisorError::not_found(volume))?;
        let opens = |key: &str| found.keys.iter().any(|has| **has == *key);
        if found.keys.is_empty() || opens(new) {
            return Ok(());
        }
        if !opens(old) {
            return Err(HypervisorError::KeyWrong { what: volume.to_string() });
        }
        found.keys.push(new.into());
        Ok(())
    }

    /// Has nothing but the new key open a volume; that is the one in memory from now on.
    pub(super) fn remove_other_keys(&mut self, volume: VolumeId, new: &str) -> Result<()> {
        let found = self.volumes.get_mut(&volume);
        let found = found.ok_or_else(|| HypervisorError::not_found(volume))?;
        found.keys.retain(|has| **has == *new);
        self.keys.insert(volume, new.into());
        Ok(())
    }

    pub(super) fn grow_volume(
        &mut self,
        volume: VolumeId,
        size: Gib,
        capacity: &Capacity,
    ) -> Result<()> {
        let Some(found) = self.volumes.get(&volume) else {
            return Err(HypervisorError::not_found(volume));
        };
        found.require_sound(volume)?;
        if found.size >= size {
            return Ok(());
        }
        self.check_key(volume)?;
        let Some(found) = self.volumes.get(&volume) else { return Ok(()) };
        let (class, more) = (Arc::clone(&found.class), size.0 - found.size.0);
        self.take_storage(&class, more, capacity)?;
        if let Some(found) = self.volumes.get_mut(&volume) {
            found.size = size;
        }
        Ok(())
    }

    /// Deletes the volume; `false` when there was none.
    pub(super) fn delete_volume(&mut self, volume: VolumeId) -> Result<bool> {
        if self.in_use(volume) {
            return Err(HypervisorError::busy(volume, "a running machine uses it"));
        }
        let Some(gone) = self.volumes.remove(&volume) else { return Ok(false) };
        self.give_storage_back(&gone.class, gone.size);
        Ok(true)
    }

    pub(super) fn give_storage_back(&mut self, class: &Arc<str>, size: Gib) {
        if let Some(used) = self.storage_used.get_mut(class) {
            *used -= size.0;
        }
    }

    /// The machines that have memory of the host's.
    fn with_memory(&self) -> impl Iterator<Item = &SimMachine> {
        self.machines.values().filter(|machine| machine.has_memory)
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &SimMachine> {
        self.machines.values().filter(|machine| machine.is_on())
    }

    pub(super) fn take_storage(
        &mut self,
        class: &str,
        gib: u64,
        capacity: &Capacity,
    ) -> Result<Arc<str>> {
        let most = capacity.storage.get(class).map_or(0, |gib| gib.0);
        let used = self.storage_used.get(class).copied().unwrap_or(0);
        if used + gib > most {
            return Err(HypervisorError::Full { what: format!("storage of class `{class}`") });
        }
        let class = match self.storage_used.get_key_value(class) {
            Some((class, _)) => Arc::clone(class),
            None => Arc::from(class),
        };
        self.storage_used.insert(Arc::clone(&class), used + gib);
        Ok(class)
    }
}

impl SimMachine {
    /// Whether it runs or is on its way here.
    pub(super) const fn is_on(&self) -> bool {
        !matches!(self.run, RunState::Off(_))
    }

    /// `agents`: whether guests have an agent.
    pub(super) fn seen(&self, agents: bool) -> Machine {
        let running = self.run == RunState::Running;
        let instance = self.definition.instance;
        Machine {
            definition: Arc::clone(&self.definition),
            marks: self.marks,
            run: self.run,
            stalled: self.stalled,
            addresses: if running { vec![address(instance)] } else { Vec::new() },
            guest: if running && agents { AGENT } else { GuestSeen::default() },
        }
    }
}

impl SimMachine {
    /// A guest that keeps its processors busy, and neither reads nor writes.
    pub(super) fn statistics(&self, now_ms: u64) -> Option<Statistics> {
        if self.run != RunState::Running {
            return None;
        }
        let definition = &self.definition;
        let ran_ns = now_ms.saturating_sub(self.started_at_ms).saturating_mul(1_000_000);
        let disks = definition.all_disks();
        Some(Statistics {
            incarnation: self.incarnation,
            cpu_ns: ran_ns.saturating_mul(u64::from(definition.vcpus.0)),
            memory_bytes: self.has().0 << 20,
            volumes: disks.map(|disk| (disk.volume, Traffic::default())).collect(),
            network: Traffic::default(),
        })
    }
}

/// A unique local IPv6 address made of the id's random bits: the same at every start.
fn address(instance: InstanceId) -> String {
    let random = instance.ulid().random();
    let [.., a, b, c, d, e, f, g, h] = random.to_be_bytes();
    let group = |high, low| u16::from_be_bytes([high, low]);
    std::net::Ipv6Addr::new(
        0xfdfa,
        0x1a20,
        0,
        0,
        group(a, b),
        group(c, d),
        group(e, f),
        group(g, h),
    )
    .to_string()
}
