//! Closing, opening again, and copies.

use fairmazon_store::{Commit, Expect, StoreError, Write};

use super::{Opener, everything, put_new, rows, with_account};

pub(crate) async fn everything_is_there_after_reopening(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    for number in 0..10 {
        put_new(&*store, rows::group(account, number)).await;
    }
    let record = rows::idempotency(account, "kept");
    store.commit(Commit { idempotency: Some(record.clone()), ..Commit::default() }).await.unwrap();
    let (before, health) = (everything(&*store).await, store.health().await.unwrap());
    store.close().await.unwrap();
    drop(store);
    let store = opener.open().unwrap();
    assert_eq!(everything(&*store).await, before);
    let after = store.health().await.unwrap();
    assert_eq!((after.revision, after.audit), (health.revision, health.audit));
    assert_eq!(store.idempotency(account, "kept").await.unwrap(), Some(record));
    let next = put_new(&*store, rows::group(account, 10)).await;
    assert_eq!(next.revision.0, health.revision.0 + 1);
}

pub(crate) async fn a_closed_store_says_so(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    let write = Write::Put(rows::group(account, 1).into(), Expect::New);
    let errors = [
        store.commit(Commit::of([write])).await.unwrap_err(),
        store.get(account.into()).await.unwrap_err(),
        store.load(&mut |_| {}).await.unwrap_err(),
        store.health().await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Closed), "{error}");
    }
}

pub(crate) async fn a_second_opener_is_refused(opener: &dyn Opener) {
    let (store, _) = with_account(opener).await;
    match opener.open() {
        Err(StoreError::Locked { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened twice"),
    }
    drop(store);
    opener.open().unwrap();
}

pub(crate) async fn a_backup_is_a_whole_store(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    put_new(&*store, rows::group(account, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("backup.db");
    store.backup(&to).await.unwrap();
    assert!(std::fs::metadata(&to).unwrap().len() > 0);
    let error = store.backup(&to).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(std::fs::metadata(&to).unwrap().len() > 0, "an old backup is never touched");
}
