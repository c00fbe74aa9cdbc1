//! Customers: each has one machine at a time and does one thing after another to it, repeats
//! with the same key whatever was not answered, and remembers what was acknowledged.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fairmazon_broker::core::{Caller, Engine, InstanceUpdate, VolumeUpdate};
use fairmazon_model::{
    DomainError, ErrorKind,
    id::{InstanceId, OperationId, PlacementGroupId, VolumeId},
    instance::{Attachment, BootVolumeSpec, InstanceSpec, OnInterrupt, Power, Spot},
    placement::Placement,
    price::NanoEur,
    units::Gib,
    volume::VolumeSpec,
};
use rand::{Rng, rngs::StdRng};
use tokio::sync::watch;

use super::{net::Up, run::Log};

/// The notice of every spot machine.
pub const NOTICE_SECONDS: u32 = 30;

const CREATE_INSTANCE: &str = "create instance";

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Acknowledged {
    pub instances: BTreeMap<InstanceId, InstanceSpec>,
    pub volumes: BTreeMap<VolumeId, VolumeSpec>,
    pub operations: Vec<Promise>,
    /// Every machine that was ever made as spot.
    pub spot: BTreeSet<InstanceId>,
    /// All instances that were made, those deleted since included.
    pub created: BTreeSet<InstanceId>,
    /// What can never be right, whatever comes later.
    pub wrong: Vec<String>,
}

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Change,
    Delete,
    /// May stay where it is for many reasons.
    Migrate,
}

/// An operation that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    pub id: OperationId,
    pub kind: Kind,
}

/// One customer.
pub struct Client<'a> {
    pub number: usize,
    pub caller: Caller,
    pub random: StdRng,
    pub broker: watch::Receiver<Up>,
    pub log: Log,
    pub acknowledged: &'a RefCell<Acknowledged>,
    keys: u64,
    /// An interruption may delete its machine.
    may_vanish: bool,
    /// Its machines stay away from each other.
    group: Option<PlacementGroupId>,
    /// Its machines have to be on one host.
    near: Option<PlacementGroupId>,
    snapshots: Vec<VolumeId>,
}

impl<'a> Client<'a> {
    pub fn new(
        number: usize,
        caller: Caller,
        random: StdRng,
        broker: watch::Receiver<Up>,
        log: Log,
        acknowledged: &'a RefCell<Acknowledged>,
    ) -> Self {
        Self {
            number,
            caller,
            random,
            broker,
            log,
            acknowledged,
            keys: 0,
            may_vanish: false,
            group: None,
            near: None,
            snapshots: Vec::new(),
        }
    }

    /// Does that many things.
    pub async fn work(mut self, commands: usize) {
        let mut volume = None;
        if self.chance(60) {
            volume = self.create_volume().await;
        }
        if self.chance(30) {
            self.group = self.create_group().await;
        } else if self.chance(50) {
            self.near = self.create_group().await;
        }
        if self.near.is_some() && self.chance(80) {
            self.create_instance(None, None).await;
        }
        // Spot machines that nobody does anything with.
        for _ in 0..self.random.random_range(0..3) {
            let spot = self.spot();
            self.create_instance(None, Some(spot)).await;
        }
        let mut machine = None;
        for _ in 0..commands {
            match machine {
                None => {
                    let spot = if self.chance(30) { Some(self.spot()) } else { None };
                    machine = self.create_instance(volume, spot).await;
                }
                Some(id) => {
                    if self.command(id, &mut volume).await {
                        machine = None;
                    }
                }
            }
            self.pause().await;
        }
    }

    /// One random command; whether the machine is to be gone.
    async fn command(&mut self, id: InstanceId, volume: &mut Option<VolumeId>) -> bool {
        let mut spec = self.acknowledged.borrow().instances[&id].clone();
        match self.random.random_range(0..17) {
            13 => {
                let countries: &[&str] =
                    [&[][..], &["DE"], &["FR"]][self.random.random_range(0..3)];
                spec.placement.countries = countries.iter().copied().map(Into::into).collect();
            }
            10..=12 => {
                self.migrate(id).await;
                return false;
            }
            0 => return self.delete_instance(id).await,
            1 | 2 => return self.reboot(id).await,
            3 => {
                spec.flavor =
                    ["tiny", "small", "medium", "large"][self.random.random_range(0..4)].to_owned();
            }
            4 => {
                spec.power = match spec.power {
                    Power::Running => Power::Stopped,
                    Power::Stopped => Power::Running,
                };
                let is_off = spec.power == Power::Stopped;
                self.update(id, spec).await;
                if is_off && self.chance(70) {
                    self.pause().await;
                    self.migrate(id).await;
                }
                return false;
            }
            5 | 6 => match *volume {
                Some(data) if spec.volumes.is_empty() => {
                    let attachment = Attachment { volume_id: data, read_only: false };
                    spec.volumes.insert("data".into(), attachment);
                }
                Some(_) => spec.volumes.clear(),
                None => {
                    *volume = self.create_volume().await;
                    return false;
                }
            },
            7 => spec.boot_volume.size.0 += 1,
            8 | 14.. => match *volume {
                Some(data) => {
                    match self.random.random_range(0..5) {
                        0 | 1 => self.snapshot(data).await,
                        2 => match self.snapshots.pop() {
                            Some(snapshot) => drop(self.delete_volume(snapshot).await),
                            None if self.delete_volume(data).await => *volume = None,
                            None => {}
                        },
                        _ => self.change_volume(data).await,
                    }
                    return false;
                }
                None => self.confirm(id).await,
            },
            _ => {
                let value = self.random.random_range(0..1_000).to_string();
                spec.labels.insert("note".into(), value);
            }
        }
        self.update(id, spec).await;
        false
    }

    /// Terms that no price ends. One may be deleted by an interruption.
    fn spot(&mut self) -> Spot {
        Spot {
            max_price: NanoEur(1_000_000_000),
            notice_seconds: NOTICE_SECONDS,
            on_interrupt: if self.chance(30) { OnInterrupt::Delete } else { OnInterrupt::Stop },
        }
    }

    async fn create_instance(
        &mut self,
        volume: Option<VolumeId>,
        spot: Option<Spot>,
    ) -> Option<InstanceId> {
        self.may_vanish = spot.is_some_and(|spot| spot.on_interrupt == OnInterrupt::Delete);
        let mut spec = instance_spec(&format!("machine-{}", self.number));
        if self.chance(30) {
            spec.placement.min_conformity = 1;
        }
        spec.placement.not_with.extend(self.group);
        spec.placement.with.extend(self.near);
        if spot.is_some() {
            // Nothing but an interruption ends it by force after the notice alone.
            spec.stop_timeout_ms = 2 * 1_000 * u64::from(NOTICE_SECONDS);
            spec.spot = spot;
        }
        if let Some(volume_id) = volume.filter(|_| self.chance(50)) {
            let attachment = Attachment { volume_id, read_only: false };
            spec.volumes.insert("data".into(), attachment);
        }
        let key = self.key();
        let (caller, wanted) = (self.caller, spec.clone());
        let create = async |engine: Engine| {
            let made = engine.create_instance(&caller, wanted.clone(), &key).await?;
            Ok((made.instance.row.id, made.operation.id))
        };
        let (id, operation) = self.ask(CREATE_INSTANCE, create).await?;
        let mut acknowledged = self.acknowledged.borrow_mut();
        acknowledged.created.insert(id);
        acknowledged.spot.extend(spec.spot.map(|_| id));
        acknowledged.instances.insert(id, spec);
        acknowledged.operations.push(Promise { id: operation, kind: Kind::Change });
        drop(acknowledged);
        Some(id)
    }

    async fn create_group(&mut self) -> Option<PlacementGroupId> {
        let (key, caller, name) = (self.key(), self.caller, format!("group-{}", self.number));
        let create = async |engine: Engine| {
            Ok(engine.create_group(&caller, &name, &BTreeMap::new(), &key).await?.id)
        };
        self.ask("create group", create).await
    }

    async fn create_volume(&mut self) -> Option<VolumeId> {
        self.make_volume(volume_spec(&format!("volume-{}", self.number))).await
    }

    async fn snapshot(&mut self, of: VolumeId) {
        let spec = VolumeSpec {
            size: self.acknowledged.borrow().volumes[&of].size,
            source: Some(of),
            read_only: true,
            ..volume_spec(&format!("snapshot-{}", self.number))
        };
        let made = self.make_volume(spec).await;
        self.snapshots.extend(made);
    }

    /// Whether it is to be gone.
    async fn delete_volume(&mut self, id: VolumeId) -> bool {
        let (key, caller) = (self.key(), self.caller);
        let delete = async |engine: Engine| Ok(engine.delete_volume(&caller, id, &key).await?.id);
        let Some(operation) = self.ask("delete volume", delete).await else { return false };
        let mut acknowledged = self.acknowledged.borrow_mut();
        acknowledged.volumes.remove(&id);
        acknowledged.operations.push(Promise { id: operation, kind: Kind::Delete });
        true
    }

    async fn make_volume(&mut self, spec: VolumeSpec) -> Option<VolumeId> {
        let key = self.key();
        let (caller, wanted) = (self.caller, spec.clone());
        let create = async |engine: Engine| {
            let made = engine.create_volume(&caller, wanted.clone(), &key).await?;
            Ok((made.volume.row.id, made.operation.id))
        };
        let (id, operation) = self.ask("create volume", create).await?;
        let mut acknowledged = self.acknowledged.borrow_mut();
        acknowledged.volumes.insert(id, spec);
        acknowledged.operations.push(Promise { id: operation, kind: Kind::Change });
        drop(acknowledged);
        Some(id)
    }

    async fn update(&mut self, id: InstanceId, spec: InstanceSpec) {
        let key = self.key();
        let update =
            InstanceUpdate { id, spec: spec.clone(), expected_revision: 0, allow_rebuild: false };
        let caller = self.caller;
        let change = async |engine: Engine| {
            Ok(engine.update_instance(&caller, update.clone(), &key).await?.operation.id)
        };
        if let Some(operation) = self.ask("update instance", change).await {
            let mut acknowledged = self.acknowledged.borrow_mut();
            acknowledged.instances.insert(id, spec);
            acknowledged.operations.push(Promise { id: operation, kind: Kind::Change });
        }
    }

    /// Grows a volume or has its key exchanged.
    async fn change_volume(&mut self, id: VolumeId) {
        let key = self.key();
        let mut spec = self.acknowledged.borrow().volumes[&id].clone();
        if self.chance(50) {
            spec.key_version += 1;
        } else {
            spec.size = Gib(spec.size.0 + 1);
        }
        let update = VolumeUpdate { id, spec: spec.clone(), expected_revision: 0 };
        let caller = self.caller;
        let change = async |engine: Engine| {
            Ok(engine.update_volume(&caller, update.clone(), &key).await?.operation.id)
        };
        if let Some(operation) = self.ask("change volume", change).await {
            let mut acknowledged = self.acknowledged.borrow_mut();
            acknowledged.volumes.insert(id, spec);
            acknowledged.operations.push(Promise { id: operation, kind: Kind::Change });
        }
    }

    async fn reboot(&mut self, id: InstanceId) -> bool {
        let (key, caller) = (self.key(), self.caller);
        let reboot = async |engine: Engine| Ok(engine.reboot_instance(&caller, id, &key).await?.id);
        if let Some(operation) = self.ask("reboot", reboot).await {
            let promise = Promise { id: operation, kind: Kind::Change };
            self.acknowledged.borrow_mut().operations.push(promise);
        }
        false
    }

    async fn migrate(&mut self, id: InstanceId) {
        let (key, caller) = (self.key(), self.caller);
        let migrate =
            async |engine: Engine| Ok(engine.migrate_instance(&caller, id, &key).await?.id);
        if let Some(operation) = self.ask("migrate", migrate).await {
            let promise = Promise { id: operation, kind: Kind::Migrate };
            self.acknowledged.borrow_mut().operations.push(promise);
        }
    }

    async fn delete_instance(&mut self, id: InstanceId) -> bool {
        let (key, caller) = (self.key(), self.caller);
        let delete = async |engine: Engine| Ok(engine.delete_instance(&caller, id, &key).await?.id);
        let Some(operation) = self.ask("delete instance", delete).await else { return false };
        let mut acknowledged = self.acknowledged.borrow_mut();
        acknowledged.instances.remove(&id);
        acknowledged.operations.push(Promise { id: operation, kind: Kind::Delete });
        true
    }

    async fn confirm(&mut self, id: InstanceId) {
        let (key, caller) = (self.key(), self.caller);
        let ids = [id.to_string()];
        let confirm = async |engine: Engine| engine.confirm_created(&caller, &ids, &key).await;
        self.ask("confirm", confirm).await;
    }

    /// Asks until there is an answer, then sometimes once more: the answer must be the same.
    /// None when it was refused.
    async fn ask<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        call: impl AsyncFn(Engine) -> Result<T, DomainError>,
    ) -> Option<T> {
        let first = self.until_answered(what, &call).await;
        let answer = match first {
            Ok(answer) => answer,
            Err(error) => {
                let known = matches!(
                    error.kind,
                    ErrorKind::Precondition
                        | ErrorKind::NoCapacity
                        | ErrorKind::LimitExceeded
                        // It moves: nothing is attached meanwhile.
                        | ErrorKind::Conflict
                ) || self.may_vanish && error.kind == ErrorKind::NotFound;
                if !known {
                    self.wrong(format!("{what} was answered with {error:?}"));
                }
                self.log.say(format!("client {}: {what} refused: {error}", self.number));
                return None;
            }
        };
        self.log.say(format!("client {}: {what} -> {answer:?}", self.number));
        if self.chance(25) {
            match self.until_answered(what, &call).await {
                Ok(again) if again == answer => {}
                // The first one was interrupted, and deleted for that, before it was asked again.
                Ok(again) if self.may_vanish && what == CREATE_INSTANCE => return Some(again),
                other => self.wrong(format!("{what} repeated: first {answer:?}, then {other:?}")),
            }
        }
        Some(answer)
    }

    async fn until_answered<T>(
        &mut self,
        what: &str,
        call: &impl AsyncFn(Engine) -> Result<T, DomainError>,
    ) -> Result<T, DomainError> {
        loop {
            let up = self.broker.wait_for(|up| up.engine.is_some()).await.unwrap().clone();
            let engine = up.engine.unwrap();
            // Sometimes the caller loses patience before the answer comes.
            let impatient = self.chance(10);
            let patience = Duration::from_millis(if impatient {
                self.random.random_range(0..3)
            } else {
                20_000
            });
            let result = tokio::select! {
                biased;
                died = self.broker.changed() => {
                    died.unwrap();
                    continue;
                }
                result = tokio::time::timeout(patience, call(engine)) => result,
            };
            match result {
                Ok(Err(error)) if error.kind == ErrorKind::Unavailable => {}
                Ok(answer) => return answer,
                Err(_) => {}
            }
            self.log.say(format!("client {}: {what} is repeated", self.number));
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn pause(&mut self) {
        let ms = if self.chance(30) { 0 } else { self.random.random_range(0..8_000) };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("client-{}-{}", self.number, self.keys)
    }

    fn wrong(&self, text: String) {
        self.log.say(format!("WRONG: {text}"));
        self.acknowledged.borrow_mut().wrong.push(text);
    }
}

fn instance_spec(name: &str) -> InstanceSpec {
    InstanceSpec {
        name: name.into(),
        flavor: "small".into(),
        flavor_fallback: Vec::new(),
        image: "debian-13".into(),
        placement: Placement::default(),
        preferences: Default::default(),
        boot_volume: BootVolumeSpec {
            size: Gib(10),
            class: "standard".into(),
            delete_with_instance: true,
        },
        volumes: BTreeMap::new(),
        user_data: String::new(),
        on_user_data_change: Default::default(),
        ssh_keys: Default::default(),
        power: Power::Running,
        schedule: None,
        spot: None,
        restart_policy: Default::default(),
        stop_timeout_ms: 10_000,
        deletion_protection: false,
        labels: BTreeMap::new(),
    }
}

fn volume_spec(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        size: Gib(10),
        class: "standard".into(),
        source: None,
        image: None,
        import: None,
        read_only: false,
        key_version: 1,
        placement: Placement::default(),
        deletion_protection: false,
        labels: BTreeMap::new(),
    }
}
