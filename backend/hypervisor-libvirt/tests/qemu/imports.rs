//! Files that strangers have written: nothing in them reaches anything of the host, and none of
//! them becomes a volume.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks, VolumeKey,
    contract::{file_of, import, instance, nothing_is_left, send, spec, take, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::{QemuHost, inspect_exported};
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};

use crate::{
    guests::running,
    lab::{IMAGE, Lab, files_with, give_keys, key_bytes, says},
};

/// Where a file of this driver has its LUKS header.
const LUKS_AT: u64 = 0x40000;

async fn host(lab: &Lab) -> Arc<dyn Hypervisor> {
    let host = lab.host();
    give_keys(&host).await;
    Arc::new(host)
}

/// Makes a file as `qemu-img` makes it with these options, with the passphrase of volume 1.
fn made(folder: &Path, options: &str, size: &str) -> Vec<u8> {
    let (key, file) = (folder.join("key"), folder.join("made"));
    fs::write(&key, VolumeKey::new(&key_bytes(1)).passphrase().as_bytes()).unwrap();
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "--object"]);
    command.arg(format!("secret,id=key,file={}", key.display()));
    let ended = command.args(options.split_whitespace()).arg(&file).arg(size).status().unwrap();
    assert!(ended.success(), "{options}");
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    bytes
}

const ENCRYPTED: &str =
    "-f qcow2 -o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";

/// A file of a volume with data in its first cluster.
fn with_data(folder: &Path) -> Vec<u8> {
    let (key, file) = (folder.join("key"), folder.join("with-data"));
    fs::write(&file, made(folder, ENCRYPTED, "1G")).unwrap();
    let mut command = Command::new("qemu-io");
    command.arg("--object").arg(format!("secret,id=key,file={}", key.display()));
    let image = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename=";
    command.args(["--image-opts", "-c", "write 0 64k"]).arg(format!("{image}{}", file.display()));
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    fs::read(&file).unwrap()
}

/// What is said of a file that is not used.
async fn refused(host: &Arc<dyn Hypervisor>, file: &[u8]) -> String {
    let said = match take(host, &import(1, file), file).await {
        Err(HypervisorError::BadFile { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    nothing_is_left(host, 1).await;
    said
}

fn with(file: &[u8], at: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let at = usize::try_from(at).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[tokio::test]
async fn what_no_volume_is_like_is_not_used() {
    let lab = Lab::start();
    let host = host(&lab).await;
    let own = tempfile::tempdir().unwrap();
    let data = own.path().join("data");
    for (options, why) in [
        ("-f raw".to_owned(), "format qcow2"),
        ("-f qcow2".to_owned(), "not encrypted"),
        ("-f qcow2 -o compat=0.10".to_owned(), "older version"),
        ("-f luks -o key-secret=key,iter-time=10".to_owned(), "format qcow2"),
        (format!("{ENCRYPTED} -b /etc/passwd -F raw"), "other files"),
        (format!("{ENCRYPTED},data_file={}", data.display()), "other files"),
        (format!("{ENCRYPTED},cluster_size=4096"), "64 KiB"),
        (format!("{ENCRYPTED},extended_l2=on"), "features that no volume has"),
        (format!("{ENCRYPTED},refcount_bits=1"), "reference counts"),
        (format!("{ENCRYPTED},encrypt.cipher-alg=aes-128"), "cipher"),
    ] {
        let mut file = made(own.path(), &options, "1G");
        // None is refused for its length alone.
        file.resize(file.len().max(1 << 20), 0);
        let said = refused(&host, &file).await;
        assert!(said.contains(why), "{options}: {said}");
    }
    let said = refused(&host, &made(own.path(), ENCRYPTED, "1000M")).await;
    assert!(said.contains("whole number of GiB"), "{said}");
    let said = refused(&host, &made(own.path(), ENCRYPTED, "2G")).await;
    assert!(said.contains("it is of a volume of 2 GiB, and one of 1 GiB was promised"), "{said}");
}

#[tokio::test]
async fn headers_and_tables_that_were_tampered_with_are_not_used() {
    let lab = Lab::start();
    let host = host(&lab).await;
    let own = tempfile::tempdir().unwrap();
    let file = made(own.path(), ENCRYPTED, "1G");
    let at = usize::try_from(LUKS_AT).unwrap();
    let found = file.windows(6).position(|part| part == b"LUKS\xba\xbe").unwrap();
    assert_eq!(found, at, "where the tests tamper with it");
    let slot = LUKS_AT + 208;
    let most = u32::MAX.to_be_bytes();
    let cases: [(&str, u64, &[u8], &str); 16] = [
        ("a huge first table", 36, &most, "do not fit its size"),
        ("a small first table", 36, &[0; 4], "do not fit its size"),
        ("a huge table of counts", 56, &most, "do not fit its size"),
        ("snapshots", 60, &[0, 0, 0, 1], "snapshots within it"),
        ("not closed", 72, &[0, 0, 0, 0, 0, 0, 0, 1], "not closed"),
        ("an external file", 72, &[0, 0, 0, 0, 0, 0, 0, 4], "other files"),
        ("bitmaps", 88, &[0, 0, 0, 0, 0, 0, 0, 1], "bitmaps"),
        ("a header without an end", 100, &[0, 0, 1, 8], "damaged"),
        ("a header behind its cluster", 100, &most, "damaged"),
        ("no size", 24, &[0; 8], "whole number of GiB"),
        ("endless hashing of a passphrase", slot + 4, &most, "too long to be tried"),
        ("endless hashing of the key", LUKS_AT + 164, &most, "too long to be tried"),
        ("many stripes", slot + 44, &most, "LUKS header is damaged"),
        ("key material that is elsewhere", slot + 40, &most, "LUKS header is damaged"),
        ("a second passphrase", slot + 48, &[0, 0xac, 0x71, 0xf3], "several passphrases"),
        ("data that is elsewhere", LUKS_AT + 104, &most, "LUKS header is damaged"),
    ];
    for (what, at, bytes, why) in cases {
        let mut file = with(&file, at, bytes);
        if what.contains("second") {
            // As sound as the first one.
            let first = file[found + 208..found + 256].to_vec();
            file[found + 256..found + 304].copy_from_slice(&first);
        }
        let said = refused(&host, &file).await;
        assert!(said.contains(why), "{what}: {said}");
    }
    // What the headers do not show: `qemu-img` goes through all of the tables.
    let number =
        |at: usize| file[at..at + 8].iter().fold(0_u64, |sum, &byte| (sum << 8) | u64::from(byte));
    let (l1, counts) = (number(40), number(48));
    for (what, at, bytes) in [
        ("tables that are the header", l1, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("tables behind the end", l1, &[0x80, 0, 0xff, 0, 0, 0, 0, 0]),
        ("counts behind the end", counts, &[0, 0, 0xff, 0, 0, 0, 0, 0]),
        ("a first table behind the end", 40, &[0, 0, 0xff, 0, 0, 0, 0, 0]),
    ] {
        let said = refused(&host, &with(&file, at, bytes)).await;
        assert!(said.contains("tables are damaged"), "{what}: {said}");
    }
    // What QEMU would not decrypt, as it encrypts nothing that is compressed.
    let written = with_data(own.path());
    let number = |at: usize| {
        written[at..at + 8].iter().fold(0_u64, |sum, &byte| (sum << 8) | u64::from(byte))
    };
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let l2 = number(usize::try_from(number(40)).unwrap()) & OFFSET;
    let cluster = number(usize::try_from(l2).unwrap()) & OFFSET;
    let compressed = ((1 << 62) | cluster).to_be_bytes();
    let said = refused(&host, &with(&written, l2, &compressed)).await;
    assert!(said.contains("compressed"), "{said}");
    // Cut off in the middle, behind every header.
    let half = &file[..found + (1 << 20)];
    let said = refused(&host, half).await;
    assert!(said.contains("LUKS header is not in it"), "{said}");
    // The one that all of these come from is fine.
    take(&host, &import(1, &file), &file).await.unwrap();
}

#[tokio::test]
async fn any_changed_byte_of_the_headers_is_refused_or_harmless() {
    let own = tempfile::tempdir().unwrap();
    let file = made(own.path(), ENCRYPTED, "1G");
    let path = own.path().join("changed");
    fs::write(&path, &file).unwrap();
    let changed = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let sound = inspect_exported(&path).unwrap().unwrap();
    let luks = usize::try_from(LUKS_AT).unwrap();
    for at in (0..512).chain(luks..luks + 592) {
        for flip in [0x01, 0x80, 0xff] {
            changed.write_all_at(&[file[at] ^ flip], at as u64).unwrap();
            // Read without a panic, and never as another size in GiB that its tables fit.
            if let Ok(facts) = inspect_exported(&path).unwrap() {
                assert_eq!(facts.size, sound.size, "{at}");
            }
        }
        changed.write_all_at(&[file[at]], at as u64).unwrap();
    }
}

#[tokio::test]
async fn an_import_survives_the_agent_and_leaves_nothing_when_it_is_dropped() {
    let lab = Lab::start();
    let first = host(&lab).await;
    let own = tempfile::tempdir().unwrap();
    let file = made(own.path(), ENCRYPTED, "1G");
    let names = || lab.volume_files();
    send(&first, &import(1, &file), &file[..100_000]).await.unwrap();
    drop(first);
    let again = host(&lab).await;
    let incoming = again.inventory().await.unwrap().incoming;
    assert_eq!((incoming.len(), incoming[0].bytes), (1, 100_000));
    // The room that it was promised is known to the new process.
    let others = HostVolume { size: Gib(40), ..wish(2) };
    let full = again.create_volume(&others).await;
    assert!(matches!(full, Err(HypervisorError::Full { .. })), "{full:?}");
    again.drop_import(volume(1)).await.unwrap();
    assert_eq!(names(), [] as [String; 0]);
    take(&again, &import(1, &file), &file).await.unwrap();
    assert_eq!(names().len(), 1);
    again.delete_volume(volume(1)).await.unwrap();
    assert_eq!(names(), [] as [String; 0]);
}

#[tokio::test]
async fn what_a_guest_has_written_is_found_by_the_guest_of_another_host() {
    let lab = Lab::start();
    let source = running(&lab).await;
    says(&source, instance(1), "GUEST-COUNTER vdb 1").await;
    let snapshot = HostVolume { copy: Some(VolumeCopy::Of(volume(2))), ..wish(3) };
    source.create_volume(&snapshot).await.unwrap();
    let file = file_of(&(Arc::new(source.clone()) as Arc<dyn Hypervisor>), 3).await;

    let other = Lab::start();
    let host: QemuHost = other.host();
    give_keys(&host).await;
    let shared: Arc<dyn Hypervisor> = Arc::new(host.clone());
    take(&shared, &import(3, &file), &file).await.unwrap();
    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(3))), ..wish(4) };
    host.create_volume(&copy).await.unwrap();
    host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(9) }).await.unwrap();
    let boot = Disk { volume: volume(9), ..spec(2).boot };
    let disk = Disk { name: "data".into(), volume: volume(4), read_only: false };
    let machine = MachineSpec { boot, disks: vec![disk], ..spec(2) };
    host.define(&Arc::new(machine), Marks::default()).await.unwrap();
    host.start(instance(2)).await.unwrap();
    says(&host, instance(2), "GUEST-COUNTER vdb 2").await;
    host.force_stop(instance(2)).await.unwrap();
    let written = [b"written by the guest in plain text".to_vec()];
    assert_eq!(files_with(&other.folder, &written), [] as [PathBuf; 0]);
}
