//! Reads: by key, by page, everything, and what changed.

use std::collections::BTreeMap;

use fairmazon_model::{
    id::AccountId,
    instance::Instance,
    units::{Mib, Revision},
};
use fairmazon_store::{Change, Commit, Expect, Key, Noun, Row, StoreError, Write};

use super::{Opener, everything, put_new, rows, with_account};

fn one_of_each(account: AccountId) -> Vec<Row> {
    let (mut instance, volume, operation) = rows::machine(account, 1);
    instance.spec.user_data = "#cloud-config\n# ü \u{0} 名前".into();
    instance.spec.labels.insert("quote".into(), "'; DROP TABLE instance; --".into());
    vec![
        rows::host(account, 1).into(),
        rows::credential(account, 1).into(),
        rows::group(account, 1).into(),
        volume.into(),
        instance.into(),
        operation.into(),
    ]
}

pub(crate) async fn every_noun_survives_the_store(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let all = one_of_each(account);
    assert_eq!(all.len() + 1, Noun::ALL.len());
    for row in all {
        let revision = put_new(&*store, row.clone()).await.revision;
        assert_eq!(store.get(row.key()).await.unwrap(), Some(row.clone().at(revision)));
        // What was written over is as it was written over.
        let changed = if let Row::Host(mut host) = row {
            host.spec.name = "renamed".into();
            host.spec.capacity.memory = Mib(1);
            host.into()
        } else {
            row
        };
        let commit = Commit::of([Write::Put(changed.clone(), Expect::Revision(revision))]);
        let revision = store.commit(commit).await.unwrap().revision;
        assert_eq!(store.get(changed.key()).await.unwrap(), Some(changed.at(revision)));
    }
    let (instance, ..) = rows::machine(account, 1);
    let found: Option<Instance> = store.find(instance.id).await.unwrap();
    assert_eq!(found.unwrap().id, instance.id);
    let (absent, ..) = rows::machine(account, 2);
    assert!(store.find::<Instance>(absent.id).await.unwrap().is_none());
}

pub(crate) async fn load_streams_everything_parents_first(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let writes = one_of_each(account).into_iter().map(|row| Write::Put(row, Expect::New));
    store.commit(Commit::of(writes)).await.unwrap();
    // More than any batch that an implementation may use.
    let many =
        (10..1_510).map(|number| Write::Put(rows::group(account, number).into(), Expect::New));
    let last = store.commit(Commit::of(many)).await.unwrap().revision;
    let mut seen = Vec::new();
    let revision = store.load(&mut |row| seen.push(row.key())).await.unwrap();
    assert_eq!(revision, last);
    assert_eq!(seen.len(), 1_500 + Noun::ALL.len());
    assert!(seen.is_sorted_by_key(|key| key.noun()));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1_500 + Noun::ALL.len());
}

pub(crate) async fn load_is_of_one_moment(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let writing = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..200 {
                let (instance, volume, operation) = rows::machine(account, number);
                let all: [Row; 3] = [instance.into(), volume.into(), operation.into()];
                store
                    .commit(Commit::of(all.map(|row| Write::Put(row, Expect::New))))
                    .await
                    .unwrap();
            }
        })
    };
    loop {
        let finished = writing.is_finished();
        let mut counts: BTreeMap<Noun, u64> = BTreeMap::new();
        let mut visit = |row: Row| *counts.entry(row.key().noun()).or_default() += 1;
        let machines = store.load(&mut visit).await.unwrap().0 - 1;
        let count = |noun| counts.get(&noun).copied().unwrap_or_default();
        for noun in [Noun::Instance, Noun::Volume, Noun::Operation] {
            assert_eq!(count(noun), machines, "{noun:?}");
        }
        if finished {
            break;
        }
        // A store may answer at once; the writer shall have its turn all the same.
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

pub(crate) async fn changes_follow_whole_commits(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    for number in 0..4 {
        let pair = [number * 2, number * 2 + 1];
        let writes =
            pair.map(|number| Write::Put(rows::group(account, number).into(), Expect::New));
        store.commit(Commit::of(writes)).await.unwrap();
    }
    let changes = store.changes_since(Revision(1), 2).await.unwrap();
    assert_eq!((changes.changes.len(), changes.up_to, changes.last), (4, Revision(3), Revision(5)));
    assert!(changes.changes.is_sorted_by_key(Change::revision));
    let rest = store.changes_since(changes.up_to, 100).await.unwrap();
    assert_eq!((rest.changes.len(), rest.up_to), (4, Revision(5)));
    let none = store.changes_since(rest.up_to, 100).await.unwrap();
    assert_eq!((none.changes.len(), none.up_to), (0, Revision(5)));
}

pub(crate) async fn deletions_are_kept_until_forgotten(opener: &dyn Opener) {
    let (store, account) = with_account(opener).await;
    let group = rows::group(account, 1);
    put_new(&*store, group.clone()).await;
    let delete = Commit::of([Write::Delete(group.id.into(), Expect::Any)]);
    let gone = store.commit(delete).await.unwrap().revision;
    let last = put_new(&*store, group.clone()).await.revision;
    let changes = store.changes_since(Revision(1), 100).await.unwrap().changes;
    let deleted = Change::Deleted { key: group.id.into(), account, revision: gone };
    assert_eq!(changes, [deleted, Change::Put(Row::from(group).at(last))]);

    let error = store.forget_deletions(Revision(last.0 + 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
    assert_eq!(store.forget_deletions(gone).await.unwrap(), 1);
    let error = store.changes_since(Revision(gone.0 - 1), 100).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { oldest } if oldest == gone), "{error}");
    assert_eq!(store.changes_since(gone, 100).await.unwrap().changes.len(), 1);
}

/// Any sequence of changes, followed in steps of any size, gives the state that it led to.
pub(crate) async fn a_follower_reaches_the_same_state(opener: &dyn Opener) {
    use rand::{Rng, SeedableRng};
    let seed = 7;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (store, account) = with_account(opener).await;
    let mut follower: BTreeMap<Key, Row> = BTreeMap::new();
    let mut at = Revision(0);
    for _ in 0..300 {
        let mut numbers: Vec<u64> =
            (0..random.random_range(1..4)).map(|_| random.random_range(0..20)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let writes: Vec<_> = numbers
            .into_iter()
            .map(|number| {
                let group = rows::group(account, number);
                if random.random_bool(0.4) {
                    Write::Delete(group.id.into(), Expect::Any)
                } else {
                    Write::Put(group.into(), Expect::Any)
                }
            })
            .collect();
        store.commit(Commit::of(writes)).await.unwrap();
        if random.random_bool(0.2) {
            let changes = store.changes_since(at, random.random_range(1..10)).await.unwrap();
            at = changes.up_to;
            follow(&mut follower, changes.changes);
        }
    }
    follow(&mut follower, store.changes_since(at, u32::MAX).await.unwrap().changes);
    assert_eq!(
        follower.into_values().collect::<Vec<_>>(),
        everything(&*store).await,
        "seed {seed}"
    );
}

fn follow(state: &mut BTreeMap<Key, Row>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(row) => state.insert(row.key(), row),
            Change::Deleted { key, .. } => state.remove(&key),
        };
    }
}
