//! Machines that have left for another host, noted on this host's disk while libvirt, which is still
//! busy with the end of their QEMU, takes no mark: at their next host they stand still until then.
//!
//! A note counts in the place of the mark in its machine's definition. Whoever writes that anew, in
//! any way, takes the note away.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use fairmazon_hypervisor::{Halt, HypervisorError, Marks, Result};
use fairmazon_model::{id::InstanceId, units::Epoch};

use crate::private;

/// The notes of a host, in a folder on its disk.
#[derive(Debug, Clone)]
pub(crate) struct Left {
    folder: PathBuf,
}

impl Left {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        private::make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Notes that the machine's run of this epoch has left. When this returns, that outlives a crash
    /// of the host.
    pub(crate) fn note(&self, instance: InstanceId, epoch: Epoch) -> io::Result<()> {
        private::replace(&self.path(instance), |file| {
            write!(file, "{}", epoch.0)?;
            file.sync_all()
        })?;
        self.sync()
    }

    /// Whether a machine with these marks has left, and they do not say so yet. A note of another
    /// run says nothing of this one.
    pub(crate) fn has(&self, instance: InstanceId, marks: Marks) -> Result<bool> {
        if !matches!(marks.halt, Halt::Leaving | Halt::Held) {
            return Ok(false);
        }
        let read = match fs::read_to_string(self.path(instance)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            read => read.and_then(|text| text.parse().map(Epoch).map_err(io::Error::other)),
        };
        let epoch = read.map_err(|source| HypervisorError::Driver {
            attempted: format!("read whether {instance} has left"),
            source: source.into(),
        })?;
        Ok(epoch == marks.epoch)
    }

    /// Whether there is a note of the machine, of whichever run.
    pub(crate) fn is_there(&self, instance: InstanceId) -> bool {
        self.path(instance).exists()
    }

    /// Takes a machine's note away.
    pub(crate) fn forget(&self, instance: InstanceId) {
        let removed = fs::remove_file(self.path(instance)).and_then(|()| self.sync());
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%instance, %error, "the note that a machine has left stays");
            }
            _ => {}
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string())
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn a_note_is_of_one_run_until_its_mark_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let left = Left::open(folder.path().join("left")).unwrap();
        let marks = |halt, epoch| Marks { halt, epoch: Epoch(epoch), ..Marks::default() };
        let leaving = marks(Halt::Leaving, 3);
        assert!(!left.has(instance(1), leaving).unwrap());
        left.note(instance(1), Epoch(3)).unwrap();
        // Also to the next process, and for one that was held for its way.
        let left = Left::open(folder.path().join("left")).unwrap();
        assert!(left.has(instance(1), leaving).unwrap());
        assert!(left.has(instance(1), marks(Halt::Held, 3)).unwrap());
        let others = [marks(Halt::Leaving, 4), marks(Halt::Started, 3), marks(Halt::Left, 3)];
        for marks in others {
            assert!(!left.has(instance(1), marks).unwrap(), "{marks:?}");
        }
        assert!(!left.has(instance(2), leaving).unwrap());
        left.forget(instance(1));
        left.forget(instance(1));
        assert!(!left.has(instance(1), leaving).unwrap());
    }

    #[test]
    fn a_note_that_can_t_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let left = Left::open(folder.path().to_owned()).unwrap();
        fs::write(folder.path().join(instance(1).to_string()), "").unwrap();
        let marks = Marks { halt: Halt::Leaving, ..Marks::default() };
        left.has(instance(1), marks).unwrap_err();
    }
}
