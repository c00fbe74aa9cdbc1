//! A disk without room: what the SQLite store can do with what it has, and with a little more.
//!
//! The disks are file systems in memory, in a namespace of a child process that ends with it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use fairmazon_model::placement::PlacementGroup;
use fairmazon_store::{
    Commit, Expect, Key, Row, Store, StoreError, Write,
    sqlite::{SqliteOptions, SqliteStore},
};

#[allow(dead_code, reason = "these tests use some of the rows")]
#[path = "conformance/rows.rs"]
mod rows;

/// Names the disk to the child process, and makes a test binary that child.
const DISK: &str = "FAIRMAZON_STORE_TEST_DISK";
/// How large the disk is.
const MEBIBYTES: u64 = 4;
/// More commits than a disk has room for, many times over.
const MANY: u64 = 1_000;

fn open(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(SqliteStore::open(&SqliteOptions::new(path))?))
}

/// A row that takes its room, and says which commit has written it.
fn large(number: u64, commit: u64) -> PlacementGroup {
    let name = format!("{commit} {}", "x".repeat(20_000));
    PlacementGroup { name, ..rows::group(rows::account_id(0), number) }
}

async fn put(store: &dyn Store, row: impl Into<Row>) -> Result<(), StoreError> {
    store.commit(Commit::of([Write::Put(row.into(), Expect::Any)])).await.map(drop)
}

/// Which commit has written the row.
async fn written(store: &dyn Store, number: u64) -> u64 {
    let found = store.get(Key::from(large(number, 0).id)).await.unwrap();
    let Some(Row::PlacementGroup(group)) = found else { panic!("{number} is lost") };
    group.name.split_once(' ').unwrap().0.parse().unwrap()
}

fn log(path: &Path) -> u64 {
    fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len())
}

/// Takes all the room but so many bytes.
fn fill(disk: &Path, leave: u64) {
    let mut filler = File::create(disk.join("filler")).unwrap();
    let error = loop {
        if let Err(error) = filler.write_all(&[0xa5; 4_096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let full = filler.metadata().unwrap().len();
    filler.set_len(full - leave).unwrap();
}

/// Runs one of the children below on a small disk of its own.
fn on_a_small_disk(child: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={MEBIBYTES}m tmpfs \"${DISK}\" && exec \"$@\"");
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture"])
        .env(DISK, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_log_leaves_its_disk_what_the_database_needs() {
    on_a_small_disk("child_that_is_alone_on_its_disk");
}

#[tokio::test]
async fn child_that_is_alone_on_its_disk() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    let path = disk.join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    for commit in 0..MANY {
        put(&*store, large(0, commit)).await.unwrap();
    }
    assert_eq!(written(&*store, 0).await, MANY - 1);
    let mut number = 1;
    let error = loop {
        if let Err(error) = put(&*store, large(number, number)).await {
            break error;
        }
        number += 1;
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let all = MEBIBYTES << 20;
    assert!(number * 20_000 > all / 2 && log(&path) < all / 8, "{number}, {}", log(&path));
    store.close().await.unwrap();
    let store = open(&path).unwrap();
    for number in 1..number {
        assert_eq!(written(&*store, number).await, number);
    }
}

#[test]
fn on_a_full_disk_the_room_of_the_log_is_used_again() {
    on_a_small_disk("child_on_a_disk_that_others_fill");
}

#[tokio::test]
async fn child_on_a_disk_that_others_fill() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    let path = disk.join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    // The database has all pages that it will need.
    for commit in 0..100 {
        put(&*store, large(1, commit)).await.unwrap();
    }
    store.close().await.unwrap();
    let store = open(&path).unwrap();
    for commit in 100..120 {
        put(&*store, large(1, commit)).await.unwrap();
    }
    fill(&disk, 0);
    for commit in 120..MANY {
        put(&*store, large(1, commit)).await.unwrap();
        assert_eq!(written(&*store, 1).await, commit);
    }
    store.health().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(written(&*open(&path).unwrap(), 1).await, MANY - 1);
}

#[test]
fn new_room_is_the_databases_first() {
    on_a_small_disk("child_that_is_given_a_little_room");
}

#[tokio::test]
async fn child_that_is_given_a_little_room() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    let path = disk.join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    // What the log has of many rows, of which only the last is of use in each.
    for commit in 0..40 {
        put(&*store, large(commit % 4, commit)).await.unwrap();
    }
    let needed = store.health().await.unwrap().size_bytes - fs::metadata(&path).unwrap().len();
    fill(&disk, 0);
    let mut acknowledged = 40;
    let error = loop {
        match put(&*store, large(acknowledged % 4, acknowledged)).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(matches!(store.health().await.unwrap_err(), StoreError::Full { .. }));
    // Its own error, and not that of the log.
    let error = put(&*store, large(4, acknowledged)).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    for number in 0..4 {
        let last = (0..acknowledged).rev().find(|commit| commit % 4 == number).unwrap();
        assert_eq!(written(&*store, number).await, last);
    }
    // What the database lacks, and less than one more change takes in the log.
    assert!(needed > 64 << 10, "{needed}");
    fill(&disk, needed + (16 << 10));
    let all = acknowledged + MANY;
    for commit in acknowledged..all {
        put(&*store, large(commit % 4, commit)).await.unwrap();
    }
    store.health().await.unwrap();
    store.close().await.unwrap();
    let store = open(&path).unwrap();
    for commit in all - 4..all {
        assert_eq!(written(&*store, commit % 4).await, commit);
    }
}

#[test]
fn a_full_disk_is_called_that_at_the_start_too() {
    on_a_small_disk("child_that_starts_without_room");
}

#[tokio::test]
async fn child_that_starts_without_room() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    let path = disk.join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    put(&*store, large(1, 1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    fill(&disk, 0);
    let error = open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    fs::remove_file(disk.join("filler")).unwrap();
    assert_eq!(written(&*open(&path).unwrap(), 1).await, 1);
}

#[tokio::test]
async fn what_a_crash_left_in_the_log_is_written_back_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    for commit in 0..20 {
        put(&*store, large(1, commit)).await.unwrap();
    }
    // What there is of it at this moment is what a crash leaves.
    let left = folder.path().join("left.db");
    for ending in ["db", "db-wal"] {
        fs::copy(path.with_extension(ending), left.with_extension(ending)).unwrap();
    }
    assert!(log(&left) > 20 * 20_000);
    let again = open(&left).unwrap();
    assert_eq!(log(&left), 0, "its room is the disk's");
    assert_eq!(written(&*again, 1).await, 19);
    put(&*again, large(1, 20)).await.unwrap();
    again.close().await.unwrap();
    assert_eq!(written(&*open(&left).unwrap(), 1).await, 20);
}
