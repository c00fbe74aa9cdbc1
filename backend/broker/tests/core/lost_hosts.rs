//! What is asked of hosts that are lost for good: nothing more, and what was asked before fails.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairmazon_broker::core::{InstanceState, InstanceUpdate, Standing, VolumeState, VolumeUpdate};
use fairmazon_model::{
    DomainError, ErrorKind,
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::{Attachment, InstanceSpec, ObservedState, Power},
    operation::OperationState,
    transfer::Sha256,
    units::Gib,
    volume::{Import, Volume, VolumeSpec},
};
use fairmazon_store::memory::{Fault, MemoryDisk};
use tokio::sync::Notify;

use super::{
    kit::{Kit, host_spec, mortal, row, spec, volume_spec},
    played::{Played, lapses, lose, register},
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn with(data: VolumeId, read_only: bool) -> BTreeMap<String, Attachment> {
    BTreeMap::from([("data".into(), Attachment { volume_id: data, read_only })])
}

fn snapshot_of(volume: VolumeId) -> VolumeSpec {
    VolumeSpec { source: Some(volume), read_only: true, ..volume_spec("snapshot") }
}

/// A machine that runs with a volume on the only host, which has made a snapshot of that as well.
/// All of it is protected.
struct Home {
    kit: Kit,
    host: Played,
    web: InstanceId,
    data: VolumeId,
    snapshot: VolumeId,
    _folder: tempfile::TempDir,
}

impl Home {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), mortal()).await;
        kit.start();
        let here = register(&kit, host_spec(0, "DE")).await;
        let mut host = Played::open(&kit, here, "").await;
        let wanted = VolumeSpec { deletion_protection: true, ..volume_spec("data") };
        let (data, _) = make_volume(&kit, wanted).await.unwrap();
        let wanted =
            InstanceSpec { volumes: with(data, false), deletion_protection: true, ..spec("web") };
        let made = kit.engine.create_instance(&kit.customer, wanted, &kit.key()).await.unwrap();
        let web = made.instance.row.id;
        let told = host.told_of("the machine", web, |_| true).await;
        let wishes = host.set().volumes;
        host.makes_volumes(&wishes);
        host.has(web, told.epoch, ObservedState::Running, None).await;
        kit.done(made.operation.id).await;
        let (snapshot, operation) = make_volume(&kit, snapshot_of(data)).await.unwrap();
        host.told("the snapshot", |set| set.volumes.len() == 3).await;
        let wishes = host.set().volumes;
        host.makes_volumes(&wishes);
        host.reports().await;
        kit.done(operation).await;
        Self { kit, host, web, data, snapshot, _folder: folder }
    }

    /// Its host is given up.
    async fn is_lost(&mut self) -> HostId {
        self.host.die();
        assert!(lose(&self.kit, self.host.id).await, "all of it is on it");
        self.host.id
    }

    async fn update(&self, spec: InstanceSpec) -> Result<OperationId, DomainError> {
        let id = self.web;
        let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: true };
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        let changed = engine.update_instance(customer, update, &self.kit.key()).await?;
        Ok(changed.operation.id)
    }

    async fn change_data(&self, spec: VolumeSpec) -> Result<OperationId, DomainError> {
        let update = VolumeUpdate { id: self.data, spec, expected_revision: 0 };
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        let changed = engine.update_volume(customer, update, &self.kit.key()).await?;
        Ok(changed.operation.id)
    }

    async fn reboot(&self) -> Result<OperationId, DomainError> {
        let (engine, customer) = (&self.kit.engine, &self.kit.customer);
        Ok(engine.reboot_instance(customer, self.web, &self.kit.key()).await?.id)
    }

    fn volume(&self, id: VolumeId) -> Arc<Volume> {
        self.kit.engine.volume(&self.kit.customer, id).unwrap().row
    }

    /// It ends, as its host is lost.
    async fn fails(&self, operation: OperationId) {
        let ended = self.kit.ended(operation).await;
        let OperationState::Failed { error } = &ended.state else { panic!("{ended:?}") };
        is_told(error);
    }
}

async fn make_volume(kit: &Kit, spec: VolumeSpec) -> Result<(VolumeId, OperationId), DomainError> {
    let made = kit.engine.create_volume(&kit.customer, spec, &kit.key()).await?;
    Ok((made.volume.row.id, made.operation.id))
}

/// What happened, and what to do.
fn is_told(error: &DomainError) {
    assert_eq!(error.kind, ErrorKind::Precondition, "{error}");
    assert!(error.message.contains("lost for good"), "{error}");
    assert_eq!(error.advice, "delete or replace it", "{error}");
}

#[tokio::test]
async fn what_was_asked_of_a_lost_host_has_failed() {
    let mut it = Home::begin().await;
    let file = Import { bytes: 2 << 20, sha256: Sha256::of(b"a file") };
    let import = VolumeSpec { import: Some(file), read_only: true, ..volume_spec("back") };
    let (file, imports) = make_volume(&it.kit, import).await.unwrap();
    let (_, copies) = make_volume(&it.kit, snapshot_of(it.data)).await.unwrap();
    let grown = VolumeSpec { size: Gib(20), ..it.volume(it.snapshot).spec.clone() };
    let grown = VolumeSpec { name: "grown".into(), read_only: false, ..grown };
    let (_, grows) = make_volume(&it.kit, grown).await.unwrap();
    let open = [imports, copies, grows, it.reboot().await.unwrap()];
    let is_open =
        |id: OperationId| !it.kit.engine.operation(&it.kit.customer, id).unwrap().state.is_final();
    assert!(open.into_iter().all(is_open));
    it.is_lost().await;
    for operation in open {
        it.fails(operation).await;
    }
    // Nobody is asked for a file that nobody can take.
    assert_eq!(it.volume(file).deleting, None);
    it.kit.clock.forward(8 * DAY_MS);
    it.kit.until("it is given up", || it.kit.engine.volume(&it.kit.customer, file).is_err()).await;
    it.kit.engine.audit_books().unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn nothing_more_is_asked_of_a_lost_host() {
    let mut it = Home::begin().await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    let (free, _) = make_volume(&it.kit, volume_spec("free")).await.unwrap();
    it.is_lost().await;
    let web = row(&it.kit, it.web).spec;
    let off = InstanceSpec { power: Power::Stopped, ..web.clone() };
    let larger = InstanceSpec { flavor: "medium".into(), ..web.clone() };
    let attached = InstanceSpec {
        volumes: web
            .volumes
            .clone()
            .into_iter()
            .chain([("b".into(), with(free, false)["data"])])
            .collect(),
        ..web.clone()
    };
    for wanted in [off, larger, attached] {
        is_told(&it.update(wanted).await.unwrap_err());
    }
    assert_eq!(it.volume(free).host, None, "it is free for others");
    let mut elsewhere = web.clone();
    elsewhere.placement.countries = ["FR".into()].into();
    is_told(&it.update(elsewhere).await.unwrap_err());
    is_told(&it.reboot().await.unwrap_err());
    let migrated = engine.migrate_instance(&customer, it.web, &it.kit.key()).await;
    is_told(&migrated.map(drop).unwrap_err());
    is_told(&engine.console(&customer, it.web).await.unwrap_err());
    let data = it.volume(it.data).spec.clone();
    let grown = VolumeSpec { size: Gib(20), ..data.clone() };
    is_told(&it.change_data(grown).await.unwrap_err());
    is_told(&make_volume(&it.kit, snapshot_of(it.data)).await.unwrap_err());
    let reader = InstanceSpec { volumes: with(it.snapshot, true), ..spec("reader") };
    let made = engine.create_instance(&customer, reader, &it.kit.key()).await;
    is_told(&made.map(drop).unwrap_err());

    // It is counted as it is shown.
    assert_eq!(engine.instance(&customer, it.web).unwrap().state, InstanceState::Failed);
    assert_eq!(engine.instance_counts(), BTreeMap::from([(InstanceState::Failed, 1)]));
    it.kit.reads("instances_failed", 1).await;

    // What no host brings about changes, so that all of it can be deleted.
    let open = InstanceSpec { deletion_protection: false, ..web };
    it.kit.done(it.update(open).await.unwrap()).await;
    let open = VolumeSpec { deletion_protection: false, ..data };
    it.kit.done(it.change_data(open).await.unwrap()).await;
    let gone = engine.delete_instance(&customer, it.web, &it.kit.key()).await.unwrap();
    it.kit.done(gone.id).await;
    for volume in [it.data, it.snapshot] {
        let gone = engine.delete_volume(&customer, volume, &it.kit.key()).await.unwrap();
        it.kit.done(gone.id).await;
    }
    assert!(!lose(&it.kit, it.host.id).await, "nothing is bound to it");
    engine.audit_books().unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_volume_that_is_lost_is_told_so() {
    let mut it = Home::begin().await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    it.host.die();
    lapses(&it.kit, it.host.id).await;
    let reader = InstanceSpec { volumes: with(it.snapshot, true), ..spec("reader") };
    let made = engine.create_instance(&customer, reader, &it.kit.key()).await.unwrap();
    let id = made.instance.row.id;
    it.kit.until("it waits", || !row(&it.kit, id).waiting_for.is_empty()).await;
    it.is_lost().await;
    let why = || row(&it.kit, id).waiting_for;
    it.kit.until("it is told", || why().contains("is lost with its host")).await;
    it.kit.clock.forward(engine.config().placement_patience_ms);
    let ended = it.kit.ended(made.operation.id).await;
    let OperationState::Failed { error } = &ended.state else { panic!("{ended:?}") };
    assert!(error.message.contains("is lost with its host"), "{error}");

    // Without that volume it finds a host.
    let elsewhere = register(&it.kit, host_spec(1, "DE")).await;
    let mut other = Played::open(&it.kit, elsewhere, "").await;
    let update =
        InstanceUpdate { id, spec: spec("reader"), expected_revision: 0, allow_rebuild: false };
    engine.update_instance(&customer, update, &it.kit.key()).await.unwrap();
    other.told_of("it", id, |_| true).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn what_was_never_let_run_on_a_lost_host_is_placed_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut host = Played::open(&kit, here, "").await;
    let (data, _) = make_volume(&kit, volume_spec("data")).await.unwrap();
    let wanted = InstanceSpec { volumes: with(data, false), ..spec("web") };
    let made = engine.create_instance(customer, wanted.clone(), &kit.key()).await.unwrap();
    let web = made.instance.row.id;
    host.told_of("it", web, |spec| spec.held).await;
    host.die();
    assert!(lose(&kit, here).await, "it is bound to it");
    let shown = || engine.instance(customer, web).unwrap().state;
    kit.until("it waits for a host", || shown() == InstanceState::Pending).await;
    assert_eq!(engine.volume(customer, data).unwrap().state, VolumeState::Available);
    let larger = InstanceSpec { flavor: "medium".into(), ..wanted };
    let update =
        InstanceUpdate { id: web, spec: larger, expected_revision: 0, allow_rebuild: false };
    engine.update_instance(customer, update, &kit.key()).await.unwrap();
    let elsewhere = register(&kit, host_spec(1, "DE")).await;
    let mut other = Played::open(&kit, elsewhere, "").await;
    let told = other.told_of("it", web, |_| true).await;
    let wishes = other.set().volumes;
    other.makes_volumes(&wishes);
    other.made(web, told.epoch).await;
    let told = other.told_of("that it may run", web, |spec| !spec.held).await;
    other.has(web, told.epoch, ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    kit.until("nothing is bound there", || {
        engine.volume(customer, data).unwrap().row.may_be_on.is_empty()
    })
    .await;
    assert!(!lose(&kit, here).await);
    kit.stop().await;
}

#[tokio::test]
async fn machines_that_have_to_be_together_leave_a_lost_host_together() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut host = Played::open(&kit, here, "").await;
    let group = engine.create_group(customer, "near", &BTreeMap::new(), &kit.key()).await.unwrap();
    let mut machines = Vec::new();
    for name in ["one", "other"] {
        let mut wanted = spec(name);
        wanted.placement.with.insert(group.id);
        let made = engine.create_instance(customer, wanted, &kit.key()).await.unwrap();
        machines.push(made.instance.row.id);
    }
    host.told("both", |set| set.machines.len() == 2).await;
    let elsewhere = register(&kit, host_spec(1, "DE")).await;
    host.die();
    lose(&kit, here).await;
    let mut other = Played::open(&kit, elsewhere, "").await;
    let set = other.told("both", |set| set.machines.len() == 2).await;
    assert!(set.machines.iter().all(|machine| machines.contains(&machine.instance)));
    engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_host_that_is_back_as_it_is_given_up_is_lost_when_its_lease_has_ended() {
    let disk = MemoryDisk::new();
    let kit = Kit::on(Arc::new(disk.open().unwrap()), mortal(), 1).await;
    kit.start();
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut host = Played::open(&kit, here, "").await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let web = made.instance.row.id;
    let told = host.told_of("it", web, |_| true).await;
    host.has(web, told.epoch, ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    host.die();
    lapses(&kit, here).await;

    // The commit that gives it up takes its time, and its host opens a stream meanwhile.
    let writing = Arc::new(Notify::new());
    let begins = writing.clone();
    disk.on_commit(move |commit| {
        if commit.audit.iter().any(|entry| entry.verb == "host.lose") {
            begins.notify_one();
            return Fault::Slow(Duration::from_secs(1));
        }
        Fault::None
    });
    let comes_back = async {
        writing.notified().await;
        Played::open(&kit, here, "").await
    };
    let (lost, back) = tokio::join!(lose(&kit, here), comes_back);
    assert!(lost);
    assert_eq!(kit.engine.hosts_connected(), 0, "nothing more is heard of it");
    let shown = || kit.engine.instance(&kit.customer, web).unwrap().state;
    kit.until("it is lost", || shown() == InstanceState::Failed).await;
    let host = kit.engine.host(&kit.customer, here).unwrap();
    assert_eq!(host.standing, Standing::Lapsed, "it may have run until then");
    drop(back);
    kit.stop().await;
}
