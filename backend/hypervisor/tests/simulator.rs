//! The simulator keeps the contract, its faults do what they say, its ledger sees what is wrong.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, also in its helpers")]

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, OffReason, RunState, VolumeKey,
    contract::{CLASS, Subject, instance, spec, volume, wish},
    sim::{Call, Fault, SeededFaults, SimHost, Verb, Violation, World},
};
use fairmazon_model::{
    host::Capacity,
    id::HostId,
    units::{Epoch, Gib, Mib, Vcpus},
};

fn capacity() -> Capacity {
    Capacity { vcpus: Vcpus(8), memory: Mib(8_192), storage: [(CLASS.to_owned(), Gib(100))].into() }
}

fn host_id(number: u128) -> HostId {
    HostId::from_parts(1, number)
}

fn world() -> Arc<World> {
    World::new(Arc::new(|| 0))
}

async fn subject() -> Subject {
    Arc::new(world().add_host(host_id(1), capacity()))
}

fairmazon_hypervisor::contract_tests!(subject());

/// The same with volumes that are opened with their keys alone.
mod encrypting {
    use super::*;

    async fn subject() -> Subject {
        let host = world().add_host(host_id(1), capacity());
        host.set_encrypts();
        for number in 0..10 {
            let key = VolumeKey::new(&[u8::try_from(number).unwrap(); 32]);
            host.give_key(volume(number), key).await.unwrap();
        }
        Arc::new(host)
    }

    fairmazon_hypervisor::contract_tests!(subject());
}

async fn run(host: &SimHost, number: u128, epoch: u64) {
    host.create_volume(&wish(number)).await.unwrap();
    let marks = Marks { epoch: Epoch(epoch), ..Marks::default() };
    host.define(&Arc::new(spec(number)), marks).await.unwrap();
    host.start(instance(number)).await.unwrap();
}

#[tokio::test]
async fn the_ledger_sees_a_machine_that_runs_twice() {
    let world = world();
    let one = world.add_host(host_id(1), capacity());
    let two = world.add_host(host_id(2), capacity());
    run(&one, 1, 1).await;
    one.force_stop(instance(1)).await.unwrap();
    run(&two, 1, 2).await;
    assert_eq!(world.ledger().violations(), []);
    run(&one, 1, 1).await;
    let violations = world.ledger().violations();
    assert!(
        matches!(
            violations[..],
            [
                Violation::RunsTwice { .. },
                Violation::EpochWentBack { had: Epoch(2), got: Epoch(1), .. }
            ]
        ),
        "{violations:?}"
    );
    assert_eq!(world.ledger().running(), 2);
    assert_eq!(world.ledger().starts(instance(1)), 3);
}

#[tokio::test]
async fn the_ledger_sees_two_writers_of_one_volume() {
    let world = world();
    let one = world.add_host(host_id(1), capacity());
    let two = world.add_host(host_id(2), capacity());
    run(&one, 1, 1).await;
    let mut other = spec(2);
    other.boot.volume = volume(1);
    two.create_volume(&wish(1)).await.unwrap();
    two.define(&Arc::new(other), Marks::default()).await.unwrap();
    two.start(instance(2)).await.unwrap();
    let violations = world.ledger().violations();
    assert!(matches!(violations[..], [Violation::TwoWriters { .. }]), "{violations:?}");
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let host = world().add_host(host_id(1), capacity());
    host.set_faults(|call: &Call| match call.verb {
        Verb::CreateVolume => Fault::Fail(HypervisorError::Full { what: "x".into() }),
        Verb::Define => Fault::FailAfter(HypervisorError::busy("x", "y")),
        Verb::Start => Fault::HangAfter,
        _ => Fault::None,
    });
    assert!(host.create_volume(&wish(1)).await.is_err());
    assert_eq!(host.volume(volume(1)).await.unwrap(), None);
    assert!(host.define(&Arc::new(spec(1)), Marks::default()).await.is_err());
    assert!(host.machine(instance(1)).await.unwrap().is_some(), "done, and yet failed");
    host.clear_faults();
    host.create_volume(&wish(1)).await.unwrap();
    host.set_faults(|_: &Call| Fault::HangAfter);
    let hung = tokio::time::timeout(Duration::from_millis(1), host.start(instance(1))).await;
    assert!(hung.is_err());
    host.clear_faults();
    assert!(host.machine(instance(1)).await.unwrap().unwrap().runs());
}

#[tokio::test]
async fn seeded_faults_end() {
    let host = world().add_host(host_id(1), capacity());
    host.set_faults(SeededFaults::new(7, 50, 20, Duration::from_micros(1)));
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += usize::from(host.inventory().await.is_err());
    }
    assert!((1..=20).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_host_that_loses_power_keeps_what_it_had() {
    let world = world();
    let host = world.add_host(host_id(1), capacity());
    run(&host, 1, 1).await;
    world.host_loses_power(host_id(1));
    let machine = host.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!(machine.run, RunState::Off(OffReason::Host));
    assert!(host.volume(volume(1)).await.unwrap().is_some());
    assert_eq!(world.ledger().running(), 0);
}

#[tokio::test]
async fn foreign_machines_are_counted_and_never_touched() {
    let world = world();
    let host = world.add_host(host_id(1), capacity());
    world.add_foreign(host_id(1), instance(1));
    let refused = host.define(&Arc::new(spec(1)), Marks::default()).await;
    assert!(matches!(refused, Err(HypervisorError::Foreign { .. })), "{refused:?}");
    let inventory = host.inventory().await.unwrap();
    assert_eq!((inventory.machines.len(), inventory.foreign), (0, 1));
    assert!(world.foreign_is_untouched(host_id(1), instance(1)));
}
