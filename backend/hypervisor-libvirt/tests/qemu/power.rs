//! What is deleted stays so when the host loses power at once. The disk is a file, and what it has
//! after the loss is a copy of that at this moment: what was not written to it by then is not in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fairmazon_hypervisor::{
    Hypervisor,
    contract::{CLASS, volume, wish},
};
use fairmazon_model::{
    machine::{HostVolume, VolumeCopy},
    transfer::Sha256,
    volume::Import,
};

use crate::lab::{Lab, give_keys};

fn run(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let mut command = Command::new(program);
    command.args(arguments.iter().map(AsRef::as_ref));
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// A file with a file system in it, mounted somewhere until it is dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(file: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        // Nothing is written by itself for five minutes.
        run("mount", &[&"-o", &"loop,commit=300", &file, &at]);
        Self { at: at.to_owned() }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The laboratory takes its own along when it goes.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).stderr(Stdio::null()).status();
    }
}

#[tokio::test]
async fn what_is_deleted_is_not_back_after_a_loss_of_power() {
    let beside = tempfile::tempdir().unwrap();
    let file = beside.path().join("disk");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &[&"-q", &file]);
    let mut disk = None;
    let lab = Lab::start_on(|pool| disk = Some(Disk::mount(&file, pool)));
    let host = lab.host();
    give_keys(&host).await;
    let import = Import { bytes: 1 << 20, sha256: Sha256([0; 32]) };
    let coming = HostVolume { copy: Some(VolumeCopy::Import(import)), ..wish(2) };
    host.create_volume(&wish(1)).await.unwrap();
    drop(host.begin_import(&coming).await.unwrap());
    run("sync", &[&"--file-system", &lab.pool()]);

    let mut losses = 0;
    let mut after_a_loss = || {
        losses += 1;
        // Names of its own each time: an earlier mount may still be there, in the namespaces of another
        // test, and would be mounted again in place of the copy.
        let [copy, at] = ["copy", "at"].map(|name| beside.path().join(format!("{name}-{losses}")));
        fs::copy(&file, &copy).unwrap();
        let disk = Disk::mount(&copy, &at);
        let found = fs::read_dir(disk.at.join(CLASS)).unwrap();
        let names = found.map(|file| file.unwrap().file_name().into_string().unwrap());
        // But for the mark of the folder.
        names.filter(|name| !name.starts_with('.')).collect::<Vec<_>>()
    };
    assert_eq!(after_a_loss().len(), 2, "the copy has what was written");
    host.delete_volume(volume(1)).await.unwrap();
    let left = after_a_loss();
    assert!(matches!(&left[..], [only] if only.ends_with(".coming")), "{left:?}");
    host.drop_import(volume(2)).await.unwrap();
    assert_eq!(after_a_loss(), [] as [&str; 0]);
}
