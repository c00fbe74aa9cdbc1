//! Where the texts of customers that guests get at their first boot are kept: they may hold
//! secrets, so a folder in memory has them and no definition, which libvirt writes to its disk.
//!
//! A host that was restarted has none of them. The definition then reads as one without, and the
//! agent, which knows what is desired, writes it again before it starts the machine.

use std::{fs, io, path::PathBuf};

use fairmazon_hypervisor::{HypervisorError, Result};
use fairmazon_model::id::InstanceId;

use crate::private;

/// The texts of a host's machines, in a folder in memory.
#[derive(Debug, Clone)]
pub(crate) struct UserData {
    folder: PathBuf,
}

impl UserData {
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        private::make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The text of a machine; none when it has none, or the host was restarted.
    pub(crate) fn read(&self, instance: InstanceId) -> Result<Option<String>> {
        match fs::read_to_string(self.path(instance)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", instance)(error)),
        }
    }

    /// Takes a machine's text in the place of the one before, all of it or nothing.
    pub(crate) fn write(&self, instance: InstanceId, text: &str) -> Result<()> {
        if text.is_empty() {
            self.remove(instance);
            return Ok(());
        }
        private::write(&self.path(instance), text.as_bytes()).map_err(failed("keep", instance))
    }

    pub(crate) fn remove(&self, instance: InstanceId) {
        // A machine without has none.
        let _ = fs::remove_file(self.path(instance));
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string())
    }
}

fn failed(verb: &str, instance: InstanceId) -> impl FnOnce(io::Error) -> HypervisorError {
    let attempted = format!("{verb} the user data of {instance}");
    move |error| HypervisorError::Driver { attempted, source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn a_text_is_for_this_user_only_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let texts = UserData::open(folder.path().join("texts")).unwrap();
        assert_eq!(texts.read(instance(1)).unwrap(), None);
        for text in ["a long text of a customer", "short"] {
            texts.write(instance(1), text).unwrap();
            assert_eq!(texts.read(instance(1)).unwrap().unwrap(), text);
        }
        let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&texts.folder), mode(&texts.path(instance(1)))), (0o700, 0o600));
        texts.write(instance(1), "").unwrap();
        assert_eq!(texts.read(instance(1)).unwrap(), None);
        assert_eq!(fs::read_dir(&texts.folder).unwrap().count(), 0);
    }
}
