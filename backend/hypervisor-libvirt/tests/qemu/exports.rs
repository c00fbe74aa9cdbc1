//! Exported volumes: what a host gives is encrypted, and its key alone opens it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, VolumeKey,
    contract::{instance, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::{Format, OpenError, QemuHost, open_exported};
use fairmazon_model::machine::{HostVolume, VolumeCopy};
use tokio::io::AsyncReadExt;

use crate::{
    guests::running,
    lab::{Lab, files_with, key_bytes, says},
};

/// What the guest has written to its data volume.
const TEXT: &[u8] = b"written by the guest in plain text";

async fn exported(host: &QemuHost, offset: u64) -> Vec<u8> {
    let mut file = host.read_volume(volume(3), offset).await.unwrap();
    let mut bytes = Vec::new();
    file.reader.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(file.bytes, offset + bytes.len() as u64);
    bytes
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_exported_snapshot_opens_with_its_key_alone() {
    let lab = Lab::start();
    let host = running(&lab).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    let snapshot = HostVolume { copy: Some(VolumeCopy::Of(volume(2))), ..wish(3) };
    host.create_volume(&snapshot).await.unwrap();
    let bytes = exported(&host, 0).await;
    assert!(exported(&host, 70_001).await == bytes[70_001..], "the same from the middle on");
    let missing = host.read_volume(volume(4), 0).await.err().unwrap();
    assert!(matches!(missing, HypervisorError::NotFound { .. }), "{missing}");

    let own = tempfile::tempdir().unwrap();
    let (file, opened) = (own.path().join("a, b=c.qcow2"), own.path().join("opened"));
    fs::write(&file, &bytes).unwrap();
    let key = VolumeKey::new(&key_bytes(3));
    open_exported(&file, (volume(3), &key), &opened, Format::Qcow2).await.unwrap();
    assert_eq!(files_with(own.path(), &[TEXT.to_vec()]), std::slice::from_ref(&opened));
    assert_eq!(files_with(&lab.folder, &[TEXT.to_vec()]), [] as [PathBuf; 0]);
    assert_eq!(fs::metadata(&opened).unwrap().permissions().mode() & 0o777, 0o600);
    let raw = own.path().join("raw");
    open_exported(&file, (volume(3), &key), &raw, Format::Raw).await.unwrap();
    assert_eq!(fs::metadata(&raw).unwrap().len(), 1 << 30);

    // What is there stays, and nothing is left of what did not open.
    let before = names(own.path());
    let there = open_exported(&file, (volume(3), &key), &opened, Format::Raw).await.unwrap_err();
    assert!(matches!(there, OpenError::File { verb: "make", .. }), "{there}");
    let other = VolumeKey::new(&key_bytes(2));
    let new = own.path().join("new");
    let wrong = open_exported(&file, (volume(3), &other), &new, Format::Raw).await.unwrap_err();
    assert!(matches!(wrong, OpenError::Tool(HypervisorError::KeyWrong { .. })), "{wrong}");
    assert_eq!(names(own.path()), before);
}

#[tokio::test]
async fn what_is_no_volume_is_not_opened() {
    let own = tempfile::tempdir().unwrap();
    let (file, to) = (own.path().join("file"), own.path().join("to"));
    let key = VolumeKey::new(&key_bytes(3));
    let image = |create: &str| {
        let mut command = std::process::Command::new("qemu-img");
        command.args(create.split(' ')).arg(&file).arg("1M");
        assert!(command.status().unwrap().success(), "{create}");
    };
    let encrypted = "--object secret,id=k,data=x \
                     -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10";
    let secret = own.path().join("secret");
    fs::write(&secret, "of this machine").unwrap();
    let refers = format!("-o backing_file={},backing_fmt=raw", secret.display());
    for (create, why) in [
        ("create -q -f raw".to_owned(), "format qcow2"),
        ("create -q -f qcow2".to_owned(), "not encrypted"),
        ("create -q -f qcow2 -o compat=0.10".to_owned(), "older version"),
        (format!("create -q -f qcow2 {encrypted} {refers}"), "other files"),
    ] {
        image(&create);
        let refused = open_exported(&file, (volume(3), &key), &to, Format::Raw).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, OpenError::NotAVolume { .. }) && said.contains(why), "{said}");
        assert!(!to.exists());
        fs::remove_file(&file).unwrap();
    }
}
