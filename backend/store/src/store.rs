//! The trait behind which the durable state lives, and what its reads answer.

use std::path::Path;

use async_trait::async_trait;
use fairmazon_model::{
    id::{AccountId, HostId},
    units::{Revision, UnixMs},
};

use crate::{
    AuditHead, AuditRecord, AuditVerdict, Commit, Committed, Entity, IdempotencyRecord, Key, Row,
    StoreError, UsageQuery, UsageSum, WindowContext, WindowKey,
};

/// The durable state of the platform.
///
/// Every method may be called from many tasks at once. What was acknowledged is durable and
/// seen by every later call. A future that is dropped before its end may still take effect.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes a change durable, all of it or nothing.
    ///
    /// # Errors
    /// `Conflict` when an expectation does not hold, `AlreadyAnswered` when the idempotency
    /// key counts already, `Duplicate` or `Reference` when rows contradict each other,
    /// `Invalid` when the commit contradicts itself, `Full` and its neighbours when the
    /// store can't write now.
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError>;

    /// Hands every live row to `visit`, parents before children, all as of the returned
    /// revision; commits go on meanwhile. Rows are streamed: no second copy is held.
    ///
    /// # Errors
    /// `Decode` when a row can't be read; the rows handed out before are to be thrown away.
    async fn load(&self, visit: &mut (dyn FnMut(Row) + Send)) -> Result<Revision, StoreError>;

    /// One row.
    ///
    /// # Errors
    /// Only when the store can't read.
    async fn get(&self, key: Key) -> Result<Option<Row>, StoreError>;

    /// What was answered to a request with this key; expired records are still answered until
    /// they are removed, so look at `expires_at`.
    ///
    /// # Errors
    /// Only when the store can't read.
    async fn idempotency(
        &self,
        account: AccountId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError>;

    /// Removes at most `limit` records that have expired at `now`; answers how many.
    ///
    /// # Errors
    /// Only when the store can't write.
    async fn expire_idempotency(&self, now: UnixMs, limit: u32) -> Result<u64, StoreError>;

    /// At most `limit` entries of the audit log with a sequence above `after` (0: from the
    /// start), oldest first. Read page by page it is the export: each record is one line
    /// of JSON that [`crate::ChainChecker`] can check without the store.
    ///
    /// # Errors
    /// Only when the store can't read.
    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError>;

    /// Recomputes the whole hash chain of the audit log and names the first broken entry.
    ///
    /// # Errors
    /// Only when the store can't read; a broken chain is an answer.
    async fn verify_audit(&self) -> Result<AuditVerdict, StoreError>;

    /// What changed in the `commits` commits after `revision`, by ascending revision. A row
    /// that changed several times stands at its last change only. Whole commits, never parts.
    ///
    /// # Errors
    /// `Compacted` when deletions since `revision` have been forgotten.
    async fn changes_since(&self, revision: Revision, commits: u32) -> Result<Changes, StoreError>;

    /// Forgets the deletions up to `revision`, which changes can then no longer be asked from
    /// before; answers how many were forgotten.
    ///
    /// # Errors
    /// `Invalid` when `revision` is above the store's own.
    async fn forget_deletions(&self, revision: Revision) -> Result<u64, StoreError>;

    /// What is known that bears on each of these windows of a host. That something was in use at
    /// the same time counts where the two share more than `slack_ms` at an end, as no two clocks
    /// are the same.
    ///
    /// # Errors
    /// Only when the store can't read.
    async fn window_contexts(
        &self,
        host: HostId,
        windows: Vec<WindowKey>,
        slack_ms: i64,
    ) -> Result<Vec<WindowContext>, StoreError>;

    /// What was used, by subject and in the order of the subjects' texts.
    ///
    /// # Errors
    /// Only when the store can't read.
    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageSum>, StoreError>;

    /// Removes at most `limit` windows that have ended before `before`, and what was allotted until
    /// then; answers how many windows.
    ///
    /// # Errors
    /// Only when the store can't write.
    async fn expire_usage(&self, before: UnixMs, limit: u32) -> Result<u64, StoreError>;

    /// How the store is.
    ///
    /// # Errors
    /// When it can't be read, or the last change failed for a reason of the store's own.
    async fn health(&self) -> Result<Health, StoreError>;

    /// Writes a consistent copy into the file `to`, which must not exist, while work goes on.
    ///
    /// # Errors
    /// `Io` when the file exists or can't be made, `Full` when it does not fit.
    async fn backup(&self, to: &Path) -> Result<(), StoreError>;

    /// Finishes what was asked for before and gives everything back; later calls get
    /// `Closed`. Calling it again does nothing.
    ///
    /// # Errors
    /// When the last writes can't be brought into place; they are durable all the same.
    async fn close(&self) -> Result<(), StoreError>;
}

impl dyn Store + '_ {
    /// One row of a known type.
    ///
    /// # Errors
    /// Only when the store can't read.
    pub async fn find<T: Entity>(&self, id: T::Id) -> Result<Option<T>, StoreError> {
        Ok(self.get(id.into()).await?.and_then(T::from_row))
    }
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "deletions are rare beside puts")]
pub enum Change {
    /// The row is now so; its revision says since when.
    Put(Row),
    /// The row is gone.
    Deleted {
        /// Which.
        key: Key,
        /// Whose it was.
        account: AccountId,
        /// Since when.
        revision: Revision,
    },
}

impl Change {
    /// The revision of the commit that made it.
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Put(row) => row.revision(),
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

/// Changes of a stretch of commits.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The changes, by ascending revision.
    pub changes: Vec<Change>,
    /// Everything up to here is in; ask again from here.
    pub up_to: Revision,
    /// The store's last revision; above `up_to` when there is more.
    pub last: Revision,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The revision of the last commit.
    pub revision: Revision,
    /// The end of the audit chain: kept elsewhere, it shows later whether entries at the end
    /// were cut off, which the chain alone can't show.
    pub audit: AuditHead,
    /// The version of the schema.
    pub schema: u32,
    /// Bytes that the store takes on disk.
    pub size_bytes: u64,
}
