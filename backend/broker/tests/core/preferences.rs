//! What customers prefer among the hosts that will do: followed whenever a host is chosen, and
//! never a reason to refuse or to move.

use fairmazon_broker::core::InstanceUpdate;
use fairmazon_model::{
    ErrorKind,
    geo::Coordinates,
    host::HostSpec,
    id::HostId,
    instance::{InstanceSpec, ObservedState},
    operation::OperationState,
    placement::{Prefer, Preferences},
    units::Epoch,
};

use super::{
    kit::{Kit, host_spec, quick, row, spec},
    played::{Played, register},
};

const LONG_MS: i64 = 60 * 60 * 1_000;

/// A host at a site and in a region of its own, so many degrees east, that costs so much.
fn host(number: usize, country: &str, longitude: f64, price_percent: u32) -> HostSpec {
    let mut host = host_spec(number, country);
    host.site.region = format!("region-{}", country.to_lowercase());
    host.site.coordinates = Coordinates::new(50.0, longitude).unwrap();
    HostSpec { price_percent, ..host }
}

fn wanting(name: &str, prefer: Prefer, near: Option<&str>) -> InstanceSpec {
    let preferences = Preferences { prefer, near: near.map(str::to_owned) };
    InstanceSpec { preferences, ..spec(name) }
}

/// Where a new machine is placed, and why.
async fn placed(kit: &Kit, wanted: InstanceSpec) -> (HostId, String) {
    let made = kit.engine.create_instance(&kit.customer, wanted, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.until("it is placed", || row(kit, id).decision.is_some()).await;
    let decision = row(kit, id).decision.unwrap();
    (decision.host, decision.reason)
}

#[tokio::test]
async fn what_is_preferred_decides_where_a_machine_goes() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Vec::new();
    for (number, (country, longitude, price)) in
        [("DE", 8.0, 100), ("PL", 20.0, 80), ("FR", 2.0, 120)].into_iter().enumerate()
    {
        let id = register(&kit, host(number, country, longitude, price)).await;
        hosts.push(Played::open(&kit, id, &format!("host-{number}:1")).await);
    }
    let [de, pl, fr] = [0, 1, 2].map(|index: usize| hosts[index].id);

    let (first, why) = placed(&kit, wanting("a", Prefer::Price, None)).await;
    assert!(first == pl && why.contains("cheapest of 3 hosts"), "{why}");
    let (next, why) = placed(&kit, wanting("b", Prefer::Spread, None)).await;
    assert!(next == de && why.contains("emptiest of 3 hosts"), "the cheaper of two: {why}");
    let (last, why) = placed(&kit, wanting("c", Prefer::Spread, None)).await;
    assert!(last == fr && why.contains("emptiest"), "{why}");
    let larger = InstanceSpec { flavor: "medium".into(), ..wanting("d", Prefer::Price, None) };
    assert_eq!(placed(&kit, larger).await.0, pl);
    let (packed, why) = placed(&kit, wanting("e", Prefer::Pack, None)).await;
    assert!(packed == pl && why.contains("fullest of 3 hosts"), "{why}");

    for near in ["site-fr", "region-fr"] {
        let (close, why) = placed(&kit, wanting(near, Prefer::Price, Some(near))).await;
        assert_eq!(close, fr);
        assert!(why.contains("nearest of 3 hosts"), "{why}");
        assert!(why.ends_with(&format!(", 0 km from {near}")), "{why}");
    }
    kit.stop().await;
}

#[tokio::test]
async fn a_change_of_what_is_preferred_moves_and_refuses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let here = register(&kit, host(0, "DE", 8.0, 100)).await;
    let _here = Played::open(&kit, here, "here:1").await;
    // Known to the platform, and not there: only what is preferred, so it stands in no way.
    let gone = register(&kit, host(1, "FR", 2.0, 100)).await;
    let made = wanting("web", Prefer::Price, Some("site-fr"));
    let made = engine.create_instance(customer, made, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    kit.until("it is placed", || row(&kit, id).decision.is_some()).await;
    let before = row(&kit, id);
    assert_eq!(before.decision.as_ref().unwrap().host, here);

    let update = |spec| InstanceUpdate { id, spec, expected_revision: 0, allow_rebuild: false };
    let changed = wanting("web", Prefer::Pack, Some("region-de"));
    let changed = engine.update_instance(customer, update(changed), &kit.key()).await.unwrap();
    assert_eq!(changed.operation.state, OperationState::Done, "no host has to do anything");
    let after = row(&kit, id);
    assert_eq!((&after.decision, after.spec_version), (&before.decision, before.spec_version));
    assert_eq!(after.spec.preferences.prefer, Prefer::Pack);

    let back = wanting("web", Prefer::Price, Some("site-fr"));
    engine.update_instance(customer, update(back.clone()), &kit.key()).await.unwrap();
    engine.remove_host(customer, gone, false, &kit.key()).await.unwrap();
    // What names the place already may be changed otherwise; nobody else can name it now.
    let renamed = InstanceSpec { name: "other".into(), ..back.clone() };
    engine.update_instance(customer, update(renamed), &kit.key()).await.unwrap();
    let error = engine.create_instance(customer, back, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(error.field.as_deref(), Some("placement.near"));
    assert!(error.message.contains("`site-fr`"), "{error}");
    assert!(error.advice.ends_with("are region-de, site-de"), "{}", error.advice);
    kit.stop().await;
}

#[tokio::test]
async fn a_host_is_emptied_to_where_its_machines_prefer_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let from = register(&kit, host(0, "DE", 8.0, 100)).await;
    let mut source = Played::open(&kit, from, "source:1").await;
    let made = wanting("web", Prefer::Price, Some("site-de"));
    let made = engine.create_instance(customer, made, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let set = source.told("it", |set| set.machines.len() == 1).await;
    source.makes_volumes(&set.volumes);
    source.has(id, Epoch(1), ObservedState::Running, None).await;
    kit.done(made.operation.id).await;

    // The far one is much cheaper.
    let far = register(&kit, host(1, "PL", 20.0, 50)).await;
    let _far = Played::open(&kit, far, "far:1").await;
    let close = register(&kit, host(2, "FR", 6.0, 150)).await;
    let _close = Played::open(&kit, close, "close:1").await;
    engine.drain_host(customer, from, LONG_MS, "drain").await.unwrap();
    kit.until("it moves", || row(&kit, id).migration.is_some()).await;
    assert_eq!(row(&kit, id).migration.unwrap().to, close);
    kit.stop().await;
}
