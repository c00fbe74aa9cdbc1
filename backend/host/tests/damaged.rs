//! Volumes that are there and can't be used: they are told, kept, and never made anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Subject, boot_of, has_volume, host_id, machine, of, runs, set};
use fairmazon_hypervisor::{
    Damage,
    contract::{instance, volume},
};
use fairmazon_model::{
    instance::ObservedState,
    machine::{HostVolume, MachineSpec, ObservedSet, VolumeWish},
};

fn failure(seen: &ObservedSet) -> Option<String> {
    let seen = seen.volumes.iter().find(|seen| seen.volume == volume(1))?;
    seen.state.failure().map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_can_t_be_used_is_told_and_kept_until_it_can_or_is_deleted() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1), machine(2)]));
    subject.broker.sees(|seen| runs(seen, &machine(1)) && runs(seen, &machine(2))).await;
    let serial = subject.world.volume_serial(host_id(), volume(1));

    subject.host.set_damage(volume(1), Some(Damage::Unreadable));
    subject
        .broker
        .sees(|seen| failure(seen).is_some_and(|why| why.contains("can't be read")))
        .await;
    // What starts with it fails, and nothing else does.
    let again = MachineSpec { reboots: 1, spec_version: 2, ..machine(1) };
    let other = MachineSpec { reboots: 1, spec_version: 2, ..machine(2) };
    subject.broker.desire(set(2, vec![again.clone(), other.clone()]));
    let told = |seen: &ObservedSet| {
        let state = of(seen, instance(1)).map(|seen| &seen.state);
        let fails = matches!(
            state, Some(ObservedState::Failed { reason }) if reason.contains("can't be read")
        );
        fails && runs(seen, &other) && failure(seen).is_some()
    };
    subject.broker.sees(told).await;
    assert_eq!(subject.world.volume_serial(host_id(), volume(1)), serial);

    subject.host.set_damage(volume(1), None);
    subject.broker.sees(|seen| runs(seen, &again) && failure(seen).is_none()).await;
    assert_eq!(subject.world.volume_serial(host_id(), volume(1)), serial);

    subject.host.set_damage(volume(1), Some(Damage::Cut));
    let mut without = set(3, vec![other]);
    without.volumes.push(HostVolume { wish: VolumeWish::Delete, ..boot_of(&machine(1)) });
    subject.broker.desire(without);
    subject.broker.sees(|seen| !has_volume(seen, volume(1))).await;
    assert_eq!(subject.world.ledger().deleted_volumes(), [volume(1)]);
}
