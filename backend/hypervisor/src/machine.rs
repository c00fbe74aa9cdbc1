//! What a hypervisor has: machines with their marks, volumes, features, hints. Plain data.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_keys::VolumeKey;
use fairmazon_model::{
    catalogue::ImageVersions,
    id::{InstanceId, VolumeId},
    machine::{Disk, GuestSeen, MachineSpec},
    units::{Epoch, Gib},
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// What is written beside a machine, in the hypervisor itself, so that an agent that knows
/// nothing but what it finds there goes on where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Marks {
    /// The run that its lease is for.
    pub epoch: Epoch,
    /// The version of the spec that is brought about in full; 0 while none is.
    pub spec_version: u64,
    /// The counted wishes that are done.
    pub done: Counters,
    /// All volumes of its definition have been there: one that is not there now was lost.
    pub whole: bool,
    /// What the platform did last about its running.
    pub halt: Halt,
}

/// Counted wishes: each is done once when the spec's count is above this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Reboots.
    pub reboots: u64,
    /// Rebuilds of the boot volume.
    pub rebuilds: u64,
    /// Starts that are a first boot to the guest.
    pub first_boots: u64,
}

impl Counters {
    /// The counts that the spec asks for.
    pub fn wished(spec: &MachineSpec) -> Self {
        Self { reboots: spec.reboots, rebuilds: spec.rebuilds, first_boots: spec.first_boots }
    }
}

/// What the platform did last about a machine's running. Written before a stop is asked for and
/// after a start, so that a machine found off under `Started` has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Halt {
    /// Nothing speaks against starting it.
    #[default]
    Idle,
    /// The platform has started it.
    Started,
    /// The platform is stopping it, and it is to be off before anything else happens.
    Stopping,
    /// The platform sends it to another host. Found off, it may run there, unless a new epoch says
    /// that it does not.
    Leaving,
    /// It has been handed over to another host, and runs here under a new epoch at most.
    Left,
    /// It is off, and the platform holds it to send it to another host. Found off, its guest has
    /// not run since, wherever it may be beside here.
    Held,
    /// It comes from another host, and was never let run here in this epoch.
    Arriving,
}

/// A defined machine as its hypervisor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// As it was defined; `disks` are those that are attached.
    pub definition: Arc<MachineSpec>,
    /// The marks.
    pub marks: Marks,
    /// Whether it runs.
    pub run: RunState,
    /// Its guest stands still, since the host's disk had no room for what it wrote. Nothing of that
    /// is lost: it is written when [`Hypervisor::resume`](crate::Hypervisor::resume) lets the guest
    /// go on. Only with [`RunState::Running`].
    pub stalled: bool,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<String>,
    /// What the agent in its guest has said in this run.
    pub guest: GuestSeen,
}

impl Machine {
    /// Which instance it is.
    pub fn instance(&self) -> InstanceId {
        self.definition.instance
    }

    /// Whether it runs, is held, or is on its way here: its volumes are in use.
    pub fn runs(&self) -> bool {
        !matches!(self.run, RunState::Off(_))
    }

    /// Whether the volume is one of its disks, boot included; with the right to write or not.
    pub fn uses(&self, volume: VolumeId) -> Option<Access> {
        let mut disks = self.definition.all_disks();
        let disk = disks.find(|disk| disk.volume == volume)?;
        Some(if disk.read_only { Access::Read } else { Access::Write })
    }
}

/// What a machine has used. Counters begin at zero with each incarnation, so that what was used
/// between two looks is their difference when both have the same one, and the later look's counts
/// when not; what was used between the earlier look and the end of its incarnation is then lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Which run of the machine's process this is: above that of every earlier run.
    pub incarnation: u64,
    /// Time of processors, in ns.
    pub cpu_ns: u64,
    /// Memory that the guest has now, in bytes.
    pub memory_bytes: u64,
    /// What was read from and written to each volume.
    pub volumes: BTreeMap<VolumeId, Traffic>,
    /// What came and went over its network cards.
    pub network: Traffic,
}

/// Bytes in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Read or received by the guest.
    pub read_bytes: u64,
    /// Written or sent by the guest.
    pub written_bytes: u64,
}

/// How a machine uses a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without the right to write.
    Read,
    /// With it.
    Write,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It runs, or is paused or shutting down: it may write to its volumes.
    Running,
    /// It is there to be sent to another host, and its guest was not let run: see
    /// [`Hypervisor::hold`](crate::Hypervisor::hold).
    Held,
    /// It is coming from another host, and not all of it is here.
    Incoming,
    /// All of it has come from another host; it waits for [`Hypervisor::resume`](crate::Hypervisor::resume).
    Arrived,
    /// It can't be read what it does: it may write to its volumes, and may have come or gone.
    /// Nothing is concluded from it, and nothing done to it but to end it.
    Unread,
    /// It does not, for this reason.
    Off(OffReason),
}

/// Why a machine is off, as far as the hypervisor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffReason {
    /// It was defined and not started since.
    NeverStarted,
    /// Its guest shut down, asked or not.
    Guest,
    /// Its guest crashed.
    Crashed,
    /// It was handed over to another host.
    Moved,
    /// Ended from outside: by force, by a restart of the host, or for an unknown reason.
    Host,
}

/// A volume as its hypervisor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Which volume.
    pub volume: VolumeId,
    /// Its size; of one whose file does not say it what that takes, or less.
    pub size: Gib,
    /// Why its data can't be used. It is there all the same, and nothing is made in its place.
    pub damage: Option<Damage>,
}

/// Why the data of a volume that is there can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Its file is cut off, or its header is damaged.
    Cut,
    /// The keys in its file are destroyed: none that was ever given opens it any more.
    Keys,
    /// Its file can't be read.
    Unreadable,
}

impl Damage {
    /// What its customer is told, to follow the volume's id or a word for it.
    pub const fn for_customer(self) -> &'static str {
        match self {
            Self::Cut => {
                "its file on the host is damaged; it is kept as it is: ask the host's operator to \
                 repair it, or delete the volume"
            }
            Self::Keys => {
                "the keys in its file on the host are destroyed, so that none opens it; it is kept as it \
                 is: ask the host's operator to restore the file, or delete the volume"
            }
            Self::Unreadable => {
                "its file on the host can't be read; it is kept as it is: ask the host's operator to \
                 repair the disk, or delete the volume"
            }
        }
    }
}

/// The keys of a volume whose key is exchanged.
#[derive(Debug)]
pub struct KeyChange {
    /// The one that opens it before.
    pub old: VolumeKey,
    /// The one that opens it afterwards.
    pub new: VolumeKey,
}

/// The file of a volume, from an offset on.
pub struct VolumeFile {
    /// All that it has, also before the offset.
    pub bytes: u64,
    /// What it has from there on.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
}

/// Where the file of a volume that is imported goes.
pub struct VolumeSink {
    /// How many bytes of it are there.
    pub offset: u64,
    /// Takes those that follow; what was flushed is counted from then on.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// What is there of the file of a volume that is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// Whose file.
    pub volume: VolumeId,
    /// How many bytes of it.
    pub bytes: u64,
}

/// All that the platform has on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Machines, in the order of their ids.
    pub machines: Vec<Machine>,
    /// Volumes, in the order of their ids.
    pub volumes: Vec<Volume>,
    /// Files of volumes that are imported and are none yet, in the order of their ids.
    pub incoming: Vec<Incoming>,
    /// How many machines there are that the platform did not make and does not touch.
    pub foreign: usize,
    /// The images that it can boot; none where it has every one.
    pub images: Option<ImageVersions>,
}

/// What a driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Disks come and go while a machine runs.
    pub hotplug: bool,
    /// Volumes grow.
    pub grow: bool,
    /// Running machines get more processors and memory.
    pub resize: bool,
    /// Machines and volumes outlive the connection to the hypervisor.
    pub durable: bool,
    /// Volumes are encrypted, so that they need their keys.
    pub encrypts: bool,
    /// Machines move between hosts of this kind, running or off.
    pub migration: bool,
    /// Memory can be taken back from machines while they run.
    pub balloon: bool,
    /// What runs its guests, where one that runs can't go on by another: `kvm` or `tcg`. Empty
    /// where all hosts of the kind are alike.
    pub accelerator: &'static str,
}

/// Something changed: look sooner. Never a fact to act on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// This machine.
    Machine(InstanceId),
    /// This volume.
    Volume(VolumeId),
    /// Unknown what: look at all.
    All,
}

/// Whether two definitions have the same data disks, in whatever order.
pub fn same_disks(one: &MachineSpec, other: &MachineSpec) -> bool {
    one.disks.len() == other.disks.len() && one.disks.iter().all(|disk| other.disks.contains(disk))
}

/// Whether two definitions are the same to a running guest, its data disks aside.
pub fn same_shape(one: &MachineSpec, other: &MachineSpec) -> bool {
    one.vcpus == other.vcpus && one.memory == other.memory && one.boot == other.boot
}

/// Whether one definition has at least the processors and the memory of the other, and boots from
/// the same volume: what a running guest may be given, and nothing taken away from it.
pub fn only_grows(from: &MachineSpec, to: &MachineSpec) -> bool {
    from.vcpus <= to.vcpus && from.memory <= to.memory && from.boot == to.boot
}

/// Whether a machine with this definition, while it is on, keeps another one from using the disk:
/// both have its volume, and one of the two may write.
pub fn keeps(definition: &MachineSpec, disk: &Disk) -> bool {
    definition
        .all_disks()
        .any(|own| own.volume == disk.volume && !(own.read_only && disk.read_only))
}
