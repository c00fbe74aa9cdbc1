//! The audit log: chained, exportable, part of the commit.

use fairmazon_store::{Actor, AuditEntry, AuditRecord, ChainChecker, Commit, Expect, Store, Write};
use serde_json::json;

use super::{Opener, rows, with_account};

fn entry(number: u64) -> AuditEntry {
    AuditEntry {
        at: rows::NOW,
        actor: Actor { credential: None, account: Some(rows::account_id(0)) },
        verb: "group.create".into(),
        target: format!("target-{number}"),
        before: None,
        after: Some(json!({ "z": [1, null, 0.5], "a": { "ü": "\u{1}" }, "number": number })),
    }
}

async fn append(store: &dyn Store, numbers: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let audit = numbers.map(entry).collect();
    store.commit(Commit { audit, ..Commit::default() }).await.unwrap().audit
}

async fn export(store: &dyn Store) -> Vec<String> {
    let (mut after, mut lines) = (0, Vec::new());
    loop {
        let page = store.audit(after, 3).await.unwrap();
        let Some(last) = page.last() else { return lines };
        after = last.sequence;
        lines.extend(page.iter().map(|record| serde_json::to_string(record).unwrap()));
    }
}

pub(crate) async fn entries_are_chained_and_exportable(opener: &dyn Opener) {
    let (store, _) = with_account(opener).await;
    assert_eq!(append(&*store, 0..4).await, 1..5);
    assert_eq!(append(&*store, 4..5).await, 5..6);
    let verdict = store.verify_audit().await.unwrap();
    assert_eq!((verdict.whole.sequence, verdict.broken), (5, None));
    assert_eq!(verdict.whole, store.health().await.unwrap().audit);

    let lines = export(&*store).await;
    let records: Vec<AuditRecord> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        records.iter().map(|record| record.entry.clone()).collect::<Vec<_>>(),
        [entry(0), entry(1), entry(2), entry(3), entry(4)]
    );
    let mut checker = ChainChecker::default();
    records.iter().for_each(|record| checker.check(record).unwrap());
    assert_eq!(checker.head(), verdict.whole);

    // An entry that was changed, left out or moved is named.
    let mut changed = records.clone();
    changed[2].entry.target.push('x');
    let mut missing = records.clone();
    missing.remove(2);
    let mut moved = records;
    moved.swap(2, 3);
    for forged in [changed, missing, moved] {
        let mut checker = ChainChecker::default();
        let broken = forged.iter().find_map(|record| checker.check(record).err()).unwrap();
        assert_eq!(broken.sequence, 3, "{broken}");
    }
}

pub(crate) async fn a_failed_commit_leaves_no_entry(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    append(&*store, 0..1).await;
    let failing = Commit {
        audit: vec![entry(1)],
        ..Commit::of([Write::Put(rows::account(0).into(), Expect::New)])
    };
    store.commit(failing).await.unwrap_err();
    let group = Write::Put(rows::group(account, 1).into(), Expect::New);
    let fine = Commit { audit: vec![entry(2)], ..Commit::of([group]) };
    assert_eq!(store.commit(fine).await.unwrap().audit, 2..3);
    let verdict = store.verify_audit().await.unwrap();
    assert_eq!((verdict.whole.sequence, verdict.broken), (2, None));
}

pub(crate) async fn the_chain_goes_on_after_reopening(opener: &dyn Opener) {
    let (store, _) = with_account(opener).await;
    append(&*store, 0..2).await;
    store.close().await.unwrap();
    let store = opener.open().unwrap();
    assert_eq!(append(&*store, 2..3).await, 3..4);
    let verdict = store.verify_audit().await.unwrap();
    assert_eq!((verdict.whole.sequence, verdict.broken), (3, None));
}
