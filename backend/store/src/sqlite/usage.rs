//! The SQL of metering: what is allotted, windows, and their sums.

use std::str::FromStr;

use fairmazon_model::{
    id::HostId,
    key::Blob,
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
    usage::{
        Allotment, Amounts, SignedWindow, UsageRecord, UsageWindow, WINDOW_MAX_MS, WindowKind,
    },
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, types::Type};

use super::{fault::Faults, read::Reader};
use crate::{
    AllotmentChange, MeteringWrites, StoreError, UsageQuery, UsageSum, WindowContext, WindowEnd,
    WindowKey,
};

/// The columns of a window, in the order in which [`record`] reads them.
const WINDOW: &str = "subject, host, epoch, begun_ms, sequence, account, from_ms, until_ms, kind, \
                      class, vcpu_ms, mib_ms, gib_ms, egress_bytes, signature, signer, accepted_ms";
const ALLOTMENT: &str =
    "subject, epoch, host, account, vcpus, memory_mib, size_gib, class, from_ms, until_ms";

impl MeteringWrites {
    /// Writes it.
    pub(super) fn run(&self, connection: &Connection, faults: &Faults) -> Result<(), StoreError> {
        let write = || {
            for change in &self.allotments {
                change.run(connection)?;
            }
            for signer in &self.signers {
                connection
                    .prepare_cached(
                        "INSERT INTO usage_signer (sha256, host, certificate) VALUES (?1, ?2, ?3)
                         ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![signer.sha256, signer.host.to_string(), signer.certificate])?;
            }
            self.windows.iter().try_for_each(|window| put(connection, window))
        };
        write().map_err(|error| faults.of("keep what was metered", error))
    }
}

impl AllotmentChange {
    fn run(&self, connection: &Connection) -> rusqlite::Result<()> {
        let subject = self.subject.to_string();
        let now = self.now.as_ref();
        let (epoch, host) = (now.map(|now| now.epoch.0), now.map(|now| now.host.to_string()));
        connection
            .prepare_cached(
                "UPDATE allotment SET until_ms = max(from_ms, ?2)
                 WHERE subject = ?1 AND until_ms IS NULL AND NOT (epoch IS ?3 AND host IS ?4)",
            )?
            .execute(params![subject, self.at.0, epoch, host])?;
        let Some(now) = now else { return Ok(()) };
        connection
            .prepare_cached(
                "INSERT INTO allotment (subject, epoch, host, account, vcpus, memory_mib,
                     size_gib, class, from_ms, until_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL)
                 ON CONFLICT DO UPDATE SET
                     vcpus = max(vcpus, excluded.vcpus),
                     memory_mib = max(memory_mib, excluded.memory_mib),
                     size_gib = max(size_gib, excluded.size_gib),
                     until_ms = NULL",
            )?
            .execute(params![
                subject,
                now.epoch.0,
                now.host.to_string(),
                now.account.to_string(),
                now.vcpus.0,
                now.memory.0,
                now.size.0,
                now.class,
                now.from.0,
            ])?;
        Ok(())
    }
}

fn put(connection: &Connection, record: &UsageRecord) -> rusqlite::Result<()> {
    let SignedWindow { window, signature } = &record.signed;
    let amounts = &window.amounts;
    connection
        .prepare_cached(&format!(
            "INSERT INTO usage_window ({WINDOW}) VALUES
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
             ON CONFLICT DO NOTHING"
        ))?
        .execute(params![
            window.subject.to_string(),
            record.host.to_string(),
            window.epoch.0,
            window.begun.0,
            window.sequence,
            record.account.to_string(),
            window.from.0,
            window.until.0,
            window.kind.name(),
            window.class,
            amounts.vcpu_ms,
            amounts.mib_ms,
            amounts.gib_ms,
            amounts.egress_bytes,
            signature.0,
            record.signer,
            record.accepted_at.0,
        ])?;
    Ok(())
}

/// Removes what ended before `before`; answers how many windows.
pub(super) fn expire(
    connection: &Connection,
    faults: &Faults,
    before: UnixMs,
    limit: u32,
) -> Result<usize, StoreError> {
    let run = || {
        connection
            .prepare_cached("DELETE FROM allotment WHERE until_ms < ?1")?
            .execute([before.0])?;
        connection
            .prepare_cached(
                "DELETE FROM usage_window WHERE (subject, host, epoch, begun_ms, sequence) IN (
                     SELECT subject, host, epoch, begun_ms, sequence FROM usage_window
                     WHERE until_ms < ?1 ORDER BY until_ms LIMIT ?2)",
            )?
            .execute((before.0, limit))
    };
    run().map_err(|error| faults.of("remove old windows", error))
}

impl Reader<'_> {
    /// What bears on each of the windows.
    pub(super) fn window_contexts(
        &self,
        host: HostId,
        windows: &[WindowKey],
        slack_ms: i64,
    ) -> Result<Vec<WindowContext>, StoreError> {
        let host = host.to_string();
        let read = || windows.iter().map(|key| self.context(&host, key, slack_ms)).collect();
        let found: rusqlite::Result<_> = read();
        found.map_err(|error| self.faults.of("read windows", error))
    }

    fn context(
        &self,
        host: &str,
        key: &WindowKey,
        slack_ms: i64,
    ) -> rusqlite::Result<WindowContext> {
        let subject = key.subject.to_string();
        let known = self
            .connection
            .prepare_cached(&format!(
                "SELECT {WINDOW} FROM usage_window WHERE subject = ?1 AND host = ?2
                     AND epoch = ?3 AND begun_ms = ?4 AND sequence = ?5"
            ))?
            .query_row(params![subject, host, key.epoch.0, key.begun.0, key.sequence], record)
            .optional()?;
        let last = self
            .connection
            .prepare_cached(
                "SELECT begun_ms, sequence, until_ms FROM usage_window
                 WHERE subject = ?1 AND host = ?2 AND epoch = ?3
                 ORDER BY begun_ms DESC, sequence DESC LIMIT 1",
            )?
            .query_row(params![subject, host, key.epoch.0], |row| {
                let (begun, until) = (UnixMs(row.get(0)?), UnixMs(row.get(2)?));
                Ok(WindowEnd { begun, sequence: row.get(1)?, until })
            })
            .optional()?;
        let allotment = self
            .connection
            .prepare_cached(&format!(
                "SELECT {ALLOTMENT} FROM allotment
                 WHERE subject = ?1 AND epoch = ?2 AND host = ?3"
            ))?
            .query_row(params![subject, key.epoch.0, host], allotment)
            .optional()?;
        // No window in use is longer, so that none which began earlier reaches into this one.
        let earliest = key.from.0.saturating_sub(WINDOW_MAX_MS);
        let elsewhere = self
            .connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM usage_window
                     WHERE subject = ?1 AND from_ms > ?4 AND from_ms < ?5 AND until_ms > ?6
                         AND kind = 'used' AND NOT (host = ?2 AND epoch = ?3))",
            )?
            .query_row(
                params![
                    subject,
                    host,
                    key.epoch.0,
                    earliest,
                    key.until.0.saturating_sub(slack_ms),
                    key.from.0.saturating_add(slack_ms),
                ],
                |row| row.get(0),
            )?;
        Ok(WindowContext { known, last, allotment, elsewhere })
    }

    /// Sums by subject.
    pub(super) fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        let (account, subject) = (query.account, query.subject);
        let (account, subject) =
            (account.map(|id| id.to_string()), subject.map(|id| id.to_string()));
        let after = query.after.map(|id| id.to_string()).unwrap_or_default();
        let mut given: Vec<&dyn ToSql> = vec![&query.from.0, &query.until.0, &after, &query.limit];
        let mut only = String::new();
        for (column, value) in [("account", &account), ("subject", &subject)] {
            if let Some(value) = value {
                given.push(value);
                only.push_str(&format!(" AND {column} = ?{}", given.len()));
            }
        }
        let sql = format!(
            "SELECT subject, account, class, min(from_ms), max(until_ms), count(*),
                 sum(iif(kind = 'used', until_ms - from_ms, 0)),
                 sum(iif(kind = 'unseen', until_ms - from_ms, 0)),
                 sum(vcpu_ms), sum(mib_ms), sum(gib_ms), sum(egress_bytes)
             FROM usage_window
             WHERE from_ms >= ?1 AND from_ms < ?2 AND subject > ?3{only}
             GROUP BY subject ORDER BY subject LIMIT ?4"
        );
        let read = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(given.as_slice(), sum)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| self.faults.of("add up what was used", error))
    }
}

fn sum(row: &Row<'_>) -> rusqlite::Result<UsageSum> {
    Ok(UsageSum {
        subject: text(row, 0)?,
        account: text(row, 1)?,
        class: row.get(2)?,
        from: UnixMs(row.get(3)?),
        until: UnixMs(row.get(4)?),
        windows: row.get(5)?,
        used_ms: row.get(6)?,
        unseen_ms: row.get(7)?,
        amounts: amounts(row, 8)?,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<UsageRecord> {
    let kind: String = row.get(8)?;
    let window = UsageWindow {
        subject: text(row, 0)?,
        epoch: Epoch(row.get(2)?),
        begun: UnixMs(row.get(3)?),
        sequence: row.get(4)?,
        from: UnixMs(row.get(6)?),
        until: UnixMs(row.get(7)?),
        kind: WindowKind::from_name(&kind)
            .ok_or_else(|| unreadable(8, format!("`{kind}` is no kind of window")))?,
        class: row.get(9)?,
        amounts: amounts(row, 10)?,
    };
    Ok(UsageRecord {
        host: text(row, 1)?,
        account: text(row, 5)?,
        signed: SignedWindow { window, signature: Blob(row.get(14)?) },
        signer: row.get(15)?,
        accepted_at: UnixMs(row.get(16)?),
    })
}

fn allotment(row: &Row<'_>) -> rusqlite::Result<Allotment> {
    Ok(Allotment {
        subject: text(row, 0)?,
        epoch: Epoch(row.get(1)?),
        host: text(row, 2)?,
        account: text(row, 3)?,
        vcpus: Vcpus(row.get(4)?),
        memory: Mib(row.get(5)?),
        size: Gib(row.get(6)?),
        class: row.get(7)?,
        from: UnixMs(row.get(8)?),
        until: row.get::<_, Option<i64>>(9)?.map(UnixMs),
    })
}

fn amounts(row: &Row<'_>, first: usize) -> rusqlite::Result<Amounts> {
    Ok(Amounts {
        vcpu_ms: row.get(first)?,
        mib_ms: row.get(first + 1)?,
        gib_ms: row.get(first + 2)?,
        egress_bytes: row.get(first + 3)?,
    })
}

fn text<T: FromStr<Err: std::fmt::Display>>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    text.parse().map_err(|error: T::Err| unreadable(index, error.to_string()))
}

fn unreadable(index: usize, reason: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, reason.into())
}
