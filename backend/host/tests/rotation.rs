//! The exchange of a volume's key at the agent: it is finished from wherever an earlier process was
//! ended, and what can't be exchanged is opened with the key that it has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, boot_of, host_id, machine, of, runs, set};
use fairmazon_host::state::MemoryState;
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, KeyChange,
    contract::{instance, volume},
    sim::{Call, Fault, Verb},
};
use fairmazon_keys::{Binding, Identity, Purpose, SealedKey, VolumeKey, WrappedKey};
use fairmazon_model::{
    instance::ObservedState,
    key::{Blob, GivenKey, SealedVolumeKey},
    machine::{DesiredSet, HostVolume, ObservedSet},
    units::Gib,
    volume::VolumeObserved,
};
use std::sync::Arc;

/// A key, its seal, and whom it is wrapped for.
struct Key {
    print: String,
    sealed: SealedVolumeKey,
    customer: Identity,
}

impl Key {
    fn open(&self, subject: &Subject) -> VolumeKey {
        let (volume, host, version) = (volume(1), host_id(), self.sealed.version);
        let binding = Binding { volume, host, purpose: Purpose::Run, version };
        let sealed = SealedKey::from_bytes(self.sealed.sealed.0.as_slice());
        sealed.open(&subject.secret, &binding).unwrap().key
    }
}

fn key(subject: &Subject, version: u32) -> Key {
    let key = VolumeKey::random().unwrap();
    let binding = Binding { volume: volume(1), host: host_id(), purpose: Purpose::Run, version };
    let (to, customer) = (subject.secret.sealing_key(), Identity::generate());
    let sealed = SealedKey::seal(&key, &customer.recipient(), &to, &binding).unwrap();
    let sealed = SealedVolumeKey { version, sealed: Blob(sealed.bytes().to_vec()) };
    Key { print: key.fingerprint(), sealed, customer }
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

/// Whether the host says that this key, which no set names, opens the volume; then its customer can
/// open what it has wrapped.
fn tells(seen: &ObservedSet, key: &Key) -> bool {
    let told = |given: &&GivenKey| (given.volume, given.host) == (volume(1), host_id());
    let Some(given) = seen.keys.iter().find(told) else { return false };
    let wrapped = WrappedKey::from_bytes(given.key.wrapped.0.as_slice());
    let opened = wrapped.open(volume(1), &key.customer);
    opened.is_ok_and(|opened| opened.fingerprint() == key.print)
        && given.key.fingerprint == key.print
        && (given.key.version, &given.key.sealed) == (key.sealed.version, &key.sealed.sealed)
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
async fn a_next_key_that_does_not_open_here_is_given_back_and_the_next_of_its_version_is_taken() {
    let (mut subject, one, two) = running().await;
    let mut bad = key(&subject, 2);
    bad.sealed.sealed.0[40] ^= 1;
    let refused = |seen: &ObservedSet, bad: &Key| {
        seen.volumes.iter().any(|seen| seen.refused_key.as_ref() == Some(&bad.sealed))
    };
    subject.broker.desire(with(2, &one, Some(&bad)));
    subject.broker.sees(|seen| refused(seen, &bad)).await;
    restart(&mut subject).await;
    subject.broker.sees(|seen| refused(seen, &bad)).await;
    runs_after(&subject, 2).await;
    assert_eq!(subject.host.opened_by(volume(1)), [one.print.as_str()]);
    subject.broker.desire(with(3, &one, None));
    subject.broker.sees(|seen| !refused(seen, &bad)).await;
    subject.broker.desire(with(4, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_of_before_or_amid_the_exchange_takes_no_key_back_and_is_told_which_opens_it() {
    let (mut subject, one, two) = running().await;
    subject.broker.desire(with(2, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    subject.broker.desire(with(3, &two, None));
    subject.broker.sees(|seen| !changed_to(seen, &two)).await;
    // Restored to before it, with another key meanwhile: the one that opens the data stays.
    let other = key(&subject, 2);
    subject.broker.desire(with(4, &one, Some(&other)));
    subject.broker.sees(|seen| tells(seen, &two)).await;
    restart(&mut subject).await;
    runs_after(&subject, 2).await;
    subject.broker.sees(|seen| tells(seen, &two)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print.as_str()]);
    // It has taken that over: nothing is left to be told, and the next exchange begins from there.
    let three = key(&subject, 3);
    subject.broker.desire(with(5, &two, Some(&three)));
    let seen = subject.broker.sees(|seen| changed_to(seen, &three)).await;
    assert_eq!(seen.keys, []);
    // Restored to the middle of the one before, whose end it has not told.
    subject.broker.desire(with(6, &one, Some(&two)));
    subject.broker.sees(|seen| tells(seen, &three)).await;
    assert_eq!(subject.host.opened_by(volume(1)), [three.print.as_str()]);
    subject.broker.desire(with(7, &three, None));
    subject.broker.sees(|seen| seen.keys.is_empty()).await;
    // To the middle of the last one: it is told how that ended.
    subject.broker.desire(with(8, &two, Some(&three)));
    subject.broker.sees(|seen| changed_to(seen, &three)).await;
    restart(&mut subject).await;
    runs_after(&subject, 3).await;
    assert_eq!(subject.host.opened_by(volume(1)), [three.print]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_restored_while_a_key_is_exchanged_is_told_the_new_one() {
    let (mut subject, one, two) = running().await;
    subject.broker.desire(with(2, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    subject.broker.desire(with(3, &one, None));
    subject.broker.sees(|seen| tells(seen, &two)).await;
    restart(&mut subject).await;
    subject.broker.sees(|seen| tells(seen, &two)).await;
    runs_after(&subject, 2).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print]);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_comes_before_the_first_look_replaces_no_key() {
    let (mut subject, one, _) = running().await;
    let other = key(&subject, 1);
    subject.crash_agent().await;
    subject.host.lose_keys();
    subject.host.set_faults(|call: &Call| match call.verb {
        Verb::Look => Fault::Fail(HypervisorError::busy(volume(1), "nobody sees anything")),
        _ => Fault::None,
    });
    subject.start_agent();
    let (state, set) = (Arc::clone(&subject.state), with(2, &other, None));
    let generation = set.generation;
    subject.broker.desire(set);
    while state.load().await.unwrap().state.unwrap().generation != generation {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    restart(&mut subject).await;
    runs_after(&subject, 2).await;
    subject.broker.sees(|seen| tells(seen, &one)).await;
    assert_eq!(subject.host.key_given(volume(1)), Some(one.print));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_knows_nothing_of_a_volume_with_data_takes_no_key_from_it() {
    let (mut subject, one, two) = running().await;
    subject.broker.desire(with(2, &one, Some(&two)));
    subject.broker.sees(|seen| changed_to(seen, &two)).await;
    // Restored to before the volume had a host.
    subject.broker.desire(set(3, Vec::new()));
    subject.broker.sees(|seen| of(seen, instance(1)).is_none()).await;
    restart(&mut subject).await;
    subject.broker.sees(|seen| of(seen, instance(1)).is_none()).await;
    // It has found the data, and asks its customer for a first key.
    let other = key(&subject, 1);
    subject.broker.desire(with(4, &other, None));
    subject.broker.sees(|seen| tells(seen, &two)).await;
    runs_after(&subject, 2).await;
    assert_eq!(subject.host.opened_by(volume(1)), [two.print]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_open_the_data_is_not_told_as_its_key() {
    let (mut subject, one, two) = running().await;
    subject.crash_agent().await;
    // Somebody has exchanged it behind the agent's back.
    let change =
        |old: &Key, new: &Key| KeyChange { old: old.open(&subject), new: new.open(&subject) };
    subject.host.change_key(volume(1), change(&one, &two)).await.unwrap();
    subject.start_agent();
    let other = key(&subject, 1);
    subject.broker.desire(with(2, &other, None));
    let wrong = |seen: &ObservedSet| {
        seen.volumes.iter().any(|seen| {
            matches!(&seen.state, VolumeObserved::Present { failure: Some(why), .. } if why.contains("does not open it"))
        })
    };
    let seen = subject.broker.sees(wrong).await;
    assert_eq!(seen.keys, []);
}
