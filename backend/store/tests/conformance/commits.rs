//! Commits: atomicity, expectations, revisions, idempotency, many writers.

use std::collections::BTreeSet;

use fairmazon_model::units::{Revision, UnixMs};
use fairmazon_store::{Commit, Expect, Key, Row, StoreError, Write};

use super::{Opener, everything, put_new, rows, with_account};

pub(crate) async fn a_commit_is_all_or_nothing(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    put_new(&*store, rows::group(account, 1)).await;
    let before = everything(&*store).await;
    let commit = Commit {
        writes: vec![
            Write::Put(rows::group(account, 2).into(), Expect::New),
            Write::Delete(rows::group(account, 1).id.into(), Expect::Any),
            Write::Put(rows::group(account, 3).into(), Expect::Revision(Revision(1))),
        ],
        idempotency: Some(rows::idempotency(account, "all")),
        ..Commit::default()
    };
    let error = store.commit(commit).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { found: None, .. }), "{error}");
    assert_eq!(everything(&*store).await, before);
    assert_eq!(store.idempotency(account, "all").await.unwrap(), None);
}

pub(crate) async fn expectations_hold(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let row = Row::from(rows::group(account, 1));
    let key = row.key();
    let first = put_new(&*store, row.clone()).await.revision;
    let commit = async |write| store.commit(Commit::of([write])).await;
    let refused = async |write| match commit(write).await.unwrap_err() {
        StoreError::Conflict { key: named, found, .. } => {
            assert_eq!(named, key);
            found
        }
        other => panic!("{other}"),
    };
    assert_eq!(refused(Write::Put(row.clone(), Expect::New)).await, Some(first));
    let stale = Expect::Revision(Revision(first.0 + 1));
    assert_eq!(refused(Write::Put(row.clone(), stale)).await, Some(first));
    assert_eq!(refused(Write::Delete(key, stale)).await, Some(first));

    let second = commit(Write::Put(row.clone(), Expect::Revision(first))).await.unwrap().revision;
    assert_eq!(refused(Write::Put(row.clone(), Expect::Revision(first))).await, Some(second));
    let third = commit(Write::Put(row.clone(), Expect::Any)).await.unwrap().revision;
    assert!(first < second && second < third);
    commit(Write::Delete(key, Expect::Revision(third))).await.unwrap();
    assert_eq!(refused(Write::Delete(key, Expect::Revision(third))).await, None);
    commit(Write::Delete(key, Expect::Any)).await.unwrap();
    assert_eq!(store.get(key).await.unwrap(), None);
    commit(Write::Put(row, Expect::New)).await.unwrap();
}

pub(crate) async fn revisions_grow_by_one_and_reach_the_rows(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let mut last = store.health().await.unwrap().revision;
    for number in 0..5 {
        let (instance, volume, operation) = rows::machine(account, number);
        let keys = [Key::from(instance.id), volume.id.into(), operation.id.into()];
        let writes = [instance.into(), volume.into(), operation.into()];
        let commit = Commit::of(writes.map(|row| Write::Put(row, Expect::New)));
        let revision = store.commit(commit).await.unwrap().revision;
        assert_eq!(revision.0, last.0 + 1);
        last = revision;
        for key in keys {
            assert_eq!(store.get(key).await.unwrap().unwrap().revision(), revision);
        }
    }
    assert_eq!(store.health().await.unwrap().revision, last);
    let empty = store.commit(Commit::default()).await.unwrap();
    assert_eq!((empty.revision, empty.audit.is_empty()), (last, true));
}

pub(crate) async fn the_order_of_writes_does_not_matter(opener: &dyn Opener) {
    let store = opener.open().unwrap();
    let account = rows::account(0);
    let host = rows::host(account.id, 0);
    let mut token = rows::credential(account.id, 0);
    token.host = Some(host.id);
    let all: [Row; 3] = [token.into(), host.into(), account.into()];
    let keys = all.each_ref().map(Row::key);
    store.commit(Commit::of(all.map(|row| Write::Put(row, Expect::New)))).await.unwrap();
    let mut deletions = keys.map(|key| Write::Delete(key, Expect::Any));
    deletions.reverse();
    store.commit(Commit::of(deletions)).await.unwrap();
    assert!(everything(&*store).await.is_empty());
}

pub(crate) async fn contradictions_are_refused(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let row = Row::from(rows::group(account, 1));
    let key = row.key();
    let twice = [Write::Put(row, Expect::Any), Write::Delete(key, Expect::Any)];
    let long_key = "k".repeat(129);
    let commits = [
        Commit::of(twice),
        Commit::of([Write::Delete(key, Expect::New)]),
        Commit { idempotency: Some(rows::idempotency(account, "")), ..Commit::default() },
        Commit { idempotency: Some(rows::idempotency(account, &long_key)), ..Commit::default() },
    ];
    for commit in commits {
        let error = store.commit(commit).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    }
}

pub(crate) async fn references_and_duplicates_are_refused(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let put = async |row: Row| store.commit(Commit::of([Write::Put(row, Expect::New)])).await;
    let error = put(rows::group(rows::account_id(9), 1).into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Reference { .. }), "{error}");

    put(rows::host(account, 1).into()).await.unwrap();
    let mut namesake = rows::host(account, 2);
    namesake.spec.name = rows::host(account, 1).spec.name;
    let error = put(namesake.into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Duplicate { what: "name", .. }), "{error}");

    put(rows::credential(account, 1).into()).await.unwrap();
    let mut same_secret = rows::credential(account, 2);
    same_secret.sha256 = rows::credential(account, 1).sha256;
    let error = put(same_secret.into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Duplicate { what: "secret", .. }), "{error}");

    let delete = Write::Delete(account.into(), Expect::Any);
    let error = store.commit(Commit::of([delete])).await.unwrap_err();
    assert!(matches!(error, StoreError::Reference { .. }), "{error}");
}

pub(crate) async fn an_idempotency_key_counts_once(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let record = |answer: &str, created: i64| {
        let mut record = rows::idempotency(account, "once");
        record.answer = answer.into();
        record.created_at = UnixMs(record.created_at.0 + created);
        record.expires_at = UnixMs(record.expires_at.0 + created);
        record
    };
    let commit = async |number, answer, created| {
        store
            .commit(Commit {
                idempotency: Some(record(answer, created)),
                ..Commit::of([Write::Put(rows::group(account, number).into(), Expect::New)])
            })
            .await
    };
    commit(1, "first", 0).await.unwrap();
    match commit(2, "second", 1).await.unwrap_err() {
        StoreError::AlreadyAnswered { existing } => assert_eq!(*existing, record("first", 0)),
        other => panic!("{other}"),
    }
    assert_eq!(store.get(rows::group(account, 2).id.into()).await.unwrap(), None);
    // The key of another account is another key.
    put_new(&*store, rows::account(1)).await;
    let other = rows::idempotency(rows::account_id(1), "once");
    store.commit(Commit { idempotency: Some(other), ..Commit::default() }).await.unwrap();
    // Once the record has expired the key may be used anew.
    commit(3, "third", 86_400_000).await.unwrap();
    let kept = store.idempotency(account, "once").await.unwrap().unwrap();
    assert_eq!(kept.answer, "third");
}

pub(crate) async fn an_idempotency_key_takes_the_place_of_the_answer_that_it_names(
    opener: &dyn Opener,
) {
    let (store, account) = with_account(opener).await;
    let commit = async |answer: &str, replaces: Option<&str>| {
        let mut record = rows::idempotency(account, "again");
        record.answer = answer.into();
        record.expires_at = UnixMs(record.expires_at.0 + answer.len() as i64);
        let replaces = replaces.map(Into::into);
        let commit = Commit { idempotency: Some(record), replaces, ..Commit::default() };
        store.commit(commit).await
    };
    commit("first", None).await.unwrap();
    match commit("third", Some("second")).await.unwrap_err() {
        StoreError::AlreadyAnswered { existing } => assert_eq!(existing.answer, "first"),
        other => panic!("{other}"),
    }
    commit("a later one", Some("first")).await.unwrap();
    assert!(commit("third", Some("first")).await.is_err(), "somebody else was first");
    let kept = store.idempotency(account, "again").await.unwrap().unwrap();
    assert_eq!(kept.answer, "a later one");
    let first = rows::idempotency(account, "again").expires_at.0 + "first".len() as i64;
    assert!(kept.expires_at.0 > first, "it counts for its own time");
    commit("nothing there", Some("first")).await.unwrap_err();
}

pub(crate) async fn idempotency_keys_expire(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    for key in ["a", "b", "c"] {
        let record = rows::idempotency(account, key);
        store.commit(Commit { idempotency: Some(record), ..Commit::default() }).await.unwrap();
    }
    let end = rows::idempotency(account, "a").expires_at;
    assert_eq!(store.expire_idempotency(UnixMs(end.0 - 1), 10).await.unwrap(), 0);
    assert_eq!(store.expire_idempotency(end, 2).await.unwrap(), 2);
    assert_eq!(store.expire_idempotency(end, 2).await.unwrap(), 1);
    assert_eq!(store.idempotency(account, "b").await.unwrap(), None);
}

pub(crate) async fn concurrent_writers_lose_nothing(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut revisions = Vec::new();
            for number in task * 100..task * 100 + 20 {
                revisions.push(put_new(&*store, rows::group(account, number)).await.revision);
                // A commit that fails must not take its neighbours with it.
                let again = Write::Put(rows::group(account, number).into(), Expect::New);
                store.commit(Commit::of([again])).await.unwrap_err();
            }
            assert!(revisions.is_sorted(), "{revisions:?}");
            revisions
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 16 * 20);
    assert_eq!(everything(&*store).await.len(), 16 * 20 + 1);
    assert_eq!(store.health().await.unwrap().revision.0, 16 * 20 + 1);
}

pub(crate) async fn one_of_many_wins_a_row(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let revision = put_new(&*store, rows::group(account, 1)).await.revision;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        let write = Write::Put(rows::group(account, 1).into(), Expect::Revision(revision));
        tasks.spawn(async move { store.commit(Commit::of([write])).await.is_ok() });
    }
    let winners = tasks.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
}
