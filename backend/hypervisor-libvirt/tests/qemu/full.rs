//! A pool whose disk has less room than was promised of it: volumes are made only as they are
//! written to, so it can get full. It is told as what it is, nothing half made stays, and a guest
//! that writes stands still until there is room.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use fairmazon_hypervisor::{
    Halt, Hint, Hypervisor, HypervisorError, Marks, RunState,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::machine::{HostVolume, MachineSpec, VolumeCopy};
use tokio::sync::broadcast::Receiver;

use crate::{
    guests::{data, started},
    lab::{IMAGE, Lab, PATIENCE, give_keys, says},
};

/// A small disk at a folder, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(folder: &Path, mib: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        let size = format!("size={mib}m");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder);
        assert!(mount.status().unwrap().success(), "mounting needs root");
        Self(folder.to_owned())
    }

    /// Leaves so much room on it, in bytes.
    fn leave(&self, bytes: u64) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0xa5; 4_096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        let full = filler.metadata().unwrap().len();
        filler.set_len(full.saturating_sub(bytes)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What is in the pool beside what fills it.
fn files(lab: &Lab) -> Vec<String> {
    lab.volume_files()
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_half_made_stays() {
    let lab = Lab::start();
    let disk = Disk::at(&lab.pool(), 12);
    let host = lab.host();
    give_keys(&host).await;
    let empty = wish(1);
    let boot = HostVolume { image: Some(IMAGE.into()), ..wish(2) };
    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(1))), ..wish(3) };
    host.create_volume(&empty).await.unwrap();
    let before = files(&lab);
    assert_eq!(before.len(), 1, "{before:?}");

    // With no room at all, and with some for the beginning.
    for left in [0, 64 << 10, 512 << 10] {
        disk.leave(left);
        for wanted in [&boot, &copy, &wish(4)] {
            let error = host.create_volume(wanted).await.unwrap_err();
            assert!(matches!(error, HypervisorError::Full { .. }), "{left}: {error:?}");
            let told = error.for_customer();
            assert_eq!(told, "the host has no room on its disk left for this");
            assert_eq!(files(&lab), before, "with {left} bytes");
            assert_eq!(host.volume(wanted.volume).await.unwrap(), None);
        }
        // What is there is not touched.
        assert!(host.volume(volume(1)).await.unwrap().is_some());
        disk.free();
    }
    host.create_volume(&boot).await.unwrap();
    host.create_volume(&copy).await.unwrap();
    assert_eq!(files(&lab).len(), 3);
}

/// A guest that writes 24 MiB once the host has another address, and reads them again.
const WRITER: &str = r#"#!/bin/sh
dd if=/dev/urandom of=/sample bs=64k count=384 2>/dev/null
echo "GUEST-WAITS"
until ping -c 1 -W 1 10.77.0.9 >/dev/null 2>&1; do :; done
cp /sample /data/vdb/copy; sync; echo 3 >/proc/sys/vm/drop_caches
cmp /sample /data/vdb/copy && echo "GUEST-WROTE ALL"
"#;

#[tokio::test]
async fn a_guest_that_finds_no_room_stands_still_and_goes_on_without_a_loss() {
    let mut disk = None;
    let mut lab = Lab::start_on(|pool| disk = Some(Disk::at(pool, 160)));
    let disk = disk.unwrap();
    let writer = MachineSpec { disks: vec![data(2)], user_data: WRITER.into(), ..spec(1) };
    let host = started(&lab, writer).await;
    host.mark(instance(1), Marks { halt: Halt::Started, ..Marks::default() }).await.unwrap();
    says(&host, instance(1), "GUEST-WAITS").await;
    host.resume(instance(1)).await.unwrap();

    disk.leave(2 << 20);
    let mut hints = host.hints();
    lab.run("ip addr add 10.77.0.9/24 dev guests");
    stalls(&host, &mut hints).await;
    let still = || async {
        let error = host.resume(instance(1)).await.unwrap_err();
        assert!(matches!(error, HypervisorError::Full { .. }), "{error:?}");
        let machine = host.machine(instance(1)).await.unwrap().unwrap();
        assert_eq!((machine.run, machine.stalled), (RunState::Running, true));
    };
    still().await;
    // So it is to a libvirt that was not there when it happened.
    lab.kill_libvirt();
    lab.start_libvirt();
    stalls(&host, &mut hints).await;
    still().await;
    let said = says(&host, instance(1), "GUEST-WAITS").await;
    assert!(!said.contains("GUEST-WROTE") && !said.contains("I/O error"), "{said}");

    disk.free();
    host.resume(instance(1)).await.unwrap();
    let said = says(&host, instance(1), "GUEST-WROTE ALL").await;
    assert!(!said.contains("I/O error"), "{said}");
    assert!(!host.machine(instance(1)).await.unwrap().unwrap().stalled);
}

/// Waits until machine 1 is seen to stand still; each look is for a hint, or for a connection that
/// has ended.
async fn stalls(host: &QemuHost, hints: &mut Receiver<Hint>) {
    let begin = Instant::now();
    loop {
        let looked = host.machine(instance(1)).await;
        if looked.as_ref().is_ok_and(|seen| seen.as_ref().is_some_and(|seen| seen.stalled)) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "it goes on: {looked:?}");
        if looked.is_ok() {
            tokio::time::timeout(PATIENCE, hints.recv()).await.unwrap().unwrap();
        }
    }
}
