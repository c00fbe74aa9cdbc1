//! Metering: what is allotted, windows that are only added, and their sums.

use fairmazon_model::{
    id::{AccountId, HostId, InstanceId, VolumeId},
    key::Blob,
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
    usage::{
        Allotment, Amounts, SignedWindow, Subject, UsageRecord, UsageWindow, WINDOW_MAX_MS,
        WindowKind,
    },
};
use fairmazon_store::{
    Actor, AllotmentChange, AuditEntry, Commit, Expect, MeteringWrites, SignerRecord, Store,
    UsageQuery, UsageSum, WindowContext, WindowEnd, WindowKey, Write,
};

use super::{Opener, rows, with_account};

const HOUR: i64 = WINDOW_MAX_MS;

fn host(number: u128) -> HostId {
    HostId::from_parts(1, number)
}

fn instance(number: u128) -> Subject {
    Subject::Instance(InstanceId::from_parts(1, number))
}

fn at(hours: i64) -> UnixMs {
    UnixMs(rows::NOW.0 + hours * HOUR)
}

/// A window of an hour.
fn window(subject: Subject, sequence: u64) -> UsageWindow {
    let from = i64::try_from(sequence).unwrap() - 1;
    UsageWindow {
        subject,
        epoch: Epoch(1),
        begun: at(0),
        sequence,
        from: at(from),
        until: at(from + 1),
        kind: WindowKind::Used,
        class: String::new(),
        amounts: Amounts { vcpu_ms: 7, mib_ms: 512, gib_ms: 0, egress_bytes: 1 << 40 },
    }
}

fn record(host: HostId, account: AccountId, window: UsageWindow) -> UsageRecord {
    UsageRecord {
        host,
        account,
        signed: SignedWindow { window, signature: Blob(vec![1, 2, 3]) },
        signer: "signer".into(),
        accepted_at: rows::NOW,
    }
}

fn allotment(host: HostId, account: AccountId, epoch: u64, vcpus: u32) -> Allotment {
    Allotment {
        subject: instance(1),
        epoch: Epoch(epoch),
        host,
        account,
        vcpus: Vcpus(vcpus),
        memory: Mib(512),
        size: Gib(0),
        class: String::new(),
        from: at(i64::try_from(epoch).unwrap()),
        until: None,
    }
}

async fn keep(store: &dyn Store, metering: MeteringWrites) {
    store.commit(Commit { metering, ..Commit::default() }).await.unwrap();
}

async fn accept(store: &dyn Store, windows: Vec<UsageRecord>) {
    let certificate = vec![9];
    let signer = SignerRecord { sha256: "signer".into(), host: host(1), certificate };
    let signers = vec![signer];
    keep(store, MeteringWrites { windows, signers, ..MeteringWrites::default() }).await;
}

async fn allot(store: &dyn Store, hour: i64, now: Option<Allotment>) {
    let change = AllotmentChange { subject: instance(1), at: at(hour), now };
    let allotments = vec![change];
    keep(store, MeteringWrites { allotments, ..MeteringWrites::default() }).await;
}

async fn context(store: &dyn Store, host: HostId, window: &UsageWindow) -> WindowContext {
    let UsageWindow { subject, epoch, begun, sequence, from, until, .. } = *window;
    let key = WindowKey { subject, epoch, begun, sequence, from, until };
    store.window_contexts(host, vec![key], 5_000).await.unwrap().remove(0)
}

fn all() -> UsageQuery {
    let (from, until) = (UnixMs(0), UnixMs(i64::MAX));
    UsageQuery { account: None, subject: None, from, until, after: None, limit: 100 }
}

async fn sums(store: &dyn Store, query: UsageQuery) -> Vec<UsageSum> {
    store.usage(query).await.unwrap()
}

pub(crate) async fn windows_are_added_once_and_never_changed(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let first = record(host(1), account, window(instance(1), 1));
    let second = record(host(1), account, window(instance(1), 2));
    assert_eq!(context(&*store, host(1), &first.signed.window).await, WindowContext::default());
    accept(&*store, vec![first.clone(), second.clone()]).await;
    let mut forged = first.clone();
    forged.signed.window.amounts.vcpu_ms = 99;
    accept(&*store, vec![forged, second]).await;

    store.close().await.unwrap();
    let store = opener.open().unwrap();
    let found = context(&*store, host(1), &first.signed.window).await;
    assert_eq!(found.known, Some(first));
    assert_eq!(found.last, Some(WindowEnd { begun: at(0), sequence: 2, until: at(2) }));
    assert_eq!(sums(&*store, all()).await[0].windows, 2);
    // Another host and another epoch have series of their own.
    let other = UsageWindow { epoch: Epoch(2), ..window(instance(1), 1) };
    assert_eq!(context(&*store, host(1), &other).await.last, None);
    assert_eq!(context(&*store, host(2), &window(instance(1), 1)).await.last, None);
}

pub(crate) async fn windows_of_a_failed_commit_are_not_there(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let metering = MeteringWrites {
        windows: vec![record(host(1), account, window(instance(1), 1))],
        allotments: vec![AllotmentChange {
            subject: instance(1),
            at: at(0),
            now: Some(allotment(host(1), account, 1, 1)),
        }],
        ..MeteringWrites::default()
    };
    let again = Write::Put(rows::account(0).into(), Expect::New);
    store.commit(Commit { metering, ..Commit::of([again]) }).await.unwrap_err();
    assert!(sums(&*store, all()).await.is_empty());
    let found = context(&*store, host(1), &window(instance(1), 1)).await;
    assert_eq!(found, WindowContext::default());
    let entry = AuditEntry {
        at: rows::NOW,
        actor: Actor::default(),
        verb: "x".into(),
        target: "x".into(),
        before: None,
        after: None,
    };
    store.commit(Commit { audit: vec![entry], ..Commit::default() }).await.unwrap();
}

pub(crate) async fn an_allotment_ends_where_another_one_begins(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let of = async |number: u128, epoch: u64| {
        let window = UsageWindow { epoch: Epoch(epoch), ..window(instance(1), 1) };
        context(&*store, host(number), &window).await.allotment
    };
    let (one, two) = (allotment(host(1), account, 1, 2), allotment(host(2), account, 2, 1));
    allot(&*store, 1, Some(one.clone())).await;
    assert_eq!(of(1, 1).await, Some(one.clone()));
    // The most that was ever allotted stays, and so does when it began.
    allot(&*store, 2, Some(Allotment { vcpus: Vcpus(1), from: at(2), ..one.clone() })).await;
    assert_eq!(of(1, 1).await, Some(one.clone()));
    allot(&*store, 3, Some(two.clone())).await;
    assert_eq!(of(1, 1).await, Some(Allotment { until: Some(at(3)), ..one }));
    assert_eq!(of(2, 2).await, Some(two.clone()));
    assert_eq!(of(2, 1).await, None);
    allot(&*store, 5, None).await;
    assert_eq!(of(2, 2).await, Some(Allotment { until: Some(at(5)), ..two.clone() }));
    allot(&*store, 6, Some(two.clone())).await;
    assert_eq!(of(2, 2).await, Some(two), "it is back");
}

pub(crate) async fn use_at_two_places_at_once_shows(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let off = UsageWindow {
        kind: WindowKind::Off,
        amounts: Amounts::default(),
        ..window(instance(1), 1)
    };
    accept(
        &*store,
        vec![record(host(1), account, off), record(host(1), account, window(instance(1), 2))],
    )
    .await;
    let elsewhere = async |number: u128, epoch: u64, from_ms: i64, until_ms: i64| {
        let (from, until) = (UnixMs(at(0).0 + from_ms), UnixMs(at(0).0 + until_ms));
        let window = UsageWindow { epoch: Epoch(epoch), from, until, ..window(instance(1), 1) };
        context(&*store, host(number), &window).await.elsewhere
    };
    assert!(!elsewhere(1, 1, HOUR, 2 * HOUR).await, "it is the same run");
    assert!(elsewhere(1, 2, HOUR, 2 * HOUR).await);
    assert!(elsewhere(2, 1, HOUR, 2 * HOUR).await);
    assert!(!elsewhere(2, 2, 0, HOUR).await, "it was off then");
    assert!(!elsewhere(2, 2, 0, HOUR + 5_000).await && elsewhere(2, 2, 0, HOUR + 5_001).await);
    assert!(!elsewhere(2, 2, 2 * HOUR - 5_000, 3 * HOUR).await);
    assert!(elsewhere(2, 2, 2 * HOUR - 5_001, 3 * HOUR).await);
}

pub(crate) async fn sums_are_by_subject_and_page(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let other = rows::account_id(7);
    let volume = Subject::Volume(VolumeId::from_parts(1, 1));
    let disk = UsageWindow {
        epoch: Epoch(0),
        class: "fast".into(),
        amounts: Amounts { gib_ms: 50, ..Amounts::default() },
        ..window(volume, 1)
    };
    let unseen = UsageWindow {
        kind: WindowKind::Unseen,
        amounts: Amounts::default(),
        ..window(instance(1), 3)
    };
    accept(
        &*store,
        vec![
            record(host(1), account, window(instance(1), 1)),
            record(host(1), account, window(instance(1), 2)),
            record(host(1), account, unseen),
            record(host(2), account, window(instance(2), 1)),
            record(host(1), account, disk),
            record(host(1), other, window(instance(3), 1)),
        ],
    )
    .await;
    let found = sums(&*store, UsageQuery { account: Some(account), ..all() }).await;
    let subjects: Vec<_> = found.iter().map(|sum| sum.subject).collect();
    assert_eq!(subjects, [instance(1), instance(2), volume]);
    assert_eq!(
        found[0],
        UsageSum {
            subject: instance(1),
            account,
            class: String::new(),
            from: at(0),
            until: at(3),
            windows: 3,
            used_ms: 2 * HOUR.unsigned_abs(),
            unseen_ms: HOUR.unsigned_abs(),
            amounts: Amounts { vcpu_ms: 14, mib_ms: 1_024, gib_ms: 0, egress_bytes: 2 << 40 },
        }
    );
    assert_eq!((found[2].class.as_str(), found[2].amounts.gib_ms), ("fast", 50));

    assert_eq!(sums(&*store, all()).await.len(), 4);
    let one = UsageQuery { subject: Some(instance(3)), ..all() };
    assert_eq!(sums(&*store, one.clone()).await.len(), 1);
    let not_theirs = UsageQuery { account: Some(account), ..one };
    assert!(sums(&*store, not_theirs).await.is_empty());
    let second = sums(&*store, UsageQuery { from: at(1), until: at(2), ..all() }).await;
    assert_eq!(second.len(), 1);
    assert_eq!((second[0].from, second[0].windows), (at(1), 1));
    let page = sums(&*store, UsageQuery { limit: 2, after: Some(instance(1)), ..all() }).await;
    let subjects: Vec<_> = page.iter().map(|sum| sum.subject).collect();
    assert_eq!(subjects, [instance(2), instance(3)]);
}

pub(crate) async fn old_windows_and_allotments_go(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let windows = (1..=4).map(|number| record(host(1), account, window(instance(1), number)));
    accept(&*store, windows.collect()).await;
    allot(&*store, 1, Some(allotment(host(1), account, 1, 1))).await;
    allot(&*store, 2, Some(allotment(host(1), account, 2, 1))).await;
    assert_eq!(store.expire_usage(at(3), 1).await.unwrap(), 1);
    assert_eq!(store.expire_usage(at(3), 9).await.unwrap(), 1);
    assert_eq!(store.expire_usage(at(3), 9).await.unwrap(), 0);
    let left = sums(&*store, all()).await;
    assert_eq!((left[0].windows, left[0].from), (2, at(2)));
    assert_eq!(context(&*store, host(1), &window(instance(1), 1)).await.allotment, None);
    let second = UsageWindow { epoch: Epoch(2), ..window(instance(1), 1) };
    assert!(context(&*store, host(1), &second).await.allotment.is_some(), "it holds");
}
