//! libvirt's test driver keeps the contract of a hypervisor, and leaves what is not ours alone.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, also in its helpers")]

use std::sync::Arc;

use fairmazon_hypervisor::{
    Marks,
    contract::{CLASS, Subject, instance, spec, wish},
};
use fairmazon_hypervisor_libvirt::{TestHost, probe};
use fairmazon_model::{
    host::Capacity,
    units::{Gib, Mib, Vcpus},
};

fn capacity() -> Capacity {
    let storage = [(CLASS.to_owned(), Gib(100)), ("fast".to_owned(), Gib(50))].into();
    Capacity { vcpus: Vcpus(8), memory: Mib(8_192), storage }
}

async fn subject() -> Subject {
    Arc::new(TestHost::open(capacity()).unwrap())
}

fairmazon_hypervisor::contract_tests!(subject());

#[test]
fn it_works_here() {
    probe().unwrap();
}

#[tokio::test]
async fn hosts_have_worlds_of_their_own() {
    let (one, two) = (subject().await, subject().await);
    one.create_volume(&wish(1)).await.unwrap();
    one.define(&Arc::new(spec(1)), Marks::default()).await.unwrap();
    assert!(two.machine(instance(1)).await.unwrap().is_none());
    assert!(two.inventory().await.unwrap().volumes.is_empty());
}

#[tokio::test]
async fn machines_have_addresses_of_their_own() {
    let host = subject().await;
    let mut seen = std::collections::BTreeSet::new();
    for number in 1..=3 {
        host.create_volume(&wish(number)).await.unwrap();
        host.define(&Arc::new(spec(number)), Marks::default()).await.unwrap();
        host.start(instance(number)).await.unwrap();
        let machine = host.machine(instance(number)).await.unwrap().unwrap();
        seen.extend(machine.addresses);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
