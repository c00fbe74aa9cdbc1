//! What a file, a disk and a machine can do to the SQLite store: kill -9 at any moment, no
//! room, damage, other programs' files, wrong rights.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use fairmazon_model::{id::AccountId, placement::PlacementGroup};
use fairmazon_store::{
    Actor, AuditEntry, Commit, Expect, Key, Row, Store, StoreError, Write,
    sqlite::{self, SqliteOptions, SqliteStore},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[allow(dead_code, reason = "these tests use some of the rows")]
#[path = "conformance/rows.rs"]
mod rows;

fn open(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(SqliteStore::open(&SqliteOptions::new(path))?))
}

async fn put(store: &dyn Store, row: impl Into<Row>) -> Result<(), StoreError> {
    store.commit(Commit::of([Write::Put(row.into(), Expect::New)])).await.map(drop)
}

async fn all_keys(store: &dyn Store) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    store.load(&mut |row| _ = keys.insert(row.key())).await.unwrap();
    keys
}

/// A group with its own audit entry: what one acknowledged commit consists of here.
fn group_commit(account: AccountId, number: u64) -> Commit {
    let group = rows::group(account, number);
    let mut twin = rows::group(account, number + 1_000_000_000);
    twin.name = group.name.clone();
    Commit {
        audit: vec![AuditEntry {
            at: rows::NOW,
            actor: Actor::default(),
            verb: "group.create".into(),
            target: group.id.to_string(),
            before: None,
            after: None,
        }],
        idempotency: Some(rows::idempotency(account, &number.to_string())),
        ..Commit::of([group, twin].map(|row| Write::Put(row.into(), Expect::New)))
    }
}

/// Names the folder of the store to the child process, and makes a test binary that child.
const CHILD: &str = "FAIRMAZON_STORE_TEST_CHILD";

/// The child of `kill_at_any_moment_loses_nothing_acknowledged`: commits from several tasks
/// and prints each number once it is acknowledged. Without its variable it has nothing to do.
#[tokio::test]
async fn child_commits_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
    let account = rows::account_id(0);
    let first = store.health().await.unwrap().revision.0;
    if first == 0 {
        put(&*store, rows::account(0)).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for step in 0.. {
                let number = (first << 20) + (task << 16) + step;
                store.commit(group_commit(account, number)).await.unwrap();
                let line = format!("done {number}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn kill_at_any_moment_loses_nothing_acknowledged() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let mut acknowledged = BTreeSet::new();
    for round in 0..8 {
        let used = folder.path().join(format!("used-{round}.db"));
        let left = folder.path().join(format!("left-{round}.db"));
        let what = format!("seed {seed}, round {round}");
        let (before, all) = run_and_kill(&path, random.random_range(1..400), &used);
        let of_before = acknowledged.iter().copied().chain(before).collect();
        has_all(&used, &of_before, &format!("{what}: a backup from beside the process")).await;
        acknowledged.extend(all);
        // As the process has left it, before anybody has written the log back.
        sqlite::back_up(&path, &left).unwrap();
        has_all(&left, &acknowledged, &format!("{what}: a backup after it")).await;
        has_all(&path, &acknowledged, &what).await;
    }
}

/// Whether the store has what was acknowledged, and of what was not either all or nothing.
async fn has_all(path: &Path, acknowledged: &BTreeSet<u64>, what: &str) {
    let store = open(path).unwrap();
    let keys = all_keys(&*store).await;
    let account = rows::account_id(0);
    for number in acknowledged {
        for row in [*number, number + 1_000_000_000] {
            let key = rows::group(account, row).id.into();
            assert!(keys.contains(&key), "{what}: {number} is lost");
        }
        let record = store.idempotency(account, &number.to_string()).await.unwrap();
        assert!(record.is_some(), "{what}: the key of {number} is lost");
    }
    let verdict = store.verify_audit().await.unwrap();
    assert_eq!(verdict.broken, None, "{what}");
    assert_eq!(keys.len() as u64, 1 + 2 * verdict.whole.sequence, "{what}");
    assert!(verdict.whole.sequence >= acknowledged.len() as u64, "{what}");
    store.close().await.unwrap();
}

/// Runs the child, backs its store up after it has acknowledged some commits, and kills it; answers
/// with what it had acknowledged before the backup, and with all that it did before it died.
fn run_and_kill(path: &Path, after: usize, copy: &Path) -> (Vec<u64>, Vec<u64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_commits_until_it_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let number = |line: std::io::Result<String>| {
        let line = line.ok()?;
        // The harness writes its own words on the first line of the child's.
        line.split_once("done ")?.1.trim().parse::<u64>().ok()
    };
    let mut done = Vec::new();
    while done.len() < after {
        let Some(line) = lines.next() else { panic!("the child ended by itself") };
        done.extend(number(line));
    }
    let before = done.clone();
    sqlite::back_up(path, copy).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // The pipe may end in half a line: that number was not acknowledged.
    let mut rest: Vec<_> = lines.collect();
    rest.pop();
    done.extend(rest.into_iter().filter_map(number));
    (before, done)
}

#[tokio::test]
async fn a_full_store_says_so_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let limited = SqliteOptions { max_size_bytes: Some(500_000), ..SqliteOptions::new(&path) };
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&limited).unwrap());
    let account = rows::account_id(0);
    put(&*store, rows::account(0)).await.unwrap();
    let mut kept = BTreeSet::from([Key::from(account)]);
    let big =
        move |number| PlacementGroup { name: "x".repeat(5_000), ..rows::group(account, number) };
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut done = Vec::new();
            for number in task * 1_000.. {
                match put(&*store, big(number)).await {
                    Ok(()) => done.push(Key::from(big(number).id)),
                    Err(StoreError::Full { .. }) => return done,
                    Err(other) => panic!("{other}"),
                }
            }
            done
        });
    }
    kept.extend(tasks.join_all().await.into_iter().flatten());
    assert!(kept.len() > 8);
    assert_eq!(all_keys(&*store).await, kept);
    let error = store.health().await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    // Something goes: its place is there for something else, without a restart.
    let gone: Vec<Key> =
        kept.iter().copied().filter(|key| *key != account.into()).take(5).collect();
    let deletions = gone.iter().map(|key| Write::Delete(*key, Expect::Any));
    store.commit(Commit::of(deletions)).await.unwrap();
    put(&*store, big(900_000)).await.unwrap();
    store.health().await.unwrap();
    store.close().await.unwrap();
    // With a higher limit everything is as it was, and there is room.
    let store = open(&path).unwrap();
    gone.iter().for_each(|key| _ = kept.remove(key));
    kept.insert(big(900_000).id.into());
    assert_eq!(all_keys(&*store).await, kept);
    put(&*store, big(900_001)).await.unwrap();
}

#[tokio::test]
async fn damage_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    for number in 0..500 {
        put(&*store, rows::group(rows::account_id(0), number)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();

    let mut bad_header = good.clone();
    bad_header[..16].copy_from_slice(b"Not a database!!");
    std::fs::write(&path, &bad_header).unwrap();
    let error = open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("restore the last backup"), "{error}");

    let mut bad_pages = good.clone();
    let half = bad_pages.len() / 8;
    bad_pages[half..].fill(0xa5);
    std::fs::write(&path, &bad_pages).unwrap();
    let error = match open(&path) {
        Err(error) => error,
        Ok(store) => store.load(&mut |_| {}).await.unwrap_err(),
    };
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");

    std::fs::write(&path, &good[..good.len() - 100]).unwrap();
    let error = open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap().len(), good.len() - 100);

    std::fs::write(&path, &good).unwrap();
    assert_eq!(all_keys(&*open(&path).unwrap()).await.len(), 501);
}

/// Damage anywhere, also where nothing is read at the start, and nothing of the evidence goes.
#[tokio::test]
async fn damage_of_any_page_is_noticed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    for number in 0..40 {
        store.commit(group_commit(rows::account_id(0), number)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let page = 8_192;
    for start in (page..good.len()).step_by(page) {
        let mut damaged = good.clone();
        damaged[start..start + page].fill(0x5a);
        std::fs::write(&path, &damaged).unwrap();
        let error = open(&path).err().unwrap();
        assert!(matches!(error, StoreError::Corrupt { .. }), "page {}: {error}", start / page);
        assert!(std::fs::read(&path).unwrap() == damaged, "page {} was changed", start / page);
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(all_keys(&*open(&path).unwrap()).await.len(), 81);
}

#[tokio::test]
async fn a_store_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    std::fs::write(&path, "").unwrap();
    let told = |path: &Path| {
        let error = open(path).err().unwrap();
        assert!(matches!(error, StoreError::Gone { .. }), "{error}");
        error.to_string()
    };
    assert!(told(&path).contains("fairmazon.db.lock"));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    std::fs::remove_file(&path).unwrap();
    told(&path);
    assert!(!path.exists(), "no other one is made");
    // Both ways that are told.
    std::fs::copy(&copy, &path).unwrap();
    assert_eq!(all_keys(&*open(&path).unwrap()).await.len(), 1);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(folder.path().join("fairmazon.db.lock")).unwrap();
    assert_eq!(all_keys(&*open(&path).unwrap()).await.len(), 0);
}

#[tokio::test]
async fn a_backup_opens_as_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("fairmazon.db")).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    store.commit(group_commit(rows::account_id(0), 1)).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    let copied = open(&copy).unwrap();
    assert_eq!(all_keys(&*copied).await, all_keys(&*store).await);
    assert_eq!(copied.health().await.unwrap().audit, store.health().await.unwrap().audit);
    put(&*copied, rows::group(rows::account_id(0), 2)).await.unwrap();
}

#[tokio::test]
async fn what_is_no_whole_store_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let copy = at("copy.db");
    let refused = |path: &Path| {
        let error = sqlite::back_up(path, &copy).unwrap_err();
        assert!(!copy.exists(), "{error}");
        error
    };
    std::fs::write(at("text.db"), "not a database").unwrap();
    assert!(matches!(refused(&at("text.db")), StoreError::Corrupt { .. }));
    std::fs::write(at("empty.db"), "").unwrap();
    assert!(matches!(refused(&at("empty.db")), StoreError::NotOurs { .. }));
    refused(&at("none.db"));
    assert!(!at("none.db").exists());

    let store = open(&at("fairmazon.db")).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let mut bytes = std::fs::read(at("fairmazon.db")).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle + 100);
    std::fs::write(at("fairmazon.db"), &bytes).unwrap();
    assert!(matches!(refused(&at("fairmazon.db")), StoreError::Corrupt { .. }));
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("new").join("state");
    let path = state.join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    assert_eq!(mode(&state), 0o700);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&state).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    drop(store);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _store = open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_place_that_cannot_be_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let error = open(&file.join("fairmazon.db")).err().unwrap();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

/// Whoever has the file can reach behind the store; the audit log tells.
#[tokio::test]
async fn a_forged_audit_entry_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fairmazon.db");
    let store = open(&path).unwrap();
    put(&*store, rows::account(0)).await.unwrap();
    for number in 0..5 {
        store.commit(group_commit(rows::account_id(0), number)).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let raw = rusqlite::Connection::open(&path).unwrap();
    for sql in ["UPDATE audit SET entry = '{}' WHERE sequence = 3", "DELETE FROM audit"] {
        let refused = raw.execute(sql, []).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
    raw.execute_batch(
        "DROP TRIGGER audit_is_never_changed;
         UPDATE audit SET entry = replace(entry, 'group.create', 'group.delete') WHERE sequence = 3;",
    )
    .unwrap();
    drop(raw);
    let verdict = open(&path).unwrap().verify_audit().await.unwrap();
    assert_eq!(verdict.whole.sequence, 2);
    assert_eq!(verdict.broken.unwrap().sequence, 3);
}
