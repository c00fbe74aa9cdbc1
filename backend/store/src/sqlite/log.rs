//! The log beside the database, to which commits are appended, and the room that it takes.
//!
//! Writing it back into the database, a checkpoint, may take as much room again as the log has,
//! and gives the log's own back. So a log that leaves less than that has to go while it can: one
//! that has taken the last byte of a disk may not get out by itself.

use std::{fs, path::Path, time::Duration};

use rusqlite::{Connection, config::DbConfig};

use super::open::{BUSY, beside};

/// Pages of the log after which they are brought into the database (64 MiB).
pub(super) const CHECKPOINT_PAGES: u32 = 8_192;
/// How long emptying the log waits for reads under way: longer than the usual ones take, and short
/// for commits that wait meanwhile.
const READS: Duration = Duration::from_millis(100);

/// Whether the log stays when the connection is closed: with what is damaged, it may be all that is
/// left of some changes.
pub(super) fn keep(connection: &Connection, keep: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop)
}

/// Brings what is in the log into the database, and empties the log's file. False where somebody
/// still reads what is in it. An error changes nothing: what was committed is in the log still.
pub(super) fn write_back(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(READS)?;
    let is_busy: rusqlite::Result<bool> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(BUSY)?;
    Ok(!is_busy?)
}

/// Whether the log has more than its disk has left.
pub(super) fn outgrows_disk(database: &Path) -> bool {
    let log = fs::metadata(beside(database, "-wal")).map_or(0, |log| log.len());
    // Where nobody says what is left, the log goes when it must.
    rustix::fs::statvfs(database).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < log)
}
