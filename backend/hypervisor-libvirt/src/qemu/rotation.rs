//! The exchange of a volume's key: a second slot of its LUKS header is filled, then the first one
//! emptied, so that one of the two keys opens it at each moment. By `qemu-img` for a volume that no
//! machine has open; for one that a running machine has by its QEMU, which holds the file's lock.
//!
//! libvirt has no call for that, so QEMU is told over its monitor. libvirt logs what goes over that,
//! so keys don't: QEMU reads them from files in memory that are there for that moment.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{HypervisorError, KeyChange, Result, VolumeKey};
use fairmazon_model::id::{InstanceId, VolumeId};
use serde_json::{Value, json};
use virt::domain::Domain;

use super::{files::Found, host::QemuHost, tool};
use crate::{error::failed, private};

/// What QEMU spends on making a guess of a key slow, in ms. The key is random.
const ITER_TIME_MS: u32 = 10;
/// What QEMU knows the exchange and its keys as.
const JOB: &str = "fairmazon-key";
const OLD: &str = "fairmazon-old-key";
const NEW: &str = "fairmazon-new-key";
/// Between two looks at what QEMU does, and how long it may take.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// Which half of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// The new key opens the volume as well.
    Add,
    /// The old one does not any more.
    Remove,
}

impl QemuHost {
    /// Exchanges the key of a volume, from wherever an earlier call has left that.
    pub(super) async fn exchange_key(&self, volume: VolumeId, keys: KeyChange) -> Result<()> {
        let found = self.inner.require(volume)?;
        let (old, new) = opened_by(&found.path, volume, &keys).await?;
        let halves: &[Half] = match (old, new) {
            (false, false) => {
                return Err(HypervisorError::KeyWrong { what: volume.to_string() });
            }
            (false, true) => {
                self.inner.keys.give(volume, keys.new);
                return Ok(());
            }
            (true, true) => &[Half::Remove],
            (true, false) => &[Half::Add, Half::Remove],
        };
        let keys = match self.user_of(volume).await? {
            None => {
                for half in halves {
                    amend(&found.path, volume, &keys, *half).await?;
                    sync(&found.path, volume)?;
                }
                keys
            }
            Some(instance) => self.amend_live(instance, volume, &found, keys, halves).await?,
        };
        // What opens the file is what counts, whatever QEMU has said.
        if opened_by(&found.path, volume, &keys).await? != (false, true) {
            return Err(odd(volume, "other keys open it than were set"));
        }
        self.inner.keys.give(volume, keys.new);
        Ok(())
    }

    async fn amend_live(
        &self,
        instance: InstanceId,
        volume: VolumeId,
        found: &Found,
        keys: KeyChange,
        halves: &'static [Half],
    ) -> Result<KeyChange> {
        let path = found.path.clone();
        let attempted = "change a key of a running machine's volume";
        self.talk(attempted, instance, move |host, session| {
            let (domain, _) = session.domains.expect(instance)?;
            let monitor = Monitor { domain: &domain, volume };
            let node = monitor.node(&path)?;
            monitor.clean()?;
            let _old = monitor.lend(OLD, &host.config.consoles, &keys.old)?;
            let _new = monitor.lend(NEW, &host.config.consoles, &keys.new)?;
            for half in halves {
                monitor.amend(&node, *half)?;
                sync(&path, volume)?;
            }
            Ok(keys)
        })
        .await
    }
}

/// Which of the keys open the volume, in use or not: the old one, the new one.
async fn opened_by(path: &Path, volume: VolumeId, keys: &KeyChange) -> Result<(bool, bool)> {
    Ok((opens(path, volume, &keys.old).await?, opens(path, volume, &keys.new).await?))
}

/// Whether the key opens the volume, in use or not.
pub(super) async fn opens(path: &Path, volume: VolumeId, key: &VolumeKey) -> Result<bool> {
    match tool::opens(path, volume, key).await {
        Ok(()) => Ok(true),
        Err(HypervisorError::KeyWrong { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Does one half to a volume that no machine has open: one that starts now holds a lock on the
/// file, and this fails and is repeated.
async fn amend(path: &Path, volume: VolumeId, keys: &KeyChange, half: Half) -> Result<()> {
    let image = tool::image_options(path);
    let (opens, other, change) = match half {
        Half::Add => {
            let change = format!(
                "encrypt.state=active,encrypt.new-secret=source,encrypt.iter-time={ITER_TIME_MS}"
            );
            (&keys.old, &keys.new, change)
        }
        Half::Remove => {
            (&keys.new, &keys.old, "encrypt.state=inactive,encrypt.old-secret=source".to_owned())
        }
    };
    let arguments: [&OsStr; 4] =
        ["-o".as_ref(), change.as_ref(), "--image-opts".as_ref(), image.as_ref()];
    let keys = ((volume, opens), (volume, other));
    tool::run_with_source("amend", &arguments, keys.0, keys.1, "change the key of").await
}

/// Has what was done to the file outlive a power cut: the second half is not begun before the first
/// has.
fn sync(path: &Path, volume: VolumeId) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| odd(volume, error))
}

/// The monitor of a running machine's QEMU, about one of its volumes.
struct Monitor<'a> {
    domain: &'a Domain,
    volume: VolumeId,
}

impl Monitor<'_> {
    /// What QEMU calls the data of the file.
    fn node(&self, path: &Path) -> Result<String> {
        let nodes = self.ask("query-named-block-nodes", &json!({ "flat": true }))?;
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        let node = nodes.iter().find(|node| is_data_of(node, path));
        let node = node.ok_or_else(|| self.busy("the machine that has it changes its disks"))?;
        if node["ro"] != json!(false) {
            return Err(self.busy("a running machine has it without the right to write"));
        }
        node["node-name"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| odd(self.volume, "QEMU has no name for its data"))
    }

    /// Ends what an earlier call has left, whose process was killed.
    fn clean(&self) -> Result<()> {
        if self.job()?.is_some() {
            // Its outcome shows in the file.
            let _ = self.end();
        }
        for id in [OLD, NEW] {
            // Most often there is none.
            let _ = self.ask("object-del", &json!({ "id": id }));
        }
        Ok(())
    }

    /// Has QEMU read a key, for as long as the answer lives.
    fn lend(&self, id: &'static str, folder: &Path, key: &VolumeKey) -> Result<Lent<'_>> {
        let file = KeyFile::write(folder, (self.volume, key), id)?;
        let path = file.0.display().to_string();
        self.ask("object-add", &json!({ "qom-type": "secret", "id": id, "file": path }))?;
        Ok(Lent { monitor: self, id })
    }

    /// Does one half, to its end.
    fn amend(&self, node: &str, half: Half) -> Result<()> {
        let change = match half {
            // QEMU still knows the key that it was started with, which may be an earlier one.
            Half::Add => json!({
                "format": "luks", "state": "active", "secret": OLD, "new-secret": NEW,
                "iter-time": ITER_TIME_MS,
            }),
            Half::Remove => json!({ "format": "luks", "state": "inactive", "old-secret": OLD }),
        };
        let options = json!({ "driver": "qcow2", "encrypt": change });
        let amend = json!({ "job-id": JOB, "node-name": node, "options": options });
        self.ask("x-blockdev-amend", &amend)?;
        self.end()
    }

    /// Waits for the end of what was begun.
    fn end(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let Some(job) = self.job()? else { return Ok(()) };
            if job["status"] == json!("concluded") {
                self.ask("job-dismiss", &json!({ "id": JOB }))?;
                return match job["error"].as_str() {
                    None => Ok(()),
                    Some(error) => Err(odd(self.volume, error)),
                };
            }
            if begin.elapsed() > PATIENCE {
                return Err(odd(self.volume, "QEMU does not end it"));
            }
            thread::sleep(LOOK);
        }
    }

    fn job(&self) -> Result<Option<Value>> {
        let jobs = self.ask("query-jobs", &json!({}))?;
        let mut jobs = jobs.as_array().into_iter().flatten();
        Ok(jobs.find(|job| job["id"] == json!(JOB)).cloned())
    }

    fn ask(&self, command: &str, arguments: &Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let answer = self.domain.qemu_monitor_command(&text, 0);
        let answer = answer.map_err(failed(attempted(self.volume)))?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|error| odd(self.volume, error))?;
        match answer["error"]["class"].as_str() {
            None => Ok(answer["return"].take()),
            Some("CommandNotFound") => {
                Err(self.busy("the QEMU of the running machine that has it can't change keys"))
            }
            Some(_) => {
                let said = answer["error"]["desc"].as_str().unwrap_or_default();
                Err(odd(self.volume, format!("QEMU refused {command}: {said}")))
            }
        }
    }

    fn busy(&self, why: &'static str) -> HypervisorError {
        HypervisorError::busy(self.volume, why)
    }
}

/// Whether a node of QEMU's is the decrypted data of the file.
fn is_data_of(node: &Value, path: &Path) -> bool {
    let described = node["file"].as_str().and_then(|file| file.strip_prefix("json:"));
    let described = described.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let file = described.as_ref().and_then(|described| described["file"]["filename"].as_str());
    node["drv"] == json!("qcow2") && file.is_some_and(|file| Path::new(file) == path)
}

/// A key that QEMU knows for now.
struct Lent<'a> {
    monitor: &'a Monitor<'a>,
    id: &'static str,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.monitor.ask("object-del", &json!({ "id": self.id })) {
            // The next exchange takes it back, or the end of the machine.
            let volume = self.monitor.volume;
            tracing::warn!(%volume, %error, "a key could not be taken back from QEMU");
        }
    }
}

/// A file with a key, in memory, gone when this is.
struct KeyFile(PathBuf);

impl KeyFile {
    /// Writes a volume's key for what QEMU knows as `id`; nothing where the folder is on a disk.
    fn write(folder: &Path, (volume, key): (VolumeId, &VolumeKey), id: &str) -> Result<Self> {
        let file = Self(folder.join(format!("{volume}.{id}")));
        private::write_in_memory(&file.0, key.passphrase().as_bytes())
            .map_err(|error| odd(volume, error))?;
        Ok(file)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        // One that was not made is not there.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the files with keys that a process that was killed has left.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    private::sweep(folder, &HashSet::<VolumeId>::new())
}

fn attempted(volume: VolumeId) -> String {
    format!("change the key of {volume}")
}

fn odd(
    volume: VolumeId,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> HypervisorError {
    HypervisorError::Driver { attempted: attempted(volume), source: source.into() }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::volume;

    use super::*;

    #[test]
    fn the_data_of_a_file_is_found_by_the_name_that_it_was_opened_with() {
        let file = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b.qcow2"}}"#;
        let node = json!({ "node-name": "libvirt-1-format", "drv": "qcow2", "file": file });
        assert!(is_data_of(&node, Path::new("/a/b.qcow2")));
        assert!(!is_data_of(&node, Path::new("/a/c.qcow2")));
        let storage = json!({ "node-name": "x", "drv": "file", "file": "/a/b.qcow2" });
        assert!(!is_data_of(&storage, Path::new("/a/b.qcow2")));
    }

    #[test]
    fn a_key_is_in_a_file_for_a_moment_and_on_no_disk() {
        let key = VolumeKey::new(&[7; VolumeKey::LENGTH]);
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = KeyFile::write(memory.path(), (volume(1), &key), NEW).unwrap();
        assert_eq!(fs::read(&file.0).unwrap(), key.passphrase().as_bytes());
        drop(file);
        assert_eq!(fs::read_dir(memory.path()).unwrap().count(), 0);
        // Of the kernel's own, and on no tmpfs.
        let error = KeyFile::write(Path::new("/proc/self"), (volume(1), &key), NEW).err().unwrap();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains(&volume(1).to_string()), "{error}");
        assert!(cause.contains("/proc/self is not on tmpfs"), "{cause}");
    }

    #[test]
    fn only_files_with_keys_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let names = [format!("{}.{OLD}", volume(1)), format!("{}.new", volume(1)), "log".into()];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
        sweep(folder.path()).unwrap();
        assert_eq!(names.map(|name| folder.path().join(name).exists()), [false, false, true]);
    }
}
