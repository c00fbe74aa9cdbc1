//! The file of the known hosts, beside the customer's identity.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where the hosts that were given a key are noted, a line each, as ssh does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHostsFile(PathBuf);

impl KnownHostsFile {
    /// The one that belongs to an identity: of the same name and `.hosts`.
    pub fn beside(identity: &Path) -> Self {
        let mut path = identity.as_os_str().to_owned();
        path.push(".hosts");
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its text; empty when there is none yet.
    ///
    /// # Errors
    /// When it is there and can't be read.
    pub fn read(&self) -> io::Result<String> {
        match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// Adds a line, durably; it is made for its owner alone.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn note(&self, line: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.0)?;
        // One write, so that lines of runs at the same time do not mix.
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_are_added_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KnownHostsFile::beside(&folder.path().join("my.key"));
        assert_eq!(file.read().unwrap(), "");
        file.note("one\n").unwrap();
        file.note("two\n").unwrap();
        assert_eq!(file.read().unwrap(), "one\ntwo\n");
        assert_eq!(file.path(), folder.path().join("my.key.hosts"));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
