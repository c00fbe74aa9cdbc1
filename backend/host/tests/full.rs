//! What an agent does for a machine whose guest stands still, since its disk is full.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, machine, of, runs, set};
use fairmazon_hypervisor::{Hypervisor, contract::instance};
use fairmazon_model::{
    instance::{ObservedState, Power},
    machine::{MachineSpec, ObservedSet},
};

/// A host whose machine 1 stands still, and whose broker was told why.
async fn stalled() -> Subject {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.set_disk_full(true);
    let told = |seen: &ObservedSet| {
        let failure = of(seen, instance(1)).and_then(|seen| seen.failure.clone());
        failure.is_some_and(|why| why.contains("stands still") && why.contains("no room"))
    };
    let seen = subject.broker.sees(told).await;
    assert_eq!(of(&seen, instance(1)).unwrap().state, ObservedState::Running);
    subject
}

#[tokio::test(start_paused = true)]
async fn a_guest_goes_on_by_itself_when_there_is_room_and_its_customer_is_told_meanwhile() {
    let subject = stalled().await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    let calls = subject.host.calls();
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    // Twenty pauses of 30 s at most, each with a try and looks, among the looks at everything.
    assert!(subject.host.calls() - calls < 1_000, "{}", subject.host.calls() - calls);
    assert!(subject.host.machine(instance(1)).await.unwrap().unwrap().stalled);

    subject.host.set_disk_full(false);
    let fine = |seen: &ObservedSet| {
        runs(seen, &machine(1)) && of(seen, instance(1)).unwrap().failure.is_none()
    };
    subject.broker.sees(fine).await;
    assert!(!subject.host.machine(instance(1)).await.unwrap().unwrap().stalled);
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn one_that_stands_still_is_put_off_as_any_other() {
    let subject = stalled().await;
    let off = MachineSpec { power: Power::Stopped, spec_version: 2, ..machine(1) };
    subject.broker.desire(set(2, vec![off]));
    let is_off = |seen: &ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Stopped)
    };
    subject.broker.sees(is_off).await;
}
