//! A broker that dies before and after each commit of one story: whoever repeats what was not
//! answered gets what would have come anyway, once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fairmazon_broker::core::{Caller, Engine, InstanceUpdate, PageRequest};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{
    DomainError,
    id::{InstanceId, OperationId},
    instance::{Attachment, InstanceSpec},
    volume::VolumeSpec,
};
use fairmazon_store::memory::{Fault, MemoryDisk};
use tokio::sync::Notify;

use crate::kit::{Hosts, Kit, host_spec, quick, spec, volume_spec};

/// A commit that never comes about: its broker is dead long before.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// When the broker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Death {
    /// At the commit of this number, counted from 0.
    commit: u64,
    /// Whether that is durable.
    after: bool,
    /// Whether the next broker dies at its first commit, as well.
    twice: bool,
}

impl Death {
    fn is_at(self, commit: u64) -> bool {
        commit == self.commit || self.twice && commit == self.commit + 1
    }
}

/// What the story has come to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// How often each change was made, by its verb.
    changes: BTreeMap<String, usize>,
    /// How often the machine was started.
    starts: usize,
    /// How many volumes were destroyed.
    destroyed: usize,
}

struct Platform {
    disk: MemoryDisk,
    kit: Kit,
    hosts: Hosts,
    brokers: u64,
    commits: Arc<AtomicU64>,
    dies: Arc<Notify>,
    /// Whether the broker is: whatever of it goes on until it is ended writes nothing.
    is_dead: Arc<AtomicBool>,
    death: Option<Death>,
}

impl Platform {
    async fn start(death: Option<Death>) -> Self {
        let disk = MemoryDisk::new();
        let kit = Kit::on(Arc::new(disk.open().unwrap()), quick(), 1).await;
        kit.start();
        let mut hosts = Hosts::none();
        for number in 0..2 {
            hosts.add(&kit, host_spec(number, "DE")).await;
        }
        let (commits, dies) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let is_dead = Arc::new(AtomicBool::new(false));
        let (counted, notify, dead) = (commits.clone(), dies.clone(), is_dead.clone());
        disk.on_commit(move |_| {
            if dead.load(Ordering::Relaxed) {
                return Fault::Slow(NEVER);
            }
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let Some(death) = death.filter(|death| death.is_at(number)) else {
                return Fault::None;
            };
            dead.store(true, Ordering::Relaxed);
            notify.notify_one();
            if death.after { Fault::AnswerLost } else { Fault::Slow(NEVER) }
        });
        let mut platform = Self { disk, kit, hosts, brokers: 1, commits, dies, is_dead, death };
        platform.connect();
        platform
    }

    fn connect(&mut self) {
        for index in 0..self.hosts.hosts.len() {
            self.hosts.connect(index, &self.kit.engine);
        }
    }

    /// Another broker takes over what is durable. Agents are new as well; machines go on.
    async fn restart(&mut self) {
        for index in 0..self.hosts.hosts.len() {
            self.hosts.kill_agent(index).await;
        }
        self.kit.die().await;
        self.disk.crash();
        self.is_dead.store(false, Ordering::Relaxed);
        self.brokers += 1;
        let store = Arc::new(self.disk.open().unwrap());
        self.kit = Kit::on(store, quick(), self.brokers).await;
        self.kit.start();
        self.connect();
    }

    /// Does this until a broker has lived through it.
    async fn lasting<T>(&mut self, work: impl AsyncFn(&Self) -> T) -> T {
        loop {
            let outcome = tokio::select! {
                biased;
                () = self.dies.notified() => None,
                outcome = work(self) => Some(outcome),
            };
            match outcome {
                Some(outcome) => return outcome,
                None => self.restart().await,
            }
        }
    }

    /// Asks until there is an answer, of whatever broker.
    async fn ask<T>(
        &mut self,
        call: impl AsyncFn(&Engine, &Caller) -> Result<T, DomainError>,
    ) -> T {
        self.lasting(async |it| call(&it.kit.engine, &it.kit.customer).await.unwrap()).await
    }

    /// Waits until the operation is done, whatever broker does it.
    async fn done(&mut self, operation: OperationId) {
        self.lasting(async |it| it.kit.done(operation).await).await;
    }

    async fn update(&mut self, id: InstanceId, spec: &InstanceSpec, key: &str) {
        let update =
            InstanceUpdate { id, spec: spec.clone(), expected_revision: 0, allow_rebuild: false };
        let changed = self.ask(async |it, who| it.update_instance(who, update.clone(), key).await);
        let operation = changed.await.operation.id;
        self.done(operation).await;
    }

    async fn delete_volume(&mut self, id: fairmazon_model::id::VolumeId, key: &str) {
        let gone = self.ask(async |it, who| it.delete_volume(who, id, key).await).await;
        self.done(gone.id).await;
    }

    /// Nothing is left on any host.
    async fn is_empty(&self) {
        for host in &self.hosts.hosts {
            loop {
                let there = host.sim.inventory().await.unwrap();
                if there.machines.is_empty() && there.volumes.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    async fn ends(mut self, machine: InstanceId) -> Outcome {
        self.lasting(async |it| it.is_empty().await).await;
        // Two reports may share a commit, so not every run has as many.
        let commits = self.commits.load(Ordering::Relaxed);
        let deaths = (0..commits).filter(|at| self.death.is_some_and(|death| death.is_at(*at)));
        assert_eq!(self.brokers, 1 + deaths.count() as u64, "it dies when it is to");
        self.hosts.check();
        let engine = &self.kit.engine;
        engine.audit_books().unwrap();
        assert!(self.kit.instances().is_empty());
        let page = PageRequest { after: None, limit: 0 };
        let volumes = engine.volumes(&self.kit.customer, page, &BTreeMap::new()).items;
        assert!(volumes.is_empty(), "{volumes:?}");
        assert_eq!(self.kit.store.verify_audit().await.unwrap().broken, None);
        let mut changes = BTreeMap::new();
        for record in self.kit.store.audit(0, 10_000).await.unwrap() {
            *changes.entry(record.entry.verb).or_default() += 1;
        }
        let ledger = self.hosts.world.ledger();
        let (starts, destroyed) = (ledger.starts(machine), ledger.deleted_volumes().len());
        for index in 0..self.hosts.hosts.len() {
            self.hosts.kill_agent(index).await;
        }
        self.kit.stop().await;
        Outcome { changes, starts, destroyed }
    }
}

/// Plays the story; how many commits it took, and what it came to.
async fn play(death: Option<Death>) -> (u64, Outcome) {
    let mut it = Platform::start(death).await;
    let made = it.ask(async |it, who| it.create_volume(who, volume_spec("data"), "data").await);
    let data = made.await.volume.row.id;
    let mut web = spec("web");
    web.volumes.insert("data".into(), Attachment { volume_id: data, read_only: false });
    let made = it.ask(async |it, who| it.create_instance(who, web.clone(), "web").await).await;
    let id = made.instance.row.id;
    it.done(made.operation.id).await;
    let ids = [id.to_string(), data.to_string()];
    it.ask(async |it, who| it.confirm_created(who, &ids, "confirm").await).await;
    let labels = BTreeMap::new();
    let group = it.ask(async |it, who| it.create_group(who, "apart", &labels, "group").await).await;
    web.placement.not_with.insert(group.id);
    web.flavor = "medium".into();
    it.update(id, &web, "grow").await;
    let reboot = it.ask(async |it, who| it.reboot_instance(who, id, "reboot").await).await;
    it.done(reboot.id).await;
    let snapshot = VolumeSpec { source: Some(data), read_only: true, ..volume_spec("snapshot") };
    let made = it.ask(async |it, who| it.create_volume(who, snapshot.clone(), "snapshot").await);
    let made = made.await;
    it.done(made.operation.id).await;
    web.volumes.clear();
    it.update(id, &web, "detach").await;
    it.delete_volume(made.volume.row.id, "no snapshot").await;
    let gone = it.ask(async |it, who| it.delete_instance(who, id, "no web").await).await;
    it.done(gone.id).await;
    it.delete_volume(data, "no data").await;
    it.ask(async |it, who| it.delete_group(who, group.id, "no group").await).await;
    let commits = Arc::clone(&it.commits);
    let outcome = it.ends(id).await;
    (commits.load(Ordering::Relaxed), outcome)
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_dies_before_and_after_each_commit_loses_and_repeats_nothing() {
    let (commits, undisturbed) = play(None).await;
    assert!(commits > 20, "{commits} commits");
    assert_eq!(undisturbed.destroyed, 3, "boot volume, snapshot and data");
    for commit in 0..commits {
        for (after, twice) in [(false, false), (true, false), (false, true), (true, true)] {
            // After the last one there is none to die at.
            if twice && commit + 1 == commits {
                continue;
            }
            let death = Death { commit, after, twice };
            assert_eq!(play(Some(death)).await.1, undisturbed, "{death:?}");
        }
    }
}
