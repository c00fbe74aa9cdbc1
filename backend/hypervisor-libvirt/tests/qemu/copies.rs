//! Copies of volumes: of one moment, encrypted with a key of their own, and whole or not there.

use std::{
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks,
    contract::{CLASS, instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};

use rustix::process::{Signal, kill_process};

use crate::{
    guests::{data, is_off, running, started},
    lab::{IMAGE, Lab, PATIENCE, files_with, says},
};

fn copy(number: u128, source: u128) -> HostVolume {
    HostVolume { copy: Some(VolumeCopy::Of(volume(source))), ..wish(number) }
}

/// What the guest of another machine finds on a volume: it counts on from there.
async fn counter(host: &QemuHost, number: u128, read_only: bool) -> String {
    let boot = Disk { volume: volume(9), ..spec(2).boot };
    let disk = Disk { name: "data".into(), volume: volume(number), read_only };
    let reader = MachineSpec { boot, disks: vec![disk], ..spec(2) };
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(9) }).await.unwrap();
    host.define(&Arc::new(reader), Marks::default()).await.unwrap();
    host.start(instance(2)).await.unwrap();
    let said = says(host, instance(2), "GUEST-READY").await;
    host.force_stop(instance(2)).await.unwrap();
    host.undefine(instance(2)).await.unwrap();
    host.delete_volume(volume(9)).await.unwrap();
    said
}

#[tokio::test]
async fn a_copy_of_a_running_machines_volume_is_what_it_was_then() {
    let lab = Lab::start();
    let host = running(&lab).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    host.create_volume(&HostVolume { size: Gib(2), ..copy(3, 2) }).await.unwrap();
    host.create_volume(&copy(3, 2)).await.unwrap();
    assert_eq!(host.volume(volume(3)).await.unwrap().unwrap().size, Gib(2));
    // The machine goes on, and what it writes is not in the copy.
    host.ask_to_stop(instance(1)).await.unwrap();
    is_off(&host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
    let said = counter(&host, 3, false).await;
    assert!(said.contains("GUEST-COUNTER vdb 2"), "one more than in the copy: {said}");

    // Its data is in no file in plain text, and in no other file than the volumes'.
    let written = [b"written by the guest in plain text".to_vec()];
    assert_eq!(files_with(&lab.folder, &written), [] as [std::path::PathBuf; 0]);
    assert_eq!(lab.volume_files().len(), 3);
}

#[tokio::test]
async fn a_copy_of_a_volume_at_rest_needs_both_keys_and_opens_with_its_own() {
    let lab = Lab::start();
    let host = running(&lab).await;
    host.force_stop(instance(1)).await.unwrap();
    host.forget_key(volume(2)).await.unwrap();
    let refused = host.create_volume(&copy(3, 2)).await;
    assert!(matches!(refused, Err(HypervisorError::KeyMissing { .. })), "{refused:?}");
    let wrong = fairmazon_hypervisor::VolumeKey::new(&crate::lab::key_bytes(7));
    host.give_key(volume(2), wrong).await.unwrap();
    let refused = host.create_volume(&copy(3, 2)).await;
    let source = volume(2).to_string();
    assert!(
        matches!(&refused, Err(HypervisorError::KeyWrong { what }) if *what == source),
        "{refused:?}"
    );
    crate::lab::give_keys(&host).await;
    let missing = host.create_volume(&copy(3, 5)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    assert_eq!(host.volume(volume(3)).await.unwrap(), None);

    host.create_volume(&copy(3, 2)).await.unwrap();
    // The source is not needed any more.
    host.undefine(instance(1)).await.unwrap();
    host.delete_volume(volume(2)).await.unwrap();
    host.forget_key(volume(2)).await.unwrap();
    let said = counter(&host, 3, true).await;
    assert!(said.contains("GUEST-COUNTER vdb"), "{said}");
}

#[tokio::test]
async fn a_copy_that_nobody_waits_for_is_not_half_made() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let files = || lab.volume_files().len();
    for ms in [5, 50, 200, 400] {
        let copy = copy(3, 2);
        let make = host.create_volume(&copy);
        if tokio::time::timeout(Duration::from_millis(ms), make).await.is_err() {
            assert_eq!((host.volume(volume(3)).await.unwrap(), files()), (None, 2), "{ms}");
        }
        host.delete_volume(volume(3)).await.unwrap();
    }
    // What was begun is ended, and stands in the way of nothing.
    let begin = std::time::Instant::now();
    while let Err(error) = host.create_volume(&copy(3, 2)).await {
        assert!(begin.elapsed() < crate::lab::PATIENCE, "{error}");
    }
}

/// A guest that fills 48 MiB of its data disk.
pub(crate) const FILLS: &str = r#"#!/bin/sh
dd if=/dev/urandom of=/data/vdb/fill bs=64k count=768 conv=fsync 2>/dev/null && echo "GUEST-FILLED IT"
"#;

/// Waits until so much of a volume that is being made is on the disk, in bytes.
pub(crate) async fn grows(lab: &Lab, number: u128, bytes: u64) {
    let new = lab.pool().join(CLASS).join(format!("{}.new", volume(number)));
    let begin = Instant::now();
    // Once it is whole it has another name.
    let whole = new.with_extension("qcow2");
    while std::fs::metadata(&new).map_or(0, |file| file.blocks() * 512) < bytes && !whole.exists() {
        assert!(begin.elapsed() < PATIENCE, "{} does not grow", new.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_copy_whose_qemu_is_killed_is_not_there() {
    let mut lab = Lab::start();
    let filler = MachineSpec { disks: vec![data(2)], user_data: FILLS.into(), ..spec(1) };
    let host = started(&lab, filler).await;
    says(&host, instance(1), "GUEST-FILLED IT").await;
    let qemu = lab.guest_process(instance(1));
    let copy = copy(3, 2);
    let killed = async {
        grows(&lab, 3, 8 << 20).await;
        kill_process(qemu, Signal::KILL).unwrap();
    };
    let (made, ()) = tokio::join!(host.create_volume(&copy), killed);
    assert!(matches!(made, Err(HypervisorError::Driver { .. })), "{made:?}");
    assert_eq!(host.volume(volume(3)).await.unwrap(), None);
    assert_eq!(lab.volume_files().len(), 2);
    is_off(&host).await;
    host.create_volume(&copy).await.unwrap();
}
