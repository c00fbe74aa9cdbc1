//! Real guests: QEMU behind libvirt, every volume encrypted.
//!
//! A volume is a qcow2 file whose data is LUKS, and there is no other kind: one that is not
//! encrypted is refused as not ours. Its key comes over [`give_key`], stays in this process, goes
//! to `qemu-img` through a pipe, and to libvirt as an ephemeral, private secret that exists only
//! while a machine is started or a disk attached. Guests are never saved to disk.
//!
//! [`give_key`]: fairmazon_hypervisor::Hypervisor::give_key

mod accelerator;
mod admission;
mod agents;
mod anchors;
mod asker;
mod backup;
mod balloon;
mod calls;
mod console;
mod copy;
mod daemon;
mod exported;
mod files;
mod foreign;
mod growth;
mod header;
mod host;
mod image;
mod incoming;
mod keyring;
mod line;
mod live;
mod locks;
mod migration;
mod process;
pub mod proof;
mod rotation;
mod seed;
mod session;
mod stalled;
mod statistics;
mod tool;
mod xml;

use std::path::{Path, PathBuf};

use fairmazon_image::TrustedKey;
use fairmazon_model::host::Capacity;

pub use accelerator::Accelerator;
pub use daemon::Daemon;
pub use exported::{Format, OpenError, open_exported};
pub use foreign::{VolumeFileFacts, inspect_exported};
pub use host::QemuHost;
pub use migration::MOVES;

/// A function of bash, `private_libvirt FOLDER LOGGING`, that prepares namespaces of their own for a
/// libvirt daemon beside another one of the same machine: its folders, with what opens keys in
/// memory, its settings, and a bridge `guests`. For development and tests.
pub const PRIVATE_LIBVIRT: &str = include_str!("private_libvirt.sh");

/// The folders of a run folder ([`QemuConfig::consoles`]) that have to be in memory, itself the
/// first.
pub fn folders_in_memory(runtime: &Path) -> [PathBuf; 3] {
    [runtime.to_owned(), runtime.join(SEEDS), runtime.join(USER_DATA)]
}

/// What guests read their user data from, in the run folder.
const SEEDS: &str = "seeds";
/// The user data itself, in the run folder.
const USER_DATA: &str = "user-data";

/// Where the kernel says how much memory a host has left.
pub const MEMORY_INFO: &str = "/proc/meminfo";

/// Where a QEMU host keeps what, and what it may use.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// libvirt's connection URI, of a daemon on this machine.
    pub uri: String,
    /// Folder of the volumes: one folder a storage class in it, and `.left`, where machines that have
    /// just left are noted.
    pub storage: PathBuf,
    /// Folder of what this host keeps of its storage classes elsewhere than in `storage`, on a disk:
    /// which folders it has had there. In the agent's state folder, for one.
    pub state: PathBuf,
    /// Folder of the images, one folder an image id in it: see [`fairmazon_image`].
    pub images: PathBuf,
    /// Whose images are used: those that one of these keys has signed.
    pub trusted_keys: Vec<TrustedKey>,
    /// Folder of what is not ours to write to a disk: the serial consoles, for moments the keys that
    /// a running QEMU reads, and in folders of its own the user data of machines and the disks that
    /// guests read it from. In memory (tmpfs): elsewhere no key is written.
    pub consoles: PathBuf,
    /// Folder of the sockets that guests move to and from other hosts through, as this process sees
    /// it. To libvirt and QEMU it is [`MOVES`], on a host whose libvirt has namespaces of its own as
    /// well. In memory, and for this user only.
    pub moves: PathBuf,
    /// What guests' network cards are plugged into.
    pub network: Network,
    /// How guests run; see [`Accelerator::probe`].
    pub accelerator: Accelerator,
    /// What the host gives.
    pub capacity: Capacity,
    /// Where the kernel says how much memory the host has left: [`MEMORY_INFO`].
    pub memory_info: PathBuf,
}

/// What the network cards of guests are plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// They have none.
    None,
    /// A bridge of the host, by name.
    Bridge(String),
}
