//! The exchange of a volume's key: asked for by its version, given beside the one that it has, and
//! taken over when the host has said that it alone opens the volume.

use fairmazon_broker::core::{KeysOf, VolumeUpdate};
use fairmazon_keys::{Binding, Identity, Purpose, make_key};
use fairmazon_model::{
    ErrorKind,
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::Attachment,
    key::{GivenKey, KeyRequest, VolumeHostKey},
    operation::OperationState,
    volume::{Volume, VolumeSpec},
};

use crate::{
    kit::{Hosts, Kit, quick, spec, volume_spec},
    stories::joins,
};

/// A machine with a data volume, on a host that waits for its keys.
struct Data {
    volume: VolumeId,
    instance: InstanceId,
    host: HostId,
}

fn key_for(request: &KeyRequest, secret: &fairmazon_keys::HostSecret) -> GivenKey {
    let KeyRequest { volume, host, version, made_for, .. } = *request;
    let binding = Binding { volume, host, purpose: Purpose::Run, version };
    let key = make_key(&binding, &secret.sealing_key(), &Identity::generate().recipient()).unwrap();
    GivenKey { volume, host, key: VolumeHostKey { made_for, ..key } }
}

/// Gives all keys that are waited for; those.
async fn give(kit: &Kit, of: KeysOf, secret: &fairmazon_keys::HostSecret) -> Vec<GivenKey> {
    let wanted = kit.engine.key_requests(&kit.customer, of).unwrap();
    let keys: Vec<_> = wanted.iter().map(|want| key_for(want, secret)).collect();
    kit.engine.give_keys(&kit.customer, &keys).await.unwrap();
    keys
}

fn row(kit: &Kit, id: VolumeId) -> Volume {
    Volume::clone(&kit.engine.volume(&kit.customer, id).unwrap().row)
}

async fn raise(kit: &Kit, id: VolumeId, to: u32) -> OperationId {
    let spec = VolumeSpec { key_version: to, ..row(kit, id).spec };
    let update = VolumeUpdate { id, spec, expected_revision: 0 };
    kit.engine.update_volume(&kit.customer, update, &kit.key()).await.unwrap().operation.id
}

async fn with_data(kit: &Kit, hosts: &Hosts) -> Data {
    let host = hosts.hosts[0].id;
    joins(kit, host).await;
    let data = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    let volume = data.unwrap().volume.row.id;
    let mut web = spec("web");
    web.volumes.insert("data".into(), Attachment { volume_id: volume, read_only: false });
    let made = kit.engine.create_instance(&kit.customer, web, &kit.key()).await.unwrap();
    kit.until("it waits for keys", || kit.waits_for_keys(made.operation.id)).await;
    give(kit, KeysOf::All, &hosts.hosts[0].secret).await;
    kit.done(made.operation.id).await;
    Data { volume, instance: made.instance.row.id, host }
}

#[tokio::test]
async fn a_raised_version_asks_for_one_more_key_and_keeps_both_until_the_host_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let data = with_data(&kit, &hosts).await;
    let first = row(&kit, data.volume).key().cloned().unwrap();
    assert_eq!((first.version, first.made_for), (1, 1));

    hosts.hosts[0].sim.set_faults(|call: &fairmazon_hypervisor::sim::Call| {
        use fairmazon_hypervisor::sim::{Fault, Verb};
        let error = || fairmazon_hypervisor::HypervisorError::busy("vol", "a machine reads it");
        if call.verb == Verb::AddKey { Fault::Fail(error()) } else { Fault::None }
    });
    let operation = raise(&kit, data.volume, 3).await;
    kit.until("it waits for a key", || kit.waits_for_keys(operation)).await;
    let wanted = kit.engine.key_requests(&kit.customer, KeysOf::Volume(data.volume)).unwrap();
    assert_eq!((wanted[0].version, wanted[0].made_for, wanted[0].host), (2, 3, data.host));
    // One for what was asked before is not what is asked for now.
    let secret = &hosts.hosts[0].secret;
    let late = key_for(&KeyRequest { made_for: 2, ..wanted[0].clone() }, secret);
    let refused = kit.engine.give_keys(&kit.customer, &[late]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    let given = give(&kit, KeysOf::Volume(data.volume), secret).await;
    // The same again changes nothing, and another one is not taken.
    kit.engine.give_keys(&kit.customer, &given).await.unwrap();
    let other = key_for(&wanted[0], secret);
    let refused = kit.engine.give_keys(&kit.customer, &[other]).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    let both = row(&kit, data.volume);
    assert_eq!(both.key(), Some(&first), "the customer has the key that opens it");
    assert_eq!(both.next_key(data.host), Some(&given[0].key));
    kit.until("the host says why it does not", || {
        let operation = kit.engine.operation(&kit.customer, operation).unwrap();
        matches!(&operation.state, OperationState::Running { waiting_for, .. }
            if waiting_for.contains("a machine reads it"))
    })
    .await;

    hosts.hosts[0].sim.clear_faults();
    kit.done(operation).await;
    let after = row(&kit, data.volume);
    assert_eq!((after.key(), after.next_keys.len()), (Some(&given[0].key), 0));
    assert!(kit.engine.key_requests(&kit.customer, KeysOf::All).unwrap().is_empty());
    let lower = VolumeSpec { key_version: 2, ..after.spec };
    let update = VolumeUpdate { id: data.volume, spec: lower, expected_revision: 0 };
    let refused = kit.engine.update_volume(&kit.customer, update, &kit.key()).await.unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Invalid, Some("key_version")));
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn what_was_asked_for_and_left_goes_on_with_the_next_update_and_ends_with_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let data = with_data(&kit, &hosts).await;
    let left = raise(&kit, data.volume, 2).await;
    kit.until("it waits for a key", || kit.waits_for_keys(left)).await;
    let again = raise(&kit, data.volume, 2).await;
    kit.until("so does the next", || kit.waits_for_keys(again)).await;
    give(&kit, KeysOf::All, &hosts.hosts[0].secret).await;
    kit.done(left).await;
    kit.done(again).await;

    // Nothing of an exchange stands in the way of a deletion.
    raise(&kit, data.volume, 3).await;
    give(&kit, KeysOf::All, &hosts.hosts[0].secret).await;
    let deleted = kit.engine.delete_instance(&kit.customer, data.instance, &kit.key()).await;
    kit.done(deleted.unwrap().id).await;
    raise(&kit, data.volume, 4).await;
    let deleted = kit.engine.delete_volume(&kit.customer, data.volume, &kit.key()).await.unwrap();
    kit.done(deleted.id).await;
    assert!(kit.engine.key_requests(&kit.customer, KeysOf::All).unwrap().is_empty());
    kit.stop().await;
}

#[tokio::test]
async fn a_volume_that_has_no_data_yet_has_nothing_to_exchange_and_a_snapshot_keeps_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let (engine, customer) = (&kit.engine, &kit.customer);
    let made = engine.create_volume(customer, volume_spec("data"), &kit.key()).await.unwrap();
    let operation = raise(&kit, made.volume.row.id, 5).await;
    kit.done(operation).await;
    let zero = VolumeSpec { key_version: 0, ..volume_spec("data") };
    let source = Some(made.volume.row.id);
    let snapshot = VolumeSpec { source, read_only: true, key_version: 2, ..volume_spec("then") };
    for odd in [zero, snapshot] {
        let refused = engine.create_volume(customer, odd, &kit.key()).await.unwrap_err();
        assert_eq!(refused.field.as_deref(), Some("key_version"));
    }
    kit.stop().await;
}
