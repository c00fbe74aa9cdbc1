//! Migrations, with both hosts played: what each is told, and what the broker makes of what they
//! say, in every order that they may say it in.

use std::collections::BTreeMap;

use fairmazon_broker::core::{CoreConfig, InstanceState, InstanceUpdate, Standing, VolumeUpdate};
use fairmazon_model::{
    ErrorKind,
    host::{Capacity, HostSpec},
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::{
        Attachment, BootVolumeSpec, Instance, InstanceSpec, ObservedState, OnInterrupt, Power,
        RestartPolicy, Spot,
    },
    key::GivenKey,
    machine::{DesiredSet, MachineSpec, VolumeSeen, VolumeWish},
    migration::Handover,
    operation::OperationState,
    price::NanoEur,
    units::{Epoch, Gib, Mib, Vcpus},
    volume::{VolumeObserved, VolumeSpec},
};

mod certificates;
mod lost;
mod off;
mod placement;
mod rebalance;
mod restored;
mod rules;
mod volumes;

use super::{
    kit::{Kit, host_spec, mortal, quick, row, spec, volume_spec},
    played::{Played, join, lapses, lose, register},
};

/// An instance that runs at `source`, and has begun to go to `destination`.
struct Move {
    kit: Kit,
    source: Played,
    destination: Played,
    id: InstanceId,
    boot: VolumeId,
    operation: OperationId,
    _folder: tempfile::TempDir,
}

async fn two_hosts(kit: &Kit) -> (Played, Played) {
    let (one, other) =
        (register(kit, host_spec(0, "DE")).await, register(kit, host_spec(1, "DE")).await);
    let source = Played::open(kit, one, "one:1").await;
    (source, Played::open(kit, other, "other:1").await)
}

/// Makes a machine that runs on the one of the hosts that it was placed on, which comes first.
async fn running(
    kit: &Kit,
    hosts: (Played, Played),
    spec: InstanceSpec,
) -> (Played, Played, Instance) {
    let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.until("it is decided", || row(kit, id).decision.is_some()).await;
    let decision = row(kit, id).decision.unwrap();
    let (mut source, destination) =
        if decision.host == hosts.0.id { hosts } else { (hosts.1, hosts.0) };
    let set = source.told("it", |set| set.machines.iter().any(|there| there.instance == id)).await;
    source.makes_volumes(&set.volumes);
    source.has(id, decision.epoch, ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    (source, destination, row(kit, id))
}

fn shown(kit: &Kit, id: InstanceId) -> InstanceState {
    kit.engine.instance(&kit.customer, id).unwrap().state
}

impl Move {
    async fn begin(config: CoreConfig) -> Self {
        Self::begin_with(config, spec("web")).await
    }

    async fn begin_with(config: CoreConfig, spec: InstanceSpec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), config).await;
        kit.start();
        let hosts = two_hosts(&kit).await;
        let (source, destination, row) = running(&kit, hosts, spec).await;
        let operation =
            kit.engine.migrate_instance(&kit.customer, row.id, &kit.key()).await.unwrap();
        let (id, boot) = (row.id, row.boot_volume_id);
        let operation = operation.id;
        Self { kit, source, destination, id, boot, operation, _folder: folder }
    }

    fn row(&self) -> Instance {
        row(&self.kit, self.id)
    }

    /// Both hosts do their part until all of it is at the destination, and not handed over.
    async fn prepare(&mut self) -> MachineSpec {
        let leaves = |spec: &MachineSpec| spec.departure.is_some();
        self.source.told_of("it leaves", self.id, leaves).await;
        let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
        let comes = self.destination.told_of("it comes", self.id, comes).await;
        let set = self.destination.set();
        self.destination.makes_volumes(&set.volumes);
        let (state, awaited) = (ObservedState::Starting, Some(Handover::Awaited));
        self.destination.has(self.id, comes.epoch, state, awaited).await;
        comes
    }

    async fn source_has(&mut self, state: ObservedState, handover: Option<Handover>) {
        self.source.has(self.id, Epoch(1), state, handover).await;
    }

    async fn destination_has(&mut self, state: ObservedState, handover: Option<Handover>) {
        self.destination.has(self.id, Epoch(2), state, handover).await;
    }

    /// It is decided at the destination.
    async fn lands(&self) {
        let there = Some((self.destination.id, Epoch(2)));
        let decided = || row(&self.kit, self.id).decision.map(|at| (at.host, at.epoch));
        self.kit.until("it is decided there", || decided() == there).await;
        assert_eq!(self.row().migration, None);
    }

    /// What is left when it has come: one run at the destination, and nothing at the source.
    async fn has_come(&mut self) {
        let (id, boot) = (self.id, self.boot);
        self.lands().await;
        let own = |spec: &MachineSpec| spec.arrival.is_none();
        assert_eq!(self.destination.told_of("it is there", id, own).await.epoch, Epoch(2));
        self.destination_has(ObservedState::Running, None).await;
        self.kit.until("it runs", || shown(&self.kit, id) == InstanceState::Running).await;
        self.source.told("it is gone", |set| set.machines.is_empty()).await;
        self.source.lost(id).await;
        let goes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
        self.source.told("its volume goes", goes).await;
        self.source.destroyed(boot).await;
        let view = |kit: &Kit| kit.engine.volume(&kit.customer, boot).unwrap().row;
        self.kit.until("its volume is in one place", || view(&self.kit).may_be_on.is_empty()).await;
        assert_eq!(view(&self.kit).host, Some(self.destination.id));
        self.source.told("nothing is left", |set| set.volumes.is_empty()).await;
        let usage = |host| self.kit.engine.host(&self.kit.customer, host).unwrap().usage;
        assert_eq!((usage(self.source.id).machines, usage(self.destination.id).machines), (0, 1));
        self.kit.engine.audit_books().unwrap();
        self.kit.stop().await;
    }

    /// What is left when it stays: the destination, asked to, has shown that it is not there.
    async fn has_stayed(&mut self, epoch: Epoch) {
        let (id, boot) = (self.id, self.boot);
        let refused =
            |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
        self.destination.told_of("it shall not come", id, refused).await;
        let deletes = |set: &DesiredSet| wish(set, boot) == Some(VolumeWish::Delete);
        assert!(!deletes(&self.destination.set()), "nothing is destroyed before it has answered");
        self.destination_has(ObservedState::Absent, None).await;
        self.kit.until("it stays", || row(&self.kit, id).migration.is_none()).await;
        let stays = self.row().decision.unwrap();
        assert_eq!((stays.host, stays.epoch), (self.source.id, epoch));
        self.destination.lost(id).await;
        self.destination.told("its volume goes", deletes).await;
        self.destination.destroyed(boot).await;
        let view = |kit: &Kit| kit.engine.volume(&kit.customer, boot).unwrap().row;
        self.kit.until("its volume is in one place", || view(&self.kit).may_be_on.is_empty()).await;
        assert_eq!(view(&self.kit).host, Some(self.source.id));
        self.kit.engine.audit_books().unwrap();
    }

    /// It stays, and starts again as another run.
    async fn starts_again(&mut self) {
        self.source.told_of("it stays", self.id, |spec| spec.departure.is_none()).await;
        self.source.reports().await;
        self.has_stayed(Epoch(3)).await;
        self.source.told_of("it runs again", self.id, |spec| spec.epoch == Epoch(3)).await;
        self.kit.stop().await;
    }

    async fn failed_for(&self, why: &str) {
        let ended = self.kit.ended(self.operation).await;
        let OperationState::Failed { error } = &ended.state else { panic!("{ended:?}") };
        assert!(error.message.contains(why), "{error}");
    }
}

fn seen(volume: VolumeId) -> VolumeSeen {
    let state = VolumeObserved::Present { size: Gib(10), failure: None };
    VolumeSeen { volume, state, changed_key: None, refused_key: None }
}

fn wish(set: &DesiredSet, volume: VolumeId) -> Option<VolumeWish> {
    set.volumes.iter().find(|wish| wish.volume == volume).map(|wish| wish.wish)
}

#[tokio::test]
async fn a_machine_goes_to_another_host_while_it_runs() {
    let mut it = Move::begin(quick()).await;
    let comes = it.prepare().await;
    assert_eq!((comes.epoch, comes.power), (Epoch(2), Power::Running));
    assert_eq!(comes.arrival.unwrap().from, it.source.id);
    let volume = it.destination.set().volumes.remove(0);
    assert_eq!((volume.volume, volume.wish, volume.image), (it.boot, VolumeWish::Keep, None));
    let leaves = it.source.told_of("it leaves", it.id, |spec| spec.departure.is_some()).await;
    let departure = leaves.departure.unwrap();
    assert_eq!((leaves.epoch, departure.to), (Epoch(1), it.destination.id));
    assert!(departure.address.ends_with(":1") && departure.keys_wanted.is_empty());
    // Both hosts count it as long as it is under way.
    for host in [it.source.id, it.destination.id] {
        let usage = it.kit.engine.host(&it.kit.customer, host).unwrap().usage;
        assert_eq!(
            (usage.machines, usage.vcpus, usage.storage["standard"]),
            (1, Vcpus(1), Gib(10))
        );
    }
    it.kit.engine.audit_books().unwrap();
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    assert_eq!(shown(&it.kit, it.id), InstanceState::Running, "its customer sees nothing of it");
    it.destination_has(ObservedState::Stopped, Some(Handover::Arrived)).await;
    it.kit.done(it.operation).await;
    it.has_come().await;
}

#[tokio::test]
async fn a_machine_that_runs_at_its_new_host_has_come_whatever_the_old_one_says() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.destination_has(ObservedState::Running, None).await;
    it.kit.done(it.operation).await;
    it.has_come().await;
}

#[tokio::test]
async fn where_it_comes_to_is_told_as_that_host_says_it() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.destination = Played::open(&it.kit, it.destination.id, "elsewhere:2").await;
    it.destination.volumes.push(seen(it.boot));
    let moved = |spec: &MachineSpec| {
        spec.departure.as_ref().is_some_and(|departure| departure.address == "elsewhere:2")
    };
    it.source.told_of("the other address", it.id, moved).await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.destination_has(ObservedState::Stopped, Some(Handover::Arrived)).await;
    it.has_come().await;
}

#[tokio::test]
async fn a_machine_stays_when_its_new_host_dies() {
    let mut it = Move::begin(mortal()).await;
    it.prepare().await;
    let dead = it.destination.id;
    it.destination.die();
    it.failed_for("does not answer").await;
    // Nothing shows that it did not get there before the old host says so.
    let stays = |spec: &MachineSpec| spec.departure.is_none();
    assert_eq!(it.source.told_of("it stays", it.id, stays).await.epoch, Epoch(1));
    it.source.reports().await;
    it.kit.until("it stays", || it.row().migration.is_none()).await;
    assert_eq!(it.row().decision.unwrap().epoch, Epoch(1), "what runs is not disturbed");
    assert_eq!(shown(&it.kit, it.id), InstanceState::Running);
    // What was left there goes when it is back.
    it.destination = Played::open(&it.kit, dead, "other:1").await;
    it.destination.volumes.push(seen(it.boot));
    it.destination.reports().await;
    let goes = |set: &DesiredSet| wish(set, it.boot) == Some(VolumeWish::Delete);
    it.destination.told("its volume goes", goes).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_had_left_waits_for_the_host_that_has_its_data() {
    let mut it = Move::begin(mortal()).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    let there = it.destination.id;
    it.destination.die();
    it.failed_for("does not answer").await;
    it.source.told_of("it stays", it.id, |spec| spec.departure.is_none()).await;
    it.source.reports().await;
    let host = it.kit.engine.host(&it.kit.customer, there).unwrap();
    assert_eq!(host.standing, Standing::Lapsed);
    // The later data is there, so nothing is decided before that host is back, and says so.
    it.destination = Played::open(&it.kit, there, "other:1").await;
    it.destination.volumes.push(seen(it.boot));
    assert!(it.row().migration.is_some_and(|to| to.given_up));
    it.destination_has(ObservedState::Stopped, Some(Handover::Arrived)).await;
    it.has_come().await;
}

#[tokio::test]
async fn a_machine_whose_old_host_dies_before_it_left_stays_there() {
    let mut it = Move::begin(mortal()).await;
    it.prepare().await;
    let dead = it.source.id;
    it.source.die();
    it.failed_for("does not answer").await;
    it.has_stayed(Epoch(3)).await;
    // It has ended with its lease, and runs again when its host is back: as another run.
    it.source = Played::open(&it.kit, dead, "one:1").await;
    it.source.told_of("it runs again", it.id, |spec| spec.epoch == Epoch(3)).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_whose_old_host_dies_after_it_left_has_come() {
    let mut it = Move::begin(mortal()).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    let dead = it.source.id;
    it.source.die();
    let gone = || it.kit.engine.host(&it.kit.customer, dead).unwrap().standing == Standing::Lapsed;
    it.kit.until("the old host is gone", gone).await;
    it.destination_has(ObservedState::Stopped, Some(Handover::Arrived)).await;
    it.lands().await;
    it.source = Played::open(&it.kit, dead, "one:1").await;
    it.source.volumes.push(seen(it.boot));
    it.has_come().await;
}

#[tokio::test]
async fn a_machine_that_shall_stop_does_not_go_on() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    let off = InstanceSpec { power: Power::Stopped, ..spec("web") };
    let update =
        InstanceUpdate { id: it.id, spec: off, expected_revision: 0, allow_rebuild: false };
    it.kit.engine.update_instance(&it.kit.customer, update, &it.kit.key()).await.unwrap();
    it.failed_for("shall not run").await;
    let off = |spec: &MachineSpec| spec.departure.is_none() && spec.power == Power::Stopped;
    it.source.told_of("it stops here", it.id, off).await;
    it.source_has(ObservedState::Stopped, None).await;
    it.has_stayed(Epoch(3)).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_deleted_machine_is_gone_when_both_hosts_say_so() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    let deletion =
        it.kit.engine.delete_instance(&it.kit.customer, it.id, &it.kit.key()).await.unwrap();
    it.failed_for("is being deleted").await;
    it.source.told("it goes", |set| set.machines.is_empty()).await;
    it.source.lost(it.id).await;
    let refused = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    it.destination.told_of("it shall not come", it.id, refused).await;
    let operation = it.kit.engine.operation(&it.kit.customer, deletion.id).unwrap();
    assert!(!operation.state.is_final(), "the other host may have it");
    it.destination.lost(it.id).await;
    it.kit.done(deletion.id).await;
    for host in [&mut it.source, &mut it.destination] {
        let goes = |set: &DesiredSet| wish(set, it.boot) == Some(VolumeWish::Delete);
        host.told("its volume goes", goes).await;
        host.destroyed(it.boot).await;
    }
    let boot = || it.kit.engine.volume(&it.kit.customer, it.boot);
    it.kit.until("its volume is nowhere", || boot().is_err()).await;
    it.kit.engine.audit_books().unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn what_is_there_after_a_deleted_machine_is_where_that_was_last() {
    let kept = BootVolumeSpec { delete_with_instance: false, ..spec("web").boot_volume };
    let kept = InstanceSpec { boot_volume: kept, ..spec("web") };
    let mut it = Move::begin_with(mortal(), kept).await;
    it.prepare().await;
    // It has gone on at the other host, which dies before it has said so.
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.destination.die();
    it.failed_for("does not answer").await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let deletion = engine.delete_instance(customer, it.id, &it.kit.key()).await.unwrap();
    let is_off = |spec: &MachineSpec| spec.power == Power::Stopped && spec.departure.is_none();
    it.source.told_of("it is off", it.id, is_off).await;
    it.source.reports().await;
    let waits = || match engine.operation(customer, deletion.id).unwrap().state.clone() {
        OperationState::Running { waiting_for, .. } => waiting_for.contains("its data is there"),
        _ => false,
    };
    it.kit.until("it waits for the other host", waits).await;
    let mut back = Played::open(&it.kit, it.destination.id, "other:1").await;
    back.volumes.clone_from(&it.destination.volumes);
    back.has(it.id, Epoch(2), ObservedState::Running, None).await;
    it.kit.until("it is there", || row(&it.kit, it.id).migration.is_none()).await;
    for host in [&mut it.source, &mut back] {
        host.told("it goes", |set| set.machines.is_empty()).await;
        host.lost(it.id).await;
    }
    it.kit.done(deletion.id).await;
    assert_eq!(engine.volume(customer, it.boot).unwrap().row.host, Some(back.id));
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_takes_too_long_stays() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.kit.clock.forward(it.kit.engine.config().migration_patience_ms);
    it.failed_for("too long").await;
    it.source.told_of("it stays", it.id, |spec| spec.departure.is_none()).await;
    it.source.reports().await;
    it.has_stayed(Epoch(1)).await;
    assert_eq!(shown(&it.kit, it.id), InstanceState::Running);
    // It can go again once nothing is left of the first time.
    let again = it.kit.engine.migrate_instance(&it.kit.customer, it.id, &it.kit.key()).await;
    again.unwrap();
    assert_eq!(it.row().migration.unwrap().epoch, Epoch(3));
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_had_left_but_not_come_starts_again_as_another_run() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.kit.clock.forward(it.kit.engine.config().migration_patience_ms);
    it.failed_for("too long").await;
    it.starts_again().await;
}

#[tokio::test]
async fn a_machine_that_is_lost_where_it_came_starts_again_before_its_move_takes_too_long() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.destination_has(ObservedState::Stopped, Some(Handover::Awaited)).await;
    let mut waited_ms = 0;
    let given_up = || {
        waited_ms += 1_000;
        it.kit.clock.forward(1_000);
        it.row().migration.unwrap().given_up
    };
    it.kit.until("it is given up", given_up).await;
    let patience = it.kit.engine.config().landing_patience_ms;
    assert!(waited_ms >= patience, "its arrival may not have been told yet: {waited_ms} ms");
    it.failed_for("lost at the host").await;
    it.starts_again().await;
}

#[tokio::test]
async fn a_machine_that_was_given_up_and_came_all_the_same_has_come() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.kit.clock.forward(it.kit.engine.config().migration_patience_ms);
    it.failed_for("too long").await;
    it.destination_has(ObservedState::Running, None).await;
    let there = it.destination.id;
    let decided = || it.row().decision.is_some_and(|decision| decision.host == there);
    it.kit.until("it is decided there", decided).await;
    it.source.told("it is gone", |set| set.machines.is_empty()).await;
    it.kit.engine.audit_books().unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn what_a_host_has_not_made_yet_has_not_come() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    it.destination.machines.clear();
    for state in [ObservedState::Starting, ObservedState::Failed { reason: "no disk".into() }] {
        it.destination_has(state, None).await;
        it.destination.reports().await;
    }
    it.kit.clock.forward(it.kit.engine.config().migration_patience_ms);
    it.failed_for("too long").await;
    assert_eq!(it.row().decision.unwrap().host, it.source.id);
    it.kit.stop().await;
}

#[tokio::test]
async fn what_a_machine_is_made_of_does_not_change_on_its_way() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &it.kit.key()).await.unwrap();
    let attachment = Attachment { volume_id: data.volume.row.id, read_only: false };
    let with = InstanceSpec { volumes: BTreeMap::from([("d".into(), attachment)]), ..spec("web") };
    let update =
        |spec| InstanceUpdate { id: it.id, spec, expected_revision: 0, allow_rebuild: false };
    let refused = engine.update_instance(customer, update(with), &it.kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    let larger = InstanceSpec { flavor: "medium".into(), ..spec("web") };
    engine.update_instance(customer, update(larger), &it.kit.key()).await.unwrap();
    it.failed_for("changed while it moved").await;
    assert!(it.row().migration.is_some_and(|to| to.given_up));
    engine.audit_books().unwrap();
    it.kit.stop().await;
}

#[tokio::test]
async fn a_volume_that_was_detached_on_the_way_is_where_its_data_is() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let data = data.volume.row.id;
    let attachment = Attachment { volume_id: data, read_only: false };
    let with = InstanceSpec { volumes: BTreeMap::from([("d".into(), attachment)]), ..spec("web") };
    let hosts = two_hosts(&kit).await;
    let (mut source, mut destination, web) = running(&kit, hosts, with).await;
    engine.migrate_instance(customer, web.id, &kit.key()).await.unwrap();
    destination.told("both volumes", |set| set.volumes.len() == 2).await;
    let without = InstanceUpdate {
        id: web.id,
        spec: spec("web"),
        expected_revision: 0,
        allow_rebuild: false,
    };
    engine.update_instance(customer, without, &kit.key()).await.unwrap();
    let other = InstanceSpec { volumes: BTreeMap::from([("d".into(), attachment)]), ..spec("b") };
    let refused = engine.create_instance(customer, other, &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{refused}");
    source.has(web.id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    destination.has(web.id, Epoch(2), ObservedState::Running, None).await;
    kit.until("it has come", || row(&kit, web.id).migration.is_none()).await;
    let volume = engine.volume(customer, data).unwrap().row;
    assert_eq!((volume.host, volume.attached_to), (Some(destination.id), None));
    assert_eq!(volume.may_be_on, [source.id].into());
    engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_volume_that_grows_does_not_go() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let id = data.volume.row.id;
    let attachment = Attachment { volume_id: id, read_only: false };
    let with = InstanceSpec { volumes: BTreeMap::from([("d".into(), attachment)]), ..spec("web") };
    let hosts = two_hosts(&kit).await;
    let (_source, _destination, web) = running(&kit, hosts, with).await;
    engine.migrate_instance(customer, web.id, &kit.key()).await.unwrap();
    let spec = VolumeSpec { size: Gib(20), ..volume_spec("data") };
    let update = VolumeUpdate { id, spec, expected_revision: 0 };
    engine.update_volume(customer, update, &kit.key()).await.unwrap();
    assert!(row(&kit, web.id).migration.is_some_and(|to| to.given_up));
    kit.stop().await;
}
