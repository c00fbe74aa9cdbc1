//! Failures of the store, each with what the operator can do.
//!
//! Clonable, because one failed transaction fails every commit that shared it.

use std::{io, path::PathBuf, sync::Arc};

use fairmazon_model::{DomainError, ErrorKind, units::Revision};

use crate::{Expect, IdempotencyRecord, Key};

/// Why the store did not do what it was asked for. Nothing of a failed commit is written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An expectation of the commit does not hold.
    #[error("{key} is not as expected: expected {expected:?}, found {found:?}")]
    Conflict {
        /// Which row.
        key: Key,
        /// What the commit expected.
        expected: Expect,
        /// The revision that the row has; none when it does not exist.
        found: Option<Revision>,
    },
    /// Another row has the same value where it must be unique.
    #[error("{key} can't be written: another row has the same {what}")]
    Duplicate {
        /// Which row.
        key: Key,
        /// What must be unique.
        what: &'static str,
    },
    /// The row names another that does not exist, or is to go while another names it.
    #[error("{key} names a row that does not exist, or is deleted while a row names it")]
    Reference {
        /// Which row.
        key: Key,
    },
    /// A request with this idempotency key was answered already.
    #[error("the idempotency key `{}` of {} was used before", existing.key, existing.account)]
    AlreadyAnswered {
        /// What was answered then.
        existing: Box<IdempotencyRecord>,
    },
    /// The call itself is wrong.
    #[error("the store refuses this: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// A row could not be turned into JSON.
    #[error("unable to write {key} as JSON")]
    Encode {
        /// Which row, record or entry.
        key: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A row can't be read back: written by another version, or damaged.
    #[error(
        "unable to read {key} of the {noun} rows; use the version of the broker that wrote \
         it, or restore a backup"
    )]
    Decode {
        /// The noun.
        noun: &'static str,
        /// Which row.
        key: String,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// No room.
    #[error(
        "the store in {} has no room; make room on its disk or raise its size limit, then \
         repeat: nothing has to be restarted",
        path.display()
    )]
    Full {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The disk or the file system failed.
    #[error("unable to read or write {}; check its disk, its owner and its rights", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk or the file system failed under the database.
    #[error(
        "the store in {} could not be read or written; check its disk, its owner and its rights",
        path.display()
    )]
    Disk {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file is damaged or is not a database.
    #[error(
        "the store in {} is damaged and was left as it is: stop the broker, move the file away \
         together with its `-wal` and `-shm` beside it, and restore the last backup under its name",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was noticed.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file is empty or not there, and was neither.
    #[error(
        "{} is empty or not there, though it held the state of a platform: put it back, or restore \
         the last backup under this name; to begin with nothing instead, delete {}",
        path.display(), mark.display()
    )]
    Gone {
        /// The database.
        path: PathBuf,
        /// What says that there was one.
        mark: PathBuf,
    },
    /// Somebody else has it open.
    #[error(
        "the store in {} is in use by another process; stop that one first, or choose \
         another folder",
        path.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// The file is a database of something else.
    #[error(
        "{} is a database of another program; choose another file", path.display()
    )]
    NotOurs {
        /// The database.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error(
        "the store in {} has schema {found}, this version knows {known} at most; use the \
         newer version again, or restore a backup made before it",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The newest schema that this version knows.
        known: u32,
    },
    /// A migration that the file has seen is not the one that this version has.
    #[error(
        "the store in {} was migrated by another build: migration {version} differs; use \
         the build that made it",
        path.display()
    )]
    ChangedMigration {
        /// The database.
        path: PathBuf,
        /// Which migration.
        version: u32,
    },
    /// The deletions asked for are no longer kept.
    #[error("changes before revision {oldest} are no longer kept; load everything again")]
    Compacted {
        /// The oldest revision that changes can be asked from.
        oldest: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else that the database says.
    #[error("unable to {attempted}")]
    Database {
        /// What was tried.
        attempted: &'static str,
        /// Why.
        #[source]
        source: Arc<rusqlite::Error>,
    },
}

impl StoreError {
    /// Whether the failure is of the whole store and not of one commit, so that it says
    /// something about the store's health.
    pub const fn is_of_the_store(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::Io { .. }
                | Self::Disk { .. }
                | Self::Corrupt { .. }
                | Self::Locked { .. }
                | Self::Closed
                | Self::Database { .. }
        )
    }
}

/// What a caller is told; the text with paths and causes goes to the operator only.
impl From<StoreError> for DomainError {
    fn from(error: StoreError) -> Self {
        let operator = {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text.push_str(": ");
                text.push_str(&source.to_string());
                cause = source.source();
            }
            text
        };
        let told = match &error {
            StoreError::Conflict { key, .. } => {
                Self::new(ErrorKind::Conflict, format!("{key} was changed by somebody else"))
                    .advise("read it again and repeat")
            }
            StoreError::Duplicate { what, .. } => Self::new(
                ErrorKind::AlreadyExists,
                format!("there is already something with the same {what}"),
            ),
            StoreError::Reference { key } => Self::new(
                ErrorKind::Precondition,
                format!("{key} names something that is gone, or is still in use"),
            ),
            StoreError::AlreadyAnswered { .. } => Self::new(
                ErrorKind::AlreadyExists,
                "a request with this idempotency key was answered already",
            ),
            // Waiting makes no room, so this is not what callers repeat by themselves.
            StoreError::Full { .. } => Self::new(
                ErrorKind::LimitExceeded,
                "the platform can't store changes now: there is no room left for them",
            )
            .advise(
                "tell the platform's operator, who has to make room, and run the same again then; \
                 nothing was changed",
            ),
            StoreError::Corrupt { .. } => Self::new(
                ErrorKind::Internal,
                "the platform can't store changes now: its store is damaged",
            )
            .advise("tell the platform's operator, who has to restore it; nothing was changed"),
            StoreError::Io { .. }
            | StoreError::Disk { .. }
            | StoreError::Locked { .. }
            | StoreError::Closed => {
                Self::new(ErrorKind::Unavailable, "the platform can't store changes now")
                    .advise("repeat later; nothing was changed")
            }
            _ => Self::internal(String::new()),
        };
        told.for_operator(operator)
    }
}
