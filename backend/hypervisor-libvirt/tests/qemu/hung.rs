//! A QEMU that hangs, and what goes on beside it: everything but what is asked of it.

use std::sync::Arc;

use fairmazon_hypervisor::{
    Halt, Hypervisor, HypervisorError, Marks, OffReason, Result, RunState,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};
use tokio::task::JoinHandle;

use crate::{
    guests::{data, is_off, running},
    lab::{Lab, says},
};

/// Machine 2 or 3, with nothing on its disk.
async fn define(host: &QemuHost, number: u128, disk: u128) {
    host.create_volume(&wish(disk)).await.unwrap();
    let boot = Disk { volume: volume(disk), ..spec(number).boot };
    let spec = Arc::new(MachineSpec { boot, ..spec(number) });
    host.define(&spec, Marks::default()).await.unwrap();
}

/// Asks much of machine 1.
fn ask(host: &QemuHost) -> Vec<JoinHandle<Result<()>>> {
    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(2))), ..wish(6) };
    let mut asked = Vec::new();
    for _ in 0..4 {
        let (attaches, grows) = (host.clone(), host.clone());
        asked.push(tokio::spawn(async move { attaches.attach(instance(1), &data(3)).await }));
        asked.push(tokio::spawn(async move { grows.grow_volume(volume(2), Gib(2)).await }));
    }
    let copies = host.clone();
    asked.push(tokio::spawn(async move { copies.create_volume(&copy).await }));
    asked
}

#[tokio::test]
async fn a_qemu_that_hangs_holds_up_nothing_of_others_and_can_be_ended() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    host.create_volume(&wish(3)).await.unwrap();
    define(&host, 2, 4).await;
    define(&host, 3, 5).await;
    host.start(instance(3)).await.unwrap();

    lab.stop_guest(instance(1));
    let before = lab.asked("object-add");
    let asked = ask(&host);
    lab.is_asked("object-add", before).await;
    // It hangs indeed.
    let measured = host.statistics(instance(1)).await;
    assert!(matches!(measured, Err(HypervisorError::Timeout { .. })), "{measured:?}");

    host.start(instance(2)).await.unwrap();
    host.force_stop(instance(3)).await.unwrap();
    let machine = host.machine(instance(3)).await.unwrap().unwrap();
    assert_eq!(machine.run, RunState::Off(OffReason::Host));
    host.create_volume(&wish(7)).await.unwrap();
    host.grow_volume(volume(7), Gib(2)).await.unwrap();
    host.attach(instance(2), &data(7)).await.unwrap();
    assert!(host.statistics(instance(2)).await.unwrap().is_some());
    assert_eq!(host.inventory().await.unwrap().machines.len(), 3);
    // What is to come to it is not given to another.
    let taken = host.attach(instance(2), &data(3)).await;
    assert!(matches!(taken, Err(HypervisorError::Busy { .. })), "{taken:?}");
    let kept = host.delete_volume(volume(3)).await;
    assert!(matches!(kept, Err(HypervisorError::Busy { .. })), "{kept:?}");
    // Nobody has waited for it to answer.
    let ended = asked.iter().filter(|call| call.is_finished()).count();
    assert_eq!(ended, 0, "of {}", asked.len());

    // It is stopped as any other, though it hears nothing.
    let stopping = Marks { halt: Halt::Stopping, ..Marks::default() };
    host.mark(instance(1), stopping).await.unwrap();
    assert_eq!(host.machine(instance(1)).await.unwrap().unwrap().marks, stopping);
    host.ask_to_stop(instance(1)).await.unwrap();
    host.force_stop(instance(1)).await.unwrap();
    is_off(&host).await;
    for call in asked {
        let _ = call.await.unwrap();
    }
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}
