//! Files that only their owner may read, written so that a crash leaves the old or the new one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Most that is read of a certificate or key, in bytes.
const READ_MAX: u64 = 1024 * 1024;

/// Reads a small file.
///
/// # Errors
/// When it can't be read, or is larger than 1 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > READ_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    fs::read(path)
}

/// Makes a folder and those above it, with mode 0700.
///
/// # Errors
/// When it can't be made.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file with mode 0600: all of it or, after a crash, what was there before.
///
/// # Errors
/// When it can't be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
