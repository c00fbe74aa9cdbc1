//! Whether the folders of volumes are those that this host had. One whose disk is not mounted is
//! empty: what is looked for there would be taken for gone, and made anew.
//!
//! Each folder has a mark in it, and the same mark is kept elsewhere, on the disk of the agent's
//! state. A folder that is not known there is taken as it is, with its mark where it has one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fairmazon_hypervisor::{HypervisorError, Result};

use crate::{LibvirtError, private};

/// The file in the folder of a storage class that says which folder it is.
const MARK: &str = ".fairmazon";
/// Where the kernel makes an id that no other folder has.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// The folders of a host's storage classes.
#[derive(Debug)]
pub(super) struct Anchors {
    /// Each folder with its mark.
    folders: BTreeMap<String, (PathBuf, String)>,
}

/// Why a folder is not taken.
#[derive(Debug, thiserror::Error)]
enum Unlike {
    #[error("it has no mark, and this host's has one")]
    NoMark,
    #[error("it has another mark than this host's")]
    Other,
    #[error("its mark can't be read")]
    Io(#[from] io::Error),
}

impl Anchors {
    /// Finds the folders of these classes in `storage`, by what is kept of them in `state`; makes
    /// those that are in neither.
    ///
    /// # Errors
    /// `NotMounted` for a folder that is not the one that this host had.
    pub(super) fn open<'a>(
        storage: &Path,
        state: &Path,
        classes: impl Iterator<Item = &'a String>,
    ) -> std::result::Result<Self, LibvirtError> {
        let mut folders = BTreeMap::new();
        for class in classes {
            let (folder, known) = (storage.join(class), state.join(class));
            let mark = open_one(&folder, &known).map_err(|why| match why {
                Failed::Unlike(source) => LibvirtError::NotMounted {
                    path: folder.clone(),
                    known: known.clone(),
                    source: Box::new(source),
                },
                Failed::Io(path, source) => LibvirtError::Folder { path, source },
            })?;
            folders.insert(class.clone(), (folder, mark));
        }
        Ok(Self { folders })
    }

    /// Refuses to believe what is seen of a folder that is not the one that this host had.
    pub(super) fn require(&self, class: &str) -> Result<()> {
        let Some((folder, mark)) = self.folders.get(class) else { return Ok(()) };
        require(folder, mark).map_err(|source| HypervisorError::Driver {
            attempted: format!("find its volumes in {}: is its disk mounted?", folder.display()),
            source: source.into(),
        })
    }

    /// As [`require`](Self::require), of all folders: without that nothing is gone.
    pub(super) fn require_all(&self) -> Result<()> {
        self.folders.keys().try_for_each(|class| self.require(class))
    }
}

enum Failed {
    Unlike(Unlike),
    Io(PathBuf, io::Error),
}

/// The mark of a folder.
fn open_one(folder: &Path, known: &Path) -> std::result::Result<String, Failed> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| Failed::Io(path, error)
    };
    if let Some(mark) = read(known).map_err(io(known))? {
        require(folder, &mark).map_err(Failed::Unlike)?;
        return Ok(mark);
    }
    fs::create_dir_all(folder).map_err(io(folder))?;
    let at = folder.join(MARK);
    let mark = match read(&at).map_err(io(&at))? {
        Some(mark) => mark,
        None => {
            let mark = fs::read_to_string(RANDOM).map_err(io(Path::new(RANDOM)))?;
            let mark = mark.trim().to_owned();
            keep(&at, &mark).map_err(io(&at))?;
            mark
        }
    };
    // Last: what is known here is there.
    if let Some(state) = known.parent() {
        private::make_folder(state).map_err(io(state))?;
    }
    keep(known, &mark).map_err(io(known))?;
    Ok(mark)
}

fn require(folder: &Path, mark: &str) -> std::result::Result<(), Unlike> {
    match read(&folder.join(MARK))? {
        None => Err(Unlike::NoMark),
        Some(has) if has != mark => Err(Unlike::Other),
        Some(_) => Ok(()),
    }
}

/// What a file holds; none without one, and of one that a loss of power has left empty.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file, durably.
fn keep(path: &Path, mark: &str) -> io::Result<()> {
    private::replace(path, |file| {
        io::Write::write_all(file, mark.as_bytes())?;
        file.sync_all()
    })?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::CLASS;

    use super::*;

    /// The folders of a host, all of it in one.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn storage(&self) -> PathBuf {
            self.0.path().join("storage")
        }

        fn known(&self) -> PathBuf {
            self.0.path().join("state").join(CLASS)
        }

        fn open(&self) -> std::result::Result<Anchors, LibvirtError> {
            let state = self.0.path().join("state");
            Anchors::open(&self.storage(), &state, std::iter::once(&CLASS.to_owned()))
        }

        /// The text of the refusal.
        fn refused(&self) -> String {
            match self.open() {
                Err(error @ LibvirtError::NotMounted { .. }) => error.to_string(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_folder_whose_disk_is_not_mounted_is_not_taken_for_an_empty_one() {
        let host = Host::new();
        let running = host.open().unwrap();
        running.require_all().unwrap();
        let away = host.0.path().join("away");
        fs::rename(host.storage(), &away).unwrap();
        running.require_all().unwrap_err();
        let refused = host.refused();
        assert!(refused.contains(host.known().to_str().unwrap()), "{refused}");
        assert!(!host.storage().exists(), "nothing is made there");
        // Where it is mounted, or another disk is.
        fs::create_dir_all(host.storage().join(CLASS)).unwrap();
        running.require(CLASS).unwrap_err();
        host.refused();
        fs::write(host.storage().join(CLASS).join(MARK), "another").unwrap();
        running.require(CLASS).unwrap_err();
        host.refused();
        fs::remove_dir_all(host.storage()).unwrap();
        fs::rename(&away, host.storage()).unwrap();
        running.require_all().unwrap();
        host.open().unwrap();
        // Lost for good, and its operator says so.
        fs::remove_dir_all(host.storage()).unwrap();
        host.refused();
        fs::remove_file(host.known()).unwrap();
        host.open().unwrap().require_all().unwrap();
        running.require_all().unwrap_err();
    }

    #[test]
    fn a_folder_that_is_not_known_is_taken_as_it_is() {
        let host = Host::new();
        let folder = host.storage().join(CLASS);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("of an earlier version"), "").unwrap();
        host.open().unwrap();
        assert!(folder.join("of an earlier version").exists());
        let mark = fs::read_to_string(folder.join(MARK)).unwrap();
        assert_eq!(mark, fs::read_to_string(host.known()).unwrap());
        // The state has been lost, or a loss of power has left half of it.
        for half in [host.known(), folder.join(MARK)] {
            fs::write(half, "").unwrap();
            fs::remove_file(host.known()).unwrap();
            host.open().unwrap().require_all().unwrap();
        }
    }
}
