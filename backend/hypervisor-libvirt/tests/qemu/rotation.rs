//! The exchange of a volume's key: the old one opens the file no more, the data stays, and neither
//! key is anywhere else.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, KeyChange, VolumeKey,
    contract::{instance, volume, wish},
};

use crate::{
    guests::{is_off, running},
    lab::{Lab, PATIENCE, files_with, key_bytes, says},
    leaks::forms,
};

fn key(number: u128) -> VolumeKey {
    VolumeKey::new(&key_bytes(number))
}

/// From the key of one number to that of another.
fn exchange(old: u128, new: u128) -> KeyChange {
    KeyChange { old: key(old), new: key(new) }
}

fn file(lab: &Lab, number: u128) -> PathBuf {
    lab.pool().join("standard").join(format!("{}.qcow2", volume(number)))
}

/// Whether QEMU's own tool opens the file of volume 2 with the key of this number.
fn opens(lab: &Lab, with: u128) -> bool {
    let options = format!(
        "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename={}",
        file(lab, 2).display()
    );
    let mut child = Command::new("qemu-io")
        .args(["--object", "secret,id=key,file=/dev/stdin", "-U", "-r", "-c", "read 0 512"])
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key(with).passphrase().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("cannot unlock any keyslot"), "{said}");
    output.status.success()
}

#[tokio::test]
async fn a_key_is_exchanged_under_a_running_guest_and_nobody_else_learns_of_it() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    host.change_key(volume(2), exchange(2, 20)).await.unwrap();
    assert!(!opens(&lab, 2) && opens(&lab, 20));
    // Once more, with what QEMU was started with long gone.
    host.change_key(volume(2), exchange(20, 21)).await.unwrap();
    assert!(!opens(&lab, 20) && opens(&lab, 21));
    let secrets = [forms(&key_bytes(2)), forms(&key_bytes(20)), forms(&key_bytes(21))].concat();
    // libvirt logs all that it sends to QEMU here.
    let logged = files_with(&lab.folder.join("log"), &[b"x-blockdev-amend".to_vec()]);
    assert!(!logged.is_empty());
    assert_eq!(files_with(&lab.folder, &secrets), [] as [PathBuf; 0]);
    assert_eq!(files_with(&lab.consoles, &secrets), [] as [PathBuf; 0]);
    assert!(!lab.run("ps -eo args").contains("-key.new"));

    // It grows and is copied as before, and starts with the new key, with all that was written.
    host.grow_volume(volume(2), fairmazon_model::units::Gib(2)).await.unwrap();
    host.ask_to_stop(instance(1)).await.unwrap();
    is_off(&host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn an_exchange_that_is_ended_anywhere_is_finished_and_one_key_opens_all_along() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let (mut had, mut new) = (2, 20);
    for runs in [true, false] {
        if !runs {
            host.force_stop(instance(1)).await.unwrap();
        }
        for ms in [20, 60, 120, 200, 300, 450, 700, 1_000] {
            let change = host.change_key(volume(2), exchange(had, new));
            let ended = tokio::time::timeout(Duration::from_millis(ms), change).await;
            assert!(opens(&lab, had) || opens(&lab, new), "{runs} {ms}");
            // Another process, which knows nothing of the first.
            let again = lab.host();
            let begin = std::time::Instant::now();
            while let Err(error) = again.change_key(volume(2), exchange(had, new)).await {
                assert!(begin.elapsed() < PATIENCE, "{error:?} {ended:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(!opens(&lab, had) && opens(&lab, new), "{runs} {ms}");
            (had, new) = (new, new + 1);
        }
    }
}

#[tokio::test]
async fn what_can_t_be_exchanged_stays_as_it_is() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let wrong = host.change_key(volume(2), exchange(3, 20)).await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    let missing = host.change_key(volume(5), exchange(5, 20)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    assert!(opens(&lab, 2) && !opens(&lab, 20));
    host.create_volume(&wish(3)).await.unwrap();
    let disk =
        fairmazon_model::machine::Disk { name: "read".into(), volume: volume(3), read_only: true };
    host.attach(instance(1), &disk).await.unwrap();
    let read = host.change_key(volume(3), exchange(3, 20)).await;
    assert!(matches!(read, Err(HypervisorError::Busy { .. })), "{read:?}");
    host.detach(instance(1), "read").await.unwrap();
    host.change_key(volume(3), exchange(3, 20)).await.unwrap();
}
