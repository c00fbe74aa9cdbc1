//! The state folder: what was saved comes back, or is put aside; nothing in between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use fairmazon_host::{
    lease::LeaseRecord,
    state::{FileState, Loaded, SavedState, StateError, StateStore},
};
use fairmazon_hypervisor::{
    Counters,
    contract::{instance, spec, wish},
};
use fairmazon_model::units::Generation;

fn sample() -> SavedState {
    let mut machine = spec(1);
    machine.user_data = "#cloud-config\nhostname: ümlaut\n".into();
    SavedState {
        generation: Generation(7),
        machines: vec![Arc::new(machine), Arc::new(spec(2))],
        volumes: vec![Arc::new(wish(1)), Arc::new(wish(2))],
        unnamed: vec![Arc::new(wish(3))],
        done: BTreeMap::from([(instance(1), Counters { reboots: 3, rebuilds: 1, first_boots: 2 })]),
    }
}

async fn load(folder: &Path) -> Result<Loaded, StateError> {
    FileState::open(folder)?.load().await
}

#[tokio::test]
async fn what_was_saved_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("made");
    assert_eq!(load(&inner).await.unwrap(), Loaded::default());
    let lease = LeaseRecord { boot_id: "boot".into(), until_ms: 42 };
    let store = FileState::open(&inner).unwrap();
    store.save(SavedState::default()).await.unwrap();
    store.save(sample()).await.unwrap();
    store.save_lease(lease.clone()).await.unwrap();
    drop(store);
    let loaded = load(&inner).await.unwrap();
    let expected = Loaded { state: Some(sample()), lease: Some(lease), put_aside: None };
    assert_eq!(loaded, expected);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("state")), 0o600);
}

#[test]
fn a_host_keeps_its_driver() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FileState::open(folder.path()).unwrap();
    // What is only expected is not noted.
    open().expect_driver("simulated").unwrap();
    open().note_driver("qemu").unwrap();
    open().note_driver("qemu").unwrap();
    open().expect_driver("qemu").unwrap();
    let store = open();
    for refused in [store.expect_driver("simulated"), store.note_driver("simulated")] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StateError::OtherDriver { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("--hypervisor qemu`") && said.contains("register it anew"), "{said}");
    }
    let note = folder.path().join("driver");
    assert_eq!(fs::read_to_string(&note).unwrap(), "qemu\n");
    assert_eq!(fs::metadata(&note).unwrap().permissions().mode() & 0o777, 0o600);
    // A note that says nothing allows no driver.
    drop(store);
    fs::write(&note, "").unwrap();
    assert!(open().expect_driver("qemu").is_err());
}

#[tokio::test]
async fn a_second_agent_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let first = FileState::open(folder.path()).unwrap();
    let second = FileState::open(folder.path());
    assert!(matches!(second, Err(StateError::InUse { .. })), "{second:?}");
    drop(first);
    FileState::open(folder.path()).unwrap();
}

#[tokio::test]
async fn every_damage_is_put_aside_with_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    FileState::open(folder.path()).unwrap().save(sample()).await.unwrap();
    let path = folder.path().join("state");
    let whole = fs::read(&path).unwrap();
    let flips = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
    let mut tried = 0;
    for damaged in flips.chain(cuts) {
        fs::write(&path, &damaged).unwrap();
        let loaded = load(folder.path()).await.unwrap();
        assert_eq!(loaded.state, None);
        let message = loaded.put_aside.unwrap();
        let aside = folder.path().join("state.damaged-1");
        assert!(message.contains(aside.to_str().unwrap()), "{message}");
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        assert!(!path.exists());
        fs::remove_file(&aside).unwrap();
        tried += 1;
    }
    assert_eq!(tried, 2 * whole.len());
    fs::write(&path, &whole).unwrap();
    assert_eq!(load(folder.path()).await.unwrap().state, Some(sample()));
}

#[tokio::test]
async fn a_damaged_lease_is_no_lease() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lease"), b"{\"boot_id\":\"x\",\"until").unwrap();
    assert_eq!(load(folder.path()).await.unwrap(), Loaded::default());
}

#[tokio::test]
async fn a_newer_form_is_named_and_left_where_it_is() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let body = b"{}";
    let digest = Sha256::new().chain_update(9_u32.to_be_bytes()).chain_update(body).finalize();
    let sum = hex::encode(digest);
    let path = folder.path().join("state");
    fs::write(&path, format!("fairmazon-host-state 9 {sum} 2\n{{}}")).unwrap();
    let refused = load(folder.path()).await;
    assert!(matches!(refused, Err(StateError::Newer { found: 9, .. })), "{refused:?}");
    assert!(path.exists());
}

#[tokio::test]
async fn a_place_that_can_not_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let refused = FileState::open(file.join("below"));
    assert!(matches!(refused, Err(StateError::Io { .. })), "{refused:?}");
    let store = FileState::open(folder.path()).unwrap();
    fs::create_dir(folder.path().join("state.new")).unwrap();
    let error = store.save(sample()).await.unwrap_err();
    assert!(error.to_string().contains("check the disk's room"), "{error}");
}
