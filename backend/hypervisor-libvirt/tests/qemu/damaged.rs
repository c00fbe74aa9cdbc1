//! Volumes of this host whose files are damaged behind what says what they are: told as what they are,
//! kept to the byte, in the way of nothing else, and whole again when their file is.

use std::{fs, path::Path, sync::Arc};

use fairmazon_hypervisor::{
    Damage, Hypervisor, HypervisorError, KeyChange, Marks, Result, VolumeKey,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::{
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    units::Gib,
};

use crate::{
    guests::{data, started},
    lab::{Lab, key_bytes, marked, says},
};

/// Where a file of this driver has its LUKS header, the keys in it, and what follows.
const LUKS: usize = 0x4_0000;
const KEYS: usize = LUKS + 4_096;
const KEY_BYTES: usize = 256_000;
const BEHIND: usize = LUKS + 0x20_0000;

/// A guest that goes on whatever becomes of disks that it does not have.
const COUNTS: &str =
    "#!/bin/sh\nn=0\nwhile :; do n=$((n+1)); echo \"GUEST-TICK $n\"; sleep 0.2; done\n";

/// What a file has become of, and what is told of it.
struct Case {
    what: &'static str,
    file: Vec<u8>,
    /// None where it can't be told from another key.
    damage: Option<Damage>,
    /// Whether a look shows it, without its key.
    seen: bool,
}

fn cases(whole: &[u8]) -> Vec<Case> {
    let cut = |what, at: usize| {
        let file = whole[..at].to_vec();
        Case { what, file, damage: Some(Damage::Cut), seen: true }
    };
    let over = |what, at: usize, with: &[u8], damage| {
        let mut file = whole.to_vec();
        file[at..at + with.len()].copy_from_slice(with);
        Case { what, file, damage, seen: false }
    };
    // What a disk returns for sectors of something else.
    let noise: Vec<u8> =
        (0..8_192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    vec![
        cut("cut in its header", 200),
        cut("cut in its key", KEYS + 10_000),
        cut("cut behind its key", KEYS + KEY_BYTES),
        cut("cut behind its LUKS header", BEHIND),
        over("a wiped key", KEYS, &[0; KEY_BYTES], Some(Damage::Keys)),
        over("a key that is not in use", LUKS + 208, &[0, 0, 0xde, 0xad], Some(Damage::Keys)),
        over("no LUKS header", LUKS, &[0xff; 4_096], Some(Damage::Keys)),
        over("a key that is overwritten", KEYS, &noise, None),
    ]
}

/// That this is what a case is told as, to its customer as well.
fn is_told(case: &Case, call: &str, outcome: Result<()>) {
    let error = outcome.expect_err(case.what);
    let told = error.for_customer();
    let id = volume(3).to_string();
    match (&error, case.damage) {
        (HypervisorError::Damaged { what, damage, .. }, Some(wanted)) => {
            assert_eq!((what, *damage), (&id, wanted), "{call}: {}", case.what);
            assert!(told.contains(wanted.for_customer()), "{told}");
        }
        (HypervisorError::KeyWrong { what }, None) => {
            assert_eq!(*what, id, "{call}: {}", case.what);
            assert!(told.contains("give the one it was made with"), "{told}");
            assert!(told.contains("are damaged"), "{told}");
        }
        _ => panic!("{call} of {}: {error:?}", case.what),
    }
}

async fn ticks(host: &QemuHost) -> u64 {
    let said = host.console(instance(1)).await.unwrap();
    let said = String::from_utf8_lossy(&said);
    marked(&said, "GUEST-TICK ").next_back().map_or(0, |tick| tick.parse().unwrap())
}

/// Does to a damaged volume whatever uses it.
async fn use_it(host: &QemuHost, case: &Case) {
    let copy = HostVolume { copy: Some(VolumeCopy::Of(volume(3))), ..wish(4) };
    is_told(case, "attach", host.attach(instance(1), &data(3)).await);
    is_told(case, "grow", host.grow_volume(volume(3), Gib(2)).await);
    is_told(case, "copy", host.create_volume(&copy).await);
    is_told(case, "start", host.start(instance(2)).await);
    let keys = KeyChange { old: VolumeKey::new(&key_bytes(3)), new: VolumeKey::new(&[9; 32]) };
    is_told(case, "change of the key", host.change_key(volume(3), keys).await);
    // It is there, so nothing is made.
    assert_eq!(host.create_volume(&wish(3)).await.is_err(), case.seen, "{}", case.what);
}

async fn is_kept(lab: &Lab, host: &QemuHost, path: &Path, case: &Case) {
    let seen = host.volume(volume(3)).await.unwrap().unwrap();
    assert_eq!(seen.damage, case.damage.filter(|_| case.seen), "{}", case.what);
    assert_eq!(seen.size, Gib(1), "{}", case.what);
    assert!(host.inventory().await.unwrap().volumes.contains(&seen), "{}", case.what);
    assert!(fs::read(path).unwrap() == case.file, "{} and changed", case.what);
    assert_eq!(lab.volume_files(), [1, 2, 3].map(|number| format!("{}.qcow2", volume(number))));
    assert!(!host.machine(instance(2)).await.unwrap().unwrap().runs(), "{}", case.what);
}

#[tokio::test]
async fn a_volume_whose_file_is_damaged_is_told_so_and_kept_and_harms_nobody() {
    let mut lab = Lab::start();
    let counts = MachineSpec { disks: vec![data(2)], user_data: COUNTS.into(), ..spec(1) };
    let host = started(&lab, counts).await;
    host.create_volume(&wish(3)).await.unwrap();
    let boot = Disk { volume: volume(3), ..spec(2).boot };
    host.define(&Arc::new(MachineSpec { boot, ..spec(2) }), Marks::default()).await.unwrap();
    host.attach(instance(1), &data(3)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdc 1").await;
    host.detach(instance(1), "data-3").await.unwrap();
    says(&host, instance(1), "GUEST-GONE vdc").await;
    let [path, _] = lab.files_of(3);
    let whole = fs::read(&path).unwrap();
    for case in cases(&whole) {
        fs::write(&path, &case.file).unwrap();
        let before = ticks(&host).await;
        use_it(&host, &case).await;
        is_kept(&lab, &host, &path, &case).await;
        assert_eq!(lab.run("virsh -q secret-list").trim(), "", "{}", case.what);
        says(&host, instance(1), &format!("GUEST-TICK {}", before + 2)).await;
    }
    // What an operator has brought back is used as before, and what nobody can is deleted.
    fs::write(&path, &whole).unwrap();
    host.attach(instance(1), &data(3)).await.unwrap();
    let said = says(&host, instance(1), "GUEST-COUNTER vdc 2").await;
    assert!(!said.contains("GUEST-FAILED"), "{said}");
    host.detach(instance(1), "data-3").await.unwrap();
    says(&host, instance(1), "GUEST-GONE vdc").await;
    host.undefine(instance(2)).await.unwrap();
    fs::write(&path, &whole[..BEHIND]).unwrap();
    host.delete_volume(volume(3)).await.unwrap();
    assert!(!path.exists());
    assert_eq!(host.volume(volume(3)).await.unwrap(), None);
}
