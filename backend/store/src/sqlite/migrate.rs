//! Schema migrations: numbered, forward only, each in a transaction of its own.
//!
//! A migration that was released is never edited: its checksum is kept in the file and
//! compared at every start. A file with a newer schema is refused, not guessed at.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::fault::Faults;
use crate::StoreError;

/// Marks the file as ours (`PRAGMA application_id`): the letters `Fmzn`.
const APPLICATION_ID: i32 = 0x466d_7a6e;

/// All migrations, the first has the number 1.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_rows.sql"),
    include_str!("migrations/0002_no_confirmed.sql"),
    include_str!("migrations/0003_usage.sql"),
];

/// The schema that this version writes.
pub(super) const SCHEMA: u32 = MIGRATIONS.len() as u32;

/// Brings the database up to [`SCHEMA`].
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    run(connection, path, MIGRATIONS)
}

fn run(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let faults = Faults::on(path);
    let fault = |error| faults.of("migrate the schema", error);
    claim(connection, path)
        .map_err(fault)?
        .then_some(())
        .ok_or_else(|| StoreError::NotOurs { path: path.to_owned() })?;
    let found: u32 = connection
        .query_row("SELECT coalesce(max(version), 0) FROM migration", [], |row| row.get(0))
        .map_err(fault)?;
    let known = migrations.len() as u32;
    if found > known {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (version, sql) in (1..).zip(migrations) {
        let checksum = hex::encode(Sha256::digest(sql.as_bytes()));
        let applied: Option<String> = connection
            .query_row("SELECT sha256 FROM migration WHERE version = ?1", [version], |row| {
                row.get(0)
            })
            .optional()
            .map_err(fault)?;
        match applied {
            Some(applied) if applied == checksum => {}
            Some(_) => {
                return Err(StoreError::ChangedMigration { path: path.to_owned(), version });
            }
            None => {
                apply(connection, version, sql, &checksum).map_err(fault)?;
                tracing::info!(version, path = %path.display(), "migrated the store's schema");
            }
        }
    }
    Ok(())
}

/// Whether the file is a store, of whichever version.
pub(super) fn is_ours(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(application_id(connection)? == APPLICATION_ID)
}

fn application_id(connection: &Connection) -> rusqlite::Result<i32> {
    connection.query_row("PRAGMA application_id", [], |row| row.get(0))
}

/// Makes an empty file ours. False when it belongs to something else.
fn claim(connection: &mut Connection, path: &Path) -> rusqlite::Result<bool> {
    let id = application_id(connection)?;
    if id == APPLICATION_ID {
        return Ok(true);
    }
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id != 0 || tables > 0 {
        return Ok(false);
    }
    tracing::info!(path = %path.display(), "made a new store");
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE migration (
             version INTEGER PRIMARY KEY NOT NULL,
             sha256  TEXT NOT NULL
         ) STRICT;",
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(true)
}

fn apply(
    connection: &mut Connection,
    version: u32,
    sql: &str,
    checksum: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction
        .execute("INSERT INTO migration (version, sha256) VALUES (?1, ?2)", (version, checksum))?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> u32 {
        connection.query_row("SELECT max(version) FROM migration", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn migrations_go_forward_once_each() {
        let (first, second) = ("CREATE TABLE a (x) ;", "CREATE TABLE b (x);");
        let mut connection = Connection::open_in_memory().unwrap();
        let path = Path::new("test.db");
        run(&mut connection, path, &[first]).unwrap();
        run(&mut connection, path, &[first, second]).unwrap();
        run(&mut connection, path, &[first, second]).unwrap();
        assert_eq!(version(&connection), 2);
    }

    #[test]
    fn a_newer_schema_and_an_edited_migration_are_refused() {
        let (first, second) = ("CREATE TABLE a (x);", "CREATE TABLE b (x);");
        let mut connection = Connection::open_in_memory().unwrap();
        let path = Path::new("test.db");
        run(&mut connection, path, &[first, second]).unwrap();
        let error = run(&mut connection, path, &[first]).unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 2, known: 1, .. }), "{error}");
        let error = run(&mut connection, path, &[first, "CREATE TABLE c (x);"]).unwrap_err();
        assert!(matches!(error, StoreError::ChangedMigration { version: 2, .. }), "{error}");
    }

    #[test]
    fn a_failed_migration_leaves_nothing_behind() {
        let mut connection = Connection::open_in_memory().unwrap();
        let path = Path::new("test.db");
        let broken = "CREATE TABLE b (x); CREATE TABLE b (x);";
        run(&mut connection, path, &["CREATE TABLE a (x);", broken]).unwrap_err();
        assert_eq!(version(&connection), 1);
        run(&mut connection, path, &["CREATE TABLE a (x);", "CREATE TABLE b (x);"]).unwrap();
        assert_eq!(version(&connection), 2);
    }

    #[test]
    fn another_programs_database_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x);").unwrap();
        let error = run(&mut connection, Path::new("test.db"), &[]).unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    }
}
