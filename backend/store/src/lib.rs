//! Durable state of the broker behind one trait.
//!
//! [`Store`] is all that the rest of the platform sees: atomic [`Commit`]s of rows, audit
//! entries and an idempotency record, and reads. [`sqlite::SqliteStore`] is the embedded
//! implementation, [`memory::MemoryStore`] the one for simulations. No SQL is written outside this crate, and no decision about the business
//! is made inside it: it keeps what it is told, all of a commit or nothing.

mod audit;
mod commit;
mod error;
pub mod memory;
mod row;
pub mod sqlite;
mod store;
mod usage;

pub use audit::{
    Actor, AuditEntry, AuditHash, AuditHead, AuditRecord, AuditVerdict, BrokenAudit, ChainChecker,
    PartChecker,
};
pub use commit::{COMMIT_WRITES_MAX, Commit, Committed, Expect, IdempotencyRecord, Write};
pub use error::StoreError;
pub use row::{Entity, Key, Noun, Row};
pub use store::{Change, Changes, Health, Store};
pub use usage::{
    AllotmentChange, MeteringWrites, SignerRecord, UsageQuery, UsageSum, WindowContext, WindowEnd,
    WindowKey,
};
