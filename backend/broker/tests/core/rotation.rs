//! The exchange of a volume's key: asked for by its version, given beside the one that it has, and
//! taken over when the host has said that it alone opens the volume.

use fairmazon_broker::core::{KeysOf, PageRequest, VolumeUpdate};
use std::sync::LazyLock;

use fairmazon_hypervisor::{
    HypervisorError,
    sim::{Call, Fault, Verb},
};
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, WrappedKey, make_key};
use fairmazon_model::{
    ErrorKind,
    id::{HostId, InstanceId, OperationId, VolumeId},
    instance::Attachment,
    key::{GivenKey, KeyRequest, VolumeHostKey},
    operation::OperationState,
    volume::{Volume, VolumeSpec},
};

use crate::{
    kit::{Hosts, Kit, host_spec, quick, spec, volume_spec},
    stories::joins,
};

/// Whom keys are wrapped for.
static CUSTOMER: LazyLock<Identity> = LazyLock::new(Identity::generate);

/// A machine with a data volume, on a host that waits for its keys.
struct Data {
    volume: VolumeId,
    instance: InstanceId,
    host: HostId,
}

fn key_for(request: &KeyRequest, secret: &HostSecret) -> GivenKey {
    let KeyRequest { volume, host, version, made_for, .. } = *request;
    let binding = Binding { volume, host, purpose: Purpose::Run, version };
    let key = make_key(&binding, &secret.sealing_key(), &CUSTOMER.recipient()).unwrap();
    GivenKey { volume, host, key: VolumeHostKey { made_for, ..key } }
}

/// Gives all keys that are waited for; those.
async fn give(kit: &Kit, of: KeysOf, secret: &HostSecret) -> Vec<GivenKey> {
    let wanted = kit.engine.key_requests(&kit.customer, of, PageRequest::first()).unwrap().items;
    let keys: Vec<_> = wanted.iter().map(|want| key_for(want, secret)).collect();
    kit.engine.give_keys(&kit.customer, &keys, &kit.key()).await.unwrap();
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

/// Makes a machine that has the volume; the machine.
async fn bind(kit: &Kit, hosts: &Hosts, volume: VolumeId) -> InstanceId {
    let mut web = spec("web");
    web.volumes.insert("data".into(), Attachment { volume_id: volume, read_only: false });
    let made = kit.engine.create_instance(&kit.customer, web, &kit.key()).await.unwrap();
    kit.until("it waits for keys", || kit.waits_for_keys(made.operation.id)).await;
    give(kit, KeysOf::All, &hosts.hosts[0].secret).await;
    kit.done(made.operation.id).await;
    made.instance.row.id
}

async fn unbound(kit: &Kit, hosts: &Hosts) -> VolumeId {
    joins(kit, hosts.hosts[0].id).await;
    let data = kit.engine.create_volume(&kit.customer, volume_spec("data"), &kit.key()).await;
    data.unwrap().volume.row.id
}

async fn with_data(kit: &Kit, hosts: &Hosts) -> Data {
    let volume = unbound(kit, hosts).await;
    let instance = bind(kit, hosts, volume).await;
    Data { volume, instance, host: hosts.hosts[0].id }
}

/// One host whose volumes are encrypted.
async fn encrypting(kit: &Kit) -> Hosts {
    let mut hosts = Hosts::none();
    hosts.add(kit, host_spec(0, "DE")).await;
    hosts.hosts[0].sim.set_encrypts();
    hosts.connect(0, &kit.engine);
    hosts
}

/// Nobody gets a second key to open a volume.
fn no_exchange(call: &Call) -> Fault {
    let error = || HypervisorError::busy("vol", "a machine reads it");
    if call.verb == Verb::AddKey { Fault::Fail(error()) } else { Fault::None }
}

/// Whether the volume is opened by the key in its row alone, which its customer can open.
fn is_right(kit: &Kit, hosts: &Hosts, volume: VolumeId) -> bool {
    let row = row(kit, volume);
    let opened_by = hosts.hosts[0].sim.opened_by(volume);
    let Some(key) = row.key().filter(|key| opened_by == [key.fingerprint.as_str()]) else {
        return false;
    };
    let wrapped = WrappedKey::from_bytes(key.wrapped.0.as_slice()).open(volume, &CUSTOMER);
    wrapped.is_ok_and(|wrapped| wrapped.fingerprint() == key.fingerprint)
        && row.next_keys.is_empty()
}

/// How many keys its customer is asked for.
fn asked_for(kit: &Kit) -> usize {
    let asked = kit.engine.key_requests(&kit.customer, KeysOf::All, PageRequest::first());
    asked.unwrap().items.len()
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

    hosts.hosts[0].sim.set_faults(no_exchange);
    let operation = raise(&kit, data.volume, 3).await;
    kit.until("it waits for a key", || kit.waits_for_keys(operation)).await;
    let wanted = kit
        .engine
        .key_requests(&kit.customer, KeysOf::Volume(data.volume), PageRequest::first())
        .unwrap()
        .items;
    assert_eq!((wanted[0].version, wanted[0].made_for, wanted[0].host), (2, 3, data.host));
    // One for what was asked before is not what is asked for now.
    let secret = &hosts.hosts[0].secret;
    let late = key_for(&KeyRequest { made_for: 2, ..wanted[0].clone() }, secret);
    let refused = kit.engine.give_keys(&kit.customer, &[late], &kit.key()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    let given = give(&kit, KeysOf::Volume(data.volume), secret).await;
    // The same again changes nothing, and another one is not taken.
    kit.engine.give_keys(&kit.customer, &given, &kit.key()).await.unwrap();
    let other = key_for(&wanted[0], secret);
    let refused = kit.engine.give_keys(&kit.customer, &[other], &kit.key()).await.unwrap_err();
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
    assert_eq!(asked_for(&kit), 0);
    let lower = VolumeSpec { key_version: 2, ..after.spec };
    let update = VolumeUpdate { id: data.volume, spec: lower, expected_revision: 0 };
    let refused = kit.engine.update_volume(&kit.customer, update, &kit.key()).await.unwrap_err();
    assert_eq!((refused.kind, refused.field.as_deref()), (ErrorKind::Invalid, Some("key_version")));
    assert!(kit.own_verbs(data.volume).await.contains(&"broker.change_key".to_owned()));
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
    assert_eq!(asked_for(&kit), 0);
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

/// What was done of an exchange when the backup was made that the broker is restored from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The volume had no host.
    Unbound,
    /// No other key was asked for.
    Before,
    /// The next key was given, and not used.
    Amid,
}

#[tokio::test]
async fn a_broker_restored_to_any_moment_of_an_exchange_is_told_the_key_that_opens_the_volume() {
    for moment in [Moment::Unbound, Moment::Before, Moment::Amid] {
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join(format!("{moment:?}"));
        std::fs::create_dir(&backup).unwrap();
        let kit = Kit::open(folder.path(), quick()).await;
        kit.start();
        let mut hosts = encrypting(&kit).await;
        let secret = hosts.hosts[0].secret.clone();
        let back_up = async |now: Moment| {
            if now == moment {
                kit.store.backup(&backup.join("store.db")).await.unwrap();
            }
        };
        let volume = unbound(&kit, &hosts).await;
        back_up(Moment::Unbound).await;
        bind(&kit, &hosts, volume).await;
        back_up(Moment::Before).await;
        hosts.hosts[0].sim.set_faults(no_exchange);
        let operation = raise(&kit, volume, 2).await;
        kit.until("it waits for a key", || kit.waits_for_keys(operation)).await;
        give(&kit, KeysOf::Volume(volume), &secret).await;
        back_up(Moment::Amid).await;
        hosts.hosts[0].sim.clear_faults();
        kit.done(operation).await;
        assert!(is_right(&kit, &hosts, volume));
        let key = row(&kit, volume).key().cloned().unwrap();
        hosts.kill_agent(0).await;
        kit.stop().await;
        drop(kit);

        let kit = Kit::open(&backup, quick()).await;
        kit.start();
        assert_ne!(row(&kit, volume).key().map(|key| &key.fingerprint), Some(&key.fingerprint));
        hosts.connect(0, &kit.engine);
        kit.until("it knows the key", || is_right(&kit, &hosts, volume)).await;
        let now = row(&kit, volume).key().cloned().unwrap();
        assert_eq!((now.version, now.fingerprint), (key.version, key.fingerprint), "{moment:?}");
        let taken = if moment == Moment::Amid { "broker.change_key" } else { "broker.adopt_key" };
        assert_eq!(kit.own_verbs(volume).await.last().unwrap(), taken, "{moment:?}");
        // And the next exchange begins from there.
        let operation = raise(&kit, volume, 5).await;
        kit.until("it waits for a key", || kit.waits_for_keys(operation)).await;
        let given = give(&kit, KeysOf::Volume(volume), &secret).await;
        kit.done(operation).await;
        assert!(is_right(&kit, &hosts, volume), "{moment:?}");
        assert_eq!(row(&kit, volume).key(), Some(&given[0].key));
        hosts.kill_agent(0).await;
        kit.stop().await;
    }
}

#[tokio::test]
async fn a_next_key_that_its_host_can_t_open_is_asked_for_again_but_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = encrypting(&kit).await;
    let data = with_data(&kit, &hosts).await;
    let (secret, stranger) = (hosts.hosts[0].secret.clone(), HostSecret::generate());
    let first = row(&kit, data.volume).key().cloned();
    let says_why = |operation| {
        let operation = kit.engine.operation(&kit.customer, operation).unwrap();
        matches!(&operation.state, OperationState::Running { waiting_for, waits_for_keys: true }
            if waiting_for.contains("does not open on its host"))
    };
    let operation = raise(&kit, data.volume, 2).await;
    kit.until("it waits for a key", || kit.waits_for_keys(operation)).await;
    give(&kit, KeysOf::Volume(data.volume), &stranger).await;
    kit.until("it says why it waits again", || says_why(operation)).await;
    assert_eq!(row(&kit, data.volume).key().cloned(), first);
    give(&kit, KeysOf::Volume(data.volume), &secret).await;
    kit.done(operation).await;
    assert!(is_right(&kit, &hosts, data.volume));

    let operation = raise(&kit, data.volume, 3).await;
    for refused in 0..3 {
        kit.until("it is asked for", || {
            let there = row(&kit, data.volume);
            there.refused_keys == refused && there.next_keys.is_empty()
        })
        .await;
        give(&kit, KeysOf::Volume(data.volume), &stranger).await;
    }
    let ended = kit.ended(operation).await;
    let OperationState::Failed { error } = &ended.state else { panic!("{ended:?}") };
    assert!(error.message.contains("none of the last 3 keys"), "{error}");
    assert_eq!(asked_for(&kit), 0);
    assert!(is_right(&kit, &hosts, data.volume), "it stays as it was");
    // Who changes it again is asked again.
    let again = raise(&kit, data.volume, 3).await;
    kit.until("it waits for a key", || kit.waits_for_keys(again)).await;
    give(&kit, KeysOf::Volume(data.volume), &secret).await;
    kit.done(again).await;
    assert!(is_right(&kit, &hosts, data.volume));
    kit.stop().await;
}
