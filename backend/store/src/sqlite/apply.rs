//! Doing one piece of work inside the writer's transaction.
//!
//! Knows the SQL of changes. Whoever calls it has begun the transaction and a savepoint, and
//! rolls back to it when an error comes back: nothing here cleans up after itself.

use std::sync::Arc;

use fairmazon_model::units::{Revision, UnixMs};
use rusqlite::{Connection, OptionalExtension, params};

use super::{fault::Faults, usage};
use crate::{
    AuditHash, AuditHead, Commit, Committed, Expect, IdempotencyRecord, Key, MeteringWrites, Noun,
    Row, StoreError, Write,
};

/// A commit with everything computed that needs no database, so that the one writer thread
/// has as little to do as possible.
#[derive(Debug)]
pub(super) struct Prepared {
    writes: Vec<PreparedWrite>,
    audit: Vec<String>,
    idempotency: Option<(IdempotencyRecord, String)>,
    replaces: Option<serde_json::Value>,
    metering: MeteringWrites,
}

#[derive(Debug)]
struct PreparedWrite {
    key: Key,
    id: String,
    expect: Expect,
    put: Option<PreparedPut>,
}

#[derive(Debug)]
struct PreparedPut {
    account: String,
    body: String,
    /// The noun's own columns; see [`Sql`].
    extra: [Option<String>; 2],
}

impl Prepared {
    pub(super) fn new(commit: Commit) -> Result<Self, StoreError> {
        commit.check()?;
        let mut writes =
            commit.writes.into_iter().map(PreparedWrite::new).collect::<Result<Vec<_>, _>>()?;
        // Parents are put before their children; deletions come last, children first.
        writes.sort_by_key(|write| {
            let rank = write.key.noun() as i32;
            if write.put.is_some() { (0, rank) } else { (1, -rank) }
        });
        let audit = commit
            .audit
            .iter()
            .map(|entry| {
                entry
                    .canonical()
                    .map_err(|error| encode(format!("audit of {}", entry.target), error))
            })
            .collect::<Result<_, _>>()?;
        let idempotency = commit
            .idempotency
            .map(|record| {
                serde_json::to_string(&record)
                    .map_err(|error| encode(format!("idempotency key {}", record.key), error))
                    .map(|body| (record, body))
            })
            .transpose()?;
        let (replaces, metering) = (commit.replaces, commit.metering);
        Ok(Self { writes, audit, idempotency, replaces, metering })
    }
}

impl PreparedWrite {
    fn new(write: Write) -> Result<Self, StoreError> {
        let (key, expect) = (write.key(), write.expect());
        let put = match write {
            Write::Delete(..) => None,
            Write::Put(row, _) => {
                let extra = match &row {
                    Row::Host(host) => [Some(host.spec.name.clone()), None],
                    Row::Credential(credential) => [
                        Some(credential.sha256.clone()),
                        credential.host.as_ref().map(ToString::to_string),
                    ],
                    _ => [None, None],
                };
                let body = row.to_body().map_err(|error| encode(key.to_string(), error))?;
                Some(PreparedPut { account: row.account().to_string(), body, extra })
            }
        };
        Ok(Self { key, id: key.to_string(), expect, put })
    }
}

fn encode(key: String, error: serde_json::Error) -> StoreError {
    StoreError::Encode { key, source: Arc::new(error) }
}

/// One piece of work for the writer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all work is commits")]
pub(super) enum Work {
    Commit(Prepared),
    Expire { now: UnixMs, limit: u32 },
    ExpireUsage { before: UnixMs, limit: u32 },
    ForgetDeletions { up_to: Revision },
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) committed: Committed,
    /// Rows affected, for work that is not a commit.
    pub(super) affected: u64,
}

/// What the writer knows of the database without asking; rolled back with a savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    pub(super) audit: AuditHead,
}

impl Counters {
    /// Reads them from the database.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let revision = connection
            .prepare_cached("SELECT revision FROM counter")?
            .query_row([], |row| row.get(0))?;
        let audit = connection
            .prepare_cached("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")?
            .query_row([], |row| {
                Ok(AuditHead { sequence: row.get(0)?, hash: AuditHash(row.get(1)?) })
            })
            .optional()?
            .unwrap_or_default();
        Ok(Self { revision: Revision(revision), audit })
    }

    /// Writes what no other row says.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE counter SET revision = ?1")?
            .execute([self.revision.0])?;
        Ok(())
    }
}

impl Work {
    /// Does it.
    pub(super) fn run(
        &self,
        connection: &Connection,
        faults: &Faults,
        counters: &mut Counters,
    ) -> Result<Outcome, StoreError> {
        let affected = match self {
            Self::Commit(commit) => {
                let committed = commit.run(connection, faults, counters)?;
                return Ok(Outcome { committed, affected: 0 });
            }
            Self::Expire { now, limit } => {
                let sql = "DELETE FROM idempotency WHERE (account, key) IN (
                               SELECT account, key FROM idempotency
                               WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
                connection
                    .prepare_cached(sql)
                    .and_then(|mut statement| statement.execute((now.0, limit)))
                    .map_err(|error| faults.of("remove expired idempotency keys", error))?
            }
            Self::ExpireUsage { before, limit } => {
                usage::expire(connection, faults, *before, *limit)?
            }
            Self::ForgetDeletions { up_to } => forget(connection, faults, counters, *up_to)?,
        };
        let committed = Committed { revision: counters.revision, audit: 0..0 };
        Ok(Outcome { committed, affected: affected as u64 })
    }
}

fn forget(
    connection: &Connection,
    faults: &Faults,
    counters: &Counters,
    up_to: Revision,
) -> Result<usize, StoreError> {
    if up_to > counters.revision {
        return Err(StoreError::Invalid {
            reason: format!(
                "deletions up to revision {up_to} can't be forgotten: the last is {}",
                counters.revision
            ),
        });
    }
    let run = || {
        connection.execute(
            "UPDATE counter SET deletions_kept_from = max(deletions_kept_from, ?1)",
            [up_to.0],
        )?;
        connection.execute("DELETE FROM deletion WHERE revision <= ?1", [up_to.0])
    };
    run().map_err(|error| faults.of("forget deletions", error))
}

impl Prepared {
    fn run(
        &self,
        connection: &Connection,
        faults: &Faults,
        counters: &mut Counters,
    ) -> Result<Committed, StoreError> {
        if let Some((record, body)) = &self.idempotency {
            if let Some(replaced) = &self.replaces {
                remove_answer(connection, faults, record, replaced)?;
            }
            put_idempotency(connection, faults, record, body)?;
        }
        if !self.writes.is_empty() {
            counters.revision.0 += 1;
        }
        for write in &self.writes {
            write.run(connection, faults, counters.revision)?;
        }
        self.metering.run(connection, faults)?;
        let first = counters.audit.sequence + 1;
        for entry in &self.audit {
            counters.audit = counters.audit.next(entry);
            connection
                .prepare_cached("INSERT INTO audit (sequence, entry, hash) VALUES (?1, ?2, ?3)")
                .and_then(|mut statement| {
                    let AuditHead { sequence, hash } = counters.audit;
                    statement.execute((sequence, entry, hash.0))
                })
                .map_err(|error| faults.of("append to the audit log", error))?;
        }
        let audit = first..counters.audit.sequence + 1;
        Ok(Committed { revision: counters.revision, audit })
    }
}

/// Removes the record of the same key if it has just this answer.
fn remove_answer(
    connection: &Connection,
    faults: &Faults,
    record: &IdempotencyRecord,
    replaced: &serde_json::Value,
) -> Result<(), StoreError> {
    let account = record.account.to_string();
    let existing = super::read::idempotency(connection, faults, &account, &record.key)?;
    if existing.is_none_or(|existing| existing.answer != *replaced) {
        return Ok(());
    }
    connection
        .prepare_cached("DELETE FROM idempotency WHERE account = ?1 AND key = ?2")
        .and_then(|mut statement| statement.execute((account, &record.key)))
        .map_err(|error| faults.of("replace an idempotency key", error))?;
    Ok(())
}

fn put_idempotency(
    connection: &Connection,
    faults: &Faults,
    record: &IdempotencyRecord,
    body: &str,
) -> Result<(), StoreError> {
    let account = record.account.to_string();
    // An expired record no longer counts: its place is taken.
    let sql = "INSERT INTO idempotency (account, key, expires_at, body)
               VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET
                   expires_at = excluded.expires_at, body = excluded.body
               WHERE expires_at <= ?5";
    let written = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                account,
                record.key,
                record.expires_at.0,
                body,
                record.created_at.0
            ])
        })
        .map_err(|error| faults.of("keep an idempotency key", error))?;
    if written == 1 {
        return Ok(());
    }
    let existing = super::read::idempotency(connection, faults, &account, &record.key)?;
    Err(existing.map_or_else(
        || StoreError::Invalid { reason: format!("the idempotency key {} is odd", record.key) },
        |existing| StoreError::AlreadyAnswered { existing: Box::new(existing) },
    ))
}

impl PreparedWrite {
    fn run(
        &self,
        connection: &Connection,
        faults: &Faults,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let sql = Sql::of(self.key.noun());
        let fault = |error| faults.of_write(self.key, sql.unique, error);
        let written = match &self.put {
            Some(put) => self.put(connection, sql, put, revision).map_err(fault)?,
            None => self.delete(connection, sql, revision).map_err(fault)?,
        };
        if written {
            return Ok(());
        }
        let found: Option<u64> = connection
            .prepare_cached(sql.revision)
            .and_then(|mut statement| statement.query_row([&self.id], |row| row.get(0)).optional())
            .map_err(fault)?;
        Err(StoreError::Conflict {
            key: self.key,
            expected: self.expect,
            found: found.map(Revision),
        })
    }

    fn put(
        &self,
        connection: &Connection,
        sql: &Sql,
        put: &PreparedPut,
        revision: Revision,
    ) -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(match self.expect {
            Expect::New => sql.insert,
            Expect::Revision(_) => sql.update,
            Expect::Any => sql.upsert,
        })?;
        statement.raw_bind_parameter(1, &self.id)?;
        statement.raw_bind_parameter(2, &put.account)?;
        statement.raw_bind_parameter(3, revision.0)?;
        statement.raw_bind_parameter(4, &put.body)?;
        for (index, extra) in (5..5 + sql.extras).zip(&put.extra) {
            statement.raw_bind_parameter(index, extra)?;
        }
        if let Expect::Revision(expected) = self.expect {
            statement.raw_bind_parameter(5 + sql.extras, expected.0)?;
        }
        Ok(statement.raw_execute()? == 1)
    }

    fn delete(
        &self,
        connection: &Connection,
        sql: &Sql,
        revision: Revision,
    ) -> rusqlite::Result<bool> {
        let expected = match self.expect {
            Expect::Revision(expected) => Some(expected.0),
            Expect::Any | Expect::New => None,
        };
        let account: Option<String> = connection
            .prepare_cached(sql.delete)?
            .query_row((&self.id, expected), |row| row.get(0))
            .optional()?;
        let Some(account) = account else { return Ok(self.expect == Expect::Any) };
        connection
            .prepare_cached(
                "INSERT INTO deletion (revision, id, noun, account) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((revision.0, &self.id, self.key.noun().name(), account))?;
        Ok(true)
    }
}

/// The statements of one noun. Parameters: 1 id, 2 account, 3 revision, 4 body, then the
/// noun's own columns, then the expected revision.
struct Sql {
    insert: &'static str,
    update: &'static str,
    upsert: &'static str,
    delete: &'static str,
    revision: &'static str,
    /// How many columns of its own the noun has.
    extras: usize,
    /// What must be unique beside the id, for messages.
    unique: &'static str,
}

macro_rules! sql {
    ($table:literal, $unique:literal $(, $column:literal = $parameter:literal)*; $count:literal, $expected:literal) => {
        Sql {
            insert: concat!(
                "INSERT INTO ", $table, " (id, account, revision, body", $(", ", $column,)*
                ") VALUES (?1, ?2, ?3, ?4", $(", ", $parameter,)* ") ON CONFLICT (id) DO NOTHING"
            ),
            update: concat!(
                "UPDATE ", $table, " SET account = ?2, revision = ?3, body = ?4",
                $(", ", $column, " = ", $parameter,)* " WHERE id = ?1 AND revision = ", $expected
            ),
            upsert: concat!(
                "INSERT INTO ", $table, " (id, account, revision, body", $(", ", $column,)*
                ") VALUES (?1, ?2, ?3, ?4", $(", ", $parameter,)*
                ") ON CONFLICT (id) DO UPDATE SET account = ?2, revision = ?3, body = ?4",
                $(", ", $column, " = ", $parameter,)*
            ),
            delete: concat!(
                "DELETE FROM ", $table,
                " WHERE id = ?1 AND (?2 IS NULL OR revision = ?2) RETURNING account"
            ),
            revision: concat!("SELECT revision FROM ", $table, " WHERE id = ?1"),
            extras: $count,
            unique: $unique,
        }
    };
}

impl Sql {
    const fn of(noun: Noun) -> &'static Self {
        match noun {
            Noun::Account => &sql!("account", "id"; 0, "?5"),
            Noun::Host => &sql!("host", "name", "name" = "?5"; 1, "?6"),
            Noun::Credential => {
                &sql!("credential", "secret", "sha256" = "?5", "host" = "?6"; 2, "?7")
            }
            Noun::PlacementGroup => &sql!("placement_group", "id"; 0, "?5"),
            Noun::Volume => &sql!("volume", "id"; 0, "?5"),
            Noun::Instance => &sql!("instance", "id"; 0, "?5"),
            Noun::Operation => &sql!("operation", "id"; 0, "?5"),
        }
    }
}
