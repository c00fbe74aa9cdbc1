//! Files that only this user may read, and folders of them that hold one file a machine.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    hash::Hash,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    str::FromStr,
};

use rustix::fs::FsWord;

/// What ends the name of a file that is being written.
const HALF_MADE: &str = "new";

/// Makes a folder, and those that it is in, for this user only.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file in the place of the one before, all of it or nothing.
pub(crate) fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    replace(path, |file| file.write_all(data))
}

/// As [`write`], and only where no disk gets to have it.
///
/// # Errors
/// When the folder is on another file system than tmpfs or ramfs; then nothing was written.
pub(crate) fn write_in_memory(path: &Path, data: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    if in_memory(folder)? {
        return write(path, data);
    }
    Err(io::Error::other(format!(
        "{} is not on tmpfs or ramfs, and a key is written to no disk: give the agent a \
         --runtime-dir that is, as one below /run",
        folder.display()
    )))
}

fn in_memory(folder: &Path) -> io::Result<bool> {
    /// As `statfs(2)` has them.
    const TMPFS: FsWord = 0x0102_1994;
    const RAMFS: FsWord = 0x8584_58f6;
    Ok(matches!(rustix::fs::statfs(folder)?.f_type, TMPFS | RAMFS))
}

/// Makes a file in the place of the one before, all of it or nothing.
pub(crate) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension(HALF_MADE);
    let made = || {
        // One that is left from a process that was killed may have any content.
        let _ = fs::remove_file(&new);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        fill(&mut file)?;
        fs::rename(&new, path)
    };
    made().inspect_err(|_| drop(fs::remove_file(&new)))
}

/// Removes the files of what is not there, by its id, which a process that was killed has left.
pub(crate) fn sweep<Id: FromStr + Eq + Hash>(folder: &Path, there: &HashSet<Id>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(Id::from_str);
        let half_made = path.extension() == Some(HALF_MADE.as_ref());
        if matches!(name, Some(Ok(id)) if half_made || !there.contains(&id)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fairmazon_hypervisor::contract::instance;

    use super::*;

    #[test]
    fn only_what_is_of_machines_that_are_not_there_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            instance(1).to_string(),
            instance(2).to_string(),
            format!("{}.new", instance(1)),
            "other".into(),
        ];
        for name in &names {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        sweep(folder.path(), &[instance(1)].into()).unwrap();
        let there = names.map(|name| folder.path().join(name).exists());
        assert_eq!(there, [true, false, false, true]);
    }

    #[test]
    fn only_what_is_in_memory_is_written_to() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("key");
        write_in_memory(&path, b"secret").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        // A folder of the kernel's, and that of this program, unless it was built in memory.
        let program = std::env::current_exe().unwrap();
        let built = program.parent().unwrap();
        let disks = [built, Path::new("/proc/self")];
        for disk in disks.into_iter().filter(|folder| !in_memory(folder).unwrap()) {
            let path = disk.join("fairmazon-key");
            let error = write_in_memory(&path, b"secret").unwrap_err().to_string();
            assert!(error.contains(disk.to_str().unwrap()), "{error}");
            assert!(error.contains("--runtime-dir"), "{error}");
            assert!(!path.exists() && !path.with_extension(HALF_MADE).exists());
        }
        assert!(!in_memory(Path::new("/proc/self")).unwrap());
        in_memory(&place.path().join("missing")).unwrap_err();
    }

    #[test]
    fn what_can_t_be_made_leaves_the_file_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"before").unwrap();
        replace(&path, |_| Err(io::Error::other("full"))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
