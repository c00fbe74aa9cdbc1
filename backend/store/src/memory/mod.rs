//! A store without a disk, for simulations and tests: same trait, same conformance suite, and
//! faults on demand.
//!
//! A [`MemoryDisk`] outlives the stores opened on it, so that a simulated broker can crash and
//! start again on what was durable. Everything happens at once on the caller's task: with a
//! paused clock no time passes but what a [`Fault`] asks for. Nothing is kept once the last
//! handle is gone.

mod tables;
mod usage;

use std::{io, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_model::{
    id::{AccountId, HostId},
    units::{Revision, UnixMs},
};
use parking_lot::Mutex;

use self::tables::Tables;
use crate::{
    AuditRecord, AuditVerdict, ChainChecker, Changes, Commit, Committed, Health, IdempotencyRecord,
    Key, Row, Store, StoreError, UsageQuery, UsageSum, WindowContext, WindowKey,
};

/// What happens to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing bad.
    #[default]
    None,
    /// It takes this long, then nothing bad.
    Slow(Duration),
    /// It is not written and its caller gets an I/O error.
    Refused,
    /// It is written and durable, and its caller never learns it: gets `Closed`.
    AnswerLost,
}

/// Decides what happens to a commit before it happens.
type Hook = Box<dyn FnMut(&Commit) -> Fault + Send>;

/// What is durable; survives the stores opened on it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Disk>>,
}

/// What was durable on a disk at one moment.
pub struct DiskCopy(Tables);

#[derive(Default)]
struct Disk {
    tables: Tables,
    hook: Option<Hook>,
    /// Counts openings and crashes: a store of another session is closed.
    session: u64,
    open: bool,
}

impl MemoryDisk {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `hook` before every commit what shall happen to it; replaces an earlier one.
    pub fn on_commit(&self, hook: impl FnMut(&Commit) -> Fault + Send + 'static) {
        self.inner.lock().hook = Some(Box::new(hook));
    }

    /// Nothing bad happens any more.
    pub fn heal(&self) {
        self.inner.lock().hook = None;
    }

    /// Cuts the open store off, as the death of its process would: what it has not written by
    /// now is never written, and the disk can be opened again.
    pub fn crash(&self) {
        let mut disk = self.inner.lock();
        disk.session += 1;
        disk.open = false;
    }

    /// A backup of what is durable.
    pub fn copy(&self) -> DiskCopy {
        DiskCopy(self.inner.lock().tables.clone())
    }

    /// Puts a copy in the place of what is durable.
    ///
    /// # Errors
    /// `Locked` while a store has it open.
    pub fn restore(&self, copy: DiskCopy) -> Result<(), StoreError> {
        let mut disk = self.inner.lock();
        if disk.open {
            return Err(StoreError::Locked { path: NAME.into() });
        }
        disk.tables = copy.0;
        Ok(())
    }

    /// Opens it.
    ///
    /// # Errors
    /// `Locked` while another store has it open.
    pub fn open(&self) -> Result<MemoryStore, StoreError> {
        let mut disk = self.inner.lock();
        if disk.open {
            return Err(StoreError::Locked { path: NAME.into() });
        }
        disk.open = true;
        disk.session += 1;
        Ok(MemoryStore { disk: self.clone(), session: disk.session })
    }
}

/// Stands for the path in errors.
const NAME: &str = "memory";

/// A store on a [`MemoryDisk`].
pub struct MemoryStore {
    disk: MemoryDisk,
    session: u64,
}

impl MemoryStore {
    fn with<T>(
        &self,
        job: impl FnOnce(&mut Tables) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut disk = self.disk.inner.lock();
        if disk.session != self.session {
            return Err(StoreError::Closed);
        }
        job(&mut disk.tables)
    }

    fn shut(&self) {
        let mut disk = self.disk.inner.lock();
        if disk.session == self.session {
            disk.session += 1;
            disk.open = false;
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shut();
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        commit.check()?;
        let fault = {
            let mut disk = self.disk.inner.lock();
            disk.hook.as_mut().map_or(Fault::None, |hook| hook(&commit))
        };
        match fault {
            Fault::None | Fault::AnswerLost => {}
            Fault::Slow(delay) => tokio::time::sleep(delay).await,
            Fault::Refused => {
                let source = Arc::new(io::Error::other("a fault was asked for"));
                return Err(StoreError::Io { path: NAME.into(), source });
            }
        }
        let committed = self.with(|tables| tables.commit(commit))?;
        if fault == Fault::AnswerLost { Err(StoreError::Closed) } else { Ok(committed) }
    }

    async fn load(&self, visit: &mut (dyn FnMut(Row) + Send)) -> Result<Revision, StoreError> {
        // Copied out first: the visitor may take as long as it likes.
        let (rows, revision) = self.with(|tables| {
            Ok((tables.rows.values().cloned().collect::<Vec<_>>(), tables.revision))
        })?;
        rows.into_iter().for_each(visit);
        Ok(revision)
    }

    async fn get(&self, key: Key) -> Result<Option<Row>, StoreError> {
        self.with(|tables| Ok(tables.rows.get(&key).cloned()))
    }

    async fn idempotency(
        &self,
        account: AccountId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        self.with(|tables| Ok(tables.idempotency.get(&(account, key.to_owned())).cloned()))
    }

    async fn expire_idempotency(&self, now: UnixMs, limit: u32) -> Result<u64, StoreError> {
        self.with(|tables| Ok(tables.expire(now, limit)))
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        self.with(|tables| {
            let records = tables.audit.iter().filter(|record| record.sequence > after);
            Ok(records.take(limit as usize).cloned().collect())
        })
    }

    async fn verify_audit(&self) -> Result<AuditVerdict, StoreError> {
        self.with(|tables| {
            let mut checker = ChainChecker::default();
            let broken = tables.audit.iter().find_map(|record| checker.check(record).err());
            Ok(AuditVerdict { whole: checker.head(), broken })
        })
    }

    async fn changes_since(&self, revision: Revision, commits: u32) -> Result<Changes, StoreError> {
        self.with(|tables| tables.changes_since(revision, commits))
    }

    async fn forget_deletions(&self, revision: Revision) -> Result<u64, StoreError> {
        self.with(|tables| tables.forget_deletions(revision))
    }

    async fn window_contexts(
        &self,
        host: HostId,
        windows: Vec<WindowKey>,
        slack_ms: i64,
    ) -> Result<Vec<WindowContext>, StoreError> {
        self.with(|tables| {
            let context = |key: &WindowKey| tables.metering.context(host, key, slack_ms);
            Ok(windows.iter().map(context).collect())
        })
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        self.with(|tables| Ok(tables.metering.usage(&query)))
    }

    async fn expire_usage(&self, before: UnixMs, limit: u32) -> Result<u64, StoreError> {
        self.with(|tables| Ok(tables.metering.expire(before, limit)))
    }

    async fn health(&self) -> Result<Health, StoreError> {
        self.with(|tables| {
            Ok(Health {
                revision: tables.revision,
                audit: tables.audit_head(),
                schema: 0,
                size_bytes: 0,
            })
        })
    }

    /// Writes the rows as lines of JSON: something to look at after a simulation, not a store.
    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let text = self.with(|tables| tables.to_json_lines())?;
        let write = || -> io::Result<()> {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(to)?;
            io::Write::write_all(&mut file, text.as_bytes())
        };
        write().map_err(|source| StoreError::Io { path: to.to_owned(), source: Arc::new(source) })
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shut();
        Ok(())
    }
}
