//! What is known of a host: plain values, as found. Judges nothing.

use std::{collections::BTreeMap, fmt, time::Duration};

/// Something that was looked for, or why it is not known.
pub type Fact<T> = Result<T, String>;

/// What is known of a host.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What only the hypervisor's driver can tell.
    pub hypervisor: HypervisorFacts,
    /// The folder where libvirt keeps what opens the keys of running guests.
    pub keys_folder: Fact<Mounted>,
    /// The folders of what the agent writes to no disk.
    pub run_folders: Fact<Vec<Mounted>>,
    /// The folder of QEMU's logs.
    pub logs_folder: Fact<Mounted>,
    /// Swap that is in use.
    pub swaps: Fact<Vec<Swap>>,
    /// What the kernel does with core dumps.
    pub core_pattern: Fact<String>,
    /// The largest core dump of this process.
    pub core_limit: Fact<Limit>,
    /// The same of libvirt's daemons that run, by name.
    pub libvirt_core_limits: Fact<Vec<(String, Limit)>>,
    /// Why the whole memory may be written to a disk; none when it can't.
    pub hibernation: Fact<Option<String>>,
    /// What `qemu.conf` sets.
    pub qemu_settings: Fact<Settings>,
    /// Whom `qemu.conf` has QEMU run as; none where it says nothing.
    pub qemu_user: Fact<Option<User>>,
    /// Whom this process runs as, by number.
    pub agent_user: Fact<u32>,
    /// What libvirt-guests does when the host goes down; none where it is not installed.
    pub guests_on_shutdown: Fact<Option<String>>,
    /// Files with the memory of guests.
    pub saved_guests: Fact<Vec<String>>,
    /// Why libvirt answers, or would answer, on the network.
    pub libvirt_listeners: Fact<Vec<String>>,
    /// How much memory this process may keep from being swapped.
    pub locked_memory: Fact<Limit>,
    /// The agent's state folder.
    pub state_folder: Fact<StateFolder>,
    /// The storage classes that are offered.
    pub storage: Fact<Vec<ClassFacts>>,
    /// How long it takes to the broker and back.
    pub round_trip: Fact<Duration>,
    /// Where the host stands.
    pub location: Fact<Location>,
}

/// What only the hypervisor's driver can tell, found by doing it.
#[derive(Debug, Clone)]
pub struct HypervisorFacts {
    /// What a guest has booted with.
    pub guest: Fact<Boots>,
    /// What the agent's driver runs guests with, which it has chosen at its start; none where no
    /// agent looks.
    pub driver: Option<Boots>,
    /// Whether a volume was encrypted; if not, what went wrong.
    pub encryption: Fact<Result<(), String>>,
    /// QEMU's version, its first two numbers.
    pub qemu: Fact<(u32, u32)>,
    /// libvirt's version, its first two numbers.
    pub libvirt: Fact<(u32, u32)>,
    /// What libvirt's daemon answers; if it does not, why.
    pub daemon: Fact<Result<DaemonFacts, String>>,
    /// Whether something keeps the clock right.
    pub clock: Fact<ClockFacts>,
}

/// What libvirt's daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonFacts {
    /// What it can run guests with.
    pub runs: Vec<Boots>,
    /// The number of the user that it runs QEMU as; none where it does not say.
    pub qemu_user: Option<u32>,
    /// Whether it has its driver for secrets.
    pub keeps_secrets: bool,
}

/// What a guest boots with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// The processor's virtualisation.
    Hardware,
    /// Software emulation alone.
    Software,
    /// Nothing.
    Not,
}

/// What the kernel says of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFacts {
    /// Something keeps it right.
    pub synchronised: bool,
    /// The most that it is wrong by.
    pub error_most: Duration,
}

/// A folder and the filesystem that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The folder.
    pub folder: String,
    /// The filesystem's type, as the kernel calls it.
    pub filesystem: String,
}

impl Mounted {
    /// Whether nothing in it gets to a disk, but by swap.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.filesystem.as_str(), "tmpfs" | "ramfs")
    }
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is on {}", self.folder, self.filesystem)
    }
}

/// Swap that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The device or file.
    pub name: String,
    /// Why nothing in it can be read later; none when it can.
    pub sealed: Option<&'static str>,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// None.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

/// The settings of a configuration file, without quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(pub BTreeMap<String, String>);

impl Settings {
    /// What a setting is set to.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Reads `name = value` and `name=value`, with `#` before what does not count.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| {
            let line = line.trim();
            let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
            let value = value.trim();
            let bare = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => value[1..].split(quote).next(),
                _ => value.split('#').next().map(str::trim),
            };
            Some((name.trim().to_owned(), bare.unwrap_or_default().to_owned()))
        });
        Self(pairs.collect())
    }
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As the setting names it.
    pub name: String,
    /// The number.
    pub id: u32,
}

/// The agent's state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateFolder {
    /// It is not there; the agent makes it.
    Missing,
    /// It is there.
    There {
        /// Its permissions.
        mode: u32,
        /// Files in it that others than the owner may open, with their permissions.
        open: Vec<(String, u32)>,
    },
}

/// The disk of a storage class.
#[derive(Debug, Clone)]
pub struct ClassFacts {
    /// The class.
    pub class: String,
    /// What is offered, in GiB.
    pub offered_gib: u64,
    /// The folder that was looked at.
    pub folder: String,
    /// The filesystem; several classes may share one.
    pub device: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that volumes of this class take already.
    pub used: u64,
    /// How fast it is.
    pub speed: Fact<DiskSpeed>,
}

/// How fast a disk was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpeed {
    /// One write after the other, until all of it was on the disk.
    pub megabytes_per_second: u64,
    /// Half of the small writes were on the disk after this time.
    pub sync: Duration,
}

/// Where a host stands, as its operator says.
#[derive(Debug, Clone, PartialEq)]
pub struct Location {
    /// The country.
    pub country: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}
