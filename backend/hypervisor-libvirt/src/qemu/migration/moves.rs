//! The folder of the sockets that guests move through.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
};

use fairmazon_model::id::InstanceId;

use super::Channel;
use crate::private;

/// The folder as libvirtd and QEMU see it.
pub const FOLDER: &str = "/run/fairmazon/moves";

/// The folder as this process sees it.
#[derive(Debug)]
pub(crate) struct Moves {
    folder: File,
}

impl Moves {
    /// Makes the folder. One that is there keeps its permissions: where QEMU does not run as this
    /// user, an operator has given it the right to make sockets in it.
    ///
    /// Sockets that are there are left from a process that was killed, or from a QEMU that was:
    /// what they were for has ended with that process.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        private::make_folder(path)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: File::open(path)? })
    }

    /// A socket of a migration. Its address has room for 107 bytes, whatever the folder is called.
    pub(super) fn socket(&self, instance: InstanceId, channel: Channel) -> PathBuf {
        let folder = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        Path::new(&folder).join(channel.socket(instance))
    }

    /// Removes the sockets of a machine's migration.
    pub(super) fn clear(&self, instance: InstanceId) {
        for channel in Channel::ALL {
            // One that is not there is as well.
            let _ = fs::remove_file(self.socket(instance, channel));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn a_folder_with_a_long_name_takes_sockets_and_gives_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a".repeat(100)).join("moves");
        let moves = Moves::open(&long).unwrap();
        assert_eq!(fs::metadata(&long).unwrap().permissions().mode() & 0o777, 0o700);
        let _listener = UnixListener::bind(moves.socket(instance(1), Channel::Disks)).unwrap();
        assert_eq!(fs::read_dir(&long).unwrap().count(), 1);
        moves.clear(instance(1));
        assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
        let _left = UnixListener::bind(moves.socket(instance(1), Channel::Memory)).unwrap();
        fs::write(long.join("other"), "").unwrap();
        let _moves = Moves::open(&long).unwrap();
        assert_eq!(fs::read_dir(&long).unwrap().count(), 1);
    }
}
