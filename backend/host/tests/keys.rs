//! Keys of volumes at the agent: nothing is made or opened before the customer's key has come,
//! and what comes for somebody else opens nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, boot_of, has_volume, host_id, machine, of, runs, set};
use fairmazon_host::state::MemoryState;
use fairmazon_hypervisor::contract::{instance, volume};
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, SealedKey, VolumeKey};
use fairmazon_model::{
    id::HostId,
    instance::ObservedState,
    key::{Blob, SealedVolumeKey},
    machine::{DesiredSet, HostVolume, VolumeWish},
    units::{Generation, Gib},
    volume::VolumeObserved,
};
use std::sync::Arc;

/// A host whose hypervisor encrypts, with a running agent.
fn encrypting() -> Subject {
    let mut subject = Subject::idle(Arc::new(MemoryState::default()));
    subject.host.set_encrypts();
    subject.start_agent();
    subject
}

/// A key of the machine's boot volume, sealed to this host as this version.
fn sealed(secret: &HostSecret, host: HostId, version: u32) -> (VolumeKey, SealedVolumeKey) {
    let key = VolumeKey::random().unwrap();
    let binding = Binding { volume: volume(1), host, purpose: Purpose::Run, version };
    let recipient = Identity::generate().recipient();
    let sealed = SealedKey::seal(&key, &recipient, &secret.sealing_key(), &binding).unwrap();
    (key, SealedVolumeKey { version, sealed: Blob(sealed.bytes().to_vec()) })
}

/// The set of one machine, its boot volume with this key.
fn with_key(generation: u64, key: Option<SealedVolumeKey>) -> DesiredSet {
    let mut set = set(generation, vec![machine(1)]);
    set.volumes[0].key = key;
    set
}

/// Waits until the machine runs after its second start.
async fn runs_again(subject: &Subject) {
    let ledger = subject.world.ledger();
    let again = |seen: &_| runs(seen, &machine(1)) && ledger.starts(instance(1)) == 2;
    subject.broker.sees(again).await;
}

/// The whole host restarts: agent and hypervisor begin without any key.
async fn restart_host(subject: &mut Subject) {
    subject.crash_agent().await;
    subject.world.host_loses_power(host_id());
    subject.host.lose_keys();
    subject.start_agent();
}

#[tokio::test(start_paused = true)]
async fn a_machine_waits_for_its_key_and_runs_with_it() {
    let subject = encrypting();
    subject.broker.desire(with_key(1, None));
    let waits = |seen: &fairmazon_model::machine::ObservedSet| {
        seen.generation == Generation(1)
            && of(seen, instance(1)).is_some_and(|m| m.state == ObservedState::Starting)
    };
    let seen = subject.broker.sees(waits).await;
    assert!(!has_volume(&seen, volume(1)), "nothing is made without a key: {seen:?}");

    let (key, sealed) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(2, Some(sealed)));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(key.fingerprint()));
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_seal_for_somebody_else_opens_nothing_and_is_told() {
    let subject = encrypting();
    let refused = |seen: &fairmazon_model::machine::ObservedSet| {
        seen.volumes.iter().any(|seen| {
            matches!(&seen.state, VolumeObserved::Failed { reason, .. } if reason.contains("does not open"))
        })
    };
    let elsewhere = sealed(&HostSecret::generate(), host_id(), 1).1;
    subject.broker.desire(with_key(1, Some(elsewhere)));
    subject.broker.sees(refused).await;
    let renamed = sealed(&subject.secret, HostId::from_parts(9, 9), 2).1;
    subject.broker.desire(with_key(2, Some(renamed)));
    subject.broker.sees(refused).await;
    let mut changed = sealed(&subject.secret, host_id(), 3).1;
    changed.sealed.0[40] ^= 1;
    subject.broker.desire(with_key(3, Some(changed)));
    subject.broker.sees(refused).await;
    let (_, mut moved) = sealed(&subject.secret, host_id(), 4);
    moved.version = 5;
    subject.broker.desire(with_key(4, Some(moved)));
    let seen = subject.broker.sees(refused).await;
    assert_eq!(subject.host.key_given(volume(1)), None);
    assert!(of(&seen, instance(1)).is_some_and(|m| m.state != ObservedState::Running));

    let (_, right) = sealed(&subject.secret, host_id(), 6);
    subject.broker.desire(with_key(5, Some(right)));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_gives_the_keys_again_without_the_customer() {
    let mut subject = encrypting();
    let (key, sealed) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(1, Some(sealed)));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    restart_host(&mut subject).await;
    runs_again(&subject).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(key.fingerprint()));
}

#[tokio::test(start_paused = true)]
async fn keys_that_only_the_hypervisor_lost_are_given_again() {
    let subject = encrypting();
    let (key, sealed) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(1, Some(sealed.clone())));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.lose_keys();
    let grown = HostVolume { size: Gib(5), key: Some(sealed), ..boot_of(&machine(1)) };
    let mut set = set(2, vec![machine(1)]);
    set.volumes = vec![grown];
    subject.broker.desire(set);
    subject
        .broker
        .sees(|seen| {
            seen.volumes.iter().any(
                |seen| matches!(seen.state, VolumeObserved::Present { size, .. } if size == Gib(5)),
            )
        })
        .await;
    assert_eq!(subject.host.key_given(volume(1)), Some(key.fingerprint()));

    // As for a machine that has to be started again.
    subject.host.lose_keys();
    subject.world.guest_crashes(host_id(), instance(1));
    runs_again(&subject).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(key.fingerprint()));
}

#[tokio::test(start_paused = true)]
async fn a_restored_broker_costs_no_data() {
    let mut subject = encrypting();
    let (key, first) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(5, Some(first)));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    // Restored to before the key was given: it knows none, and is given another one.
    subject.broker.desire(with_key(6, None));
    let (_, other) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(7, Some(other)));
    subject.broker.sees(|seen| seen.generation == Generation(7)).await;
    restart_host(&mut subject).await;
    runs_again(&subject).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(key.fingerprint()));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_forgotten_with_its_volume() {
    let subject = encrypting();
    let (_, sealed) = sealed(&subject.secret, host_id(), 1);
    subject.broker.desire(with_key(1, Some(sealed)));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let mut last = set(2, Vec::new());
    last.volumes = vec![HostVolume { wish: VolumeWish::Delete, ..boot_of(&machine(1)) }];
    subject.broker.desire(last);
    subject.broker.sees(|seen| !has_volume(seen, volume(1))).await;
    assert_eq!(subject.host.key_given(volume(1)), None);
}
