//! What guests see of their machine.

use std::sync::Arc;

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Machine, Marks, OffReason, RunState, VolumeKey,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec},
    units::Gib,
};

use crate::lab::{IMAGE, IMAGE_TEXT, Lab, PATIENCE, give_keys, key_bytes, marked, says};

/// What the user data of a running machine begins with.
pub(crate) const USER_DATA: &str = "user-data-of-a-customer";

pub(crate) fn data(number: u128) -> Disk {
    Disk { name: format!("data-{number}"), volume: volume(number), read_only: false }
}

/// A running machine 1 with the data volume 2, whose guest has written to it.
pub(crate) async fn running(lab: &Lab) -> QemuHost {
    let spec = MachineSpec { disks: vec![data(2)], user_data: USER_DATA.into(), ..spec(1) };
    let host = started(lab, spec).await;
    says(&host, instance(1), "GUEST-READY").await;
    host
}

/// A machine 1 that was just started, with the volumes 1 and 2.
pub(crate) async fn started(lab: &Lab, spec: MachineSpec) -> QemuHost {
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    host.create_volume(&wish(2)).await.unwrap();
    host.define(&Arc::new(spec), Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    host
}

/// The machine without its addresses, which are known while its neighbours have heard of it lately.
pub(crate) async fn seen(host: &QemuHost) -> Machine {
    let machine = host.machine(instance(1)).await.unwrap().unwrap();
    Machine { addresses: Vec::new(), ..machine }
}

pub(crate) async fn is_off(host: &QemuHost) -> OffReason {
    let begin = std::time::Instant::now();
    loop {
        if let Ok(Some(machine)) = host.machine(instance(1)).await
            && let RunState::Off(reason) = machine.run
        {
            return reason;
        }
        assert!(begin.elapsed() < PATIENCE, "the machine never ended");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_guest_boots_from_its_image_and_its_data_survives_a_stop() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    let machine = lab.run(&format!("virsh dumpxml {} --xpath '//os/type/@machine'", instance(1)));
    assert_eq!(machine.trim(), "machine=\"pc-i440fx-7.2\"", "any host's QEMU has it");
    let said = says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    assert!(said.contains(&format!("GUEST-BOOT-DISK {IMAGE_TEXT}")), "{said}");
    assert!(!said.contains("GUEST-FAILED"), "{said}");
    host.ask_to_stop(instance(1)).await.unwrap();
    assert_eq!(is_off(&host).await, OffReason::Guest);
    says(&host, instance(1), "GUEST-POWER-BUTTON").await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn a_guest_that_speaks_on_the_bridge_has_an_address() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let said = says(&host, instance(1), "GUEST-ADDRESS ").await;
    let begin = std::time::Instant::now();
    loop {
        // The host is sure of its neighbour some time after it has heard from it.
        let machine = host.machine(instance(1)).await.unwrap().unwrap();
        if let [address] = machine.addresses.as_slice() {
            assert!(said.contains(&format!("GUEST-ADDRESS {address}")), "{address} {said}");
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{:?} {said}", machine.addresses);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Sends a MiB, which nobody answers with more than that it has come.
const SENDS: &str = r#"#!/bin/sh
until dd if=/dev/zero bs=64k count=16 2>/dev/null | nc 10.77.0.1 7000; do sleep 0.2; done
echo "GUEST-SENT IT"
"#;

#[tokio::test]
async fn what_a_guest_does_is_measured() {
    let mut lab = Lab::start();
    // With an input that does not end before the guest has sent all of it.
    lab.run("tail -f /dev/null | busybox nc -l -p 7000 >/dev/null &");
    let sender = MachineSpec { disks: vec![data(2)], user_data: SENDS.into(), ..spec(1) };
    let host = started(&lab, sender).await;
    says(&host, instance(1), "GUEST-SENT IT").await;
    let measured = host.statistics(instance(1)).await.unwrap().unwrap();
    assert!(measured.cpu_ns > 100_000_000, "it has booted: {measured:?}");
    assert_eq!(measured.memory_bytes, 256 << 20);
    let (boot, data) = (measured.volumes[&volume(1)], measured.volumes[&volume(2)]);
    assert!(boot.read_bytes > 0 && data.written_bytes > 4_096, "{measured:?}");
    assert_eq!(boot.written_bytes, 0, "nobody writes to the boot disk: {measured:?}");
    let network = measured.network;
    assert!(network.read_bytes > 0, "it has heard that all of it has come: {measured:?}");
    assert!((1 << 20..2 << 20).contains(&network.written_bytes), "what it sends: {measured:?}");
    assert!(network.written_bytes > 8 * network.read_bytes, "it hears less: {measured:?}");
    // The counters of another agent are the same run's.
    drop(host);
    let again = lab.host().statistics(instance(1)).await.unwrap().unwrap();
    assert_eq!(again.incarnation, measured.incarnation);
    assert!(again.cpu_ns >= measured.cpu_ns);
}

#[tokio::test]
async fn a_volume_that_nobody_waits_for_is_not_half_made() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    let boot = HostVolume { image: Some(IMAGE.into()), ..wish(1) };
    let files = || lab.volume_files().len();
    for ms in [1, 5, 10, 20, 40] {
        let wait = std::time::Duration::from_millis(ms);
        if tokio::time::timeout(wait, host.create_volume(&boot)).await.is_err() {
            assert_eq!((host.volume(volume(1)).await.unwrap(), files()), (None, 0));
        }
        host.delete_volume(volume(1)).await.unwrap();
    }
    // What a process that was killed had begun.
    let begun = lab.pool().join("standard").join(format!("{}.new", volume(2)));
    std::fs::write(&begun, "x").unwrap();
    let host = lab.host();
    assert!(!begun.exists());
    give_keys(&host).await;
    host.create_volume(&boot).await.unwrap();
    assert_eq!(files(), 1);
}

#[tokio::test]
async fn disks_come_grow_and_go_under_a_running_guest() {
    let lab = Lab::start();
    let host = running(&lab).await;
    host.create_volume(&wish(3)).await.unwrap();
    host.attach(instance(1), &data(3)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdc 1").await;
    host.grow_volume(volume(3), Gib(2)).await.unwrap();
    says(&host, instance(1), "GUEST-SIZE vdc 4194304").await;
    assert_eq!(host.volume(volume(3)).await.unwrap().unwrap().size, Gib(2));
    host.detach(instance(1), "data-3").await.unwrap();
    says(&host, instance(1), "GUEST-GONE vdc").await;
    host.grow_volume(volume(3), Gib(3)).await.unwrap();
    assert_eq!(host.volume(volume(3)).await.unwrap().unwrap().size, Gib(3), "and while unused");
    host.attach(instance(1), &data(3)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdc 2").await;
    host.force_stop(instance(1)).await.unwrap();
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdc 3").await;
}

#[tokio::test]
async fn a_disk_that_was_on_its_way_when_libvirt_ended_is_where_it_is() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    host.create_volume(&wish(3)).await.unwrap();
    let id = instance(1);
    // It gets no further than to be written down.
    lab.stop_guest(id);
    let before = lab.asked("object-add");
    let attaches = host.clone();
    let attach = tokio::spawn(async move { attaches.attach(id, &data(3)).await });
    lab.is_asked("object-add", before).await;
    lab.kill_libvirt();
    attach.await.unwrap().unwrap_err();
    lab.run(&format!("kill -CONT $(cat /run/libvirt/qemu/{id}.pid)"));
    lab.start_libvirt();
    let disks = async || {
        let machine = host.machine(id).await.ok()??;
        machine.runs().then(|| machine.definition.disks.len())
    };
    let begin = std::time::Instant::now();
    while disks().await != Some(1) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", disks().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Nor is it after another has come and gone.
    says(&host, id, "GUEST-COUNTER vdb 1").await;
    host.detach(id, "data-2").await.unwrap();
    assert_eq!(disks().await, Some(0));
    // It is nobody's, and the same call gets it.
    host.delete_volume(volume(3)).await.unwrap();
    host.create_volume(&wish(3)).await.unwrap();
    // libvirt does not know how far QEMU got, and takes a name that is taken at the first try.
    while let Err(error) = host.attach(id, &data(3)).await {
        assert!(begin.elapsed() < PATIENCE, "{error}");
    }
    assert_eq!(disks().await, Some(1));
    // By whichever name its guest has it.
    let begun = |said: &str| marked(said, "GUEST-COUNTER ").filter(|it| it.ends_with(" 1")).count();
    loop {
        let said = host.console(id).await.unwrap();
        let said = String::from_utf8_lossy(&said);
        if begun(&said) == 2 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    host.detach(id, "data-3").await.unwrap();
    assert_eq!(disks().await, Some(0));
}

#[tokio::test]
async fn a_disk_that_its_guest_has_given_back_is_not_there() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    host.create_volume(&wish(3)).await.unwrap();
    host.attach(instance(1), &data(3)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdc 1").await;
    let id = instance(1);
    // Nobody of the platform had asked for that.
    lab.run(&format!("virsh detach-disk {id} vdc --live"));
    says(&host, id, "GUEST-GONE vdc").await;
    // The guest lets go of it before libvirt has heard that it did.
    lab.run(&format!(
        "until said=$(virsh domblklist {id}) && ! echo $said | grep -q vdc; do sleep 0.05; done"
    ));
    // The same call gets it again.
    host.attach(id, &data(3)).await.unwrap();
    says(&host, id, "GUEST-COUNTER vdc 2").await;
    lab.run(&format!("virsh detach-disk {id} vdc --live"));
    let measured = async || host.statistics(id).await.unwrap().unwrap().volumes;
    let begin = std::time::Instant::now();
    while measured().await.contains_key(&volume(3)) {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let volumes = async || {
        let machine = host.machine(id).await.unwrap().unwrap();
        machine.definition.all_disks().map(|disk| disk.volume).collect::<Vec<_>>()
    };
    assert_eq!(volumes().await, [volume(1), volume(2)]);
    // It is free for another machine.
    let boot = HostVolume { image: Some(IMAGE.into()), ..wish(4) };
    host.create_volume(&boot).await.unwrap();
    let other = Disk { volume: volume(4), ..spec(2).boot };
    let other = MachineSpec { boot: other, disks: vec![data(3)], ..spec(2) };
    host.define(&Arc::new(other), Marks::default()).await.unwrap();
    host.start(instance(2)).await.unwrap();
    let taken = host.attach(id, &data(3)).await;
    assert!(matches!(taken, Err(HypervisorError::Busy { .. })), "{taken:?}");
    host.force_stop(instance(2)).await.unwrap();
    host.attach(id, &data(3)).await.unwrap();
    host.attach(id, &data(3)).await.unwrap();
    assert_eq!(volumes().await, [volume(1), volume(2), volume(3)]);
    host.detach(id, "data-3").await.unwrap();
    host.delete_volume(volume(3)).await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_named_and_nothing_is_half_made() {
    let lab = Lab::start();
    let host = running(&lab).await;
    host.create_volume(&wish(3)).await.unwrap();
    let wrong = |number: u128, refused: fairmazon_hypervisor::Result<()>| {
        let id = volume(number).to_string();
        assert!(
            matches!(&refused, Err(HypervisorError::KeyWrong { what }) if *what == id),
            "{refused:?}"
        );
    };
    for number in [2, 3] {
        host.give_key(volume(number), VolumeKey::new(&[1; 32])).await.unwrap();
    }
    let before = seen(&host).await;
    wrong(3, host.attach(instance(1), &data(3)).await);
    wrong(3, host.grow_volume(volume(3), Gib(2)).await);
    assert_eq!(seen(&host).await, before);
    assert_eq!(host.volume(volume(3)).await.unwrap().unwrap().size, Gib(1));
    host.force_stop(instance(1)).await.unwrap();
    wrong(2, host.start(instance(1)).await);
    assert!(!host.machine(instance(1)).await.unwrap().unwrap().runs());
    host.give_key(volume(2), VolumeKey::new(&key_bytes(2))).await.unwrap();
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn a_volume_that_is_not_encrypted_is_never_used() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    host.create_volume(&wish(1)).await.unwrap();
    let path = lab.pool().join("standard").join(format!("{}.qcow2", volume(1)));
    let plain = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1G"])
        .status();
    assert!(plain.unwrap().success());
    host.define(&Arc::new(spec(1)), Marks::default()).await.unwrap_err();
    for refused in [host.create_volume(&wish(1)).await, host.delete_volume(volume(1)).await] {
        assert!(matches!(refused, Err(HypervisorError::Foreign { .. })), "{refused:?}");
    }
    assert!(host.inventory().await.unwrap().volumes.is_empty());
    assert!(path.exists(), "it is somebody's");
}

#[tokio::test]
async fn an_image_that_is_not_here_or_too_large_makes_no_volume() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    let none = HostVolume { image: Some("img-none".into()), ..wish(1) };
    let missing = host.create_volume(&none).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    let disk = lab.folder.join("made").join("disk.raw");
    std::fs::File::options().write(true).open(disk).unwrap().set_len((1 << 30) + 1).unwrap();
    lab.publish();
    let large = HostVolume { image: Some(IMAGE.into()), ..wish(1) };
    let refused = host.create_volume(&large).await;
    assert!(matches!(refused, Err(HypervisorError::Driver { .. })), "{refused:?}");
    assert_eq!(host.volume(volume(1)).await.unwrap(), None);
    assert_eq!(lab.volume_files().len(), 0);
}
