//! Finds the facts of a host by reading the system's files, which may be those under another
//! folder, and by measuring. What it writes is in the storage folder, and gone afterwards.

mod libvirt;
mod measure;
mod system;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::facts::{ClassFacts, Fact, Facts, HypervisorFacts, Location, StateFolder};

/// Where libvirt keeps what belongs to running guests.
const KEYS_FOLDER: &str = "/var/lib/libvirt/qemu";
/// Where QEMU's logs are.
const LOGS_FOLDER: &str = "/var/log/libvirt/qemu";

/// Where to look, and what the operator says. What is left out is not known.
#[derive(Debug, Clone)]
pub struct Collector {
    /// What the system's files are under.
    pub root: PathBuf,
    /// Folder of the volumes.
    pub storage: Option<PathBuf>,
    /// GiB offered by storage class.
    pub offered: Vec<(String, u64)>,
    /// The folders of what the agent writes to no disk: its run folder, and those in it.
    pub runtime: Vec<PathBuf>,
    /// The agent's state folder.
    pub state: Option<PathBuf>,
    /// The broker, as a URL.
    pub broker: Option<String>,
    /// Where the host stands.
    pub location: Option<Location>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            root: "/".into(),
            storage: None,
            offered: Vec::new(),
            runtime: Vec::new(),
            state: None,
            broker: None,
            location: None,
        }
    }
}

/// Finds the facts; the hypervisor's driver has found its own. With those of an earlier look, what
/// is measured is taken from there, and this does not strain the host. Blocks for some seconds.
pub fn collect(
    collector: &Collector,
    hypervisor: HypervisorFacts,
    before: Option<&Facts>,
) -> Facts {
    let root = Root(&collector.root);
    let hypervisor = match system::container(root) {
        // Whatever the kernel says of its clock, the host beside it may say otherwise.
        Some(mark) => HypervisorFacts {
            clock: Err(format!("this is a container ({mark}), its host keeps the clock")),
            ..hypervisor
        },
        None => hypervisor,
    };
    let mounts = system::Mounts::read(root);
    let mounted = |folder: &Path| mounts.as_ref().map_err(Clone::clone)?.of(root, folder);
    let qemu_settings = libvirt::settings(root, "etc/libvirt/qemu.conf");
    Facts {
        hypervisor,
        keys_folder: mounted(KEYS_FOLDER.as_ref()),
        run_folders: given(collector.runtime.first(), "--runtime-dir")
            .and_then(|_| collector.runtime.iter().map(|folder| mounted(folder)).collect()),
        logs_folder: mounted(LOGS_FOLDER.as_ref()),
        swaps: system::swaps(root, mounts.as_ref().ok()),
        core_pattern: root.text("proc/sys/kernel/core_pattern").map(|text| text.trim().into()),
        core_limit: system::core_limit(root, "self"),
        libvirt_core_limits: libvirt::core_limits(root),
        hibernation: system::hibernation(root),
        qemu_user: libvirt::qemu_user(root, &qemu_settings),
        agent_user: system::user(root),
        qemu_settings,
        guests_on_shutdown: libvirt::guests_on_shutdown(root),
        saved_guests: libvirt::saved_guests(root),
        libvirt_listeners: libvirt::listeners(root),
        locked_memory: system::locked_memory(root),
        state_folder: given(collector.state.as_ref(), "--state-dir")
            .and_then(|folder| state_folder(folder)),
        storage: classes(collector, before),
        round_trip: match before {
            Some(before) => before.round_trip.clone(),
            None => given(collector.broker.as_ref(), "--broker")
                .and_then(|broker| measure::round_trip(broker)),
        },
        location: given(collector.location.as_ref(), "--country, --latitude and --longitude")
            .cloned(),
    }
}

fn given<'a, T>(value: Option<&'a T>, option: &str) -> Fact<&'a T> {
    value.ok_or_else(|| format!("not stated: give {option}"))
}

/// The folder that the system's files are under.
#[derive(Debug, Clone, Copy)]
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn path(self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What a file says; its being missing is an error.
    fn text(self, path: &str) -> Fact<String> {
        fs::read_to_string(self.path(path)).map_err(|error| unread(path, &error))
    }

    /// What a file says; none when it is missing.
    fn text_if_there(self, path: &str) -> Fact<Option<String>> {
        match fs::read_to_string(self.path(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(unread(path, &error)),
        }
    }
}

fn missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unread(path: &str, error: &io::Error) -> String {
    let path = path.trim_start_matches('/');
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!("/{path} can't be read: run this as root"),
        _ => format!("/{path} can't be read: {error}"),
    }
}

fn state_folder(folder: &Path) -> Fact<StateFolder> {
    let name = folder.to_string_lossy();
    let mode = match fs::metadata(folder) {
        Ok(found) if found.is_dir() => found.permissions().mode() & 0o7777,
        Ok(_) => return Err(format!("{name} is no folder")),
        Err(error) if missing(&error) => return Ok(StateFolder::Missing),
        Err(error) => return Err(unread(&name, &error)),
    };
    let mut open = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let name = next.to_string_lossy();
        for entry in fs::read_dir(&next).map_err(|error| unread(&name, &error))? {
            let entry = entry.map_err(|error| unread(&name, &error))?;
            // Of a link, not of what it leads to, which has permissions of its own.
            let found = entry.metadata().map_err(|error| unread(&name, &error))?;
            let mode = found.permissions().mode() & 0o7777;
            if !found.is_symlink() && mode & 0o077 != 0 {
                let inner = entry.path();
                let inner = inner.strip_prefix(folder).unwrap_or(&inner);
                open.push((inner.to_string_lossy().into_owned(), mode));
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    open.sort();
    Ok(StateFolder::There { mode, open })
}

fn classes(collector: &Collector, before: Option<&Facts>) -> Fact<Vec<ClassFacts>> {
    let storage = given(collector.storage.as_ref(), "--storage-dir")?;
    if collector.offered.is_empty() {
        return Err("not stated: give --storage CLASS=GIB".into());
    }
    let mut classes: Vec<ClassFacts> = Vec::new();
    for (class, offered_gib) in &collector.offered {
        let own = storage.join(class);
        // The agent makes a folder a class when it starts.
        let folder = if own.is_dir() { &own } else { storage };
        let name = folder.to_string_lossy().into_owned();
        let found = fs::metadata(folder).map_err(|error| unread(&name, &error))?;
        let free = rustix::fs::statvfs(folder).map_err(|error| unread(&name, &error.into()))?;
        let measured = before.and_then(|before| before.storage.as_ref().ok()).into_iter().flatten();
        let speed = match measured.chain(&classes).find(|class| class.folder == name) {
            Some(measured) => measured.speed.clone(),
            None => measure::disk(folder),
        };
        classes.push(ClassFacts {
            class: class.clone(),
            offered_gib: *offered_gib,
            device: found.dev(),
            free: free.f_bavail.saturating_mul(free.f_frsize),
            used: if folder == &own { used(folder) } else { 0 },
            folder: name,
            speed,
        });
    }
    Ok(classes)
}

/// What the files of a folder take on the disk. Volumes lie in it side by side.
fn used(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let blocks = files.filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file);
    blocks.fold(0, |sum: u64, file| sum.saturating_add(file.blocks().saturating_mul(512)))
}
