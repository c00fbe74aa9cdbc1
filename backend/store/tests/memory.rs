//! The store without a disk: the conformance suite, and the faults that it is there for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod conformance;

use std::{sync::Arc, time::Duration};

use conformance::rows;
use fairmazon_store::{
    Commit, Expect, Store, StoreError, Write,
    memory::{Fault, MemoryDisk},
};

struct Disk(MemoryDisk);

impl conformance::Opener for Disk {
    fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(self.0.open()?))
    }
}

fn disk() -> Disk {
    Disk(MemoryDisk::new())
}

conformance::all_cases!(crate::disk);

fn account(number: u64) -> Commit {
    Commit::of([Write::Put(rows::account(number).into(), Expect::New)])
}

#[tokio::test(start_paused = true)]
async fn faults_come_as_asked_for() {
    let disk = MemoryDisk::new();
    let store = disk.open().unwrap();
    let mut faults =
        [Fault::Refused, Fault::AnswerLost, Fault::Slow(Duration::from_secs(3))].into_iter();
    disk.on_commit(move |_| faults.next().unwrap_or_default());

    let error = store.commit(account(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(store.health().await.unwrap().revision.0, 0);

    let error = store.commit(account(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed), "{error}");
    assert_eq!(store.health().await.unwrap().revision.0, 1, "written, only the answer is lost");

    let start = tokio::time::Instant::now();
    store.commit(account(1)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_crash_cuts_off_what_is_under_way() {
    let disk = MemoryDisk::new();
    let old = disk.open().unwrap();
    old.commit(account(0)).await.unwrap();
    disk.on_commit(|_| Fault::Slow(Duration::from_secs(3)));
    let (late, ()) = tokio::join!(old.commit(account(1)), async { disk.crash() });
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    disk.heal();
    let new = disk.open().unwrap();
    drop(old);
    assert_eq!(new.health().await.unwrap().revision.0, 1);
    new.commit(account(1)).await.unwrap();
}
