//! What a host proves before it joins holds on the machine that the tests run on.

use std::{fs, os::unix::fs::symlink};

use fairmazon_hypervisor_libvirt::qemu::{
    Accelerator, Daemon,
    proof::{Versions, encryption},
};

use crate::lab::{Lab, PATIENCE, uri};

#[test]
fn a_daemon_says_what_it_runs_guests_with_and_as_whom() {
    let lab = Lab::start();
    let daemon = Daemon::ask(&uri(&lab.folder), PATIENCE).unwrap();
    assert_eq!(Some(daemon.version), Versions::read().libvirt, "the program's");
    let boots = Accelerator::prove().unwrap();
    assert!(daemon.runs.contains(&boots), "{boots}: {daemon:?}");
    assert_eq!(daemon.qemu_user, Some(0), "as it is set");
}

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
