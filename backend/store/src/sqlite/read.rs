//! The SQL of reads. Every function takes any connection and decides nothing.

use std::sync::Arc;

use fairmazon_model::units::Revision;
use rusqlite::{Connection, OptionalExtension, Statement, ToSql};

use super::fault::Faults;
use crate::{
    AuditHash, AuditRecord, AuditVerdict, ChainChecker, Change, Changes, IdempotencyRecord, Key,
    Noun, Row, StoreError,
};

/// Reads with one connection, telling failures by the file's name.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) faults: &'a Faults,
}

/// A row as it lies in a table.
struct Raw {
    id: String,
    revision: u64,
    body: String,
}

impl Raw {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: row.get(0)?, revision: row.get(1)?, body: row.get(2)? })
    }

    fn decode(self, noun: Noun) -> Result<Row, StoreError> {
        match Row::from_body(noun, &self.body) {
            Ok(row) => Ok(row.at(Revision(self.revision))),
            Err(error) => Err(undecoded(noun.name(), self.id, error)),
        }
    }
}

fn undecoded(noun: &'static str, key: String, error: serde_json::Error) -> StoreError {
    StoreError::Decode { noun, key, source: Arc::new(error) }
}

impl Reader<'_> {
    /// Calls `visit` with every row, in the order of the nouns; stops when it says false.
    pub(super) fn load(&self, mut visit: impl FnMut(Row) -> bool) -> Result<Revision, StoreError> {
        // A transaction, so that all tables are read as of one moment.
        let transaction = self
            .connection
            .unchecked_transaction()
            .map_err(|error| self.faults.of("begin to read the store", error))?;
        let revision = self.revision()?;
        for &noun in Noun::ALL {
            let sql = format!("SELECT id, revision, body FROM {} ORDER BY id", noun.name());
            let mut statement = self.prepare(&sql)?;
            let mut goes_on = true;
            self.each(&mut statement, &[], Raw::read, |raw| {
                goes_on = visit(raw.decode(noun)?);
                Ok(goes_on)
            })?;
            if !goes_on {
                break;
            }
        }
        drop(transaction);
        Ok(revision)
    }

    pub(super) fn get(&self, key: Key) -> Result<Option<Row>, StoreError> {
        let noun = key.noun();
        let sql = format!("SELECT id, revision, body FROM {} WHERE id = ?1", noun.name());
        let raw = self
            .prepare(&sql)?
            .query_row([key.to_string()], Raw::read)
            .optional()
            .map_err(|error| self.faults.of("read a row", error))?;
        raw.map(|raw| raw.decode(noun)).transpose()
    }

    pub(super) fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        let mut previous = self.audit_hash(after)?;
        let mut statement = self.prepare(
            "SELECT sequence, hash, entry FROM audit WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
        )?;
        let mut records = Vec::new();
        self.each(&mut statement, &[&after, &limit], raw_entry, |(sequence, hash, text)| {
            let entry = serde_json::from_str(&text)
                .map_err(|error| undecoded("audit", sequence.to_string(), error))?;
            records.push(AuditRecord { sequence, entry, previous, hash });
            previous = hash;
            Ok(true)
        })?;
        Ok(records)
    }

    fn audit_hash(&self, sequence: u64) -> Result<AuditHash, StoreError> {
        self.prepare("SELECT hash FROM audit WHERE sequence = ?1")?
            .query_row([sequence], |row| Ok(AuditHash(row.get(0)?)))
            .optional()
            .map(Option::unwrap_or_default)
            .map_err(|error| self.faults.of("read the audit log", error))
    }

    /// Recomputes the chain from the stored texts; entries stream, none is kept.
    pub(super) fn verify_audit(&self) -> Result<AuditVerdict, StoreError> {
        let mut checker = ChainChecker::default();
        let mut broken = None;
        let mut statement =
            self.prepare("SELECT sequence, hash, entry FROM audit ORDER BY sequence")?;
        self.each(&mut statement, &[], raw_entry, |(sequence, hash, text)| {
            broken = checker.check_text(sequence, &text, hash).err();
            Ok(broken.is_none())
        })?;
        Ok(AuditVerdict { whole: checker.head(), broken })
    }

    pub(super) fn changes_since(
        &self,
        revision: Revision,
        commits: u32,
    ) -> Result<Changes, StoreError> {
        let transaction = self
            .connection
            .unchecked_transaction()
            .map_err(|error| self.faults.of("begin to read changes", error))?;
        let kept_from: u64 = self.scalar("SELECT deletions_kept_from FROM counter")?;
        if revision.0 < kept_from {
            return Err(StoreError::Compacted { oldest: Revision(kept_from) });
        }
        let last = self.revision()?;
        let up_to = Revision(revision.0.saturating_add(commits.into()).min(last.0));
        let mut changes = self.puts_between(revision, up_to)?;
        let mut statement = self.prepare(
            "SELECT revision, id, noun, account FROM deletion WHERE revision > ?1 AND revision <= ?2",
        )?;
        self.each(
            &mut statement,
            &[&revision.0, &up_to.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            |(revision, id, noun, account): (u64, String, String, String)| {
                changes.push(deleted(Revision(revision), &id, &noun, &account)?);
                Ok(true)
            },
        )?;
        changes.sort_by_key(Change::revision);
        drop(statement);
        drop(transaction);
        Ok(Changes { changes, up_to, last })
    }

    fn puts_between(&self, from: Revision, to: Revision) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for &noun in Noun::ALL {
            let sql = format!(
                "SELECT id, revision, body FROM {} WHERE revision > ?1 AND revision <= ?2",
                noun.name()
            );
            let mut statement = self.prepare(&sql)?;
            self.each(&mut statement, &[&from.0, &to.0], Raw::read, |raw| {
                changes.push(Change::Put(raw.decode(noun)?));
                Ok(true)
            })?;
        }
        Ok(changes)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.scalar("SELECT revision FROM counter").map(Revision)
    }

    /// Bytes of the database's pages; its log is not counted.
    pub(super) fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.scalar("PRAGMA page_count")? * self.scalar("PRAGMA page_size")?)
    }

    fn scalar(&self, sql: &str) -> Result<u64, StoreError> {
        self.prepare(sql)?
            .query_row([], |row| row.get(0))
            .map_err(|error| self.faults.of("read the store's counters", error))
    }

    fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, StoreError> {
        self.connection.prepare_cached(sql).map_err(|error| self.faults.of("ask the store", error))
    }

    /// Hands over row by row until `visit` says false.
    fn each<T>(
        &self,
        statement: &mut Statement<'_>,
        parameters: &[&dyn ToSql],
        read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
        mut visit: impl FnMut(T) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let fault = |error| self.faults.of("read rows", error);
        let mut rows = statement.query(parameters).map_err(fault)?;
        while let Some(row) = rows.next().map_err(fault)? {
            if !visit(read(row).map_err(fault)?)? {
                break;
            }
        }
        Ok(())
    }
}

fn raw_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<(u64, AuditHash, String)> {
    Ok((row.get(0)?, AuditHash(row.get(1)?), row.get(2)?))
}

fn deleted(revision: Revision, id: &str, noun: &str, account: &str) -> Result<Change, StoreError> {
    let key = Noun::ALL
        .iter()
        .find(|known| known.name() == noun)
        .and_then(|known| Key::parse(*known, id));
    match (key, account.parse()) {
        (Some(key), Ok(account)) => Ok(Change::Deleted { key, account, revision }),
        _ => Err(StoreError::Invalid {
            reason: format!(
                "the deletion of {noun} {id} of {account} at revision {revision} is unreadable"
            ),
        }),
    }
}

/// The record of an idempotency key.
pub(super) fn idempotency(
    connection: &Connection,
    faults: &Faults,
    account: &str,
    key: &str,
) -> Result<Option<IdempotencyRecord>, StoreError> {
    let sql = "SELECT body FROM idempotency WHERE account = ?1 AND key = ?2";
    let found: Option<String> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row((account, key), |row| row.get(0)).optional())
        .map_err(|error| faults.of("read an idempotency key", error))?;
    found
        .map(|body| serde_json::from_str(&body))
        .transpose()
        .map_err(|error| undecoded("idempotency", key.to_owned(), error))
}
