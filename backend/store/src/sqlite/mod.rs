//! The embedded store: one SQLite file, one writer thread, a few reading connections.
//!
//! Every acknowledged commit has been flushed to the disk (`synchronous = full` with the
//! write-ahead log). One process at a time; a second one is told so. Calls never block the
//! async runtime: changes go to the writer's thread, reads to the runtime's blocking threads.

mod apply;
mod fault;
mod log;
mod migrate;
mod open;
mod read;
mod usage;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use fairmazon_model::{
    id::{AccountId, HostId},
    units::{Revision, UnixMs},
};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc};

use self::{
    apply::{Counters, Prepared, Work},
    fault::Faults,
    read::Reader,
    writer::Writer,
};
use crate::{
    AuditRecord, AuditVerdict, Changes, Commit, Committed, Health, IdempotencyRecord, Key, Row,
    Store, StoreError, UsageQuery, UsageSum, WindowContext, WindowKey,
};

/// Rows handed from the reading thread to the visitor at a time.
const LOAD_BATCH: usize = 256;

/// How to open the embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The database file; it and its folder are made when missing.
    pub path: PathBuf,
    /// Connections for reading, 1 or more.
    pub readers: u8,
    /// The most that the database file may grow to, in bytes; beyond it changes fail with
    /// `Full` as on a full disk. The log beside it is not counted.
    pub max_size_bytes: Option<u64>,
}

impl SqliteOptions {
    /// The usual settings for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readers: 4, max_size_bytes: None }
    }
}

/// Writes a consistent copy of the store at `path` into the file `to`, which must not exist. The
/// store is only read: another process may have it open and work with it, and one that an older
/// version has made is copied as it is. Blocks for as long as it takes.
///
/// # Errors
/// `NotOurs` when the file is no store, `Corrupt` when it is damaged, `Io` when it can't be read
/// or the copy exists or can't be made, `Full` when it does not fit.
pub fn back_up(path: &Path, to: &Path) -> Result<(), StoreError> {
    let connection = open::reader(path)?;
    if !migrate::is_ours(&connection)
        .map_err(|error| Faults::on(path).of("read the store", error))?
    {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    open::check(&connection, path)?;
    open::backup(&connection, to)
}

/// The store in one SQLite file.
pub struct SqliteStore {
    // Dropped before the writer, whose connection tidies up when it is the last one.
    readers: Arc<Readers>,
    writer: Writer,
}

/// Reading connections that wait for work.
struct Readers {
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
    count: u32,
    faults: Faults,
}

impl SqliteStore {
    /// Opens the store, makes it where it is missing and brings its schema up to date.
    /// Blocks for as long as that takes; call it before serving, or on a blocking thread.
    ///
    /// # Errors
    /// `Locked` when another process has it, `NewerSchema`, `ChangedMigration` or `NotOurs`
    /// when the file is not for this version, `Gone` when it is empty and was not, `Corrupt`, `Io`,
    /// `Disk` or `Full` as they come.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let path = &options.path;
        let faults = Faults::on(path);
        let lock = open::prepare(path)?;
        let mut connection = open::writer(options)?;
        open::check(&connection, path)?;
        migrate::migrate(&mut connection, path)?;
        lock.note_made(path);
        if let Err(error) = log::write_back(&connection) {
            // It is read where it is, also on a disk without room.
            tracing::warn!(%error, path = %path.display(), "the store's log can't be written back");
        }
        if let Some(bytes) = options.max_size_bytes {
            open::limit_size(&connection, bytes)
                .map_err(|error| faults.of("limit the store's size", error))?;
        }
        let count = options.readers.max(1);
        let idle = (0..count).map(|_| open::reader(path)).collect::<Result<Vec<_>, _>>()?;
        log::keep(&connection, false).map_err(|error| faults.of("open the store", error))?;
        Ok(Self {
            writer: Writer::start(connection, lock, faults.clone())?,
            readers: Arc::new(Readers {
                idle: Mutex::new(idle),
                free: Arc::new(Semaphore::new(count.into())),
                count: count.into(),
                faults,
            }),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.clone().run(job).await
    }
}

impl Readers {
    async fn run<T: Send + 'static>(
        self: Arc<Self>,
        job: impl FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.free.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            // There are as many permits as connections, so that one is always idle here.
            let connection = self.idle.lock().pop().ok_or(StoreError::Closed)?;
            let result = job(&Reader { connection: &connection, faults: &self.faults });
            self.idle.lock().push(connection);
            drop(permit);
            result
        });
        // A task that can't be joined was cut off by the runtime's end.
        task.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Waits for the reads under way and closes the connections.
    async fn close(&self) {
        if let Ok(_all) = self.free.acquire_many(self.count).await {
            self.free.close();
            self.idle.lock().clear();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let work = Work::Commit(Prepared::new(commit)?);
        Ok(self.writer.run(work).await?.committed)
    }

    async fn load(&self, visit: &mut (dyn FnMut(Row) + Send)) -> Result<Revision, StoreError> {
        let (batches, mut received) = mpsc::channel::<Vec<Row>>(2);
        let reading = self.read(move |reader| {
            let mut batch = Vec::with_capacity(LOAD_BATCH);
            let revision = reader.load(|row| {
                batch.push(row);
                if batch.len() < LOAD_BATCH {
                    return true;
                }
                let full = std::mem::replace(&mut batch, Vec::with_capacity(LOAD_BATCH));
                // Nobody listens any more when the caller has dropped its future.
                batches.blocking_send(full).is_ok()
            })?;
            let _ = batches.blocking_send(batch);
            Ok(revision)
        });
        let visiting = async {
            while let Some(batch) = received.recv().await {
                batch.into_iter().for_each(&mut *visit);
            }
        };
        let (revision, ()) = tokio::join!(reading, visiting);
        revision
    }

    async fn get(&self, key: Key) -> Result<Option<Row>, StoreError> {
        self.read(move |reader| reader.get(key)).await
    }

    async fn idempotency(
        &self,
        account: AccountId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let key = key.to_owned();
        self.read(move |reader| {
            read::idempotency(reader.connection, reader.faults, &account.to_string(), &key)
        })
        .await
    }

    async fn expire_idempotency(&self, now: UnixMs, limit: u32) -> Result<u64, StoreError> {
        Ok(self.writer.run(Work::Expire { now, limit }).await?.affected)
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        self.read(move |reader| reader.audit(after, limit)).await
    }

    async fn verify_audit(&self) -> Result<AuditVerdict, StoreError> {
        self.read(|reader| reader.verify_audit()).await
    }

    async fn changes_since(&self, revision: Revision, commits: u32) -> Result<Changes, StoreError> {
        self.read(move |reader| reader.changes_since(revision, commits)).await
    }

    async fn forget_deletions(&self, revision: Revision) -> Result<u64, StoreError> {
        Ok(self.writer.run(Work::ForgetDeletions { up_to: revision }).await?.affected)
    }

    async fn window_contexts(
        &self,
        host: HostId,
        windows: Vec<WindowKey>,
        slack_ms: i64,
    ) -> Result<Vec<WindowContext>, StoreError> {
        self.read(move |reader| reader.window_contexts(host, &windows, slack_ms)).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        self.read(move |reader| reader.usage(&query)).await
    }

    async fn expire_usage(&self, before: UnixMs, limit: u32) -> Result<u64, StoreError> {
        Ok(self.writer.run(Work::ExpireUsage { before, limit }).await?.affected)
    }

    async fn health(&self) -> Result<Health, StoreError> {
        let counters = self.writer.health().await?;
        let size_bytes = self.read(|reader| reader.size_bytes()).await?;
        let Counters { revision, audit } = counters;
        Ok(Health { revision, audit, schema: migrate::SCHEMA, size_bytes })
    }

    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let to = to.to_owned();
        self.read(move |reader| open::backup(reader.connection, &to)).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        self.writer.stop().await
    }
}
