//! Copies of volumes: of one moment, encrypted with a key of their own, and whole or not there.

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};

use crate::{
    guests::{is_off, running},
    lab::{IMAGE, Lab, files_with, says},
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
    let pool = std::fs::read_dir(lab.pool().join("standard")).unwrap().count();
    assert_eq!(pool, 3);
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
    assert!(matches!(refused, Err(HypervisorError::KeyWrong { .. })), "{refused:?}");
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
    let mut lab = Lab::start();
    let host = running(&lab).await;
    let pool = lab.pool().join("standard");
    let files = || std::fs::read_dir(&pool).unwrap().count();
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
    // QEMU is killed in the middle of one.
    host.delete_volume(volume(3)).await.unwrap();
    let making = tokio::spawn({
        let host = host.clone();
        async move { host.create_volume(&copy(3, 2)).await }
    });
    lab.kill_guest(instance(1));
    // Done before, or failed: whole or not there.
    let made = making.await.unwrap().is_ok();
    assert_eq!(host.volume(volume(3)).await.unwrap().is_some(), made);
    assert_eq!(files(), if made { 3 } else { 2 });
}
