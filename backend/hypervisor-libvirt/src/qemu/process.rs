//! The processes of the host, and which of them is the QEMU of which machine.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use fairmazon_model::id::InstanceId;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{Interest, unix::AsyncFd};

use crate::xml;

/// A process of the host, as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Process {
    id: String,
    /// Its arguments, each ended by a zero.
    arguments: Vec<u8>,
}

impl Process {
    /// Those that there are now.
    pub(super) fn all() -> io::Result<Vec<Self>> {
        let entries = fs::read_dir("/proc")?.filter_map(|entry| {
            let id = entry.ok()?.file_name().into_string().ok()?;
            id.bytes().all(|byte| byte.is_ascii_digit()).then_some(id)
        });
        // One that ends while it is looked at is none.
        Ok(entries.filter_map(|id| Self::read(id).ok()).collect())
    }

    fn read(id: String) -> io::Result<Self> {
        let arguments = fs::read(folder(&id).join("cmdline"))?;
        Ok(Self { id, arguments })
    }

    /// Where the kernel shows something of it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        folder(&self.id).join(name)
    }

    /// Whether this path is in its arguments, or the beginning of one.
    pub(super) fn names(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        !path.is_empty() && self.arguments.windows(path.len()).any(|part| part == path)
    }

    /// Whether it is the QEMU of this machine. Where two hosts share a kernel, as under
    /// `fairmazon dev`, a machine that moves between them has two.
    pub(super) fn is_machine(&self, instance: InstanceId) -> bool {
        let uuid = xml::uuid(instance.ulid());
        let mut arguments = self.arguments.split(|byte| *byte == 0);
        let is_qemu = arguments.next().is_some_and(|program| {
            let program = String::from_utf8_lossy(program);
            program.rsplit('/').next().is_some_and(|name| name.starts_with("qemu-"))
        });
        is_qemu
            && arguments.any(|argument| argument == b"-uuid")
            && self.arguments.split(|byte| *byte == 0).any(|argument| argument == uuid.as_bytes())
    }
}

fn folder(id: &str) -> PathBuf {
    Path::new("/proc").join(id)
}

/// A process until its end, whoever has its number afterwards.
#[derive(Debug)]
pub(super) struct Living(AsyncFd<OwnedFd>);

impl Living {
    /// The QEMU of a machine, by the number of its process.
    ///
    /// # Errors
    /// When the process has ended, or is another one.
    pub(super) fn machine(instance: InstanceId, id: i32) -> io::Result<Self> {
        // First held and then looked at: what has the number by then is what is held, or has ended.
        let living = Self::hold(id)?;
        if Process::read(id.to_string())?.is_machine(instance) {
            Ok(living)
        } else {
            Err(io::Error::other(format!("process {id} is not the QEMU of {instance}")))
        }
    }

    /// A process by its number. In the context of a runtime.
    ///
    /// # Errors
    /// When it has ended.
    #[expect(unsafe_code, reason = "tokio can't see that a descriptor stays the same")]
    pub(super) fn hold(id: i32) -> io::Result<Self> {
        let id = Pid::from_raw(id).ok_or(io::ErrorKind::InvalidInput)?;
        let held = pidfd_open(id, PidfdFlags::empty())?;
        // SAFETY: it owns its descriptor, which stays open and the same until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(held, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Waits until all of it has ended: nothing of its memory and none of its threads is left.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.retain_ready())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn a_machines_process_is_told_from_others() {
        let process =
            |arguments: &[&str]| Process { id: "1".into(), arguments: arguments.join("\0").into() };
        let (first, second) = (xml::uuid(instance(1).ulid()), xml::uuid(instance(2).ulid()));
        let program = "/usr/bin/qemu-system-x86_64";
        assert!(process(&[program, "-uuid", &first, "-no-user"]).is_machine(instance(1)));
        let disk = process(&[program, "-blockdev", "{\"filename\":\"/srv/volumes/fast/a\"}"]);
        assert!(disk.names(Path::new("/srv/volumes")) && !disk.names(Path::new("/srv/other")));
        for other in [
            &[program, "-uuid", &second][..],
            &["/bin/sh", "-uuid", &first],
            &["/usr/bin/qemu-img", "info", &first],
            &[],
        ] {
            assert!(!process(other).is_machine(instance(1)), "{other:?}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_before_anybody_has_asked_for_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let living = Living::hold(id).unwrap();
        let not_qemu = Living::machine(instance(1), id).unwrap_err();
        assert!(not_qemu.to_string().contains("is not the QEMU"), "{not_qemu}");
        tokio::select! {
            biased;
            ended = living.ended() => panic!("{ended:?}"),
            () = tokio::task::yield_now() => {}
        }
        drop(child.stdin.take());
        // Twice: it stays ended.
        living.ended().await.unwrap();
        living.ended().await.unwrap();
        child.wait().unwrap();
        assert!(Living::hold(id).is_err() || Living::machine(instance(1), id).is_err());
    }
}
