//! The one unit of change: rows, audit entries and an idempotency record, all or nothing.

use std::collections::BTreeSet;

use fairmazon_model::{
    id::AccountId,
    limits,
    units::{Revision, UnixMs},
};
use serde::{Deserialize, Serialize};

use crate::{AuditEntry, Key, MeteringWrites, Row, StoreError};

/// Most writes of one commit; larger changes are several commits.
pub const COMMIT_WRITES_MAX: usize = 10_000;

/// A change of the store: all of it is durable once it is acknowledged, or nothing of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Rows to put and delete: each key at most once, at most [`COMMIT_WRITES_MAX`]. Their
    /// order does not matter: parents are put before children and deleted after them.
    pub writes: Vec<Write>,
    /// What the audit log says of it, in this order.
    pub audit: Vec<AuditEntry>,
    /// The answer to keep for a repetition of the request.
    pub idempotency: Option<IdempotencyRecord>,
    /// The answer whose record that one takes the place of, although it still counts: what was
    /// made then has been confirmed or is gone. Any other answer is in the way.
    pub replaces: Option<serde_json::Value>,
    /// What of metering it keeps.
    pub metering: MeteringWrites,
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "deletions are rare beside puts")]
pub enum Write {
    /// The row shall be as given; its `revision` is set by the store.
    Put(Row, Expect),
    /// The row shall be gone. Deleting what is not there changes nothing with
    /// [`Expect::Any`]; [`Expect::New`] makes no sense here and is refused.
    Delete(Key, Expect),
}

/// What must hold for a write to happen; when it does not, nothing of the commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    /// The row does not exist.
    New,
    /// The row exists and was last changed at this revision.
    Revision(Revision),
    /// Nothing.
    Any,
}

/// What a commit was given by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision of every row that it put; one above that of the commit before. A commit
    /// without writes has the store's last revision.
    pub revision: Revision,
    /// The sequence numbers of its audit entries, in their order; empty without any.
    pub audit: std::ops::Range<u64>,
}

/// The first answer to a request, kept so that a repetition of the request gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// Whose request it was.
    pub account: AccountId,
    /// The caller's key: 1 to [`limits::IDEMPOTENCY_KEY_MAX`] bytes, unique per account.
    pub key: String,
    /// Hash of the method and the whole request, so that the same key with another request
    /// can be refused. What it is made of is the broker's to choose.
    pub fingerprint: String,
    /// What was answered, as the broker wants to read it back.
    pub answer: serde_json::Value,
    /// When the request was first answered.
    pub created_at: UnixMs,
    /// From when on the record no longer counts.
    pub expires_at: UnixMs,
}

impl Write {
    /// Which row it changes.
    pub const fn key(&self) -> Key {
        match self {
            Self::Put(row, _) => row.key(),
            Self::Delete(key, _) => *key,
        }
    }

    /// What it expects.
    pub const fn expect(&self) -> Expect {
        match self {
            Self::Put(_, expect) | Self::Delete(_, expect) => *expect,
        }
    }
}

impl Commit {
    /// A commit without audit entries and idempotency record.
    pub fn of(writes: impl IntoIterator<Item = Write>) -> Self {
        Self { writes: writes.into_iter().collect(), ..Self::default() }
    }

    /// Checks what needs no database.
    ///
    /// # Errors
    /// `Invalid` when a key is written twice, there are too many writes, a deletion expects
    /// a new row, or the idempotency key is empty or too long.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let invalid = |reason: String| Err(StoreError::Invalid { reason });
        if self.writes.len() > COMMIT_WRITES_MAX {
            return invalid(format!(
                "a commit has at most {COMMIT_WRITES_MAX} writes, this one has {}; split it",
                self.writes.len()
            ));
        }
        let mut keys = BTreeSet::new();
        for write in &self.writes {
            if !keys.insert(write.key()) {
                return invalid(format!("{} is written twice in one commit", write.key()));
            }
            if matches!(write, Write::Delete(_, Expect::New)) {
                return invalid(format!("the deletion of {} expects that it is new", write.key()));
            }
        }
        if let Some(record) = &self.idempotency
            && !(1..=limits::IDEMPOTENCY_KEY_MAX).contains(&record.key.len())
        {
            return invalid(format!(
                "an idempotency key has 1 to {} bytes, this one has {}",
                limits::IDEMPOTENCY_KEY_MAX,
                record.key.len()
            ));
        }
        Ok(())
    }
}
