//! What operators watch: each reading of the metrics page follows its cause.

use std::collections::BTreeSet;

use fairmazon_broker::{
    api::readings,
    core::{CoreConfig, InstanceUpdate},
};
use fairmazon_model::{
    conformity::{Proof, UnprovenHosts},
    id::InstanceId,
    instance::{InstanceSpec, ObservedState, Power},
    units::Epoch,
};

use super::{
    kit::{Kit, host_spec, mortal, quick, row, spec, volume_spec},
    played::{Played, register},
};

async fn make(kit: &Kit, spec: InstanceSpec) -> InstanceId {
    let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
    made.instance.row.id
}

/// Turns it on or off.
async fn turn(kit: &Kit, id: InstanceId, power: Power) {
    let spec = InstanceSpec { power, ..row(kit, id).spec };
    let update = InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
    kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
}

/// That one instance is in this state and none in another.
async fn alone(kit: &Kit, state: &str) {
    let name = format!("instances_{state}");
    kit.reads(&name, 1).await;
    let others = ["pending", "starting", "running", "stopping", "stopped", "failed", "deleting"];
    let count = others.iter().map(|other| kit.reading(&format!("instances_{other}"))).sum::<u64>();
    assert_eq!(count + kit.reading("instances_unknown"), 1, "{:?}", readings(&kit.engine));
}

#[tokio::test]
async fn instances_are_counted_by_their_state() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let id = register(&kit, host_spec(0, "DE")).await;
    assert_eq!(kit.reading("hosts_connected"), 0);
    let one = make(&kit, spec("one")).await;
    alone(&kit, "pending").await;
    kit.reads("instances_without_room", 1).await;
    assert_eq!(kit.reading("operations_running"), 1);

    let mut played = Played::open(&kit, id, "first:1").await;
    kit.reads("hosts_connected", 1).await;
    alone(&kit, "starting").await;
    assert_eq!(kit.reading("instances_without_room"), 0);
    played.told_of("it", one, |_| true).await;
    let set = played.set();
    played.makes_volumes(&set.volumes);
    played.has(one, Epoch(1), ObservedState::Running, None).await;
    alone(&kit, "running").await;
    kit.reads("operations_running", 0).await;

    turn(&kit, one, Power::Stopped).await;
    alone(&kit, "stopping").await;
    played.has(one, Epoch(1), ObservedState::Stopped, None).await;
    alone(&kit, "stopped").await;
    let reason = "its disk is gone".to_owned();
    played.has(one, Epoch(1), ObservedState::Failed { reason }, None).await;
    alone(&kit, "failed").await;
    played.has(one, Epoch(1), ObservedState::Stopped, None).await;
    alone(&kit, "stopped").await;

    // Its lease runs out.
    played.die();
    alone(&kit, "unknown").await;
    kit.engine.delete_instance(&kit.customer, one, &kit.key()).await.unwrap();
    alone(&kit, "deleting").await;
    kit.stop().await;
}

#[tokio::test]
async fn what_waits_and_what_is_there_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let counts = || ["accounts", "hosts", "volumes"].map(|what| kit.reading(what));
    assert_eq!(counts(), [1, 0, 0]);
    let revision = kit.reading("revision");
    let id = register(&kit, host_spec(0, "DE")).await;
    assert!(kit.reading("revision") > revision);
    // Nobody looks at them yet.
    let made = kit.engine.create_instance(&kit.customer, spec("one"), &kit.key()).await.unwrap();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    assert_eq!(counts(), [1, 1, 2]);
    assert!(kit.reading("queue_instances") >= 1);
    engine.delete_volume(customer, data.volume.row.id, &kit.key()).await.unwrap();
    assert!(kit.reading("queue_volumes") >= 1);
    assert_eq!(kit.reading("watched_operations"), 0);
    let watch = engine.watch_operation(customer, made.operation.id).unwrap();
    assert_eq!(kit.reading("watched_operations"), 1);
    drop(watch);

    kit.start();
    kit.reads("queue_instances", 0).await;
    kit.reads("queue_volumes", 0).await;
    kit.reads("watched_operations", 0).await;

    // Another host has what is bound to the first one, as after a restored backup.
    let mut first = Played::open(&kit, id, "first:1").await;
    first.told_of("it", made.instance.row.id, |_| true).await;
    let set = first.set();
    first.makes_volumes(&set.volumes);
    first.has(made.instance.row.id, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    let second = register(&kit, host_spec(1, "DE")).await;
    let mut second = Played::open(&kit, second, "second:1").await;
    second.makes_volumes(&set.volumes);
    second.reports().await;
    kit.reads("volumes_kept_beside", 1).await;
    second.destroyed(set.volumes[0].volume).await;
    kit.reads("volumes_kept_beside", 0).await;
    kit.stop().await;
}

#[tokio::test]
async fn hosts_are_counted_by_what_they_prove_and_whether_they_are_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let config = CoreConfig { unproven_hosts: UnprovenHosts::NoWork, ..quick() };
    let kit = Kit::open(folder.path(), config).await;
    kit.start();
    let id = register(&kit, host_spec(0, "DE")).await;
    let mut played = Played::open(&kit, id, "first:1").await;
    let expect = async |unproven, failing| {
        kit.reads("hosts_unproven", unproven).await;
        kit.reads("hosts_not_conforming", failing).await;
    };
    expect(1, 0).await;
    played.proves(Proof::Proven { level: Some(1), failed: Vec::new() }).await;
    expect(0, 0).await;
    played.proves(Proof::Proven { level: None, failed: Vec::new() }).await;
    expect(0, 1).await;
    played.proves(Proof::Unproven { why: "its driver runs no guests".into() }).await;
    expect(1, 0).await;

    assert_eq!(kit.reading("hosts_draining"), 0);
    kit.engine.drain_host(&kit.customer, id, 60_000, "drain").await.unwrap();
    assert_eq!(kit.reading("hosts_draining"), 1);
    kit.engine.cancel_drain(&kit.customer, id, "cancel").await.unwrap();
    assert_eq!(kit.reading("hosts_draining"), 0);
    kit.stop().await;
}

#[tokio::test]
async fn the_guide_has_every_reading() {
    let guide = include_str!("../../../../docs/guides/operators.md");
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let rows = guide.lines().skip_while(|line| !line.starts_with("| `what` |")).skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| ")?.split_once(" | "));
    let told: BTreeSet<_> =
        rows.flat_map(|(names, _)| names.split(", ").map(|name| name.trim_matches('`'))).collect();
    let known: BTreeSet<_> = readings(&kit.engine).into_iter().map(|(name, _)| name).collect();
    assert_eq!(told, known);
    kit.stop().await;
}
