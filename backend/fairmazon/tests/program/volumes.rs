//! Volumes that are exported to files, and files that are opened.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use fairmazon_keys::{Identity, WrappedKey};
use fairmazon_model::limits::TRANSFERS_PER_ACCOUNT;
use fairmazon_proto::v1::{
    CreateVolumeRequest, ExportVolumeRequest, ExportVolumeResponse, OperationState, VolumeSpec,
    WaitOperationRequest, operations_service_client::OperationsServiceClient,
    volumes_service_client::VolumesServiceClient,
};

use tonic::Streaming;

use crate::{
    dev::create_and_wait,
    keys::{Platform, fail},
    process::{Environment, Running, ask, client},
};

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

/// A snapshot of a volume.
pub(crate) async fn snapshot(platform: &Platform, source: &str) -> String {
    let spec = VolumeSpec {
        name: "kept".into(),
        size_gib: 5,
        class: "standard".into(),
        source_volume_id: source.into(),
        read_only: true,
        ..VolumeSpec::default()
    };
    let client = client(&platform.customer).await;
    let request = CreateVolumeRequest { spec: Some(spec), idempotency_key: "kept".into() };
    let made = VolumesServiceClient::new(client.clone()).create_volume(request).await.unwrap();
    let made = made.into_inner();
    let request = WaitOperationRequest { id: made.operation.unwrap().id };
    let mut operations = OperationsServiceClient::new(client);
    let mut states = operations.wait_operation(request).await.unwrap().into_inner();
    while states.message().await.unwrap().unwrap().state() != OperationState::Done {}
    made.volume.unwrap().id
}

/// What an export has in steps: each is durable before the next is begun.
const DURABLE: usize = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_exported_and_only_its_customer_has_the_key() {
    let platform = Platform::start();
    let own = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { own.path().join(name) };
    let text = |name: &str| at(name).display().to_string();
    ask(&["key", "init", &text("id")], &Environment::new());
    let environment = platform.with_identity(&at("id"));
    let identity = Identity::read(&fs::read_to_string(at("id")).unwrap()).unwrap();
    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    ask(&["key", "give"], &environment);

    let volume = machine.boot_volume_id.as_str();
    let said = ask(&["volume", "export", volume, "--to", &text("one")], &environment);
    assert!(said.contains(volume) && said.contains("one.key"), "{said}");
    assert_eq!(names(own.path()), ["id", "id.hosts", "one", "one.key"]);
    for file in ["one", "one.key"] {
        let mode = fs::metadata(at(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(ask(&["volume", "list"], &environment), "", "the snapshot is gone");
    let wrapped = fs::read(at("one.key")).unwrap();
    let (of, _) = WrappedKey::from_bytes(wrapped.clone()).open_any(&identity).unwrap();
    assert_ne!(of.to_string(), volume, "the snapshot has a key of its own");
    let again = fail(&["volume", "export", volume, "--to", &text("one")], &environment);
    assert!(again.contains("is there already"), "{again}");
    let no_identity = ["volume", "export", volume, "--to", &text("two")];
    assert!(fail(&no_identity, &platform.customer).contains("--identity"));

    // A snapshot that is there needs no identity, and what broke off goes on.
    let kept = snapshot(&platform, volume).await;
    let listed = ask(&["volume", "list"], &environment);
    assert!(listed.starts_with(&kept) && listed.contains(&format!("snapshot of {volume}")));
    let export = ["volume", "export", &kept, "--to", &text("two")];
    assert!(fail(&export, &platform.customer).contains("has no key"));
    ask(&["key", "give"], &environment);
    ask(&export, &platform.customer);
    let whole = fs::read(at("two")).unwrap();
    // After a loss of power a file may lack the end of what was written; the rest is not sent again.
    let mut part = whole[..DURABLE + 1_001].to_vec();
    part[DURABLE..].fill(0);
    part[7] ^= 1;
    fs::remove_file(at("two")).unwrap();
    fs::write(at("two.part"), &part).unwrap();
    ask(&export, &platform.customer);
    let mut again = fs::read(at("two")).unwrap();
    again[7] ^= 1;
    assert!(again == whole, "it is the same file but for what was sure to be there");
    assert_eq!(names(own.path()), ["id", "id.hosts", "one", "one.key", "two", "two.key"]);
    fs::copy(at("two.key"), at("three.key")).unwrap();
    let other = ["volume", "export", volume, "--to", &text("three")];
    assert!(fail(&other, &environment).contains("of another export"));
    ask(&["volume", "delete", &kept], &environment);
    assert_eq!(ask(&["volume", "list"], &environment), "");
    platform.end();

    // Without the platform: what the simulator gave is no volume, and nothing is written.
    let offline = Environment::from([("FAIRMAZON_KEY_FILE".into(), text("id"))]);
    let open = ["volume", "open", &text("one"), "--to", &text("open")];
    let said = fail(&open, &offline);
    assert!(said.contains("not in format qcow2"), "{said}");
    let of_other = [&open[..], &["--volume", volume]].concat();
    assert!(fail(&of_other, &offline).contains(&format!("not of {volume}")));
    let mut changed = wrapped.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(at("one.key"), &changed).unwrap();
    assert!(fail(&open, &offline).contains("does not open with this identity"));
    assert!(!at("open").exists());
}

/// As many transfers of a snapshot as its account may have, of which nothing more is taken.
pub(crate) async fn hold(
    platform: &Platform,
    snapshot: &str,
) -> Vec<Streaming<ExportVolumeResponse>> {
    let mut held = Vec::new();
    for _ in 0..TRANSFERS_PER_ACCOUNT {
        // Each on a connection of its own: what is not taken would fill one that all share.
        let mut volumes = VolumesServiceClient::new(client(&platform.customer).await);
        let request = ExportVolumeRequest { volume_id: snapshot.into(), offset: 0 };
        let mut parts = volumes.export_volume(request).await.unwrap().into_inner();
        parts.message().await.unwrap();
        held.push(parts);
    }
    held
}

/// Waits until what runs has logged this.
pub(crate) fn logged(log: &Path, what: &str) {
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap();
        if said.contains(what) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no {what:?} in {said:?}");
        sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_waits_for_a_place() {
    let platform = Platform::start();
    let own = tempfile::tempdir().unwrap();
    let at = |name: &str| own.path().join(name).display().to_string();
    ask(&["key", "init", &at("id")], &Environment::new());
    let environment = platform.with_identity(&own.path().join("id"));
    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    ask(&["key", "give"], &environment);
    let volume = machine.boot_volume_id.as_str();
    let kept = snapshot(&platform, volume).await;
    ask(&["key", "give"], &environment);
    let held = hold(&platform, &kept).await;
    let log = own.path().join("log");
    let export = ["volume", "export", &kept, "--to", &at("file")];
    let mut export = Running::start(&export, &environment, &log);
    logged(&log, "waits for a place");
    // Nothing else writes to the same file, or it is noticed.
    let second = ["volume", "export", &kept, "--to", &at("file")];
    let refused = fail(&second, &environment);
    assert!(refused.contains("another export writes to"), "{refused}");
    let other = own.path().join("log.other");
    let to_other = ["volume", "export", &kept, "--to", &at("other")];
    let spoilt = Running::start(&to_other, &environment, &other);
    logged(&other, "waits for a place");
    fs::write(at("other.part"), "x").unwrap();
    drop(held);
    export.told(&format!("{}: {kept}", at("file")));
    logged(&other, "something else has changed it");
    assert!(!spoilt.end().success());
    assert!(!own.path().join("other").exists());
    for left in ["other.part", "other.key", "log.other"] {
        fs::remove_file(at(left)).unwrap();
    }
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(said.matches("waits for a place").count(), 1, "{said}");
    assert_eq!(names(own.path()), ["file", "file.key", "id", "id.hosts", "log"]);
    platform.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_interrupted_removes_its_snapshot_or_says_how() {
    let mut platform = Platform::start();
    let own = tempfile::tempdir().unwrap();
    let at = |name: &str| own.path().join(name).display().to_string();
    ask(&["key", "init", &at("id")], &Environment::new());
    let environment = platform.with_identity(&own.path().join("id"));
    let machine = create_and_wait(&client(&platform.customer).await, "first").await;
    ask(&["key", "give"], &environment);
    // The snapshot waits for a host that is away, and so does its end.
    assert!(platform.agents.remove(0).end().success());
    let log = own.path().join("log");
    let export = ["volume", "export", &machine.boot_volume_id, "--to", &at("file")];
    let export = Running::start(&export, &environment, &log);
    let listed = |what: &str| loop {
        let listed = ask(&["volume", "list"], &environment);
        if listed.contains(what) {
            break listed;
        }
    };
    let snapshot = listed("export of").split('\t').next().unwrap().to_owned();
    export.interrupt();
    listed("deleting");
    assert!(!export.end().success());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("`fairmazon volume delete {snapshot}`")), "{said}");
    assert!(said.contains("as was asked for"), "{said}");
    fs::remove_file(&log).unwrap();
    assert_eq!(names(own.path()), ["id", "id.hosts"]);
    // What was asked for is done once the host is back.
    platform.start_agent(0);
    while !ask(&["volume", "list"], &environment).is_empty() {}
    platform.end();
}
