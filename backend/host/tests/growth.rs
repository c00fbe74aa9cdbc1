//! Machines that grow while they run, and what becomes of those that can't.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, machine, of, runs, set};
use fairmazon_host::clock::Clock;
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    contract::instance,
    sim::{Call, Fault, Verb},
};
use fairmazon_model::{
    machine::MachineSpec,
    units::{Mib, Vcpus},
};

fn larger() -> MachineSpec {
    MachineSpec { vcpus: Vcpus(2), memory: Mib(512), spec_version: 2, ..machine(1) }
}

/// A host whose machine 1 runs.
async fn running() -> Subject {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject
}

/// That machine 1 has the larger size in the end; how often it was started by then.
async fn grows(subject: &Subject) -> usize {
    subject.broker.desire(set(2, vec![larger()]));
    let seen = subject.broker.sees(|seen| runs(seen, &larger())).await;
    assert_eq!(of(&seen, instance(1)).unwrap().failure, None);
    subject.host.clear_faults();
    let has = subject.host.machine(instance(1)).await.unwrap().unwrap().definition;
    assert_eq!((has.vcpus, has.memory), (Vcpus(2), Mib(512)));
    assert_eq!(subject.world.ledger().violations(), []);
    subject.world.ledger().starts(instance(1))
}

/// Calls to resize fail so often with what is made here.
fn fail(subject: &Subject, times: u64, error: fn() -> HypervisorError) {
    let failed = std::sync::atomic::AtomicU64::new(0);
    subject.host.set_faults(move |call: &Call| {
        let fails = call.verb == Verb::Resize
            && failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < times;
        if fails { Fault::Fail(error()) } else { Fault::None }
    });
}

fn broken() -> HypervisorError {
    HypervisorError::Driver { attempted: "resize".into(), source: "a fault was asked for".into() }
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_room_to_grow_restarts_and_has_failed_at_nothing() {
    let subject = running().await;
    subject.host.set_growth(false);
    assert_eq!(grows(&subject).await, 2);
    // What was found in one run does not hold for the next.
    subject.host.set_growth(true);
    let more = MachineSpec { memory: Mib(1_024), spec_version: 3, ..larger() };
    subject.broker.desire(set(3, vec![more.clone()]));
    subject.broker.sees(|seen| runs(seen, &more)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn what_fails_once_is_tried_again_and_what_always_fails_ends_in_a_restart() {
    let subject = running().await;
    fail(&subject, 2, broken);
    assert_eq!(grows(&subject).await, 1);
    let subject = running().await;
    fail(&subject, u64::MAX, broken);
    assert_eq!(grows(&subject).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_machine_goes_on_while_its_host_has_no_room_and_its_customer_is_told() {
    let subject = running().await;
    fail(&subject, u64::MAX, || HypervisorError::Full { what: "memory".into() });
    subject.broker.desire(set(2, vec![larger()]));
    let told = |seen: &fairmazon_model::machine::ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| seen.failure.is_some())
    };
    subject.broker.sees(told).await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);
    assert!(subject.host.machine(instance(1)).await.unwrap().unwrap().runs());
    // There is room at last.
    subject.host.clear_faults();
    assert_eq!(grows(&subject).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_gives_back_what_it_got_has_it_again_ever_less_often() {
    let subject = running().await;
    assert_eq!(grows(&subject).await, 1);
    let begin = subject.clock.now_ms();
    let mut times = 0;
    while subject.clock.now_ms() - begin < 3_600_000 {
        subject.host.give_back(instance(1), Vcpus(1), Mib(256));
        while subject.host.machine(instance(1)).await.unwrap().unwrap().definition.vcpus < Vcpus(2)
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        times += 1;
    }
    assert!((5..500).contains(&times), "{times}");
    // What it is asked to be next is not kept waiting for long, and it never restarted.
    let more = MachineSpec { memory: Mib(1_024), spec_version: 3, ..larger() };
    subject.broker.desire(set(3, vec![more.clone()]));
    subject.broker.sees(|seen| runs(seen, &more)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);
}
