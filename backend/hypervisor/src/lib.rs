//! The hypervisor behind one trait, and the in-process simulator of it.
//!
//! Knows machines and volumes; knows neither broker nor leases. The libvirt driver is a crate
//! of its own. With the feature `contract`, `contract` holds the suite that every driver
//! passes, each skipping by name only what its [`Features`] say it can't do.

#[cfg(feature = "contract")]
pub mod contract;
mod deadline;
mod error;
mod machine;
mod memory;
pub mod migration;
pub mod sim;

use std::sync::Arc;

use async_trait::async_trait;
use fairmazon_model::{
    host::Capacity,
    id::{InstanceId, VolumeId},
    machine::{Disk, HostVolume, MachineSpec},
    units::{Gib, Mib, Vcpus},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use deadline::within;
pub use error::HypervisorError;
pub use fairmazon_keys::VolumeKey;
pub use machine::{
    Access, Counters, Damage, Features, Halt, Hint, Incoming, Inventory, KeyChange, Machine, Marks,
    OffReason, RunState, Statistics, Traffic, Volume, VolumeFile, VolumeSink, keeps, only_grows,
    same_disks, same_shape,
};
pub use memory::{HostMemory, MachineMemory, Promised};
pub use migration::{Channels, Connection, Description, Landing};

const CANT_IMPORT: HypervisorError = HypervisorError::Unsupported { what: "import volumes" };
const CANT_RESIZE: HypervisorError =
    HypervisorError::Unsupported { what: "resize a machine while it runs" };
const CANT_RECLAIM: HypervisorError =
    HypervisorError::Unsupported { what: "take memory back from a running machine" };
const CANT_MIGRATE: HypervisorError =
    HypervisorError::Unsupported { what: "move a machine to another host" };

/// What every call of a hypervisor returns.
pub type Result<T> = std::result::Result<T, HypervisorError>;

/// One host's machines and volumes.
///
/// Every call is idempotent: repeating one that was done changes nothing and succeeds, so a
/// caller that crashed between the call and its own bookkeeping simply looks and calls again.
/// Nothing that the platform did not make is ever listed, changed or removed: a driver knows its
/// own by the marks and by an identity derived from the platform's id.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// The driver's name as the broker is told it: `simulated`, `libvirt-test`, `qemu`.
    fn kind(&self) -> &'static str;

    /// What this driver can do.
    fn features(&self) -> Features;

    /// What the host has to give.
    async fn capacity(&self) -> Result<Capacity>;

    /// All machines and volumes that the platform has here.
    async fn inventory(&self) -> Result<Inventory>;

    /// One machine; none when it is not defined.
    async fn machine(&self, instance: InstanceId) -> Result<Option<Machine>>;

    /// One volume; none when it is not there.
    async fn volume(&self, volume: VolumeId) -> Result<Option<Volume>>;

    /// Defines the machine, or takes over a changed definition, and writes its marks, both at
    /// once. While it runs only what its guest does not see may change.
    ///
    /// # Errors
    /// `Busy` when it runs and its shape or its disks would change ([`same_shape`],
    /// [`same_disks`]).
    async fn define(&self, spec: &Arc<MachineSpec>, marks: Marks) -> Result<()>;

    /// Writes the marks of a defined machine, whatever it does.
    async fn mark(&self, instance: InstanceId, marks: Marks) -> Result<()>;

    /// Starts a defined machine.
    ///
    /// # Errors
    /// `NotFound` for the machine or one of its volumes; `Full` when the memory does not suffice
    /// ([`Promised::check`], and without [`Features::balloon`] what the host has for all machines);
    /// `Busy` when a volume is in use by another running machine and one of the two may write;
    /// `KeyMissing`, `KeyWrong` and `Damaged` for a volume that can't be opened.
    async fn start(&self, instance: InstanceId) -> Result<()>;

    /// Asks the guest to shut down; returns when it was asked, not when it is off.
    async fn ask_to_stop(&self, instance: InstanceId) -> Result<()>;

    /// Ends the machine at once; it is off when this returns.
    async fn force_stop(&self, instance: InstanceId) -> Result<()>;

    /// Removes the definition; volumes stay.
    ///
    /// # Errors
    /// `Busy` while it runs.
    async fn undefine(&self, instance: InstanceId) -> Result<()>;

    /// The last that a machine has written to its serial console, over its runs since it was
    /// defined; nothing where it has written nothing or the driver has no consoles.
    async fn console(&self, _: InstanceId) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// What a machine has used since its process began; none while it is off or not there.
    ///
    /// # Errors
    /// `Unsupported` where the driver does not measure.
    async fn statistics(&self, _: InstanceId) -> Result<Option<Statistics>> {
        Err(HypervisorError::Unsupported { what: "measure what a machine uses" })
    }

    /// How the host's memory is now, and which machines run, each as one whose guest says nothing:
    /// asks none of them, so that none can hold it up.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::balloon`].
    async fn memory(&self) -> Result<HostMemory> {
        Err(CANT_RECLAIM)
    }

    /// Asks for the memory of a machine that runs. Where what runs it hangs, this may take for ever:
    /// it holds up nothing else, and whoever asks waits as long as it likes.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::balloon`]; `Busy` when it does not run; `Timeout` when it
    /// has not answered in time, or has not answered an earlier question yet.
    async fn guest_memory(&self, _: InstanceId) -> Result<MachineMemory> {
        Err(CANT_RECLAIM)
    }

    /// Asks the guest of a spot machine that runs to get along with so much memory, or lets it have
    /// so much again; never more than it is defined with. How far it follows is seen in
    /// [`guest_memory`](Self::guest_memory). At its next start it has all of it. May take as long as
    /// that.
    ///
    /// # Errors
    /// As of [`guest_memory`](Self::guest_memory); `Busy`, too, when it is not spot and would not
    /// have all of its memory.
    async fn set_balloon(&self, _: InstanceId, _has: Mib) -> Result<()> {
        Err(CANT_RECLAIM)
    }

    /// Takes a volume's key into memory, in the place of an earlier one, for the calls that open
    /// its data: [`create_volume`](Self::create_volume), [`start`](Self::start),
    /// [`attach`](Self::attach), [`grow_volume`](Self::grow_volume). It is never written down: a
    /// new process is given it again. Whether it is the right one shows when it is used. A driver
    /// whose volumes hold no data ([`Features::encrypts`] is false) forgets it at once.
    async fn give_key(&self, volume: VolumeId, key: VolumeKey) -> Result<()>;

    /// Wipes a volume's key from memory; a machine that runs with the volume goes on.
    async fn forget_key(&self, volume: VolumeId) -> Result<()>;

    /// Exchanges the key of a volume's data: when this succeeds, the new one alone opens it, and is
    /// the one in memory. At each moment before, one of the two opens it, so that repeating the call
    /// finishes what a crash has left. When it fails, the key in memory stays as it was given.
    ///
    /// The data is not encrypted anew: what the keys open, that is the key of the cipher, stays.
    ///
    /// # Errors
    /// `NotFound`; `KeyWrong` when neither key opens it, and `Damaged` when it shows that none can;
    /// `Busy` while a machine uses the volume in a way in which its key can't change.
    async fn change_key(&self, volume: VolumeId, keys: KeyChange) -> Result<()>;

    /// Whether the key opens the volume's data, in use or not; the key in memory stays as it is. Of
    /// a driver whose volumes are not encrypted every key does.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` when it shows that none can.
    async fn key_opens(&self, volume: VolumeId, key: VolumeKey) -> Result<bool>;

    /// Makes a volume, filled from its image where it names one, or from the volume that it is a
    /// copy of, as that is at one moment, in use or not. Atomic: after a crash in the middle there
    /// is no volume. A volume that is there stays as it is.
    ///
    /// One that is imported is made of the file that [`begin_import`](Self::begin_import) has
    /// taken, once that is proven to be what was promised: the bytes, a volume of this size and of
    /// nothing else, and one that its key opens. A stranger has written it.
    ///
    /// # Errors
    /// `BadFile` and `KeyWrong` for a file that is not used, which is gone then; `Busy` for one that
    /// is not whole;
    /// `Full` when the storage class has no room; `KeyMissing` where volumes are encrypted and it,
    /// or that of the volume that is copied, was not given; `NotFound` for what is to be copied.
    async fn create_volume(&self, volume: &HostVolume) -> Result<()>;

    /// Grows a volume to at least `size`, also while it is in use; never shrinks it.
    async fn grow_volume(&self, volume: VolumeId, size: Gib) -> Result<()>;

    /// Destroys a volume and its data.
    ///
    /// # Errors
    /// `Busy` while a running machine uses it.
    async fn delete_volume(&self, volume: VolumeId) -> Result<()>;

    /// The bytes of a volume's file as they are, which for a driver that encrypts is what its key
    /// opens and nothing else, from `offset` on. Of use for volumes that nobody writes to.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` where volumes hold no data.
    async fn read_volume(&self, _: VolumeId, _offset: u64) -> Result<VolumeFile> {
        Err(HypervisorError::Unsupported { what: "export volumes" })
    }

    /// Takes the room of a volume that is imported, and the rest of its file. A second one for the
    /// same volume is refused until the first is dropped.
    ///
    /// # Errors
    /// `Full` when the storage class has no room; `Busy` while another one writes;
    /// `Unsupported` where volumes hold no data.
    async fn begin_import(&self, _: &HostVolume) -> Result<VolumeSink> {
        Err(CANT_IMPORT)
    }

    /// Forgets what has come of a volume's file; the volume itself, once it was made, stays.
    ///
    /// # Errors
    /// `Busy` while somebody writes to it.
    async fn drop_import(&self, _: VolumeId) -> Result<()> {
        Ok(())
    }

    /// Plugs a disk into a running machine and into its definition.
    ///
    /// # Errors
    /// As of [`Hypervisor::start`], and `Unsupported` without [`Features::hotplug`].
    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<()>;

    /// Unplugs the disk of that name from a running machine and from its definition.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::hotplug`].
    async fn detach(&self, instance: InstanceId, disk: &str) -> Result<()>;

    /// Gives a running machine as many processors and as much memory as this, and writes both into
    /// its definition. Of a machine that runs, [`machine`](Self::machine) always says what it has
    /// now, so that what a crash has left half done is gone on with. Its guest may take its time to
    /// use what it gets; what it never takes up is there at its next start.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::resize`], and for a machine that would have less than now
    /// or that has no room for it in this run, which is then as it was; `Full` when the memory of
    /// the host does not suffice; `Busy` when it does not run or is on its way to another host.
    async fn resize(&self, _: InstanceId, _: Vcpus, _: Mib) -> Result<()> {
        Err(CANT_RESIZE)
    }

    /// At the source of a migration: makes a machine that is off ready to be sent, with its volumes
    /// open and its guest not let run. It is in [`RunState::Held`] then, has none of the host's
    /// memory, and is sent or ended, never let run. Its marks say [`Halt::Held`] before.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::migration`]; `Busy` when it runs, or without that mark; as
    /// of [`Hypervisor::start`].
    async fn hold(&self, _: InstanceId) -> Result<()> {
        Err(CANT_MIGRATE)
    }

    /// At the source of a migration: describes a machine that runs or is held to the destination's
    /// driver.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::migration`]; `Busy` when it is off, or has a disk that
    /// another machine has, too.
    async fn describe(&self, _: InstanceId) -> Result<Description> {
        Err(CANT_MIGRATE)
    }

    /// At the destination: gets ready to take a machine that is defined here, is off, and has all
    /// its volumes, empty, with their keys. Nothing that the description says reaches anything of
    /// this host but what the definition names. One whose definition says that it is to be off is
    /// held where it comes from and needs no memory here: it is put off with
    /// [`refuse`](Self::refuse) when it has arrived.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::migration`]; as of [`Hypervisor::start`]; `Refused` for a
    /// description that does not fit the definition.
    async fn prepare(&self, _: InstanceId, _: &[u8]) -> Result<Landing> {
        Err(CANT_MIGRATE)
    }

    /// At the source: sends the machine, which is marked as [`Halt::Leaving`] and runs on meanwhile,
    /// or as [`Halt::Held`] and is held. Once this has succeeded it is off here for
    /// [`OffReason::Moved`] and marked as [`Halt::Left`], which no crash of the host takes back, and
    /// all of it is at the destination in [`RunState::Arrived`]: it may be let run there. When it
    /// fails, or `give_up` is cancelled, the machine runs on here, unless it ended by itself; one that
    /// was held is held still, or off. One that is off for [`OffReason::Moved`] all the same has left,
    /// and could not be marked so. Takes as long as it takes.
    ///
    /// # Errors
    /// `Unsupported` without [`Features::migration`]; `Busy` when it is off.
    async fn depart(
        &self,
        _: InstanceId,
        _landing: &[u8],
        _channels: Arc<dyn Channels>,
        _give_up: CancellationToken,
    ) -> Result<()> {
        Err(CANT_MIGRATE)
    }

    /// At the destination: lets a machine run that has arrived. Also lets one go on whose guest
    /// stands still for want of room ([`Machine::stalled`]).
    ///
    /// # Errors
    /// `Busy` when it has not arrived and does not run; `Full` when there is no room for it to go on.
    async fn resume(&self, _: InstanceId) -> Result<()> {
        Err(CANT_MIGRATE)
    }

    /// At the destination: ends what has come of a machine and was not resumed; one that runs is
    /// left alone. Its volumes stay, with all that has come of them.
    async fn refuse(&self, _: InstanceId) -> Result<()> {
        Ok(())
    }

    /// Hints that something changed. A receiver that lags has missed some and looks at all.
    fn hints(&self) -> broadcast::Receiver<Hint>;
}
