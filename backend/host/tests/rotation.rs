//! The exchange of a volume's key at the agent: it is finished from wherever an earlier process was
//! ended, and what can't be exchanged is opened with the key that it has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, boot_of, host_id, machine, of, runs, set};
use fairmazon_host::state::MemoryState;
use fairmazon_hypervisor::{
    HypervisorError,
    contract::{instance, volume},
    sim::{Call, Fault, Verb},
};
use fairmazon_keys::{Binding, Identity, Purpose, SealedKey, VolumeKey};
use fairmazon_model::{
    instance::ObservedState,
    key::{Blob, SealedVolumeKey},
    machine::{DesiredSet, HostVolume, ObservedSet},
    units::Gib,
    volume::VolumeObserved,
};
use std::sync::Arc;

/// A key and its seal.
struct Key {
    print: String,
    sealed: SealedVolumeKey,
}

fn key(subject: &Subject, version: u32) -> Key {
    let key = VolumeKey::random().unwrap();
    let binding = Binding { volume: volume(1), host: host_id(), purpose: Purpose::Run, version };
    let (to, customer) = (subject.secret.sealing_key(), Identity::generate().recipient());
    let sealed = SealedKey::seal(&key, &customer, &to, &binding).unwrap();
    let sealed = SealedVolumeKey { version, sealed: Blob(sealed.bytes().to_vec()) };
    Key { print: key.fingerprint(), sealed }
}

/// The set of one machine, its boot volume with these keys.
fn with(generation: u64, key: &Key, next: Option<&Key>) -> DesiredSet {
    let mut set = set(generation, vec![machine(1)]);
    set.volumes[0].key = Some(key.sealed.clone());
    set.volumes[0].next_key = next.map(|next| next.sealed.clone());
    set
}

fn changed_to(seen: &ObservedSet, key: &Key) -> bool {
    seen.volumes.iter().any(|seen| seen.changed_key.as_ref() == Some(&key.print))
}

/// A host whose machine runs with a first key, and the second.
async fn running() -> (Subject, Key, Key) {
    let mut subject = Subject::idle(Arc::new(MemoryState::default()));
    subject.host.set_encrypts();
    subject.start_agent();
    let (one, two) = (key(&subject, 1), key(&subject, 2));
    subject.broker.desire(with(1, &one, None));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    assert_eq!(subject.host.opened_by(volume(1)), [one.print.as_str()]);
    (subject, one, two)
}

/// The whole host restarts: agent and hypervisor begin without any key.
async fn restart(subject: &mut Subject) {
    subject.crash_agent().await;
    subject.world.host_loses_power(host_id());
    subject.host.lose_keys();
    subject.host.clear_faults();
    subject.start_agent();
}

/// Waits until the machine runs after this many starts.
async fn runs_after(subject: &Subject, starts: usize) {
    let ledger = subject.world.ledger();
    let again =
        |seen: &ObservedSet| runs(seen, &machine(1)) && ledger.starts(instance(1)) == starts;
    subject.broker.sees(again).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_exchanged_while_the_machine_runs_and_the_old_one_is_forgotten() {
    let (mut subject, one, two) = running().await;
    subject.broker.desire(with(2, &one, Some(&two)));
    let seen = subject.broker.sees(|seen| changed_to(seen, &two)).await;
    assert_eq!(of(&seen, instance(1)).unwrap().state, ObservedState::Running);
    assert_eq!(subject.host.opened_by(volume(1)), [two.print.as_str()]);
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);

    subject.broker.desire(with(3, &two, None));
    subject.broker.sees(|seen| runs(seen, &machine(1)) && !changed_to(seen, &two)).await;
    restart(&mut subject).await;
    runs_after(&subject, 2).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(two.print));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_was_ended_anywhere_is_finished_after_a_restart_without_the_broker() {
    for verb in [Verb::AddKey, Verb::RemoveKey] {
        for done in [false, true] {
            let (mut subject, one, two) = running().await;
            subject.host.set_faults(move |call: &Call| match call.verb {
                here if here == verb && done => Fault::HangAfter,
                here if here == verb => Fault::Hang,
                _ => Fault::None,
            });
            subject.broker.desire(with(2, &one, Some(&two)));
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let opened_by = subject.host.opened_by(volume(1));
            let half = match (verb, done) {
                (Verb::AddKey, false) => vec![one.print.clone()],
                (Verb::RemoveKey, true) => vec![two.print.clone()],
                _ => vec![one.print.clone(), two.print.clone()],
            };
            assert_eq!(opened_by, half, "{verb:?} {done}");
            restart(&mut subject).await;
            subject.broker.sees(|seen| changed_to(seen, &two)).await;
            runs_after(&subject, 2).await;
            assert_eq!(subject.host.opened_by(volume(1)), [two.print], "{verb:?} {done}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_t_be_exchanged_is_told_and_used_with_the_key_that_it_has() {
    let (mut subject, one, two) = running().await;
    let busy = |call: &Call| match call.verb {
        Verb::AddKey => Fault::Fail(HypervisorError::busy(volume(1), "a machine reads it")),
        _ => Fault::None,
    };
    subject.host.set_faults(busy);
    subject.broker.desire(with(2, &one, Some(&two)));
    let told = |seen: &ObservedSet| {
        seen.volumes.iter().any(|seen| {
            matches!(&seen.state, VolumeObserved::Present { failure: Some(why), .. } if why.contains("a machine reads it"))
        })
    };
    subject.broker.sees(told).await;
    restart(&mut subject).await;
    subject.host.set_faults(busy);
    runs_after(&subject, 2).await;
    let mut grown = with(3, &one, Some(&two));
    let with_size = HostVolume { size: Gib(5), ..boot_of(&machine(1)) };
    grown.volumes[0] = HostVolume {
        key: grown.volumes[0].key.clone(),
        next_key: grown.volumes[0].next_key.clone(),
        ..with_size
    };
    subject.broker.desire(grown.clone());
    let larger = |seen: &ObservedSet| {
        seen.volumes
            .iter()
            .any(|seen| matches!(seen.state, VolumeObserved::Present { size: Gib(5), .. }))
    };
    subject.broker.sees(larger).await;
    assert_eq!(subject.host.opened_by(volume(1)), [one.print]);
    subject.host.clear_faults();
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print]);
}

#[tokio::test(start_paused = true)]
async fn a_next_key_that_does_not_open_here_changes_nothing() {
    let (subject, one, mut two) = running().await;
    two.sealed.sealed.0[40] ^= 1;
    subject.broker.desire(with(2, &one, Some(&two)));
    let refused = |seen: &ObservedSet| {
        seen.volumes.iter().any(|seen| {
            matches!(&seen.state, VolumeObserved::Present { failure: Some(why), .. } if why.contains("does not open"))
        })
    };
    subject.broker.sees(refused).await;
    assert_eq!(subject.host.opened_by(volume(1)), [one.print.as_str()]);
    let three = key(&subject, 3);
    subject.broker.desire(with(3, &one, Some(&three)));
    subject.broker.sees(|seen| changed_to(seen, &three)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [three.print]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_of_before_or_amid_the_exchange_takes_no_key_back() {
    let (mut subject, one, two) = running().await;
    subject.broker.desire(with(2, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    subject.broker.desire(with(3, &two, None));
    subject.broker.sees(|seen| !changed_to(seen, &two)).await;
    // Restored to before it, with another key meanwhile: the one that opens the data stays.
    let other = key(&subject, 2);
    subject.broker.desire(with(4, &one, Some(&other)));
    restart(&mut subject).await;
    runs_after(&subject, 2).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print.as_str()]);
    // Restored to the middle of it: it is told how that ended.
    subject.broker.desire(with(5, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print]);
}
