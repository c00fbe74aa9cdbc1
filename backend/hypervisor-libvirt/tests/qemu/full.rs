//! A pool whose disk has less room than was promised of it: volumes are made only as they are
//! written to, so it can get full. It is told as what it is, and nothing half made stays.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    contract::{CLASS, volume, wish},
};
use fairmazon_model::machine::{HostVolume, VolumeCopy};

use crate::lab::{IMAGE, Lab, give_keys};

/// A small disk at a folder, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(folder);
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
    let found = fs::read_dir(lab.pool().join(CLASS)).unwrap();
    let mut names: Vec<_> =
        found.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_half_made_stays() {
    let lab = Lab::start();
    let disk = Disk::at(&lab.pool());
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
