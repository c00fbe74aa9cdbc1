//! Whole stories: engine, reconciler, streams and agents on a simulated hypervisor.

use std::collections::BTreeMap;

use fairmazon_broker::core::{
    Caller, InstanceState, InstanceUpdate, KeysOf, MadeCertificate, PageRequest, Standing,
    VolumeState, VolumeUpdate,
};
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    sim::{Call, Fault, Verb},
};
use fairmazon_model::{
    ErrorKind,
    access::Role,
    host::HostSpec,
    id::HostId,
    instance::{Attachment, InstanceSpec, ObservedState, Power, RestartPolicy},
    key::{Blob, GivenKey, HostSealing},
    machine::{CloudInit, GuestSeen},
    operation::OperationState,
    placement::Placement,
    units::{Epoch, Gib, UnixMs},
    volume::VolumeSpec,
};

use serde_json::{Value, json};

use super::{
    kit::{Hosts, Kit, fake_key, host_spec, mortal, quick, spec, volume_spec},
    played::{Played, register},
};

fn update(id: fairmazon_model::id::InstanceId, spec: InstanceSpec) -> InstanceUpdate {
    InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false }
}

#[tokio::test]
async fn a_machine_comes_changes_reboots_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 2).await;
    let (engine, customer) = (&kit.engine, &kit.customer);

    let data = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    assert_eq!(data.volume.state, VolumeState::Available);
    let attachment = Attachment { volume_id: data.volume.row.id, read_only: false };
    let wanted =
        InstanceSpec { volumes: BTreeMap::from([("data".into(), attachment)]), ..spec("web") };
    let made = engine.create_instance(customer, wanted.clone(), &kit.key()).await.unwrap();
    assert!(made.instance.row.revision.0 > 0 && made.operation.revision.0 > 0);
    let id = made.instance.row.id;
    kit.done(made.operation.id).await;
    let shown = engine.instance(customer, id).unwrap();
    assert_eq!(shown.state, InstanceState::Running, "{shown:?}");
    assert_eq!(shown.site.as_ref().unwrap().name, "site-de");
    assert_eq!(shown.row.decision.as_ref().unwrap().epoch, Epoch(1));
    assert_eq!(shown.row.observed.addresses.len(), 1);
    let said = GuestSeen { agent: true, cloud_init: CloudInit::Done };
    assert_eq!(shown.row.observed.guest, said);
    kit.until("the volume is seen", || {
        engine.volume(customer, data.volume.row.id).unwrap().state == VolumeState::Ready
    })
    .await;

    let larger = InstanceSpec { flavor: "medium".into(), ..wanted.clone() };
    let changed =
        engine.update_instance(customer, update(id, larger.clone()), &kit.key()).await.unwrap();
    kit.done(changed.operation.id).await;
    let host = shown.row.decision.as_ref().unwrap().host;
    let sim = hosts.hosts.iter().find(|there| there.id == host).unwrap().sim.clone();
    let machine = sim.machine(id).await.unwrap().unwrap();
    assert_eq!(machine.definition.vcpus.0, 2);
    let starts = hosts.world.ledger().starts(id);
    assert_eq!(starts, 1, "it grows while it runs");

    let reboot = engine.reboot_instance(customer, id, &kit.key()).await.unwrap();
    kit.done(reboot.id).await;
    assert_eq!(hosts.world.ledger().starts(id), starts + 1);

    let off = InstanceSpec { power: Power::Stopped, ..larger };
    let stopped = engine.update_instance(customer, update(id, off), &kit.key()).await.unwrap();
    kit.done(stopped.operation.id).await;
    assert_eq!(engine.instance(customer, id).unwrap().state, InstanceState::Stopped);

    let grown = VolumeSpec { size: Gib(20), ..volume_spec("data") };
    let grown = VolumeUpdate { id: data.volume.row.id, spec: grown, expected_revision: 0 };
    let grown = engine.update_volume(customer, grown, &kit.key()).await.unwrap();
    kit.done(grown.operation.id).await;
    assert_eq!(sim.volume(data.volume.row.id).await.unwrap().unwrap().size, Gib(20));

    let deleted = engine.delete_instance(customer, id, &kit.key()).await.unwrap();
    kit.done(deleted.id).await;
    assert_eq!(engine.instance(customer, id).unwrap_err().kind, ErrorKind::NotFound);
    assert!(sim.machine(id).await.unwrap().is_none());
    let deleted = engine.delete_volume(customer, data.volume.row.id, &kit.key()).await.unwrap();
    kit.done(deleted.id).await;
    kit.until("the boot volume is gone", || {
        engine.host(customer, host).unwrap().usage.storage["standard"] == Gib(0)
    })
    .await;
    assert!(sim.inventory().await.unwrap().volumes.is_empty());
    hosts.check();
    engine.audit_books().unwrap();
    let verdict = kit.store.verify_audit().await.unwrap();
    assert!(verdict.broken.is_none() && verdict.whole.sequence > 8, "{verdict:?}");
    for index in 0..2 {
        hosts.kill_agent(index).await;
    }
    kit.stop().await;
}

#[tokio::test]
async fn a_restarted_broker_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let mut hosts = Hosts::start(&kit, 1).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    // Nothing was reconciled before the broker ends.
    hosts.kill_agent(0).await;
    kit.stop().await;
    drop(kit);

    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    hosts.connect(0, &kit.engine);
    kit.done(made.operation.id).await;
    assert_eq!(kit.instances().len(), 1);
    assert_eq!(kit.engine.instance(&kit.customer, id).unwrap().state, InstanceState::Running);

    // The agent and its machine survive another restart of the broker.
    let starts = hosts.world.ledger().starts(id);
    hosts.cut(0);
    kit.stop().await;
    drop(kit);
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    hosts.kill_agent(0).await;
    hosts.connect(0, &kit.engine);
    kit.until("it is seen again", || kit.engine.hosts_connected() == 1).await;
    let reboot = kit.engine.reboot_instance(&kit.customer, id, "reboot").await.unwrap();
    kit.done(reboot.id).await;
    assert_eq!(hosts.world.ledger().starts(id), starts + 1, "only the reboot started it");
    hosts.check();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

/// Joins a host, so that it waits for keys.
pub async fn joins(kit: &Kit, host: HostId) {
    let caller = Caller { role: Role::Host, host: Some(host), ..kit.customer };
    let made = MadeCertificate {
        sha256: "00".repeat(32),
        public_key: String::new(),
        expires_at: UnixMs(i64::MAX),
        sealing: HostSealing { key: Blob(vec![1; 32]), certificate: String::new() },
    };
    kit.engine.join_host(&caller, made, &kit.key()).await.unwrap();
}

#[tokio::test]
async fn what_never_ran_moves_away_from_a_dead_host_and_what_did_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = fairmazon_broker::core::CoreConfig {
        lease_term: std::time::Duration::from_millis(600),
        lease_margin: std::time::Duration::from_millis(100),
        ..quick()
    };
    let kit = Kit::open(folder.path(), config).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let first = hosts.hosts[0].id;
    joins(&kit, first).await;
    let ran = engine.create_instance(customer, spec("ran"), &kit.key()).await.unwrap();
    kit.done(ran.operation.id).await;
    // The host can't do anything any more, but is still connected when the next one is decided.
    hosts.hosts[0].sim.set_faults(|call: &Call| match call.verb {
        Verb::Look => Fault::None,
        _ => Fault::Fail(HypervisorError::Timeout { attempted: "work".into(), deadline_ms: 1 }),
    });
    let never = engine.create_instance(customer, spec("never"), &kit.key()).await.unwrap();
    let never_id = never.instance.row.id;
    kit.until("it is decided", || {
        engine.instance(customer, never_id).unwrap().row.decision.is_some()
    })
    .await;
    let wanted = engine
        .key_requests(customer, KeysOf::Instance(never_id), PageRequest::first())
        .unwrap()
        .items
        .remove(0);
    let key = fake_key(wanted.version, "A");
    let volume = wanted.volume;
    engine.give_keys(customer, &[GivenKey { volume, host: first, key }], &kit.key()).await.unwrap();
    hosts.cut(0);
    kit.until("the lease lapses", || {
        engine.host(customer, first).unwrap().standing == Standing::Lapsed
    })
    .await;
    hosts.add(&kit, host_spec(1, "DE")).await;
    hosts.connect(1, engine);
    kit.done(never.operation.id).await;
    let moved = engine.instance(customer, never_id).unwrap();
    assert_eq!(moved.row.decision.as_ref().unwrap().host, hosts.hosts[1].id);
    assert_eq!(moved.row.decision.as_ref().unwrap().epoch, Epoch(2));
    let waits = engine.instance(customer, ran.instance.row.id).unwrap();
    assert_eq!(waits.state, InstanceState::Unknown, "{waits:?}");
    assert_eq!(waits.row.decision.as_ref().unwrap().host, first);

    hosts.hosts[0].sim.clear_faults();
    hosts.kill_agent(0).await;
    hosts.connect(0, engine);
    kit.until("it runs again", || {
        engine.instance(customer, ran.instance.row.id).unwrap().state == InstanceState::Running
    })
    .await;
    // Nothing of it is there, and the host may come with another sealing key one day.
    kit.until("the key that was given in vain is dropped", || {
        engine.volume(customer, volume).unwrap().row.keys.is_empty()
    })
    .await;
    let dropped = kit.own_changes(volume).await.remove(0);
    assert_eq!(dropped.verb, "broker.drop_key");
    let keys = |row: Option<Value>| row.unwrap()["keys"].as_object().map_or(0, |keys| keys.len());
    assert_eq!((keys(dropped.before), keys(dropped.after)), (1, 0));
    let [placed, again] = &kit.own_changes(never_id).await[..] else { panic!("placed twice") };
    let verbs = (placed.verb.as_str(), again.verb.as_str());
    assert_eq!(verbs, ("broker.place", "broker.place_again"));
    let second = hosts.hosts[1].id;
    for (entry, host) in [(placed, first), (again, second)] {
        let after = entry.after.as_ref().unwrap();
        assert_eq!((&after["host"], &after["volumes"]), (&json!(host), &json!([volume])));
    }
    assert_eq!(placed.before, None);
    assert_eq!(again.before.as_ref().unwrap()["host"], json!(first));
    hosts.check();
    engine.audit_books().unwrap();
    hosts.kill_agent(0).await;
    hosts.kill_agent(1).await;
    kit.stop().await;
}

#[tokio::test]
async fn what_a_host_was_told_to_start_is_never_decided_elsewhere_and_what_it_was_not_is() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), mortal()).await;
    kit.start();
    let here = register(&kit, host_spec(0, "DE")).await;
    let mut here = Played::open(&kit, here, "").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let told = engine.create_instance(customer, spec("told"), &kit.key()).await.unwrap();
    let told = told.instance.row.id;
    let held = here.told_of("that it is to be made", told, |spec| spec.held).await;
    assert_eq!(held.power, Power::Running);
    here.made(told, Epoch(1)).await;
    // From here on it may run, whatever the host says of it or of a volume.
    here.told_of("that it may run", told, |spec| !spec.held).await;
    assert_eq!(engine.instance(customer, told).unwrap().state, InstanceState::Starting);
    let broken = ObservedState::Failed { reason: "it does not start".into() };
    here.has(told, Epoch(1), broken, None).await;
    kit.until("its failure is known", || {
        engine.instance(customer, told).unwrap().state == InstanceState::Failed
    })
    .await;
    let made = engine.create_instance(customer, spec("not told"), &kit.key()).await.unwrap();
    let not_told = made.instance.row.id;
    here.told_of("that it is to be made", not_told, |spec| spec.held).await;
    // Its agent dies, and what it began goes on without one.
    here.die();
    let there = register(&kit, host_spec(1, "DE")).await;
    let _there = Played::open(&kit, there, "").await;
    let host = |id| engine.instance(customer, id).unwrap().row.decision.clone().map(|at| at.host);
    kit.until("the other one is decided anew", || host(not_told) == Some(there)).await;
    let view = engine.instance(customer, told).unwrap();
    assert_eq!((view.state, host(told)), (InstanceState::Unknown, Some(here.id)), "{view:?}");
    engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_nobody_starts_again_is_started_once_before_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let once = InstanceSpec { restart_policy: RestartPolicy::Never, ..spec("once") };
    let made = kit.engine.create_instance(&kit.customer, once, &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    assert_eq!(hosts.world.ledger().starts(made.instance.row.id), 1);
    hosts.check();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn without_room_it_waits_and_says_why_and_is_placed_later() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let placement = Placement { countries: ["FR".to_owned()].into(), ..Placement::default() };
    let wanted = InstanceSpec { placement, ..spec("paris") };
    let made = engine.create_instance(customer, wanted, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.until("it says why", || {
        let shown = engine.instance(customer, id).unwrap();
        shown.state == InstanceState::Pending && shown.reason.contains("FR")
    })
    .await;
    kit.clock.forward(60_000);
    let ended = kit.ended(made.operation.id).await;
    assert!(
        matches!(&ended.state, OperationState::Failed { error } if error.kind == ErrorKind::NoCapacity),
        "{ended:?}"
    );
    hosts.add(&kit, host_spec(1, "FR")).await;
    hosts.connect(1, engine);
    kit.until("it runs", || engine.instance(customer, id).unwrap().state == InstanceState::Running)
        .await;
    hosts.kill_agent(0).await;
    hosts.kill_agent(1).await;
    kit.stop().await;
}

/// The calls of this kind fail from now on.
fn break_down(hosts: &Hosts, broken: Verb) {
    hosts.hosts[0].sim.set_faults(move |call: &Call| {
        if call.verb == broken {
            let source = "a fault was asked for".into();
            return Fault::Fail(HypervisorError::Driver {
                attempted: format!("{broken:?}"),
                source,
            });
        }
        Fault::None
    });
}

#[tokio::test]
async fn what_a_host_fails_to_bring_about_is_told_and_patience_with_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let data = data.volume.row.id;
    let attachment = Attachment { volume_id: data, read_only: false };
    let wanted =
        InstanceSpec { volumes: BTreeMap::from([("data".into(), attachment)]), ..spec("web") };
    let made = engine.create_instance(customer, wanted.clone(), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.done(made.operation.id).await;

    let fails = async |operation: fairmazon_model::id::OperationId| {
        kit.until("it says what it waits for", || {
            let row = engine.operation(customer, operation).unwrap();
            matches!(&row.state, OperationState::Running { waiting_for, .. } if waiting_for.contains("failed"))
        })
        .await;
        kit.clock.forward(quick().failure_patience_ms);
        let ended = kit.ended(operation).await;
        assert!(
            matches!(&ended.state, OperationState::Failed { error } if error.kind == ErrorKind::Unavailable),
            "{ended:?}"
        );
    };

    break_down(&hosts, Verb::GrowVolume);
    let mut larger = wanted.clone();
    larger.boot_volume.size = Gib(20);
    let grown = engine.update_instance(customer, update(id, larger), &kit.key()).await.unwrap();
    fails(grown.operation.id).await;
    let shown = engine.instance(customer, id).unwrap();
    assert!(shown.state == InstanceState::Running && shown.reason.contains("failed"), "{shown:?}");
    hosts.hosts[0].sim.set_faults(|_: &Call| Fault::None);
    kit.until("it has grown", || {
        let row = engine.instance(customer, id).unwrap().row;
        row.observed.spec_version == row.spec_version && row.observed.failure().is_none()
    })
    .await;

    break_down(&hosts, Verb::GrowVolume);
    let spec = VolumeSpec { size: Gib(20), ..volume_spec("data") };
    let grown = VolumeUpdate { id: data, spec, expected_revision: 0 };
    let grown = engine.update_volume(customer, grown, &kit.key()).await.unwrap();
    fails(grown.operation.id).await;
    assert!(engine.volume(customer, data).unwrap().reason.contains("failed"));

    break_down(&hosts, Verb::Undefine);
    let deleted = engine.delete_instance(customer, id, &kit.key()).await.unwrap();
    fails(deleted.id).await;
    let again = engine.delete_instance(customer, id, &kit.key()).await.unwrap();
    assert_ne!(again.id, deleted.id, "one that has failed is over");
    hosts.hosts[0].sim.set_faults(|_: &Call| Fault::None);
    kit.done(again.id).await;

    break_down(&hosts, Verb::DeleteVolume);
    let deleted = engine.delete_volume(customer, data, &kit.key()).await.unwrap();
    fails(deleted.id).await;
    hosts.hosts[0].sim.set_faults(|_: &Call| Fault::None);
    kit.until("it is gone", || engine.volume(customer, data).is_err()).await;
    hosts.check();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn a_reconciler_that_panics_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    kit.clock.break_once();
    kit.until("it has panicked", || !kit.clock.is_broken()).await;
    let mut hosts = Hosts::start(&kit, 1).await;
    let made = kit.engine.create_instance(&kit.customer, spec("web"), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    kit.engine.audit_books().unwrap();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn a_host_keeps_what_its_machines_were_promised() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::none();
    let able = HostSpec { features: ["confidential".to_owned()].into(), ..host_spec(0, "DE") };
    let id = hosts.add(&kit, able.clone()).await;
    hosts.connect(0, &kit.engine);
    let (engine, customer) = (&kit.engine, &kit.customer);
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let mut moved = able.clone();
    moved.site.country = "PL".into();
    let mut elsewhere = able.clone();
    elsewhere.site.region = "eu-east".into();
    let lower = HostSpec { conformity: 0, ..able.clone() };
    let plain = HostSpec { features: Default::default(), ..able.clone() };
    let worse = [
        (moved, "site.country"),
        (elsewhere, "site.region"),
        (lower, "conformity"),
        (plain, "features"),
    ];
    for (spec, blamed) in &worse {
        let error = engine.update_host(customer, id, spec.clone(), &kit.key()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Precondition, "{error}");
        assert_eq!(error.field.as_deref(), Some(*blamed));
    }
    let better = HostSpec { conformity: 2, schedulable: false, ..able };
    engine.update_host(customer, id, better, &kit.key()).await.unwrap();
    let gone = engine.delete_instance(customer, made.instance.row.id, &kit.key()).await.unwrap();
    kit.done(gone.id).await;
    kit.until("nothing is on it", || {
        engine.host(customer, id).unwrap().usage.storage["standard"] == Gib(0)
    })
    .await;
    for (spec, _) in worse {
        engine.update_host(customer, id, spec, &kit.key()).await.unwrap();
    }
    hosts.kill_agent(0).await;
    kit.stop().await;
}
