//! Files and connections: who may open the database, with which rights and settings.
//!
//! The folder is made with mode 0700 where it is missing, the files have mode 0600. A lock on
//! a file beside the database keeps a second process out. The lock is not on the database
//! itself, because closing any handle of that one would drop SQLite's own locks.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::{
    SqliteOptions,
    fault::Faults,
    log::{self, CHECKPOINT_PAGES},
};
use crate::StoreError;

/// Prepared statements kept per connection; more than there are different ones.
const STATEMENTS: usize = 128;
/// Size of a page in bytes. Twice SQLite's usual: rows are about 1 KiB and mostly appended.
const PAGE_SIZE: u32 = 8_192;
/// Page cache of the writer in KiB.
const WRITER_CACHE_KIB: i64 = 16 * 1_024;
/// Page cache of each reader in KiB.
const READER_CACHE_KIB: i64 = 2 * 1_024;
/// How long a connection waits for another one of this process.
pub(super) const BUSY: Duration = Duration::from_secs(10);

/// How large a database may be to be gone through as a whole when it is opened, in bytes: more
/// would keep hosts without a broker for longer than they may wait.
const CHECKED_MOST: u64 = 64 * 1_024 * 1_024;
/// What a database of SQLite begins with; the size of its pages follows.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// What the file of the lock holds from when the store was made.
const MADE: &[u8] =
    b"The store beside this file has been made; without this file an empty one would be, too.\n";

/// Keeps other processes out as long as it lives.
#[derive(Debug)]
pub(super) struct ProcessLock {
    file: File,
}

impl ProcessLock {
    /// Notes that the store was made, so that it is missed when it is gone.
    pub(super) fn note_made(&self, path: &Path) {
        let note = || -> io::Result<()> {
            if length(path)? == 0 || self.file.metadata()?.len() > 0 {
                return Ok(());
            }
            (&self.file).write_all(MADE)?;
            self.file.sync_all()
        };
        if let Err(error) = note() {
            // The next start does it: nothing else depends on it.
            tracing::warn!(%error, path = %path.display(), "it was not noted that the store is made");
        }
    }
}

/// Makes the folder and the file, and locks them for this process.
pub(super) fn prepare(path: &Path) -> Result<ProcessLock, StoreError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| Faults::of_io(folder, error))?;
    }
    let lock_path = beside(path, ".lock");
    let lock = private_file(&lock_path).map_err(|error| Faults::of_io(&lock_path, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked { path: path.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(Faults::of_io(&lock_path, error)),
    }
    let io = |error| Faults::of_io(path, error);
    let was_made = lock.metadata().map_err(|error| Faults::of_io(&lock_path, error))?.len() > 0;
    if was_made && length(path).map_err(io)? == 0 {
        return Err(StoreError::Gone { path: path.to_owned(), mark: lock_path });
    }
    if is_cut_off(path).map_err(io)? {
        return Err(Faults::on(path).damage("the file ends within a page"));
    }
    private_file(path).map_err(io)?;
    Ok(ProcessLock { file: lock })
}

/// Bytes of a file; none where it is not there.
fn length(path: &Path) -> io::Result<u64> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Whether the file ends within a page, of which SQLite would take the rest for zeros. A crash can
/// leave it so, but then the log has what is missing.
fn is_cut_off(path: &Path) -> io::Result<bool> {
    let bytes = length(path)?;
    // What has a journal of its changes beside it is put right by SQLite.
    if bytes == 0 || length(&beside(path, "-wal"))? > 0 || length(&beside(path, "-journal"))? > 0 {
        return Ok(false);
    }
    let mut header = Vec::new();
    File::open(path)?.take(18).read_to_end(&mut header)?;
    let Some((MAGIC, [high, low])) = header.split_first_chunk() else { return Ok(false) };
    let page = u64::from(u16::from_be_bytes([*high, *low]));
    // 65536 does not fit and is written as 1.
    let page = if page == 1 { 65_536 } else { page };
    Ok(page.is_power_of_two() && bytes % page != 0)
}

/// Goes through the pages of a database that is not too large for it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let faults = Faults::on(path);
    if length(path).map_err(|error| Faults::of_io(path, error))? > CHECKED_MOST {
        return Ok(());
    }
    let said: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| faults.of("check the store", error))?;
    // The first line only says which database.
    if said == "ok" { Ok(()) } else { Err(faults.damage(said.lines().last().unwrap_or(&said))) }
}

/// Opens or makes a file that only its owner can read; tightens the rights of an old one.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// The path of a file beside the database: its name with an ending added.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The one connection that writes.
pub(super) fn writer(options: &SqliteOptions) -> Result<Connection, StoreError> {
    let path = &options.path;
    let faults = Faults::on(path);
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(BUSY)?;
        log::keep(&connection, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "page_size", PAGE_SIZE)?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| {
            let mode: String = row.get(0)?;
            if mode == "wal" { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
        })?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        let journal_bytes = u64::from(CHECKPOINT_PAGES) * u64::from(PAGE_SIZE);
        connection.pragma_update(None, "journal_size_limit", journal_bytes)?;
        Ok(connection)
    };
    open().map_err(|error| faults.of("open the store", error))
}

/// Limits the size of the database; the limit holds for this connection only.
pub(super) fn limit_size(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    connection.pragma_update_and_check(None, "max_page_count", (bytes / page).max(1), |_| Ok(()))
}

/// A connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        Ok(connection)
    };
    open().map_err(|error| Faults::on(path).of("open the store for reading", error))
}

/// Writes a consistent copy into a new file and brings it to the disk.
pub(super) fn backup(connection: &Connection, to: &Path) -> Result<(), StoreError> {
    let io = |error| Faults::of_io(to, error);
    // The database accepts an empty file, and nobody else can read one that we made.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(io)?;
    let written = connection
        .execute("VACUUM INTO ?1", [to.to_string_lossy()])
        .map_err(|error| Faults::on(to).of("back the store up", error))
        .and_then(|_| File::open(to).and_then(|file| file.sync_all()).map_err(io));
    if written.is_err() {
        // Half a backup is worse than none; that it can't be removed changes nothing.
        let _ = std::fs::remove_file(to);
    }
    written
}
