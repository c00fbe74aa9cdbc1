//! Volumes that are made from files: where they are put, and what becomes of those whose file
//! never comes.

use fairmazon_broker::core::{KeysOf, PageRequest, VolumeUpdate};
use fairmazon_model::{
    ErrorKind, limits,
    operation::OperationState,
    transfer::Sha256,
    units::Gib,
    volume::{Import, VolumeSpec},
};

use crate::{
    kit::{Hosts, Kit, quick, volume_spec},
    stories::joins,
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn import(name: &str) -> VolumeSpec {
    let import = Import { bytes: 2 << 20, sha256: Sha256::of(b"a file") };
    VolumeSpec { import: Some(import), read_only: true, ..volume_spec(name) }
}

#[tokio::test]
async fn an_import_is_placed_by_its_storage_at_once_and_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 2).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    kit.until("the hosts are there", || engine.hosts_connected() == 2).await;
    let spec = VolumeSpec { size: Gib(5_100), ..import("large") };
    let mut ids = Vec::new();
    let refused = loop {
        match engine.create_volume(customer, spec.clone(), &kit.key()).await {
            Ok(made) => ids.push(made.volume.row.clone()),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind, ErrorKind::NoCapacity, "{refused}");
    assert!(refused.message.contains("less than 5100 GiB of standard free"), "{refused}");
    assert!(!ids.is_empty() && ids.iter().all(|row| row.host.is_some()));
    engine.audit_books().unwrap();
    let fixed = Import { bytes: 3 << 20, sha256: Sha256::of(b"another") };
    let update = VolumeUpdate {
        id: ids[0].id,
        spec: VolumeSpec { import: Some(fixed), ..spec.clone() },
        expected_revision: 0,
    };
    let refused = engine.update_volume(customer, update, &kit.key()).await.unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("import"), "{refused}");

    let deleting = engine.delete_volume(customer, ids[0].id, &kit.key()).await.unwrap();
    kit.done(deleting.id).await;
    engine.create_volume(customer, spec, &kit.key()).await.unwrap();
    engine.audit_books().unwrap();
    for index in 0..2 {
        hosts.kill_agent(index).await;
    }
    kit.stop().await;
}

#[tokio::test]
async fn what_waits_for_files_holds_little_room() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    kit.until("the host is there", || engine.hosts_connected() == 1).await;
    let most = VolumeSpec { size: Gib(limits::VOLUME_GIB_MAX), ..import("large") };
    let create = async |spec: VolumeSpec| engine.create_volume(customer, spec, &kit.key()).await;
    let mut last = None;
    for number in 0..limits::IMPORTS_WAITING {
        last = Some(create(VolumeSpec { size: Gib(1), ..import("small") }).await.unwrap());
        if number == 0 {
            let refused = create(most.clone()).await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::LimitExceeded, "{refused}");
            assert!(refused.message.contains("GiB together at most"), "{refused}");
        }
    }
    let one = VolumeSpec { size: Gib(1), ..import("one too many") };
    let refused = create(one.clone()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::LimitExceeded, "{refused}");
    let id = last.unwrap().volume.row.id;
    let deleting = engine.delete_volume(customer, id, &kit.key()).await.unwrap();
    kit.done(deleting.id).await;
    create(one).await.unwrap();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn an_import_whose_file_never_comes_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    kit.until("the hosts are there", || engine.hosts_connected() == 1).await;
    let protected = VolumeSpec { deletion_protection: true, ..import("protected") };
    let made = engine.create_volume(customer, protected, &kit.key()).await.unwrap();
    let id = made.volume.row.id;
    kit.clock.forward(6 * DAY_MS);
    let other = engine.create_volume(customer, import("other"), &kit.key()).await.unwrap();
    kit.clock.forward(DAY_MS);
    kit.until("it is gone", || engine.volume(customer, id).is_err()).await;
    let operation = engine.operation(customer, made.operation.id).unwrap();
    assert!(matches!(operation.state, OperationState::Failed { .. }), "{operation:?}");
    let records = kit.store.audit(0, 1_000).await.unwrap();
    assert!(records.iter().any(|record| record.entry.verb == "broker.expire_import"));
    // The one that was asked for later has its time.
    assert!(engine.volume(customer, other.volume.row.id).is_ok());
    engine.audit_books().unwrap();
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn nobody_is_asked_for_a_new_key_of_what_comes_with_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    joins(&kit, hosts.hosts[0].id).await;
    kit.until("the host is there", || engine.hosts_connected() == 1).await;
    let made = engine.create_volume(customer, import("back"), &kit.key()).await.unwrap();
    let id = made.volume.row.id;
    // `fairmazon key give` asks so: the key that it would make opens no file.
    assert_eq!(engine.key_requests(customer, KeysOf::All, PageRequest::first()).unwrap().items, []);
    let wanted =
        engine.key_requests(customer, KeysOf::Volume(id), PageRequest::first()).unwrap().items;
    assert_eq!((wanted.len(), wanted[0].volume), (1, id));
    hosts.kill_agent(0).await;
    kit.stop().await;
}
