//! A host agent over QEMU: what its broker learns of a guest.

use std::sync::Arc;

use fairmazon_host::{
    Config,
    clock::SystemClock,
    run,
    state::MemoryState,
    transport::{BrokerEnd, FromHost, ToHost},
};
use fairmazon_hypervisor::contract::{instance, spec, wish};
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, SealedKey, VolumeKey};
use fairmazon_model::{
    id::HostId,
    instance::ObservedState,
    key::{Blob, SealedVolumeKey},
    machine::{DesiredSet, HostVolume, MachineSpec, ObservedSet},
    units::Generation,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::lab::{IMAGE, Lab, PATIENCE};

const TERM_MS: u64 = 60_000;

/// A broker that wants this set, until a report fits.
async fn reports(
    mut streams: mpsc::Receiver<BrokerEnd>,
    desired: DesiredSet,
    fits: impl Fn(&ObservedSet) -> bool,
) -> ObservedSet {
    let mut end = streams.recv().await.unwrap();
    loop {
        let answers = match end.receiver.recv().await.unwrap() {
            FromHost::Hello(_) => vec![
                ToHost::Welcome {
                    lease_term_ms: TERM_MS,
                    renew_every_ms: TERM_MS / 4,
                    generation: desired.generation,
                },
                ToHost::Desired(desired.clone()),
            ],
            FromHost::Renew { sequence } => {
                vec![ToHost::Renewed { sequence, lease_term_ms: TERM_MS }]
            }
            // It has no store to keep windows in.
            FromHost::Metered(_) => Vec::new(),
            FromHost::Observed { set, .. } if fits(&set) => return set,
            FromHost::Observed { .. } => Vec::new(),
        };
        for answer in answers {
            end.sender.send(Ok(answer)).await.unwrap();
        }
    }
}

fn failure(set: &ObservedSet) -> Option<&str> {
    match &set.machines.first()?.state {
        ObservedState::Failed { reason } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_guest_that_ends_at_once_is_told_with_its_last_lines() {
    let lab = Lab::start();
    let host = lab.host();
    let id = HostId::from_parts(1, 1);
    // The agent opens the seal and gives the key to the driver, as with a customer's.
    let secret = Arc::new(HostSecret::generate());
    let boot = wish(1);
    let binding = Binding { volume: boot.volume, host: id, purpose: Purpose::Run, version: 1 };
    let (key, recipient) = (VolumeKey::random().unwrap(), Identity::generate().recipient());
    let sealed = SealedKey::seal(&key, &recipient, &secret.sealing_key(), &binding).unwrap();
    let key = SealedVolumeKey { version: 1, sealed: Blob(sealed.bytes().to_vec()) };
    let script = "#!/bin/sh\necho 'no licence found'\nsync\npoweroff -f\n";
    let machine = MachineSpec { user_data: script.into(), ..spec(1) };
    let desired = DesiredSet {
        generation: Generation(1),
        machines: vec![machine.into()],
        volumes: vec![HostVolume { image: Some(IMAGE.into()), key: Some(key), ..boot }],
    };
    let (streams, incoming) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(run(
        Config { secret: Some(secret), ..Config::new(id, 1, Arc::new(MemoryState::default())) },
        Arc::new(host),
        Arc::new(streams),
        Arc::new(SystemClock::new().unwrap()),
        shutdown.clone(),
    ));
    let told = reports(incoming, desired, |set| failure(set).is_some());
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    let reason = failure(&told).unwrap();
    assert_eq!(told.machines[0].instance, instance(1));
    assert!(reason.starts_with("its guest ended "), "{reason}");
    assert!(reason.contains(" | no licence found"), "{reason}");
    assert!(reason.len() <= 1_024 && !reason.contains(char::is_control), "{reason}");
    shutdown.cancel();
    agent.await.unwrap().unwrap();
}
