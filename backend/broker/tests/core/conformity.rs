//! Hosts that stop keeping the host standard and keep it again, with every host played.

use fairmazon_broker::core::{CoreConfig, DrainState, InstanceView, PageRequest};
use fairmazon_model::{
    ErrorKind,
    conformity::{FailedCheck, Proof, UnprovenHosts},
    host::{DrainCause, Host, HostSpec},
    id::{HostId, InstanceId},
    instance::{InstanceSpec, ObservedState},
    machine::MachineSpec,
    placement::Placement,
    units::Epoch,
};

use super::{
    kit::{Kit, host_spec, quick, row, spec},
    played::{Played, register},
};

const GRACE_MS: i64 = 60 * 60 * 1_000;
const DRAIN_MS: i64 = 10 * GRACE_MS;
const MINUTE_MS: i64 = 60 * 1_000;

fn strict() -> CoreConfig {
    CoreConfig {
        unproven_hosts: UnprovenHosts::NoWork,
        conformity_grace_ms: GRACE_MS,
        conformity_drain_ms: DRAIN_MS,
        ..quick()
    }
}

/// That this level is proven; what is missing from the highest is swap's fault.
fn proven(level: Option<u8>) -> Proof {
    let swap =
        FailedCheck { check: "no-swap".into(), allows: level, remedy: "`swapoff -a`".into() };
    let failed = if level == Some(3) { Vec::new() } else { vec![swap] };
    Proof::Proven { level, failed }
}

fn offers(number: usize, conformity: u8) -> HostSpec {
    HostSpec { conformity, ..host_spec(number, "DE") }
}

fn wants(min_conformity: u8) -> InstanceSpec {
    let placement = Placement { min_conformity, ..Placement::default() };
    InstanceSpec { placement, ..spec("web") }
}

fn host(kit: &Kit, id: HostId) -> Host {
    Host::clone(&kit.engine.host(&kit.customer, id).unwrap().row)
}

fn cause(kit: &Kit, id: HostId) -> Option<DrainCause> {
    host(kit, id).draining.map(|draining| draining.cause)
}

fn view(kit: &Kit, id: InstanceId) -> InstanceView {
    kit.engine.instance(&kit.customer, id).unwrap()
}

/// Waits until the host's row says whether it conforms.
async fn known(kit: &Kit, id: HostId, fails: bool) {
    let says = || host(kit, id).conformity.is_some_and(|known| known.fails() == fails);
    kit.until("what it proves is known", says).await;
}

async fn make(kit: &Kit, spec: InstanceSpec) -> InstanceId {
    let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
    made.instance.row.id
}

/// Makes a machine that runs on the only host that takes it.
async fn running(kit: &Kit, played: &mut Played, spec: InstanceSpec) -> InstanceId {
    let id = make(kit, spec).await;
    played.told_of("it", id, |_| true).await;
    let set = played.set();
    played.makes_volumes(&set.volumes);
    played.has(id, Epoch(1), ObservedState::Running, None).await;
    let runs = || row(kit, id).observed.state == ObservedState::Running;
    kit.until("it runs", runs).await;
    id
}

/// How often the audit log has these verbs.
async fn logged(kit: &Kit, verbs: &[&str]) -> Vec<usize> {
    let records = kit.engine.store().audit(0, 100_000).await.unwrap();
    let count = |verb: &&str| records.iter().filter(|record| record.entry.verb == **verb).count();
    verbs.iter().map(count).collect()
}

const VERBS: [&str; 3] = ["broker.conformity", "broker.drain", "broker.end_drain"];

#[tokio::test]
async fn a_host_that_stops_conforming_is_emptied_after_the_grace_until_it_conforms_again() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), strict()).await;
    kit.start();
    let id = register(&kit, offers(0, 1)).await;
    let mut played = Played::open(&kit, id, "first:1").await;
    // What is offered alone places nothing.
    let first = make(&kit, spec("first")).await;
    let waits = || row(&kit, first).waiting_for;
    kit.until("it waits", || waits().contains("not conforming to the host standard: 1")).await;
    assert_eq!(kit.engine.sites(&PageRequest::first()).items[0].hosts_available, 0);
    played.proves(proven(Some(1))).await;
    kit.until("it is placed", || row(&kit, first).decision.is_some()).await;
    assert_eq!(kit.engine.sites(&PageRequest::first()).items[0].hosts_available, 1);

    // It stops: nothing new from then on, and nothing else before the grace has ended.
    for _ in 0..3 {
        played.proves(proven(None)).await;
    }
    known(&kit, id, true).await;
    let second = make(&kit, spec("second")).await;
    let waits = || row(&kit, second).waiting_for;
    kit.until("it waits", || waits().contains("not conforming to the host standard: 1")).await;
    assert_eq!(logged(&kit, &VERBS).await, [2, 0, 0], "once a change, not once a report");
    assert_eq!(cause(&kit, id), None);
    assert!(view(&kit, first).reason.contains("does not conform"), "{}", view(&kit, first).reason);

    // The broker dies and starts; the host says nothing of it at first.
    drop(played);
    kit.stop().await;
    let kit = Kit::open(folder.path(), strict()).await;
    kit.start();
    kit.clock.forward(GRACE_MS + MINUTE_MS);
    let mut played = Played::open(&kit, id, "first:1").await;
    played.reports().await;
    let third = make(&kit, spec("third")).await;
    kit.until("it waits", || row(&kit, third).waiting_for.contains("not conforming")).await;
    assert_eq!(cause(&kit, id), None, "it may have been put right since");
    played.proves(proven(None)).await;
    kit.until("it is emptied", || cause(&kit, id) == Some(DrainCause::Standard)).await;
    let drain = kit.engine.drain(&kit.customer, id).unwrap();
    assert!(drain.reason.contains("no-swap"), "{}", drain.reason);
    assert_eq!(drain.draining.deadline.0 - drain.draining.since.0, DRAIN_MS);
    assert!(!drain.is_over && drain.machines[0].state != DrainState::Migrating, "{drain:?}");
    let error = kit.engine.cancel_drain(&kit.customer, id, &kit.key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(error.message.contains("no-swap"), "{error}");

    // It conforms again.
    played.proves(proven(Some(1))).await;
    kit.until("it is emptied no more", || cause(&kit, id).is_none()).await;
    kit.until("it is placed", || row(&kit, second).decision.is_some()).await;
    assert_eq!(logged(&kit, &VERBS).await, [3, 1, 1]);
    kit.engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_drain_of_the_operator_is_neither_replaced_nor_ended() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), strict()).await;
    kit.start();
    let id = register(&kit, offers(0, 1)).await;
    let mut played = Played::open(&kit, id, "first:1").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    engine.drain_host(customer, id, DRAIN_MS, "drain").await.unwrap();
    let before = host(&kit, id).draining;
    played.proves(proven(None)).await;
    known(&kit, id, true).await;
    kit.clock.forward(GRACE_MS + 1);
    played.proves(proven(Some(0))).await;
    known(&kit, id, false).await;
    assert_eq!(host(&kit, id).draining, before);

    // Ended by the operator while the host does not conform, the platform begins one; made the
    // operator's own, it stays.
    played.proves(proven(None)).await;
    known(&kit, id, true).await;
    engine.cancel_drain(customer, id, &kit.key()).await.unwrap();
    assert_eq!(cause(&kit, id), None);
    kit.clock.forward(GRACE_MS + 1);
    kit.until("it is emptied", || cause(&kit, id) == Some(DrainCause::Standard)).await;
    engine.drain_host(customer, id, DRAIN_MS, "again").await.unwrap();
    assert_eq!(cause(&kit, id), Some(DrainCause::Operator));
    played.proves(proven(Some(3))).await;
    known(&kit, id, false).await;
    assert_eq!(cause(&kit, id), Some(DrainCause::Operator));
    assert_eq!(logged(&kit, &VERBS[1..]).await, [1, 0]);
    engine.cancel_drain(customer, id, &kit.key()).await.unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_leaves_a_host_that_lost_the_level_that_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), strict()).await;
    kit.start();
    let id = register(&kit, offers(0, 2)).await;
    let mut source = Played::open(&kit, id, "first:1").await;
    source.proves(proven(Some(3))).await;
    known(&kit, id, false).await;
    assert_eq!(kit.engine.host(&kit.customer, id).unwrap().level, Some(2), "no more than offered");
    let picky = running(&kit, &mut source, wants(2)).await;
    let modest = running(&kit, &mut source, wants(1)).await;

    source.proves(proven(Some(1))).await;
    kit.until("it is known", || view(&kit, picky).reason.contains("level 2")).await;
    assert!(view(&kit, picky).reason.contains("if that lasts"), "{}", view(&kit, picky).reason);
    assert_eq!(view(&kit, modest).reason, "");
    kit.clock.forward(GRACE_MS + MINUTE_MS);
    kit.until("it stays", || view(&kit, picky).reason.contains("the only host does not fit")).await;
    assert_eq!(row(&kit, picky).decision.unwrap().host, id);
    assert_eq!(cause(&kit, id), None, "only what asks for more leaves");

    // One that offers as much and proves too little is no way out, and one that proves it is.
    let low = register(&kit, offers(1, 2)).await;
    let mut low = Played::open(&kit, low, "low:1").await;
    low.proves(proven(Some(1))).await;
    known(&kit, low.id, false).await;
    let high = register(&kit, offers(2, 3)).await;
    let mut high = Played::open(&kit, high, "high:1").await;
    high.proves(proven(Some(2))).await;
    let goes = || row(&kit, picky).migration.map(|to| to.to);
    kit.until("it moves", || goes() == Some(high.id)).await;
    assert!(view(&kit, picky).reason.contains("on its way"), "{}", view(&kit, picky).reason);
    assert_eq!(row(&kit, modest).migration, None);

    // Where it goes stops conforming: it stays.
    let refused = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|arrival| !arrival.open);
    high.proves(proven(None)).await;
    high.told_of("it is given up", picky, refused).await;
    kit.engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn simulated_hosts_count_only_where_the_platform_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    for (unproven_hosts, level) in
        [(UnprovenHosts::NoWork, None), (UnprovenHosts::AsOffered, Some(2))]
    {
        let folder = folder.path().join(format!("{unproven_hosts:?}"));
        std::fs::create_dir(&folder).unwrap();
        let kit = Kit::open(&folder, CoreConfig { unproven_hosts, ..strict() }).await;
        kit.start();
        let id = register(&kit, offers(0, 2)).await;
        let mut played = Played::open(&kit, id, "first:1").await;
        played.proves(Proof::Unproven { why: "its driver runs no guests".into() }).await;
        known(&kit, id, false).await;
        assert_eq!(kit.engine.host(&kit.customer, id).unwrap().level, level);
        kit.clock.forward(2 * GRACE_MS);
        let one = make(&kit, wants(2)).await;
        let looked = || row(&kit, one).decision.is_some() || !row(&kit, one).waiting_for.is_empty();
        kit.until("it is looked at", looked).await;
        assert_eq!(row(&kit, one).decision.is_some(), level.is_some());
        assert_eq!(cause(&kit, id), None, "what is not known empties no host");
        kit.stop().await;
    }
}

#[tokio::test]
async fn a_drain_of_its_operator_that_is_over_does_not_keep_a_host_from_being_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), strict()).await;
    kit.start();
    let id = register(&kit, offers(0, 1)).await;
    let mut played = Played::open(&kit, id, "first:1").await;
    played.proves(proven(Some(1))).await;
    known(&kit, id, false).await;
    kit.engine.drain_host(&kit.customer, id, MINUTE_MS, &kit.key()).await.unwrap();
    let asked = host(&kit, id).draining;
    played.proves(proven(None)).await;
    known(&kit, id, true).await;
    kit.clock.forward(GRACE_MS + MINUTE_MS);
    kit.until("it is emptied", || cause(&kit, id) == Some(DrainCause::Standard)).await;
    assert!(!kit.engine.drain(&kit.customer, id).unwrap().is_over);
    assert_eq!(logged(&kit, &VERBS).await, [2, 1, 0]);
    // Its operator has not let it work again.
    played.proves(proven(Some(1))).await;
    kit.until("it is as it was", || host(&kit, id).draining == asked).await;
    assert!(kit.engine.drain(&kit.customer, id).unwrap().is_over);
    kit.engine.cancel_drain(&kit.customer, id, &kit.key()).await.unwrap();
    kit.stop().await;
}
