//! Small disks for tests that fill them: file systems in memory, gone with the value.
//!
//! Needs root, as mounting does.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Failure, Outcome};

/// What fills a disk.
const FILLER: &str = "filler";

/// Something mounted at a folder; unmounted when this is dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// A file system of this size at the folder, which is made.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn small(at: &Path, mebibytes: u32) -> Outcome<Self> {
        let size = format!("size={mebibytes}m,mode=700");
        let options = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        Self::run(at, options.iter().map(AsRef::as_ref))
    }

    /// The folder `from`, which is made, at the folder `at`: what is written there is elsewhere.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn of(from: &Path, at: &Path) -> Outcome<Self> {
        fs::create_dir_all(from).map_err(Failure::file("create", from))?;
        Self::run(at, ["--bind".as_ref(), from.as_os_str()].into_iter())
    }

    fn run<'a>(at: &Path, arguments: impl Iterator<Item = &'a OsStr>) -> Outcome<Self> {
        fs::create_dir_all(at).map_err(Failure::file("create", at))?;
        let mut command = Command::new("mount");
        let output = command.args(arguments).arg(at).output();
        let output = output.map_err(|source| Failure::Start { program: "mount".into(), source })?;
        if output.status.success() {
            return Ok(Self(at.to_owned()));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::Missing(format!("nothing can be mounted, which needs root: {said}")))
    }

    /// Takes all the room that there is.
    ///
    /// # Errors
    /// When a file fails for another reason.
    pub fn fill(&self) -> Outcome {
        let path = self.0.join(FILLER);
        let mut filler = File::create(&path).map_err(Failure::file("write", &path))?;
        // In small steps at the end, so that nothing is left.
        for size in [1 << 16, 1 << 12, 1] {
            let part = vec![0xa5; size];
            loop {
                match filler.write(&part) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(Failure::file("write", &path)(error)),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn free(&self) -> Outcome {
        let path = self.0.join(FILLER);
        fs::remove_file(&path).map_err(Failure::file("remove", path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // At once for all who look, and in fact when the last program that uses it has ended.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
