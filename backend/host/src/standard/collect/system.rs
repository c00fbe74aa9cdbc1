//! What the kernel's files say: mounts, swap, limits, hibernation.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Root;
use crate::standard::facts::{Fact, Limit, Mounted, Swap};

/// The capability to lock any amount of memory.
const CAP_IPC_LOCK: u64 = 1 << 14;
/// Devices upon devices end here.
const DEPTH_MOST: u8 = 8;

/// What is mounted where.
#[derive(Debug)]
pub(super) struct Mounts(Vec<Mount>);

#[derive(Debug)]
struct Mount {
    /// Major and minor number.
    device: String,
    point: PathBuf,
    filesystem: String,
}

impl Mounts {
    pub(super) fn read(root: Root<'_>) -> Fact<Self> {
        let text = root.text("proc/self/mountinfo")?;
        Ok(Self(text.lines().filter_map(Mount::parse).collect()))
    }

    /// What a folder is on, or will be when it is made.
    pub(super) fn of(&self, root: Root<'_>, folder: &Path) -> Fact<Mounted> {
        let name = folder.to_string_lossy().into_owned();
        let mount = self.find(&real(root, folder));
        let mount = mount.ok_or_else(|| format!("what {name} is on can't be found out"))?;
        Ok(Mounted { folder: name, filesystem: mount.filesystem.clone() })
    }

    fn find(&self, path: &Path) -> Option<&Mount> {
        // Of those over the same folder, the last one is seen.
        let over = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        over.max_by_key(|mount| mount.point.components().count())
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(2);
        let device = front.next()?.to_owned();
        let point = unescape(front.nth(1)?).into();
        Some(Self { device, point, filesystem: back.split(' ').next()?.to_owned() })
    }
}

/// Where a path leads: links are followed as far as it exists. As seen from the root.
fn real(root: Root<'_>, path: &Path) -> PathBuf {
    let top = fs::canonicalize(root.0).unwrap_or_else(|_| root.0.to_owned());
    for there in path.ancestors() {
        if let Ok(found) = fs::canonicalize(root.path(there)) {
            let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
            // A link of another root that leads out of it is followed as it is written.
            let inner = found.strip_prefix(&top).map_or(found.clone(), Path::to_owned);
            return Path::new("/").join(inner).join(rest);
        }
    }
    path.to_owned()
}

/// Blanks and the like are written as `\040` in the kernel's tables.
fn unescape(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let code = (byte == b'\\').then(|| more.get(..3)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &more[3..];
            }
            None => {
                plain.push(byte);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

pub(super) fn swaps(root: Root<'_>, mounts: Option<&Mounts>) -> Fact<Vec<Swap>> {
    // A kernel without swap has no such file.
    let text = root.text_if_there("proc/swaps")?.unwrap_or_default();
    let rows = text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((unescape(words.next()?), words.next()?))
    });
    let swap = |(name, kind): (String, &str)| {
        let path = Path::new(&name);
        let device = if kind == "file" {
            mounts.and_then(|mounts| mounts.find(path)).and_then(|mount| {
                let link = root.path(format!("sys/dev/block/{}", mount.device));
                let folder = fs::canonicalize(link).ok()?;
                Some(folder.file_name()?.to_string_lossy().into_owned())
            })
        } else {
            path.file_name().map(|name| name.to_string_lossy().into_owned())
        };
        let sealed = device.and_then(|device| sealed(root, &device, DEPTH_MOST));
        Swap { name, sealed }
    };
    Ok(rows.map(swap).collect())
}

/// Why nothing on a block device can be read later.
fn sealed(root: Root<'_>, device: &str, depth: u8) -> Option<&'static str> {
    const DM_CRYPT: &str = "on dm-crypt";
    let folder = format!("sys/class/block/{device}");
    let says = |file: &str| root.text_if_there(&format!("{folder}/{file}")).ok().flatten();
    if device.starts_with("zram") {
        let backing = says("backing_dev").unwrap_or_default();
        return matches!(backing.trim(), "" | "none").then_some("zram, in memory");
    }
    if says("dm/uuid").is_some_and(|uuid| uuid.starts_with("CRYPT-")) {
        return Some(DM_CRYPT);
    }
    // Volumes of LVM: what all parts of are encrypted is.
    let depth = depth.checked_sub(1)?;
    let below = fs::read_dir(root.path(format!("{folder}/slaves"))).ok()?;
    let mut below = below.flatten().peekable();
    below.peek()?;
    let encrypted = |device: &str| sealed(root, device, depth) == Some(DM_CRYPT);
    below.all(|entry| encrypted(&entry.file_name().to_string_lossy())).then_some(DM_CRYPT)
}

/// The largest core dump of a process, by its folder in `/proc`.
pub(super) fn core_limit(root: Root<'_>, process: &str) -> Fact<Limit> {
    limit(root, process, "Max core file size")
}

/// The limit of a process that the kernel calls so.
fn limit(root: Root<'_>, process: &str, name: &str) -> Fact<Limit> {
    let text = root.text(&format!("proc/{process}/limits"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    match value {
        Some("unlimited") => Ok(Limit::Unlimited),
        Some(bytes) if bytes.parse::<u64>().is_ok() => {
            Ok(Limit::Bytes(bytes.parse().unwrap_or_default()))
        }
        _ => Err(format!("/proc/{process}/limits does not say `{name}`")),
    }
}

/// Whom this process runs as, by number.
pub(super) fn user(root: Root<'_>) -> Fact<u32> {
    let status = root.text("proc/self/status")?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Who has started it, then whose rights it has.
    let own = users.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
    own.ok_or_else(|| "/proc/self/status does not say `Uid`".to_owned())
}

pub(super) fn locked_memory(root: Root<'_>) -> Fact<Limit> {
    let status = root.text("proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    if capabilities.is_some_and(|all| all & CAP_IPC_LOCK != 0) {
        return Ok(Limit::Unlimited);
    }
    limit(root, "self", "Max locked memory")
}

/// Why the whole memory may be written to a disk.
pub(super) fn hibernation(root: Root<'_>) -> Fact<Option<String>> {
    let cmdline = root.text("proc/cmdline")?;
    // What comes after `--` is for the first process.
    let words: Vec<_> = cmdline.split_whitespace().take_while(|word| *word != "--").collect();
    if words.contains(&"nohibernate") || words.contains(&"hibernate=no") {
        return Ok(None);
    }
    let states = root.text_if_there("sys/power/state")?;
    if states.is_some_and(|states| !states.split_whitespace().any(|state| state == "disk")) {
        return Ok(None);
    }
    let device = root.text_if_there("sys/power/resume")?.unwrap_or_default();
    let device = device.trim();
    if !device.is_empty() && device != "0:0" {
        return Ok(Some(format!("the kernel hibernates to the device {device}")));
    }
    let resume = words.iter().find_map(|word| word.strip_prefix("resume="));
    Ok(resume
        .filter(|device| *device != "none" && !words.contains(&"noresume"))
        .map(|device| format!("the kernel is told to resume from {device}")))
}

/// What says that this is a container.
pub(super) fn container(root: Root<'_>) -> Option<&'static str> {
    let marks = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    if let Some(mark) = marks.into_iter().find(|mark| root.path(mark).exists()) {
        return Some(mark);
    }
    let environment = fs::read(root.path("proc/1/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|one| one.starts_with(b"container=")).then_some("container=")
}
