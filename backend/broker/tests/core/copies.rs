//! Copies of volumes: snapshots, and volumes that are made of them.

use fairmazon_broker::core::{KeysOf, PageRequest, VolumeState, VolumeUpdate};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{
    ErrorKind, id::VolumeId, instance::Attachment, key::GivenKey, units::Gib, volume::VolumeSpec,
};

use crate::{
    kit::{Hosts, Kit, fake_key, quick, spec, volume_spec},
    stories::joins,
};

fn snapshot_of(source: VolumeId) -> VolumeSpec {
    VolumeSpec { source: Some(source), read_only: true, ..volume_spec("snapshot") }
}

fn attached(volume_id: VolumeId, read_only: bool) -> Attachment {
    Attachment { volume_id, read_only }
}

/// An instance with a data volume that runs on the only host.
async fn with_data(kit: &Kit) -> VolumeId {
    let data = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    let data = data.unwrap().volume.row.id;
    let mut web = spec("web");
    web.volumes.insert("data".into(), attached(data, false));
    let made = kit.engine.create_instance(&kit.customer, web, &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    data
}

#[tokio::test]
async fn a_snapshot_is_made_where_its_volume_is_and_a_volume_of_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 2).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = with_data(&kit).await;
    let host = engine.volume(customer, data).unwrap().row.host;

    let made = engine.create_volume(customer, snapshot_of(data), &kit.key()).await.unwrap();
    let snapshot = made.volume.row.id;
    kit.done(made.operation.id).await;
    let row = engine.volume(customer, snapshot).unwrap();
    assert_eq!((row.row.host, row.state), (host, VolumeState::Ready));
    assert!(row.row.made);

    let larger = VolumeSpec { source: Some(snapshot), size: Gib(20), ..volume_spec("restored") };
    let made = engine.create_volume(customer, larger, &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let sim = hosts.hosts.iter().find(|there| Some(there.id) == host).unwrap().sim.clone();
    let restored = made.volume.row.id;
    assert_eq!(sim.volume(restored).await.unwrap().unwrap().size, Gib(20));

    // Nobody writes to a snapshot.
    let mut other = spec("other");
    other.volumes.insert("old".into(), attached(snapshot, false));
    let refused = engine.create_instance(customer, other.clone(), &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Precondition, "{refused}");
    other.volumes.insert("old".into(), attached(snapshot, true));
    let made = engine.create_instance(customer, other, &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    hosts.check();
    engine.audit_books().unwrap();
    for index in 0..2 {
        hosts.kill_agent(index).await;
    }
    kit.stop().await;
}

#[tokio::test]
async fn what_can_not_be_copied_is_said_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = with_data(&kit).await;
    let empty = engine.create_volume(customer, volume_spec("empty"), &kit.key()).await.unwrap();
    let refused = async |spec: VolumeSpec| {
        let refused = engine.create_volume(customer, spec, &kit.key()).await.unwrap_err();
        (refused.kind, refused.field.unwrap_or_default())
    };
    let of = snapshot_of;
    let nowhere = VolumeId::from_parts(1, 1);
    assert_eq!(refused(of(nowhere)).await, (ErrorKind::NotFound, "source".into()));
    assert_eq!(refused(of(empty.volume.row.id)).await.0, ErrorKind::Precondition);
    let sized = |gib| VolumeSpec { size: Gib(gib), ..of(data) };
    for gib in [9, 11] {
        assert_eq!(refused(sized(gib)).await, (ErrorKind::Invalid, "size_gib".into()));
    }
    let unread = VolumeSpec { source: None, ..of(data) };
    assert_eq!(refused(unread).await, (ErrorKind::Invalid, "source".into()));
    let huge = VolumeSpec { read_only: false, ..sized(16_000) };
    assert_eq!(refused(huge).await.0, ErrorKind::NoCapacity);

    let made = engine.create_volume(customer, of(data), &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    let id = made.volume.row.id;
    let changes = [
        VolumeSpec { size: Gib(20), ..of(data) },
        VolumeSpec { read_only: false, ..of(data) },
        VolumeSpec { source: Some(id), ..of(data) },
    ];
    for spec in changes {
        let update = VolumeUpdate { id, spec, expected_revision: 0 };
        let refused = engine.update_volume(customer, update, &kit.key()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid, "{refused}");
    }
    hosts.kill_agent(0).await;
    kit.stop().await;
}

#[tokio::test]
async fn a_copy_waits_for_its_key_and_holds_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::start(&kit, 1).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let data = with_data(&kit).await;
    let host = hosts.hosts[0].id;
    joins(&kit, host).await;
    // It encrypts from here on.
    hosts.hosts[0].sim.set_encrypts();
    hosts.kill_agent(0).await;
    hosts.connect(0, engine);

    let made = engine.create_volume(customer, snapshot_of(data), &kit.key()).await.unwrap();
    let snapshot = made.volume.row.id;
    kit.until("the operation waits for keys", || kit.waits_for_keys(made.operation.id)).await;
    let wanted = engine
        .key_requests(customer, KeysOf::Volume(snapshot), PageRequest::first())
        .unwrap()
        .items;
    assert_eq!(wanted.iter().map(|key| key.volume).collect::<Vec<_>>(), [snapshot]);
    let mut page = PageRequest { after: None, limit: 1 };
    let mut waiting = Vec::new();
    loop {
        let found = engine.key_requests(customer, KeysOf::All, page).unwrap();
        assert!(found.items.len() == 1 && found.revision.0 > 0);
        waiting.extend(found.items.into_iter().map(|request| request.volume));
        if found.next.is_none() {
            break;
        }
        page.after = found.next;
    }
    assert_eq!(waiting.len(), 3);
    assert!(
        waiting.is_sorted_by(|one, next| one < next),
        "in the order of the volumes, each once: {waiting:?}"
    );
    let unseen = engine.key_requests(
        customer,
        KeysOf::Volume(VolumeId::from_parts(1, 1)),
        PageRequest::first(),
    );
    assert_eq!(unseen.unwrap_err().kind, ErrorKind::NotFound);

    let refused = engine.delete_volume(customer, data, &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Precondition, "{refused}");
    let key = fake_key(1, "A");
    engine
        .give_keys(customer, &[GivenKey { volume: snapshot, host, key }], &kit.key())
        .await
        .unwrap();
    kit.until("the operation waits for keys no more", || !kit.waits_for_keys(made.operation.id))
        .await;
    hosts.kill_agent(0).await;
    kit.stop().await;
}
