//! Machines that move of the platform's own accord, as another host has become better for them.

use super::*;

const REST_MS: i64 = 60 * 60 * 1_000;

fn restless() -> CoreConfig {
    CoreConfig { rebalance_rest_ms: REST_MS, rebalance_every_ms: 1, ..quick() }
}

fn priced(number: usize, price_percent: u32) -> HostSpec {
    HostSpec { price_percent, ..host_spec(number, "DE") }
}

async fn opened(kit: &Kit, spec: HostSpec) -> Played {
    let address = format!("{}:1", spec.name);
    let host = register(kit, spec).await;
    Played::open(kit, host, &address).await
}

/// Makes a machine, which runs on the only host that there is.
async fn made(kit: &Kit, host: &mut Played, wanted: InstanceSpec) -> InstanceId {
    let made = kit.engine.create_instance(&kit.customer, wanted, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let comes = |set: &DesiredSet| set.machines.iter().any(|there| there.instance == id);
    let set = host.told("it", comes).await;
    host.makes_volumes(&set.volumes);
    host.has(id, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;
    id
}

async fn moves(kit: &Kit, from: &mut Played, to: &mut Played, id: InstanceId) {
    from.told_of("it leaves", id, |spec| spec.departure.is_some()).await;
    let comes = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| arrival.open);
    let epoch = to.told_of("it comes", id, comes).await.epoch;
    let set = to.set();
    to.makes_volumes(&set.volumes);
    from.has(id, Epoch(1), ObservedState::Stopped, Some(Handover::Left)).await;
    to.has(id, epoch, ObservedState::Running, None).await;
    let there = Some(to.id);
    let host = || row(kit, id).decision.map(|at| at.host);
    kit.until("it is there", || host() == there).await;
}

#[tokio::test]
async fn machines_that_have_rested_go_one_by_one_to_a_cheaper_host_and_stay_there() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), restless()).await;
    kit.start();
    let mut dear = opened(&kit, priced(0, 150)).await;
    let first = [made(&kit, &mut dear, spec("a")).await, made(&kit, &mut dear, spec("b")).await];
    kit.clock.forward(REST_MS);
    let fresh = made(&kit, &mut dear, spec("c")).await;
    let mut cheap = opened(&kit, priced(1, 100)).await;
    for _ in 0..2 {
        let on_its_way = || first.into_iter().find(|id| row(&kit, *id).migration.is_some());
        kit.until("one leaves", || on_its_way().is_some()).await;
        let leaving = kit.instances().iter().filter(|view| view.row.migration.is_some()).count();
        assert_eq!(leaving, 1, "one at a time");
        moves(&kit, &mut dear, &mut cheap, on_its_way().unwrap()).await;
    }
    let at = |id| row(&kit, id).decision.unwrap().host;
    assert_eq!((at(fresh), row(&kit, fresh).migration), (dear.id, None), "it rests");
    kit.clock.forward(REST_MS);
    moves(&kit, &mut dear, &mut cheap, fresh).await;
    // All of them have rested again when a third one comes that is hardly cheaper.
    kit.clock.forward(REST_MS);
    let third = opened(&kit, priced(2, 95)).await;
    let mut nearly_as_good = third;
    let late = kit.engine.create_instance(&kit.customer, spec("d"), &kit.key()).await.unwrap();
    nearly_as_good.told("what is new", |set| set.machines.len() == 1).await;
    for id in first.into_iter().chain([fresh]) {
        assert_eq!((at(id), row(&kit, id).migration), (cheap.id, None));
    }
    assert_ne!(at(late.instance.row.id), cheap.id);
    let verbs = kit.own_verbs(fresh).await;
    assert_eq!(verbs, ["broker.place", "broker.rebalance", "broker.land"]);
    kit.engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_placement_holds_and_what_takes_no_machines_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), restless()).await;
    kit.start();
    let mut dear = opened(&kit, priced(0, 150)).await;
    let bound = InstanceSpec {
        placement: fairmazon_model::placement::Placement {
            countries: ["DE".to_owned()].into(),
            ..Default::default()
        },
        ..spec("bound")
    };
    let id = made(&kit, &mut dear, bound).await;
    kit.clock.forward(REST_MS);
    let elsewhere = opened(&kit, HostSpec { price_percent: 50, ..host_spec(1, "FR") }).await;
    let _deaf = {
        let host = register(&kit, priced(2, 50)).await;
        Played::open(&kit, host, "").await
    };
    let mut right = opened(&kit, priced(3, 100)).await;
    moves(&kit, &mut dear, &mut right, id).await;
    assert!(elsewhere.set().machines.is_empty());
    kit.stop().await;
}
