//! The SQLite store: the conformance suite, and what only a file can suffer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod conformance;

use std::{path::PathBuf, sync::Arc};

use fairmazon_store::{
    Store, StoreError,
    sqlite::{SqliteOptions, SqliteStore},
};

/// A store in a folder that goes with the test.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl conformance::Opener for File {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(SqliteStore::open(&SqliteOptions::new(&self.path))?))
    }
}

fn file() -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state").join("fairmazon.db");
    File { _folder: folder, path }
}

conformance::all_cases!(crate::file);
