//! Which keys are taken for a migration, where a machine may go, and what a restart keeps of it.

use super::*;
use crate::kit::fake_key as key;

#[tokio::test]
async fn a_key_is_taken_from_the_host_that_the_machine_leaves_and_from_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let mut ids = Vec::new();
    for number in 0..3 {
        let host = register(&kit, host_spec(number, "DE")).await;
        join(&kit, host, u8::try_from(number).unwrap()).await;
        ids.push(host);
    }
    let mut hosts = Vec::new();
    for id in ids {
        hosts.push(Played::open(&kit, id, "there:1").await);
    }
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    let (id, boot) = (made.instance.row.id, made.instance.row.boot_volume_id);
    kit.until("it is decided", || row(&kit, id).decision.is_some()).await;
    let host = row(&kit, id).decision.unwrap().host;
    let first = GivenKey { volume: boot, host, key: key(1, "A") };
    engine.give_keys(customer, &[first], &kit.key()).await.unwrap();
    let at = hosts.iter().position(|played| played.id == host).unwrap();
    let mut source = hosts.remove(at);
    let set = source.told("its key", |set| set.volumes.iter().any(|wish| wish.key.is_some())).await;
    source.makes_volumes(&set.volumes);
    source.has(id, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    engine.migrate_instance(customer, id, &kit.key()).await.unwrap();
    let to = row(&kit, id).migration.unwrap().to;
    let at = hosts.iter().position(|played| played.id == to).unwrap();
    let mut destination = hosts.remove(at);
    let mut stranger = hosts.remove(0);
    let leaves = source.told_of("it leaves", id, |spec| spec.departure.is_some()).await;
    let departure = leaves.departure.unwrap();
    assert!(departure.certificate.starts_with("certificate"));
    let wanted: Vec<_> =
        departure.keys_wanted.iter().map(|key| (key.volume, key.version)).collect();
    assert_eq!(wanted, [(boot, 1)]);

    let made =
        |to: HostId, version, print| GivenKey { volume: boot, host: to, key: key(version, print) };
    let keys = || engine.volume(customer, boot).unwrap().row.keys.clone();
    // Those that are refused are followed by a report that is seen to have been taken.
    let told_before = [&stranger, &destination].map(|host| (host.id, host.set().generation));
    stranger.keys = vec![made(to, 1, "B")];
    stranger.reports().await;
    destination.keys = vec![made(to, 1, "C")];
    destination.reports().await;
    let observed = |host| engine.host(customer, host).unwrap();
    for (host, generation) in told_before {
        kit.until("it was heard", || observed(host).observed_generation >= generation).await;
    }
    assert_eq!(keys().len(), 1);
    source.keys = vec![made(stranger.id, 1, "D"), made(host, 1, "E"), made(to, 2, "F")];
    source.reports().await;
    source.keys = vec![made(to, 1, "G")];
    source.reports().await;
    kit.until("the key is there", || keys().contains_key(&to)).await;
    assert_eq!(keys()[&to].fingerprint, key(1, "G").fingerprint);
    assert_eq!(keys()[&host].fingerprint, key(1, "A").fingerprint);
    assert_eq!(keys().len(), 2);
    let has_key = |set: &DesiredSet| set.volumes.iter().any(|wish| wish.key.is_some());
    destination.told("the key", has_key).await;
    let none = |spec: &MachineSpec| {
        spec.departure.as_ref().is_some_and(|departure| departure.keys_wanted.is_empty())
    };
    source.told_of("no more keys", id, none).await;
    // The first stays.
    source.keys = vec![made(to, 1, "H")];
    source.reports().await;
    source.has(id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    destination.has(id, Epoch(2), ObservedState::Running, None).await;
    kit.until("it has come", || row(&kit, id).migration.is_none()).await;
    assert_eq!(keys()[&to].fingerprint, key(1, "G").fingerprint);
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_goes_only_where_it_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let capable = |number, country| HostSpec {
        conformity: 2,
        features: ["confidential".to_owned()].into(),
        ..host_spec(number, country)
    };
    let home = register(&kit, capable(0, "DE")).await;
    let mut source = Played::open(&kit, home, "home:1").await;
    let apart = engine.create_group(customer, "apart", &BTreeMap::new(), &kit.key()).await;
    let apart = apart.unwrap().id;
    let mut wanted = spec("web");
    wanted.placement.countries = ["DE".to_owned()].into();
    wanted.placement.min_conformity = 2;
    wanted.placement.confidential = true;
    wanted.placement.not_with = [apart].into();
    let made = engine.create_instance(customer, wanted, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let set = source.told("it", |set| !set.machines.is_empty()).await;
    source.makes_volumes(&set.volumes);
    source.has(id, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;

    let plain = HostSpec { features: Default::default(), ..capable(3, "DE") };
    let low = HostSpec { conformity: 1, ..capable(2, "DE") };
    let closed = HostSpec { schedulable: false, ..capable(6, "DE") };
    let small = HostSpec {
        capacity: Capacity {
            storage: [("standard".to_owned(), Gib(5))].into(),
            ..capable(5, "DE").capacity
        },
        ..capable(5, "DE")
    };
    let mut others = Vec::new();
    for spec in [capable(1, "FR"), low, plain, closed, small] {
        let host = register(&kit, spec).await;
        others.push(Played::open(&kit, host, "other:1").await);
    }
    let deaf = register(&kit, capable(4, "DE")).await;
    others.push(Played::open(&kit, deaf, "").await);
    let refused = engine.migrate_instance(customer, id, &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoCapacity);
    for why in ["not in DE", "level 2", "confidential", "closed", "takes machines", "10 GiB"] {
        assert!(refused.message.contains(why), "{why}: {refused}");
    }
    engine.audit_books().unwrap();
    let right = register(&kit, capable(7, "DE")).await;
    others.push(Played::open(&kit, right, "right:1").await);
    engine.migrate_instance(customer, id, &kit.key()).await.unwrap();
    let migration = row(&kit, id).migration.unwrap();
    assert_eq!(migration.to, right);
    let error = engine.remove_host(customer, right, false, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "something comes to it");

    // What it must be near to or apart from holds at the host that it goes to, too.
    let mut elsewhere = spec("web");
    elsewhere.placement.countries = ["DE".to_owned(), "FR".to_owned()].into();
    let update = InstanceUpdate { id, spec: elsewhere, expected_revision: 0, allow_rebuild: false };
    engine.update_instance(customer, update, &kit.key()).await.unwrap();
    assert!(row(&kit, id).migration.is_some_and(|to| !to.given_up), "it may still be there");
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_keeps_its_distance_from_what_comes() {
    let mut it = Move::begin(quick()).await;
    it.prepare().await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let apart = engine.create_group(customer, "apart", &BTreeMap::new(), &it.kit.key()).await;
    let apart = apart.unwrap().id;
    let mut wanted = spec("web");
    wanted.placement.not_with = [apart].into();
    let update =
        InstanceUpdate { id: it.id, spec: wanted, expected_revision: 0, allow_rebuild: false };
    engine.update_instance(customer, update, &it.kit.key()).await.unwrap();
    let mut other = spec("other");
    other.placement.not_with = [apart].into();
    let other = engine.create_instance(customer, other, &it.kit.key()).await.unwrap();
    let other = other.instance.row.id;
    let waits = || row(&it.kit, other).waiting_for.contains("keep apart");
    it.kit.until("both hosts are taken", waits).await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.destination_has(ObservedState::Running, None).await;
    let source = it.source.id;
    let placed = || row(&it.kit, other).decision.is_some_and(|decision| decision.host == source);
    it.kit.until("there is a place where it was", placed).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_restarted_broker_goes_on_with_what_it_decided() {
    // Under way, given up, and landed in no more than the rows.
    for state in ["open", "given up"] {
        let folder = tempfile::tempdir().unwrap();
        let kit = Kit::open(folder.path(), quick()).await;
        kit.start();
        let hosts = two_hosts(&kit).await;
        let (source, destination, web) = running(&kit, hosts, spec("web")).await;
        kit.engine.migrate_instance(&kit.customer, web.id, &kit.key()).await.unwrap();
        if state == "given up" {
            let larger = InstanceSpec { flavor: "medium".into(), ..spec("web") };
            let update = InstanceUpdate {
                id: web.id,
                spec: larger,
                expected_revision: 0,
                allow_rebuild: false,
            };
            kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
        }
        let (from, to) = (source.id, destination.id);
        drop((source, destination));
        kit.stop().await;
        drop(kit);

        let kit = Kit::open(folder.path(), quick()).await;
        kit.engine.audit_books().unwrap();
        kit.start();
        let mut source = Played::open(&kit, from, "one:1").await;
        let mut destination = Played::open(&kit, to, "other:1").await;
        let open = state == "open";
        let comes =
            |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open == open);
        destination.told_of("it comes", web.id, comes).await;
        let leaves = |spec: &MachineSpec| spec.departure.is_some() == open;
        source.told_of("it leaves", web.id, leaves).await;
        let view = || kit.engine.volume(&kit.customer, web.boot_volume_id).unwrap().row;
        assert_eq!(view().may_be_on, [to].into());
        if open {
            source.has(web.id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
            let arrived = Some(Handover::Arrived);
            destination.has(web.id, Epoch(2), ObservedState::Stopped, arrived).await;
        } else {
            source.has(web.id, Epoch(1), ObservedState::Running, None).await;
            destination.has(web.id, Epoch(2), ObservedState::Absent, None).await;
        }
        kit.until("it is over", || row(&kit, web.id).migration.is_none()).await;
        let at = if open { (to, Epoch(2)) } else { (from, Epoch(1)) };
        let decided = row(&kit, web.id).decision.unwrap();
        assert_eq!((decided.host, decided.epoch), at);
        kit.engine.audit_books().unwrap();
        kit.stop().await;
    }
}

#[tokio::test]
async fn a_guest_that_runs_goes_only_where_the_same_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let home = register(&kit, host_spec(0, "DE")).await;
    let mut source = Played::open_by(&kit, home, "home:1", "kvm").await;
    let mut made = Vec::new();
    for (name, power) in [("on", Power::Running), ("off", Power::Stopped)] {
        let asked = InstanceSpec { power, ..spec(name) };
        made.push(engine.create_instance(customer, asked, &kit.key()).await.unwrap());
    }
    let (on, off) = (made[0].instance.row.id, made[1].instance.row.id);
    let set = source.told("both", |set| set.machines.len() == 2).await;
    source.makes_volumes(&set.volumes);
    source.has(on, Epoch(1), ObservedState::Running, None).await;
    source.has(off, Epoch(1), ObservedState::Stopped, None).await;
    for one in &made {
        kit.done(one.operation.id).await;
    }
    let other = register(&kit, host_spec(1, "DE")).await;
    let slow = Played::open_by(&kit, other, "slow:1", "tcg").await;
    let refused = engine.migrate_instance(customer, on, &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoCapacity);
    assert!(refused.message.contains("takes machines"), "{refused}");
    // What rests is sent in software, whatever runs it at either host.
    engine.migrate_instance(customer, off, &kit.key()).await.unwrap();
    assert_eq!(row(&kit, off).migration.unwrap().to, slow.id);

    let third = register(&kit, host_spec(2, "DE")).await;
    let same = Played::open_by(&kit, third, "same:1", "kvm").await;
    engine.migrate_instance(customer, on, &kit.key()).await.unwrap();
    assert_eq!(row(&kit, on).migration.unwrap().to, same.id);
    kit.stop().await;
}
