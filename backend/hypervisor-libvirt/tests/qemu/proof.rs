//! What a host proves before it joins holds on the machine that the tests run on.

use std::{fs, os::unix::fs::symlink};

use fairmazon_hypervisor_libvirt::qemu::{
    Accelerator,
    proof::{Versions, encryption},
};

#[tokio::test]
async fn this_machine_boots_guests_and_encrypts_volumes() {
    assert!(Accelerator::prove().is_some(), "neither KVM nor software boots a guest");
    let versions = Versions::read();
    assert!(versions.qemu >= Some((7, 2)) && versions.libvirt >= Some((9, 0)), "{versions:?}");
    let folder = tempfile::tempdir().unwrap();
    // QEMU's options have commas between them.
    let storage = folder.path().join("fast,volumes");
    fs::create_dir(&storage).unwrap();
    encryption(&storage, &[0x5e; 32]).await.unwrap();
    assert_eq!(fs::read_dir(&storage).unwrap().count(), 0, "nothing of the proof stays");
    symlink("/proc/self", folder.path().join("no-volumes")).unwrap();
    encryption(&folder.path().join("no-volumes"), &[0x5e; 32]).await.unwrap_err();
}
