//! What a repeated request comes to, and what happens when the store is changed or fails.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use fairmazon_broker::core::{Clock as _, CoreConfig};
use fairmazon_model::{
    ErrorKind,
    id::{AccountId, HostId},
    instance::{Instance, InstanceSpec},
    units::{Revision, UnixMs},
};
use fairmazon_store::{
    AuditRecord, AuditVerdict, Changes, Commit, Committed, Expect, Health, IdempotencyRecord, Key,
    Row, Store, StoreError, UsageQuery, UsageSum, WindowContext, WindowKey, Write,
    sqlite::{SqliteOptions, SqliteStore},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::kit::{Kit, quick, spec};

#[tokio::test]
async fn a_repeated_creation_finds_the_first_machine_until_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let create = |name: &'static str| kit.engine.create_instance(&kit.customer, spec(name), "key");
    let first = create("web").await.unwrap();
    let again = create("web").await.unwrap();
    assert_eq!(first.instance.row.id, again.instance.row.id);
    assert_eq!(first.operation.id, again.operation.id);
    let other = create("db").await.unwrap_err();
    assert_eq!(
        (other.kind, other.field.as_deref()),
        (ErrorKind::Conflict, Some("idempotency_key"))
    );

    let id = first.instance.row.id.to_string();
    kit.engine.confirm_created(&kit.customer, std::slice::from_ref(&id), &kit.key()).await.unwrap();
    let second = create("web").await.unwrap();
    assert_ne!(first.instance.row.id, second.instance.row.id);
    let again = create("web").await.unwrap();
    assert_eq!(second.instance.row.id, again.instance.row.id, "the new one is unconfirmed");
    assert_eq!(kit.instances().len(), 2);
}

#[tokio::test]
async fn a_single_key_is_refused_while_what_it_made_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let create = || kit.engine.create_instance(&kit.customer, spec("web"), "once/key");
    let first = create().await.unwrap().instance.row.id;
    assert_eq!(create().await.unwrap().instance.row.id, first, "nobody has confirmed it");
    kit.engine.confirm_created(&kit.customer, &[first.to_string()], &kit.key()).await.unwrap();
    let taken = create().await.unwrap_err();
    assert_eq!(
        (taken.kind, taken.field.as_deref()),
        (ErrorKind::AlreadyExists, Some("idempotency_key"))
    );
    let deleted = kit.engine.delete_instance(&kit.customer, first, "gone").await.unwrap();
    kit.done(deleted.id).await;
    assert_ne!(create().await.unwrap().instance.row.id, first, "it is gone, so the key is free");
    kit.stop().await;
}

#[tokio::test]
async fn the_first_answer_outlives_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let first = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    kit.stop().await;
    let kit = Kit::open(folder.path(), quick()).await;
    let again = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    assert_eq!(first.instance.row.id, again.instance.row.id);
}

#[tokio::test]
async fn many_who_repeat_at_once_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (engine, customer) = (kit.engine.clone(), kit.customer);
            tokio::spawn(async move { engine.create_instance(&customer, spec("web"), "key").await })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap().unwrap().instance.row.id);
    }
    assert_eq!((ids.len(), kit.instances().len()), (1, 1));
}

#[tokio::test]
async fn the_key_of_a_deleted_machine_makes_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let first = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    let id = first.instance.row.id;
    let deleted = kit.engine.delete_instance(&kit.customer, id, "gone").await.unwrap();
    kit.done(deleted.id).await;
    let again = kit.engine.delete_instance(&kit.customer, id, "gone").await.unwrap();
    assert_eq!(again.id, deleted.id);
    let second = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    assert_ne!(id, second.instance.row.id);
    kit.stop().await;
}

#[tokio::test]
async fn who_joins_a_deletion_under_way_is_answered_when_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let made = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    let id = made.instance.row.id;
    let delete = |key: &'static str| kit.engine.delete_instance(&kit.customer, id, key);
    let first = delete("first").await.unwrap();
    let joined = delete("second").await.unwrap();
    assert_eq!(joined.id, first.id);
    kit.done(first.id).await;
    assert_eq!(delete("second").await.unwrap().id, first.id);
    assert_eq!(delete("third").await.unwrap_err().kind, ErrorKind::NotFound);
    kit.stop().await;
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    kit.clock.forward(quick().idempotency_keep_ms + 1_000);
    kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    assert_eq!(kit.instances().len(), 2);
}

#[tokio::test]
async fn a_key_that_is_used_anew_counts_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let create = || kit.engine.create_instance(&kit.customer, spec("web"), "key");
    let first = create().await.unwrap().instance.row.id;
    kit.engine.confirm_created(&kit.customer, &[first.to_string()], &kit.key()).await.unwrap();
    kit.clock.forward(quick().idempotency_keep_ms - 60_000);
    // The client that asks for this one is killed before it keeps the id.
    let second = create().await.unwrap().instance.row.id;
    assert_ne!(second, first);
    kit.clock.forward(120_000);
    kit.store.expire_idempotency(kit.clock.now(), 100).await.unwrap();
    assert_eq!(create().await.unwrap().instance.row.id, second, "it is found, not made again");
}

#[tokio::test]
async fn a_refused_repetition_of_a_retired_key_is_refused_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = CoreConfig { instances_per_account: 1, ..quick() };
    let kit = Kit::open(folder.path(), config).await;
    let create = || kit.engine.create_instance(&kit.customer, spec("web"), "key");
    let first = create().await.unwrap().instance.row.id;
    kit.engine.confirm_created(&kit.customer, &[first.to_string()], &kit.key()).await.unwrap();
    assert_eq!(create().await.unwrap_err().kind, ErrorKind::LimitExceeded);
}

#[tokio::test]
async fn a_change_without_a_key_or_with_a_huge_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    for key in ["", &"k".repeat(129)] {
        let refused = kit.engine.create_instance(&kit.customer, spec("web"), key).await;
        assert_eq!(refused.unwrap_err().field.as_deref(), Some("idempotency_key"));
    }
}

/// A store that fails as it is told.
struct Faulty {
    store: SqliteStore,
    next: Mutex<Option<StoreError>>,
    /// Commits that write this row wait for the permit.
    held: Mutex<Option<(Key, Arc<Semaphore>)>>,
}

impl Faulty {
    fn open(folder: &Path) -> Arc<Self> {
        let store = SqliteStore::open(&SqliteOptions::new(folder.join("store.db"))).unwrap();
        Arc::new(Self { store, next: Mutex::new(None), held: Mutex::new(None) })
    }
}

#[async_trait]
impl Store for Faulty {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let held = self.held.lock().clone();
        if let Some((key, permit)) = held
            && commit.writes.iter().any(|write| write.key() == key)
        {
            let _permit = permit.acquire().await;
        }
        let fault = self.next.lock().take();
        match fault {
            Some(error) => Err(error),
            None => self.store.commit(commit).await,
        }
    }
    async fn load(&self, visit: &mut (dyn FnMut(Row) + Send)) -> Result<Revision, StoreError> {
        self.store.load(visit).await
    }
    async fn get(&self, key: Key) -> Result<Option<Row>, StoreError> {
        self.store.get(key).await
    }
    async fn window_contexts(
        &self,
        host: HostId,
        windows: Vec<WindowKey>,
        slack_ms: i64,
    ) -> Result<Vec<WindowContext>, StoreError> {
        self.store.window_contexts(host, windows, slack_ms).await
    }
    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageSum>, StoreError> {
        self.store.usage(query).await
    }
    async fn expire_usage(&self, before: UnixMs, limit: u32) -> Result<u64, StoreError> {
        self.store.expire_usage(before, limit).await
    }
    async fn idempotency(
        &self,
        account: AccountId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        self.store.idempotency(account, key).await
    }
    async fn expire_idempotency(&self, now: UnixMs, limit: u32) -> Result<u64, StoreError> {
        self.store.expire_idempotency(now, limit).await
    }
    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        self.store.audit(after, limit).await
    }
    async fn verify_audit(&self) -> Result<AuditVerdict, StoreError> {
        self.store.verify_audit().await
    }
    async fn changes_since(&self, revision: Revision, commits: u32) -> Result<Changes, StoreError> {
        self.store.changes_since(revision, commits).await
    }
    async fn forget_deletions(&self, revision: Revision) -> Result<u64, StoreError> {
        self.store.forget_deletions(revision).await
    }
    async fn health(&self) -> Result<Health, StoreError> {
        self.store.health().await
    }
    async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.store.backup(to).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

#[tokio::test]
async fn a_failed_commit_changes_nothing_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(folder.path());
    let kit = Kit::on(store.clone(), quick(), 1).await;
    let before = kit.engine.instances(&kit.customer, first_page(), &Default::default()).revision;
    *store.next.lock() = Some(StoreError::Closed);
    let error = kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let after = kit.engine.instances(&kit.customer, first_page(), &Default::default());
    assert_eq!((after.items.len(), after.revision), (0, before));
    kit.engine.create_instance(&kit.customer, spec("web"), "key").await.unwrap();
    assert_eq!(kit.instances().len(), 1);
}

fn first_page<Id>() -> fairmazon_broker::core::PageRequest<Id> {
    fairmazon_broker::core::PageRequest { after: None, limit: 0 }
}

#[tokio::test]
async fn a_row_that_changed_in_the_store_is_read_again_and_the_change_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let row = kit.store.as_ref().find::<Instance>(id).await.unwrap().unwrap();
    let labels = [("by".to_owned(), "somebody else".to_owned())].into();
    let row = Instance { spec: InstanceSpec { labels, ..row.spec.clone() }, ..row };
    let revision = row.revision;
    let put = Write::Put(row.into(), Expect::Revision(revision));
    kit.store.commit(Commit::of([put])).await.unwrap();

    kit.engine.confirm_created(&kit.customer, &[id.to_string()], &kit.key()).await.unwrap();
    let shown = kit.engine.instance(&kit.customer, id).unwrap();
    assert!(!shown.row.unconfirmed);
    assert_eq!(shown.row.spec.labels["by"], "somebody else");
}

#[tokio::test]
async fn who_waits_for_a_row_is_not_refused_for_what_others_do_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(folder.path());
    let kit = Kit::on(store.clone(), quick(), 1).await;
    let labels = Default::default();
    let create = |key: String| {
        let (engine, customer, labels) = (kit.engine.clone(), kit.customer, &labels);
        async move { engine.create_group(&customer, "group", labels, &key).await.unwrap().id }
    };
    let (slow, other) = (create(kit.key()).await, create(kit.key()).await);
    let permit = Arc::new(Semaphore::new(0));
    *store.held.lock() = Some((slow.into(), permit.clone()));
    let rename = |name: &'static str| {
        let (engine, customer) = (kit.engine.clone(), kit.customer);
        let labels = Default::default();
        tokio::spawn(async move { engine.update_group(&customer, slow, name, &labels, name).await })
    };
    let (first, second) = (rename("first"), rename("second"));
    let confirmed = {
        let (engine, customer) = (kit.engine.clone(), kit.customer);
        let ids = [slow.to_string(), other.to_string()];
        let key = kit.key();
        tokio::spawn(async move { engine.confirm_created(&customer, &ids, &key).await })
    };
    for _ in 0..200 {
        create(kit.key()).await;
    }
    kit.until("what nobody holds is confirmed without waiting", || {
        !kit.engine.group(&kit.customer, other).unwrap().unconfirmed
    })
    .await;
    assert!(kit.engine.group(&kit.customer, slow).unwrap().unconfirmed);
    permit.close();
    for renamed in [first, second] {
        renamed.await.unwrap().unwrap();
    }
    confirmed.await.unwrap().unwrap();
    assert!(!kit.engine.group(&kit.customer, slow).unwrap().unconfirmed);
}
