//! What happens when something that a machine stands on is killed.

use fairmazon_hypervisor::{
    Halt, Hypervisor, Marks, OffReason,
    contract::{instance, volume},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::units::Gib;

use crate::{
    guests::{is_off, running, seen},
    lab::{Lab, PATIENCE, give_keys, says},
};

#[tokio::test]
async fn a_killed_guest_is_seen_as_ended_from_outside() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    let mut hints = host.hints();
    lab.kill_guest(instance(1));
    tokio::time::timeout(PATIENCE, hints.recv()).await.unwrap().unwrap();
    assert_eq!(is_off(&host).await, OffReason::Host);
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn machines_go_on_without_libvirt_and_are_adopted_after() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    let before = seen(&host).await;
    lab.kill_libvirt();
    let begin = std::time::Instant::now();
    while host.machine(instance(1)).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it is not noticed that libvirt is gone");
        tokio::task::yield_now().await;
    }
    lab.start_libvirt();
    assert_eq!(seen(&host).await, before);
    host.grow_volume(volume(2), Gib(2)).await.unwrap();
    says(&host, instance(1), "GUEST-SIZE vdb 4194304").await;
    host.ask_to_stop(instance(1)).await.unwrap();
    assert_eq!(is_off(&host).await, OffReason::Guest);
}

#[tokio::test]
async fn a_guest_that_ends_while_libvirt_is_away_is_off_after() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    lab.kill_libvirt();
    lab.kill_guest(instance(1));
    lab.start_libvirt();
    is_off(&host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn a_new_agent_finds_the_machine_and_its_console() {
    let lab = Lab::start();
    let before = running(&lab).await;
    let machine = seen(&before).await;
    drop(before);
    let host = lab.host();
    assert_eq!(seen(&host).await, machine);
    says(&host, instance(1), "GUEST-READY").await;
    host.force_stop(instance(1)).await.unwrap();
    host.start(instance(1)).await.unwrap_err();
    give_keys(&host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

/// Somebody has libvirt save the memory of machine 1, which ends with that.
async fn save(lab: &mut Lab, host: &QemuHost) {
    let id = instance(1);
    lab.run(&format!("virsh managedsave {id}"));
    assert_eq!(is_off(host).await, OffReason::Host);
    let saved = lab.run(&format!("virsh dominfo {id} | grep 'Managed save'"));
    assert!(saved.trim().ends_with("yes"), "{saved}");
}

#[tokio::test]
async fn memory_that_somebody_has_saved_is_never_brought_back() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    save(&mut lab, &host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;

    save(&mut lab, &host).await;
    let held = Marks { halt: Halt::Held, ..Marks::default() };
    host.mark(instance(1), held).await.unwrap();
    host.hold(instance(1)).await.unwrap();
    let pid = format!("$(cat /run/libvirt/qemu/{}.pid)", instance(1));
    let command = lab.run(&format!("tr '\\0' ' ' </proc/{pid}/cmdline"));
    assert!(command.contains(" -S ") && !command.contains("-incoming"), "{command}");
    host.force_stop(instance(1)).await.unwrap();
    host.mark(instance(1), Marks::default()).await.unwrap();

    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 3").await;
    save(&mut lab, &host).await;
    host.undefine(instance(1)).await.unwrap();
    assert_eq!(host.machine(instance(1)).await.unwrap(), None);
    assert_eq!(lab.run("ls /var/lib/libvirt/qemu/save").trim(), "");
}
