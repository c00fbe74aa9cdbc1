//! Serial consoles: QEMU appends to a file in memory, of which the last part is kept.
//!
//! A file goes on when this process or libvirt's is restarted, and loses no byte. It is kept short
//! by punching out its beginning: its length grows on, the memory it takes does not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use fairmazon_model::{console::CONSOLE_MAX, id::InstanceId};
use rustix::fs::{FallocateFlags, fallocate};

/// What is kept of a console.
pub(super) const KEPT: u64 = CONSOLE_MAX as u64;

/// The consoles of a host.
#[derive(Debug)]
pub(super) struct Consoles {
    folder: PathBuf,
}

impl Consoles {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The file of a machine's console.
    pub(super) fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string())
    }

    /// Makes the file, for this user only; one that is there goes on.
    pub(super) fn prepare(&self, instance: InstanceId) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).open(self.path(instance)).map(drop)
    }

    /// The last 64 KiB; nothing when it never ran.
    pub(super) fn last(&self, instance: InstanceId) -> io::Result<Vec<u8>> {
        let mut file = match File::open(self.path(instance)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
        let mut text = Vec::new();
        // It may grow meanwhile.
        file.take(KEPT).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Forgets a console.
    pub(super) fn remove(&self, instance: InstanceId) {
        // One that never ran has none.
        let _ = fs::remove_file(self.path(instance));
    }

    /// Frees the memory of everything but the last 64 KiB of each console.
    pub(super) fn trim(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let data = entry.metadata()?;
            // Blocks of 512 bytes; twice what is kept, so that not every look frees something.
            if data.is_file() && data.blocks() * 512 > 2 * KEPT {
                let file = OpenOptions::new().write(true).open(entry.path())?;
                let keep_size = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, keep_size, 0, data.len().saturating_sub(KEPT))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn a_console_keeps_its_end_and_takes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let consoles = Consoles::open(folder.path().join("consoles")).unwrap();
        assert_eq!(consoles.last(instance(1)).unwrap(), b"");
        consoles.prepare(instance(1)).unwrap();
        let path = consoles.path(instance(1));
        let mut guest = OpenOptions::new().append(true).open(&path).unwrap();
        let line = [b'x'; 1023];
        for _ in 0..1024 {
            guest.write_all(&line).unwrap();
            guest.write_all(b"\n").unwrap();
        }
        guest.write_all(b"the end").unwrap();
        let before = consoles.last(instance(1)).unwrap();
        consoles.trim().unwrap();
        let after = consoles.last(instance(1)).unwrap();
        assert_eq!(after.len() as u64, KEPT);
        assert!(before == after && after.ends_with(b"the end"));
        guest.write_all(b" is not the end").unwrap();
        assert!(consoles.last(instance(1)).unwrap().ends_with(b"the end is not the end"));
        assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 2 * KEPT);
        consoles.remove(instance(1));
        assert_eq!(consoles.last(instance(1)).unwrap(), b"");
    }
}
