//! One simulated host as a [`Hypervisor`]: asks for the fault, does it to the state, tells the
//! ledger and the listeners.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fairmazon_model::{
    console::CONSOLE_MAX,
    host::Capacity,
    id::{HostId, InstanceId, VolumeId},
    machine::{Disk, HostVolume, MachineSpec},
    units::{Gib, Mib, Vcpus},
};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    World,
    fault::{Call, Fault, Faults, Verb},
    ledger::Run,
    state::HostState,
};
use crate::{
    Channels, Description, Features, Halt, Hint, HostMemory, Hypervisor, HypervisorError,
    Inventory, KeyChange, Landing, Machine, MachineMemory, Marks, OffReason, Result, RunState,
    Statistics, Volume, VolumeFile, VolumeKey, VolumeSink,
};

/// Hints that a slow listener may be behind before it has to look at all.
const HINTS_KEPT: usize = 16;
pub(super) struct HostCell {
    pub(super) id: HostId,
    pub(super) capacity: Capacity,
    pub(super) state: Mutex<HostState>,
    hints: broadcast::Sender<Hint>,
    calls: AtomicU64,
    faults: Mutex<Option<Arc<dyn Faults>>>,
    stop_takes: Mutex<Option<Duration>>,
}

/// A simulated host's hypervisor. Cheap to clone; all clones are the same host.
#[derive(Clone)]
pub struct SimHost {
    world: Arc<World>,
    pub(super) cell: Arc<HostCell>,
}

impl std::fmt::Debug for SimHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SimHost").field(&self.cell.id).finish()
    }
}

impl SimHost {
    pub(super) fn new(world: Arc<World>, cell: Arc<HostCell>) -> Self {
        Self { world, cell }
    }

    /// From now on every call's fault is asked of `faults`.
    pub fn set_faults(&self, faults: impl Faults + 'static) {
        *self.cell.faults.lock() = Some(Arc::new(faults));
    }

    /// From now on every call is done.
    pub fn clear_faults(&self) {
        *self.cell.faults.lock() = None;
    }

    /// How long guests take to shut down when asked; `None`: they never do. At first no time.
    pub fn set_stop_takes(&self, time: Option<Duration>) {
        *self.cell.stop_takes.lock() = time;
    }

    /// The guest of a machine says this on its serial console; nothing when there is no machine.
    pub fn say(&self, instance: InstanceId, text: &str) {
        if let Ok(machine) = self.cell.state.lock().machine_mut(instance) {
            machine.console.extend_from_slice(text.as_bytes());
            let more = machine.console.len().saturating_sub(CONSOLE_MAX);
            machine.console.drain(..more);
        }
    }

    /// Whether guests have an agent that answers. At first they have.
    pub fn set_agents(&self, agents: bool) {
        self.cell.state.lock().no_agents = !agents;
        self.cell.hint(Hint::All);
    }

    /// Whether running machines can grow. At first they can; those that can't need a restart.
    pub fn set_growth(&self, growth: bool) {
        self.cell.state.lock().no_growth = !growth;
    }

    /// The guest of a running machine unplugs all but this; nothing when there is no such machine.
    pub fn give_back(&self, instance: InstanceId, vcpus: Vcpus, memory: Mib) {
        self.cell.state.lock().give_back(instance, (vcpus, memory));
        self.cell.hint(Hint::Machine(instance));
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> u64 {
        self.cell.calls.load(Ordering::Relaxed)
    }

    /// Does `act` under the fault that was asked for.
    async fn call<T>(&self, verb: Verb, act: impl FnOnce() -> Result<T> + Send) -> Result<T>
    where
        T: Send,
    {
        let number = self.cell.calls.fetch_add(1, Ordering::Relaxed);
        let faults = self.cell.faults.lock().clone();
        let Some(faults) = faults else { return act() };
        match faults.decide(&Call { host: self.cell.id, verb, number }) {
            Fault::None => act(),
            Fault::Fail(error) => Err(error),
            Fault::FailAfter(error) => act().and(Err(error)),
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                act()
            }
            Fault::Hang => std::future::pending().await,
            Fault::HangAfter => {
                drop(act());
                std::future::pending().await
            }
        }
    }

    fn hint(&self, hint: Hint) {
        self.cell.hint(hint);
    }
}

#[async_trait]
impl Hypervisor for SimHost {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn features(&self) -> Features {
        let state = self.cell.state.lock();
        Features {
            hotplug: true,
            grow: true,
            resize: true,
            durable: !state.is_fleeting,
            encrypts: state.encrypts,
            migration: true,
            balloon: true,
            accelerator: "",
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.call(Verb::Look, || Ok(self.cell.capacity.clone())).await
    }

    async fn inventory(&self) -> Result<Inventory> {
        self.call(Verb::Look, || Ok(self.cell.inventory())).await
    }

    async fn machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        let look = || {
            let state = self.cell.state.lock();
            Ok(state.machine(instance).ok().map(|found| found.seen(!state.no_agents)))
        };
        self.call(Verb::Look, look).await
    }

    async fn volume(&self, volume: VolumeId) -> Result<Option<Volume>> {
        let look = || {
            let state = self.cell.state.lock();
            Ok(state.volumes.get(&volume).map(|found| found.seen(volume)))
        };
        self.call(Verb::Look, look).await
    }

    async fn define(&self, spec: &Arc<MachineSpec>, marks: Marks) -> Result<()> {
        let define = || {
            let mut state = self.cell.state.lock();
            let is_new = state.machine(spec.instance).is_err();
            state.define(spec, marks)?;
            // Placed here anew, it begins with what is made here; one that comes brings its data, and
            // what has no image is defined for volumes that have some.
            let is_last = self.world.ledger().is_last(spec.instance, marks.epoch);
            if is_new && is_last && marks.halt != Halt::Arriving && !spec.image.is_empty() {
                for disk in spec.all_disks() {
                    if state.volumes.get(&disk.volume).is_none_or(|found| found.writes == 0) {
                        self.world.ledger().emptied(disk.volume);
                    }
                }
            }
            Ok(())
        };
        self.call(Verb::Define, define).await?;
        self.hint(Hint::Machine(spec.instance));
        Ok(())
    }

    async fn mark(&self, instance: InstanceId, marks: Marks) -> Result<()> {
        let mark = || {
            self.cell.state.lock().machine_mut(instance)?.marks = marks;
            Ok(())
        };
        self.call(Verb::Mark, mark).await
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        self.call(Verb::Start, || self.cell.start(&self.world, instance)).await
    }

    async fn ask_to_stop(&self, instance: InstanceId) -> Result<()> {
        self.call(Verb::AskToStop, || self.cell.ask_to_stop(&self.world, instance)).await
    }

    async fn force_stop(&self, instance: InstanceId) -> Result<()> {
        let stop = || {
            let runs = self.cell.state.lock().machine(instance)?.run == RunState::Running;
            if runs {
                let at_ms = self.world.now_ms();
                self.world.ledger().forced_off(instance, self.cell.id, at_ms);
            }
            self.cell.end(&self.world, instance, OffReason::Host);
            Ok(())
        };
        self.call(Verb::ForceStop, stop).await
    }

    async fn undefine(&self, instance: InstanceId) -> Result<()> {
        let undefine = || {
            let mut state = self.cell.state.lock();
            match state.machine(instance) {
                Err(_) => Ok(()),
                Ok(found) if found.is_on() => Err(HypervisorError::busy(instance, "it runs")),
                Ok(_) => {
                    state.machines.remove(&instance);
                    Ok(())
                }
            }
        };
        self.call(Verb::Undefine, undefine).await?;
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    // Not under a fault: it neither is nor sees a step of anything.
    async fn console(&self, instance: InstanceId) -> Result<Vec<u8>> {
        let state = self.cell.state.lock();
        Ok(state.machine(instance).map(|found| found.console.clone()).unwrap_or_default())
    }

    async fn statistics(&self, instance: InstanceId) -> Result<Option<Statistics>> {
        let now_ms = self.world.now_ms();
        let look = || {
            let state = self.cell.state.lock();
            Ok(state.machine(instance).ok().and_then(|found| found.statistics(now_ms)))
        };
        self.call(Verb::Look, look).await
    }

    async fn memory(&self) -> Result<HostMemory> {
        let capacity = self.cell.capacity.memory;
        self.call(Verb::Memory, || Ok(self.cell.state.lock().memory(capacity))).await
    }

    async fn guest_memory(&self, instance: InstanceId) -> Result<MachineMemory> {
        self.answers(instance).await;
        self.call(Verb::GuestMemory, || self.cell.state.lock().guest_memory(instance)).await
    }

    async fn set_balloon(&self, instance: InstanceId, has: Mib) -> Result<()> {
        self.answers(instance).await;
        let set = || self.cell.state.lock().set_balloon(instance, has);
        self.call(Verb::SetBalloon, set).await
    }

    async fn give_key(&self, volume: VolumeId, key: VolumeKey) -> Result<()> {
        let give = || {
            self.cell.state.lock().keys.insert(volume, key.fingerprint().into());
            Ok(())
        };
        self.call(Verb::GiveKey, give).await
    }

    async fn forget_key(&self, volume: VolumeId) -> Result<()> {
        let forget = || {
            self.cell.state.lock().keys.remove(&volume);
            Ok(())
        };
        self.call(Verb::ForgetKey, forget).await
    }

    async fn change_key(&self, volume: VolumeId, keys: KeyChange) -> Result<()> {
        let (old, new) = (keys.old.fingerprint(), keys.new.fingerprint());
        let add = || self.cell.state.lock().add_key(volume, &old, &new);
        self.call(Verb::AddKey, add).await?;
        let remove = || self.cell.state.lock().remove_other_keys(volume, &new);
        self.call(Verb::RemoveKey, remove).await
    }

    async fn key_opens(&self, volume: VolumeId, key: VolumeKey) -> Result<bool> {
        let opens = || self.cell.state.lock().key_opens(volume, &key.fingerprint());
        self.call(Verb::Look, opens).await
    }

    async fn create_volume(&self, volume: &HostVolume) -> Result<()> {
        let create = || self.cell.state.lock().create_volume(volume, &self.cell.capacity);
        self.call(Verb::CreateVolume, create).await?;
        self.hint(Hint::Volume(volume.volume));
        Ok(())
    }

    async fn grow_volume(&self, volume: VolumeId, size: Gib) -> Result<()> {
        let grow = || self.cell.state.lock().grow_volume(volume, size, &self.cell.capacity);
        self.call(Verb::GrowVolume, grow).await?;
        self.hint(Hint::Volume(volume));
        Ok(())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        let delete = || {
            let mut state = self.cell.state.lock();
            if state.delete_volume(volume)? {
                self.world.ledger().deleted(volume);
                // Its machine is rebuilt, or is not started any more.
                let last = |instance, epoch| self.world.ledger().is_last(instance, epoch);
                if state.is_named(volume, last) {
                    self.world.ledger().emptied(volume);
                }
            }
            Ok(())
        };
        self.call(Verb::DeleteVolume, delete).await?;
        self.hint(Hint::Volume(volume));
        Ok(())
    }

    /// Bytes that are another volume's in no place, and the same each time.
    async fn read_volume(&self, volume: VolumeId, offset: u64) -> Result<VolumeFile> {
        let is_there = || self.cell.state.lock().volumes.contains_key(&volume);
        let find = || is_there().then_some(()).ok_or_else(|| HypervisorError::not_found(volume));
        self.call(Verb::ReadVolume, find).await?;
        let file = self.cell.state.lock().file(volume);
        let bytes = file.len() as u64;
        let mut reader = std::io::Cursor::new(file);
        reader.set_position(offset.min(bytes));
        Ok(VolumeFile { bytes, reader: Box::new(reader) })
    }

    async fn begin_import(&self, volume: &HostVolume) -> Result<VolumeSink> {
        let begin = || self.cell.state.lock().begin_import(volume, &self.cell.capacity);
        self.call(Verb::BeginImport, begin).await
    }

    async fn drop_import(&self, volume: VolumeId) -> Result<()> {
        self.call(Verb::DropImport, || self.cell.state.lock().drop_import(volume)).await
    }

    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<()> {
        self.call(Verb::Attach, || self.cell.attach(&self.world, instance, disk)).await
    }

    async fn detach(&self, instance: InstanceId, disk: &str) -> Result<()> {
        self.call(Verb::Detach, || self.cell.detach(&self.world, instance, disk)).await
    }

    async fn resize(&self, instance: InstanceId, vcpus: Vcpus, memory: Mib) -> Result<()> {
        let size = (vcpus, memory);
        let resize = || self.cell.state.lock().resize(instance, size, &self.cell.capacity);
        self.call(Verb::Resize, resize).await?;
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    async fn hold(&self, instance: InstanceId) -> Result<()> {
        self.call(Verb::Hold, || self.cell.state.lock().hold(instance)).await?;
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    async fn describe(&self, instance: InstanceId) -> Result<Description> {
        self.call(Verb::Describe, || self.cell.state.lock().describe(instance)).await
    }

    async fn prepare(&self, instance: InstanceId, description: &[u8]) -> Result<Landing> {
        let prepare = || self.cell.prepare(&self.world, instance, description);
        self.call(Verb::Prepare, prepare).await
    }

    async fn depart(
        &self,
        instance: InstanceId,
        _: &[u8],
        channels: Arc<dyn Channels>,
        give_up: CancellationToken,
    ) -> Result<()> {
        // A fault before; those on the way are the channels'.
        self.call(Verb::Depart, || Ok(())).await?;
        self.cell.depart(&self.world, instance, channels, give_up).await?;
        // Two steps, as of a driver whose agent ends between them.
        let left = || {
            self.cell.state.lock().machine_mut(instance)?.marks.halt = Halt::Left;
            Ok(())
        };
        self.call(Verb::Mark, left).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<()> {
        self.call(Verb::Resume, || self.cell.resume(&self.world, instance)).await
    }

    async fn refuse(&self, instance: InstanceId) -> Result<()> {
        let refuse = || {
            self.cell.refuse(&self.world, instance);
            Ok(())
        };
        self.call(Verb::Refuse, refuse).await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.cell.hints.subscribe()
    }
}

impl HostCell {
    pub(super) fn new(id: HostId, capacity: Capacity) -> Self {
        Self {
            id,
            capacity,
            state: Mutex::default(),
            hints: broadcast::Sender::new(HINTS_KEPT),
            calls: AtomicU64::new(0),
            faults: Mutex::default(),
            stop_takes: Mutex::new(Some(Duration::ZERO)),
        }
    }

    /// Ends a machine as from outside or by itself; nothing when it is off already.
    pub(super) fn end(&self, world: &World, instance: InstanceId, reason: OffReason) {
        let ended = self.state.lock().end(instance, reason);
        if let Some((definition, ran)) = ended {
            if ran {
                world.ledger().ended(instance, self.id, world.now_ms());
                for disk in definition.all_disks() {
                    world.ledger().closed(disk.volume, instance);
                }
            }
            self.hint(Hint::Machine(instance));
        }
    }

    pub(super) fn end_all(&self, world: &World, reason: OffReason) {
        let all: Vec<_> = self.state.lock().machines.keys().copied().collect();
        all.into_iter().for_each(|instance| self.end(world, instance, reason));
    }

    pub(super) fn volumes(&self) -> Vec<VolumeId> {
        self.state.lock().volumes.keys().copied().collect()
    }

    /// How many runs have written to a volume's data, wherever it was then; none where there is no
    /// such volume.
    pub(super) fn writes(&self, volume: VolumeId) -> Option<u64> {
        self.state.lock().volumes.get(&volume).map(|found| found.writes)
    }

    pub(super) fn add_foreign(&self, instance: InstanceId) {
        self.state.lock().foreign.insert(instance);
    }

    pub(super) fn has_foreign(&self, instance: InstanceId) -> bool {
        let state = self.state.lock();
        state.foreign.contains(&instance) && !state.machines.contains_key(&instance)
    }

    pub(super) fn volume_serial(&self, volume: VolumeId) -> Option<u64> {
        self.state.lock().volumes.get(&volume).map(|found| found.serial)
    }

    fn inventory(&self) -> Inventory {
        let state = self.state.lock();
        let mut machines: Vec<_> =
            state.machines.values().map(|found| found.seen(!state.no_agents)).collect();
        machines.sort_unstable_by_key(Machine::instance);
        let mut volumes: Vec<_> =
            state.volumes.iter().map(|(&volume, found)| found.seen(volume)).collect();
        volumes.sort_unstable_by_key(|found| found.volume);
        let incoming = state.incoming();
        Inventory {
            machines,
            volumes,
            incoming,
            foreign: state.foreign.len(),
            images: state.images.clone(),
        }
    }

    fn start(&self, world: &World, instance: InstanceId) -> Result<()> {
        let mut state = self.state.lock();
        if !state.start(instance, &self.capacity, world.now_ms())? {
            return Ok(());
        }
        // Told to the ledger before anybody else can see the machine run.
        self.now_runs(world, &mut state, instance)?;
        drop(state);
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    /// The guest of a machine begins or goes on to run here, and writes to its disks.
    pub(super) fn now_runs(
        &self,
        world: &World,
        state: &mut HostState,
        instance: InstanceId,
    ) -> Result<()> {
        let machine = state.machine(instance)?;
        let definition = Arc::clone(&machine.definition);
        world.ledger().started(Run {
            instance,
            host: self.id,
            epoch: machine.marks.epoch,
            from_ms: world.now_ms(),
            until_ms: None,
        });
        for disk in definition.all_disks() {
            world.ledger().opened(disk.volume, instance, disk.read_only);
            if let Some(found) = state.volumes.get_mut(&disk.volume).filter(|_| !disk.read_only) {
                found.writes = world.ledger().wrote(disk.volume, self.id, found.writes);
            }
        }
        Ok(())
    }

    fn ask_to_stop(self: &Arc<Self>, world: &Arc<World>, instance: InstanceId) -> Result<()> {
        if self.state.lock().machine(instance)?.run != RunState::Running {
            return Ok(());
        }
        world.ledger().asked(instance, world.now_ms());
        match *self.stop_takes.lock() {
            None => {}
            Some(Duration::ZERO) => self.end(world, instance, OffReason::Guest),
            Some(time) => {
                let (cell, world) = (Arc::clone(self), Arc::clone(world));
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    cell.end(&world, instance, OffReason::Guest);
                });
            }
        }
        Ok(())
    }

    fn attach(&self, world: &World, instance: InstanceId, disk: &Disk) -> Result<()> {
        let mut state = self.state.lock();
        if state.machine(instance)?.definition.disks.contains(disk) {
            return Ok(());
        }
        state.check_disk(instance, disk)?;
        let machine = state.machine_mut(instance)?;
        let definition = Arc::make_mut(&mut machine.definition);
        if definition.disks.iter().any(|other| other.name == disk.name) {
            return Err(HypervisorError::busy(instance, "another disk has this name"));
        }
        definition.disks.push(disk.clone());
        if machine.run == RunState::Running {
            world.ledger().opened(disk.volume, instance, disk.read_only);
        }
        drop(state);
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    fn detach(&self, world: &World, instance: InstanceId, disk: &str) -> Result<()> {
        let mut state = self.state.lock();
        let definition = Arc::make_mut(&mut state.machine_mut(instance)?.definition);
        let Some(index) = definition.disks.iter().position(|other| other.name == disk) else {
            return Ok(());
        };
        let gone = definition.disks.remove(index);
        world.ledger().closed(gone.volume, instance);
        drop(state);
        self.hint(Hint::Machine(instance));
        Ok(())
    }

    pub(super) fn hint(&self, hint: Hint) {
        // Nobody listening is no failure: a listener that comes later looks at all first.
        let _ = self.hints.send(hint);
    }
}
