//! Hosts that are emptied, with every host played.

use fairmazon_broker::core::{CoreConfig, DrainItem, DrainState, InstanceUpdate, PageRequest};
use fairmazon_model::{
    ErrorKind,
    id::{HostId, InstanceId},
    instance::{Attachment, InstanceSpec, ObservedState, OnInterrupt, Power, Spot},
    machine::{DesiredSet, HostVolume, MachineSpec, VolumeWish},
    migration::Handover,
    price::NanoEur,
    units::{Epoch, Vcpus},
};

use super::{
    kit::{Hosts, Kit, host_spec, quick, row, spec, volume_spec},
    played::{Played, register},
};

const LONG_MS: i64 = 60 * 60 * 1_000;
const SHORT_MS: i64 = 60 * 1_000;

/// A host with that many machines, of which the last is off.
async fn full(kit: &Kit, running: usize) -> (Played, Vec<InstanceId>, InstanceId) {
    let host = register(kit, host_spec(0, "DE")).await;
    let mut played = Played::open(kit, host, "first:1").await;
    let mut made = Vec::new();
    for number in 0..=running {
        let power = if number < running { Power::Running } else { Power::Stopped };
        let one = InstanceSpec { power, ..spec(&format!("m{number}")) };
        let one = kit.engine.create_instance(&kit.customer, one, &kit.key()).await.unwrap();
        made.push((one.instance.row.id, one.operation.id, power));
    }
    let set = played.told("all", |set| set.machines.len() == made.len()).await;
    played.makes_volumes(&set.volumes);
    for (id, _, power) in &made {
        let state = match power {
            Power::Running => ObservedState::Running,
            Power::Stopped => ObservedState::Stopped,
        };
        played.has(*id, Epoch(1), state, None).await;
    }
    for (_, operation, _) in &made {
        kit.done(*operation).await;
    }
    let mut ids: Vec<_> = made.into_iter().map(|(id, ..)| id).collect();
    let off = ids.pop().unwrap();
    (played, ids, off)
}

fn machines(kit: &Kit, host: HostId) -> Vec<DrainItem> {
    kit.engine.drain(&kit.customer, host).unwrap().machines
}

fn counted(kit: &Kit, host: HostId, state: DrainState) -> usize {
    machines(kit, host).iter().filter(|item| item.state == state).count()
}

#[tokio::test]
async fn a_host_is_emptied_a_few_machines_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = CoreConfig { migrations_per_host: 2, ..quick() };
    let kit = Kit::open(folder.path(), config).await;
    kit.start();
    let (mut source, mut left, off) = full(&kit, 3).await;
    left.push(off);
    let other = register(&kit, host_spec(1, "DE")).await;
    let mut destination = Played::open(&kit, other, "other:1").await;
    let (engine, customer, from) = (&kit.engine, &kit.customer, source.id);
    let error = engine.drain(customer, from).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "{error}");
    let view = engine.drain_host(customer, from, LONG_MS, "drain").await.unwrap();
    assert!(view.row.draining.is_some());
    let again = engine.drain_host(customer, from, LONG_MS, "drain").await.unwrap();
    assert_eq!(again.row.revision, view.row.revision, "once is enough");

    while !left.is_empty() {
        let most = left.len().min(2);
        let moving = || counted(&kit, from, DrainState::Migrating);
        kit.until("they are on their way", || moving() == most).await;
        let waiting = left.len() - most;
        assert_eq!(counted(&kit, from, DrainState::Waiting), waiting);
        let at = left.iter().position(|id| row(&kit, *id).migration.is_some()).unwrap();
        let id = left.remove(at);
        let migration = row(&kit, id).migration.unwrap();
        assert_eq!(migration.off, id == off);
        let epoch = migration.epoch;
        destination.told_of("it comes", id, |spec| spec.arrival.is_some()).await;
        let set = destination.set();
        destination.makes_volumes(&set.volumes);
        source.has(id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
        let state = if id == off { ObservedState::Stopped } else { ObservedState::Running };
        destination.has(id, epoch, state, None).await;
        kit.until("it has come", || row(&kit, id).migration.is_none()).await;
        assert_eq!(row(&kit, id).decision.unwrap().host, destination.id);
        source.lost(id).await;
    }
    let left = engine.drain(customer, from).unwrap();
    assert!(!left.is_over);
    assert_eq!(left.machines, []);

    // What has moved is deleted here, and what is new goes elsewhere.
    let boots = || engine.drain(customer, from).unwrap().volumes.len();
    let keeps = |wish: &&HostVolume| wish.wish == VolumeWish::Keep;
    let elsewhere = |set: &DesiredSet| !set.volumes.iter().any(|wish| keeps(&wish));
    source.told("they are elsewhere", elsewhere).await;
    source.volumes.clear();
    source.reports().await;
    kit.until("nothing is left", || boots() == 0).await;
    let made = engine.create_instance(customer, spec("new"), &kit.key()).await.unwrap();
    let new = made.instance.row.id;
    kit.until("it is placed", || row(&kit, new).decision.is_some()).await;
    assert_eq!(row(&kit, new).decision.unwrap().host, destination.id);
    engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn what_finds_no_place_stays_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (source, running, _) = full(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    engine.drain_host(customer, source.id, LONG_MS, "drain").await.unwrap();
    let staying = || {
        let items = machines(&kit, source.id);
        items.into_iter().find(|item| item.id == running[0].to_string()).unwrap()
    };
    kit.until("it stays", || staying().state == DrainState::Staying).await;
    assert!(staying().reason.contains("the only host does not fit"), "{:?}", staying());
    // A machine that waits for a host is told that this one is being emptied.
    let made = engine.create_instance(customer, spec("new"), &kit.key()).await.unwrap();
    let waits = || row(&kit, made.instance.row.id).waiting_for;
    kit.until("it waits", || waits().contains("being emptied: 1")).await;
    let site = &engine.sites(&PageRequest::first()).items[0];
    assert_eq!(site.hosts_available, 0);

    let other = register(&kit, host_spec(1, "DE")).await;
    let _other = Played::open(&kit, other, "other:1").await;
    kit.until("it moves", || staying().state == DrainState::Migrating).await;
    // Where it goes is emptied as well: it stays.
    engine.drain_host(customer, other, LONG_MS, "the other").await.unwrap();
    kit.until("it is given up", || row(&kit, running[0]).migration.is_none_or(|to| to.given_up))
        .await;
    assert!(staying().reason.contains("being emptied itself"), "{:?}", staying());
    let view = engine.cancel_drain(customer, source.id, &kit.key()).await.unwrap();
    assert_eq!(view.row.draining, None);
    engine.cancel_drain(customer, source.id, &kit.key()).await.unwrap();
    let placed = || row(&kit, made.instance.row.id).decision.is_some();
    kit.until("it takes new machines again", placed).await;
    kit.stop().await;
}

#[tokio::test]
async fn agents_that_take_no_part_in_moves_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (source, running, _) = full(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let other = register(&kit, host_spec(1, "DE")).await;
    let _other = Played::open(&kit, other, "").await;
    engine.drain_host(customer, source.id, LONG_MS, "drain").await.unwrap();
    let staying = || {
        let items = machines(&kit, source.id);
        items.into_iter().find(|item| item.id == running[0].to_string()).unwrap()
    };
    // The others take nothing.
    kit.until("it stays", || staying().state == DrainState::Staying).await;
    assert!(staying().reason.contains("without an agent that takes machines"), "{:?}", staying());
    // Its own gives nothing away.
    let _alone = Played::open(&kit, source.id, "").await;
    kit.until("it is said", || staying().reason.contains("without `--migration-listen`")).await;
    assert_eq!(staying().state, DrainState::Staying);
    kit.stop().await;
}

#[tokio::test]
async fn what_a_machine_may_only_read_keeps_it_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let (engine, customer, host) = (&kit.engine, &kit.customer, hosts.hosts[0].id);
    let made = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let attachment = Attachment { volume_id: made.volume.row.id, read_only: true };
    let volumes = [("data".to_owned(), attachment)].into();
    let asked = InstanceSpec { volumes, ..spec("reads") };
    let made = engine.create_instance(customer, asked.clone(), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.done(made.operation.id).await;
    let error = engine.migrate_instance(customer, id, &kit.key()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Precondition && error.message.contains("may only read"));
    engine.drain_host(customer, host, LONG_MS, &kit.key()).await.unwrap();
    let item = || machines(&kit, host).pop().unwrap();
    assert_eq!(item().state, DrainState::Staying);
    assert!(item().reason.contains("may only read"), "{:?}", item());

    // Off, it would leave, if there were a way.
    let off = InstanceSpec { power: Power::Stopped, ..asked };
    let update = InstanceUpdate { id, spec: off, expected_revision: 0, allow_rebuild: false };
    let changed = engine.update_instance(customer, update, &kit.key()).await.unwrap();
    kit.done(changed.operation.id).await;
    assert!(item().reason.contains("without `--migration-listen`"), "{:?}", item());
    kit.stop().await;
}

#[tokio::test]
async fn nothing_begins_to_move_after_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let config = CoreConfig { migrations_per_host: 1, ..quick() };
    let kit = Kit::open(folder.path(), config).await;
    kit.start();
    let (source, mut ids, off) = full(&kit, 2).await;
    ids.push(off);
    let other = register(&kit, host_spec(1, "DE")).await;
    let mut destination = Played::open(&kit, other, "other:1").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    for wrong in [0, 999, i64::MAX] {
        let error = engine.drain_host(customer, source.id, wrong, &kit.key()).await.unwrap_err();
        assert_eq!(error.field.as_deref(), Some("deadline_ms"));
    }
    engine.drain_host(customer, source.id, SHORT_MS, "drain").await.unwrap();
    kit.until("one moves", || counted(&kit, source.id, DrainState::Migrating) == 1).await;
    let first = ids.iter().find(|id| row(&kit, **id).migration.is_some()).copied().unwrap();
    let refused = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    kit.clock.forward(SHORT_MS);
    destination.told_of("it is given up", first, refused).await;
    let left = engine.drain(customer, source.id).unwrap();
    assert!(left.is_over);
    let second = left.machines.iter().find(|item| item.reason == "the deadline has passed");
    assert_eq!(second.map(|item| item.state), Some(DrainState::Staying), "{left:?}");
    let given_up = left.machines.iter().find(|item| item.id == first.to_string()).unwrap();
    assert!(given_up.reason.contains("the time to empty its host is over"), "{given_up:?}");
    kit.stop().await;
}

#[tokio::test]
async fn what_is_interrupted_and_has_no_room_to_return_leaves_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut narrow = host_spec(0, "DE");
    (narrow.capacity.vcpus, narrow.cpu_overcommit_percent) = (Vcpus(1), 100);
    let id = register(&kit, narrow).await;
    let mut source = Played::open(&kit, id, "first:1").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let (max_price, on_interrupt) = (NanoEur(1_000_000_000), OnInterrupt::Stop);
    let terms = Some(Spot { max_price, notice_seconds: 30, on_interrupt });
    let spot = InstanceSpec { spot: terms, ..spec("spot") };
    let made = engine.create_instance(customer, spot, &kit.key()).await.unwrap();
    let spot = made.instance.row.id;
    let set = source.told("it", |set| !set.machines.is_empty()).await;
    source.makes_volumes(&set.volumes);
    source.has(spot, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    // It stays where it is, and takes the room.
    let mut other = spec("other");
    other.placement.countries = ["DE".to_owned()].into();
    let made = engine.create_instance(customer, other, &kit.key()).await.unwrap();
    source.told_of("it is interrupted", spot, |spec| spec.power == Power::Stopped).await;
    source.has(spot, Epoch(1), ObservedState::Stopped, None).await;
    let other = made.instance.row.id;
    let comes = |set: &DesiredSet| set.machines.iter().any(|there| there.instance == other);
    let set = source.told("the other", comes).await;
    source.makes_volumes(&set.volumes);
    source.has(other, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    kit.clock.forward(engine.config().spot_pause_ms);
    let elsewhere = register(&kit, host_spec(1, "FR")).await;
    let _elsewhere = Played::open(&kit, elsewhere, "second:1").await;
    engine.drain_host(customer, id, LONG_MS, "drain").await.unwrap();
    let goes = || row(&kit, spot).migration.is_some_and(|to| to.off && to.to == elsewhere);
    kit.until("it goes as it is", goes).await;
    assert_eq!(row(&kit, other).migration, None);
    engine.audit_books().unwrap();
    kit.stop().await;
}
