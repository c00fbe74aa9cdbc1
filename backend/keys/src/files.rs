//! The file of the customer's identity, and that of the known hosts beside it.
//!
//! Both are believed only while nobody but their owner can have changed them, and the identity only
//! while nobody else can read it. As with ssh, that holds for files of the user: what an
//! administrator gives away is the administrator's matter.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Most that is read of either file, in bytes.
const READ_MOST: u64 = 16 * 1024 * 1024;
/// The rights of others to read, write or execute.
const ANY: u32 = 0o077;
/// The rights of others to write.
const WRITE: u32 = 0o022;

/// The text of the file with the customer's identity.
///
/// # Errors
/// When it can't be read, or is the user's and others may read it or write to it.
pub fn read_identity_file(path: &Path) -> io::Result<Zeroizing<String>> {
    read(path, ANY).map(Zeroizing::new)
}

fn read(path: &Path, forbidden: u32) -> io::Result<String> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    let rights = found.mode() & 0o777;
    if found.uid() == rustix::process::geteuid().as_raw() && rights & forbidden != 0 {
        return Err(io::Error::other(format!(
            "others have rights to it that they must not have ({rights:o}): if nobody has used \
             them, take them away with `chmod 600 {}`",
            path.display()
        )));
    }
    if found.len() > READ_MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    let mut text = String::new();
    file.take(READ_MOST).read_to_string(&mut text)?;
    Ok(text)
}

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
    /// When it is there and can't be read, is empty, or is the user's and others may write to it.
    pub fn read(&self) -> io::Result<String> {
        match read(&self.0, WRITE) {
            Ok(text) if text.trim().is_empty() => self.read_when_written(),
            read => or_none_yet(read),
        }
    }

    /// Its text when nobody writes its first line any more.
    fn read_when_written(&self) -> io::Result<String> {
        match File::open(&self.0) {
            Ok(file) => file.lock_shared()?,
            Err(error) => return or_none_yet(Err(error)),
        }
        let text = or_none_yet(read(&self.0, WRITE))?;
        if text.trim().is_empty() && self.0.exists() {
            return Err(io::Error::other(
                "it is empty, so what it held is lost: put it back from a copy; without one, \
                 delete it, and compare the keys of the hosts with their operators when they are \
                 noted again",
            ));
        }
        Ok(text)
    }

    /// Adds a line, durably; the file is made for its owner alone. Of one that can't be written
    /// nothing stays, and no empty file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn note(&self, line: &str) -> io::Result<()> {
        let (mut file, before) = self.open_alone()?;
        // One that was edited by hand may not end its last line.
        let mut last = [b'\n'];
        if before > 0 {
            file.read_exact_at(&mut last, before - 1)?;
        }
        let line = if last == *b"\n" { line.to_owned() } else { format!("\n{line}") };
        // One write, so that whoever reads meanwhile sees whole lines.
        let noted = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        if noted.is_err() {
            let undone = if before == 0 { fs::remove_file(&self.0) } else { file.set_len(before) };
            undone?;
        }
        noted
    }

    /// The file and its length, for this process alone.
    fn open_alone(&self) -> io::Result<(File, u64)> {
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).append(true).create(true).mode(0o600).open(&self.0)?;
            file.lock()?;
            let found = file.metadata()?;
            // Removed meanwhile, by who could write nothing into it.
            if found.nlink() > 0 {
                return Ok((file, found.len()));
            }
        }
    }
}

/// What was read, and nothing of what is not there.
fn or_none_yet(read: io::Result<String>) -> io::Result<String> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
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
        fs::write(file.path(), "one\ntwo").unwrap();
        file.note("three\n").unwrap();
        assert_eq!(file.read().unwrap(), "one\ntwo\nthree\n");
        assert_eq!(file.path(), folder.path().join("my.key.hosts"));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_first_line_that_is_under_way_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = KnownHostsFile::beside(&folder.path().join("my.key"));
        let (mut writer, length) = file.open_alone().unwrap();
        assert_eq!(length, 0);
        let reader = {
            let file = file.clone();
            std::thread::spawn(move || file.read())
        };
        while !lock_is_waited_for(file.path()) {
            std::thread::yield_now();
        }
        writer.write_all(b"one\n").unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap(), "one\n");
    }

    /// proc_locks(5): a lock that is waited for has an arrow before it.
    fn lock_is_waited_for(path: &Path) -> bool {
        let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&inode))
    }

    #[test]
    fn what_others_may_change_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.key");
        let hosts = KnownHostsFile::beside(&path);
        fs::write(&path, "secret").unwrap();
        hosts.note("one\n").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (mode, identity, known) in
            [(0o600, true, true), (0o640, false, true), (0o604, false, true), (0o620, false, false)]
        {
            set(&path, mode);
            set(hosts.path(), mode);
            assert_eq!(read_identity_file(&path).is_ok(), identity, "{mode:o}");
            assert_eq!(hosts.read().is_ok(), known, "{mode:o}");
        }
        let error = read_identity_file(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains("my.key"), "{error}");
        set(hosts.path(), 0o600);
        fs::write(hosts.path(), "").unwrap();
        assert!(hosts.read().unwrap_err().to_string().contains("empty"));
    }
}
