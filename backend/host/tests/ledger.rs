//! The ledger of windows on a disk: nothing that was written is lost, whatever ends in between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{fs, path::Path, sync::Arc};

use fairmazon_host::{
    identity::{HostIdentity, IdentityError},
    metering::{BYTES_MAX, FileLedger, Ledger, Limits, Look, Memory, Meter, Room, Signer, Use},
};
use fairmazon_keys::HostSigner;
use fairmazon_model::{
    id::{HostId, InstanceId},
    units::{Epoch, UnixMs},
    usage::{Amounts, SignedWindow, Subject, UsageWindow, WindowKind},
};

fn host() -> HostId {
    HostId::from_parts(1, 1)
}

fn window(sequence: u64) -> UsageWindow {
    let at = |number: u64| UnixMs(1_000 * i64::try_from(number).unwrap());
    UsageWindow {
        subject: Subject::Instance(InstanceId::from_parts(1, 1)),
        epoch: Epoch(1),
        begun: at(1),
        sequence,
        from: at(sequence),
        until: at(sequence + 1),
        kind: WindowKind::Used,
        class: String::new(),
        amounts: Amounts { vcpu_ms: 2_000, mib_ms: 512_000, gib_ms: 0, egress_bytes: 9 },
    }
}

struct TestSigner(HostIdentity);

impl Signer for TestSigner {
    fn key(&self) -> String {
        self.0.tls_key_sha256()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.0.sign(bytes)
    }

    fn certificate(&self) -> Result<Option<String>, IdentityError> {
        Ok(Some("a certificate".into()))
    }
}

fn ledger(folder: &Path) -> FileLedger {
    let identity = HostIdentity::open(folder.join("identity")).unwrap();
    FileLedger::new(folder.join("metering"), host(), Arc::new(TestSigner(identity)), BYTES_MAX)
}

async fn opened(folder: &Path) -> FileLedger {
    let ledger = ledger(folder);
    assert_eq!(ledger.load().await.unwrap().put_aside, None);
    ledger
}

async fn sequences(ledger: &FileLedger, most: usize) -> Vec<u64> {
    let batch = ledger.next(most).await.unwrap();
    let windows = batch.map(|batch| batch.windows).unwrap_or_default();
    windows.iter().map(|signed| signed.window.sequence).collect()
}

#[tokio::test]
async fn windows_are_kept_in_their_order_until_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    assert_eq!(ledger.next(10).await.unwrap(), None);
    ledger.append((1..=3).map(window).collect()).await.unwrap();
    ledger.append((4..=5).map(window).collect()).await.unwrap();
    assert_eq!(sequences(&ledger, 2).await, [1, 2]);
    assert_eq!(sequences(&ledger, 2).await, [1, 2], "they were not acknowledged");
    ledger.acknowledged(2).await.unwrap();
    assert_eq!(sequences(&ledger, 2).await, [3, 4]);

    // Another agent in the same folder is told again what was not removed yet, and the rest.
    let again = opened(folder.path()).await;
    assert_eq!(sequences(&again, 10).await, [1, 2, 3, 4, 5]);
    again.acknowledged(5).await.unwrap();
    assert_eq!(fs::metadata(folder.path().join("metering/windows")).unwrap().len(), 0);
    again.append(vec![window(6)]).await.unwrap();
    assert_eq!(sequences(&opened(folder.path()).await, 10).await, [6]);
}

#[tokio::test]
async fn what_is_acknowledged_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let identity = HostIdentity::open(folder.path().join("identity")).unwrap();
    let path = folder.path().join("metering");
    let ledger = FileLedger::new(&path, host(), Arc::new(TestSigner(identity)), 200_000);
    ledger.load().await.unwrap();
    let mut sequence = 0;
    while ledger.has_room() {
        ledger.append(vec![window(sequence + 1), window(sequence + 2)]).await.unwrap();
        sequence += 2;
    }
    let all = usize::try_from(sequence).unwrap();
    assert_eq!(sequences(&ledger, all).await.len(), all);
    ledger.acknowledged(all * 3 / 4).await.unwrap();
    assert!(ledger.has_room(), "three quarters of it are gone");
    ledger.append(vec![window(sequence + 1)]).await.unwrap();
    let left: Vec<_> = (sequence * 3 / 4 + 1..=sequence + 1).collect();
    assert_eq!(sequences(&ledger, all).await, left);
    assert_eq!(sequences(&opened(folder.path()).await, all).await, left);
}

/// Who believes what the key of the host in this folder has signed.
fn believer(folder: &Path) -> HostSigner {
    let identity = HostIdentity::open(folder.join("identity")).unwrap();
    let key = rcgen::KeyPair::from_pem(&identity.tls_key_pem()).unwrap();
    let own = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    HostSigner::read(&own.pem()).unwrap()
}

/// Whether all the windows are signed with that key.
async fn are_signed(folder: &Path, ledger: &FileLedger) -> bool {
    let (believer, batch) = (believer(folder), ledger.next(100).await.unwrap().unwrap());
    let verify = |signed: &SignedWindow| {
        believer.verify(&signed.window.signed_bytes(host()), &signed.signature.0)
    };
    batch.windows.iter().all(|signed| verify(signed).is_ok())
}

#[tokio::test]
async fn what_is_kept_is_signed_with_the_key_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    ledger.append(vec![window(1)]).await.unwrap();
    assert!(are_signed(folder.path(), &ledger).await);
    let signed = ledger.next(1).await.unwrap().unwrap().windows.remove(0);
    let believer = believer(folder.path());
    believer.verify(&window(2).signed_bytes(host()), &signed.signature.0).unwrap_err();
}

#[tokio::test]
async fn a_write_that_was_cut_off_anywhere_loses_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metering/windows");
    let ledger = opened(folder.path()).await;
    ledger.append(vec![window(1), window(2)]).await.unwrap();
    let whole = fs::read(&path).unwrap();
    let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    for length in (0..whole.len()).step_by(7) {
        fs::write(&path, &whole[..length]).unwrap();
        let ledger = opened(folder.path()).await;
        let left = if length < first { &[][..] } else { &[1][..] };
        assert_eq!(sequences(&ledger, 10).await, left, "{length} bytes");
        // What is appended then is not glued to what is left of the line.
        ledger.append(vec![window(3)]).await.unwrap();
        let all: Vec<u64> = left.iter().copied().chain([3]).collect();
        assert_eq!(sequences(&opened(folder.path()).await, 10).await, all, "{length} bytes");
    }
}

#[tokio::test]
async fn damage_in_the_middle_costs_what_is_damaged_and_the_file_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metering/windows");
    let ledger = opened(folder.path()).await;
    ledger.append((1..=3).map(window).collect()).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.len() / 2;
    bytes[second] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let again = self::ledger(folder.path());
    let said = again.load().await.unwrap().put_aside.unwrap();
    assert!(said.contains("1 of the windows") && said.contains("damaged-1"), "{said}");
    assert_eq!(fs::read(path.with_extension("damaged-1")).unwrap(), bytes);
    assert_eq!(sequences(&again, 10).await, [1, 3]);
    assert_eq!(sequences(&opened(folder.path()).await, 10).await, [1, 3]);
}

#[tokio::test]
async fn the_meter_finds_again_what_it_has_to_know() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = opened(folder.path()).await;
    let limits = Limits { window_ms: 60_000, longest_look_ms: 60_000 };
    let mut meter = Meter::new(limits, Memory::default());
    let key = (window(1).subject, Epoch(1));
    let look = |ms: u64| Look {
        monotonic_ms: ms,
        wall: UnixMs(i64::try_from(ms).unwrap()),
        took_ms: 0,
        here: [(key, Some(Use::default()))].into(),
    };
    let free = Room::Free;
    meter.look(look(1_000), free);
    ledger.remember(meter.memory()).await.unwrap();
    let closed = meter.look(look(61_000), free);
    assert_eq!(closed.len(), 1);
    ledger.append(closed.clone()).await.unwrap();

    let found = self::ledger(folder.path()).load().await.unwrap();
    assert_eq!(found.last, closed);
    let mut again = Meter::new(limits, found.memory);
    found.last.iter().for_each(|window| again.wrote(window));
    let unseen = again.look(look(99_000), free);
    assert_eq!((unseen[0].sequence, unseen[0].from), (2, UnixMs(61_000)));
    assert_eq!(unseen[0].kind, WindowKind::Unseen);

    fs::write(folder.path().join("metering/open"), "damaged").unwrap();
    assert!(self::ledger(folder.path()).load().await.unwrap().memory == Memory::default());
}

/// In a process of its own that can write no file larger than 2 KiB, in the place of a full disk:
/// a write ends in the middle of a line.
#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_written() {
    const FOLDER: &str = "FAIRMAZON_TEST_FULL_DISK";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let ledger = opened(Path::new(&folder)).await;
        let mut written = 0;
        let error = loop {
            match ledger.append(vec![window(written + 1)]).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("windows"), "{error}");
        let all: Vec<_> = (1..=written).collect();
        assert_eq!(sequences(&ledger, 100).await, all);
        // What the broker takes over makes room again.
        ledger.acknowledged(all.len()).await.unwrap();
        ledger.append(vec![window(written + 1)]).await.unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    drop(HostIdentity::open(folder.path().join("identity")).unwrap());
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    let mut child = std::process::Command::new("sh");
    child.args(["-c", script, "sh"]).arg(std::env::current_exe().unwrap());
    child.args(["--exact", "a_full_disk_loses_nothing_that_was_written"]);
    let ended = child.env(FOLDER, folder.path()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    let left = sequences(&opened(folder.path()).await, 10).await;
    assert!(left.len() == 1 && left[0] > 3, "{left:?}");
}

#[tokio::test]
async fn what_another_key_has_signed_is_signed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metering/windows");
    let first = opened(folder.path()).await;
    first.append((1..=3).map(window).collect()).await.unwrap();
    drop(first);
    assert!(are_signed(folder.path(), &opened(folder.path()).await).await);
    let before = fs::read(&file).unwrap();
    drop(opened(folder.path()).await);
    assert_eq!(fs::read(&file).unwrap(), before, "by the same key: nothing is done");
    // A crash has torn the last line.
    fs::write(&file, [&before, &before[..40]].concat()).unwrap();
    fs::remove_file(folder.path().join("identity/host.key")).unwrap();
    let again = opened(folder.path()).await;
    assert_eq!(sequences(&again, 10).await, [1, 2, 3]);
    assert!(are_signed(folder.path(), &again).await);
    again.append(vec![window(4)]).await.unwrap();
    assert_eq!(sequences(&opened(folder.path()).await, 10).await, [1, 2, 3, 4]);
}
