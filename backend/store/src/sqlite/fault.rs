//! One map from what SQLite says to [`StoreError`].

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Error, ErrorCode, ffi};

use crate::{Key, StoreError};

/// Turns failures on one database file into [`StoreError`]s.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    path: PathBuf,
}

impl Faults {
    pub(super) fn on(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The database file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A failure of the database while it was asked to do what `attempted` says.
    pub(super) fn of(&self, attempted: &'static str, error: Error) -> StoreError {
        let path = self.path.clone();
        let code = error.sqlite_error_code();
        // What SQLite maps into memory it makes as large as it has to be first; it calls it an
        // error of the disk when there is no room for that.
        let has_no_room = error
            .sqlite_error()
            .is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHMSIZE);
        let source = Arc::new(error);
        match code {
            _ if has_no_room => StoreError::Full { path, source },
            Some(ErrorCode::DiskFull) => StoreError::Full { path, source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { path, source }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StoreError::Locked { path }
            }
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => StoreError::Disk { path, source },
            _ => StoreError::Database { attempted, source },
        }
    }

    /// Damage that was found without SQLite failing.
    pub(super) fn damage(&self, found: &str) -> StoreError {
        let error = ffi::Error::new(ffi::SQLITE_CORRUPT);
        let source = Arc::new(Error::SqliteFailure(error, Some(found.to_owned())));
        StoreError::Corrupt { path: self.path.clone(), source }
    }

    /// A failure while writing the row `key`, of which `unique` must be unique.
    pub(super) fn of_write(&self, key: Key, unique: &'static str, error: Error) -> StoreError {
        match error.sqlite_error().map(|error| error.extended_code) {
            Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => StoreError::Duplicate { key, what: unique },
            Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => StoreError::Reference { key },
            _ => self.of("write a row", error),
        }
    }

    /// A failure of the file system.
    pub(super) fn of_io(path: &Path, error: io::Error) -> StoreError {
        StoreError::Io { path: path.to_owned(), source: Arc::new(error) }
    }
}
