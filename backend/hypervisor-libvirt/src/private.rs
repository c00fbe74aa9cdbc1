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
        let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
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
    fn what_can_t_be_made_leaves_the_file_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"before").unwrap();
        replace(&path, |_| Err(io::Error::other("full"))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
