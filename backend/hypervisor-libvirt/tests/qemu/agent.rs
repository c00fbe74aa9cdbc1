//! A host agent over QEMU: what its broker learns of a guest.

use fairmazon_hypervisor::contract::{instance, spec};
use fairmazon_model::{
    instance::ObservedState,
    machine::{MachineSpec, ObservedSet},
};

use crate::{lab::Lab, platform::Platform};

fn failure(set: &ObservedSet) -> Option<&str> {
    match &set.machines.first()?.state {
        ObservedState::Failed { reason } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_guest_that_ends_at_once_is_told_with_its_last_lines() {
    let lab = Lab::start();
    let mut platform = Platform::start(lab.host(), |_| {});
    let script = "#!/bin/sh\necho 'no licence found'\nsync\npoweroff -f\n";
    let machine = MachineSpec { user_data: script.into(), ..spec(1) };
    platform.desire(vec![machine]);
    let told = platform.sees(|set| failure(set).is_some()).await;
    let reason = failure(&told).unwrap();
    assert_eq!(told.machines[0].instance, instance(1));
    assert!(reason.starts_with("its guest ended "), "{reason}");
    assert!(reason.contains(" | no licence found"), "{reason}");
    assert!(reason.len() <= 1_024 && !reason.contains(char::is_control), "{reason}");
    platform.end().await;
}
