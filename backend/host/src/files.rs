//! Files that only their owner may read, replaced as a whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// What a file outlives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Outlives the agent.
    Process,
    /// Outlives a loss of power.
    Machine,
}

/// Makes the folder where it is missing.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What the file holds; none when there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the file: a reader finds the old bytes or the new ones.
pub(crate) fn replace(path: &Path, bytes: &[u8], lasts: Durability) -> io::Result<()> {
    replace_from(path, bytes, lasts)
}

/// As [`replace`], with all that `bytes` gives.
pub(crate) fn replace_from(
    path: &Path,
    mut bytes: impl io::Read,
    lasts: Durability,
) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // One that a crash has left may be somebody else's to read.
    remove(Path::new(&new))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    io::copy(&mut bytes, &mut file)?;
    if lasts == Durability::Machine {
        file.sync_all()?;
    }
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) if lasts == Durability::Machine => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Removes the file where it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
