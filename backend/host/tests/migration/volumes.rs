//! Volumes that no machine has move in a machine that is made for that, and is never let run.

use fairmazon_model::{
    machine::{Disk, HostVolume},
    units::Mib,
};

use super::*;

/// What the volume of the first machine moves in, at the host that it leaves.
fn carrier() -> MachineSpec {
    MachineSpec {
        instance: instance(5),
        image: String::new(),
        memory: Mib(128),
        power: Power::Stopped,
        boot: Disk { name: "boot".into(), ..machine(1).boot },
        ..leaving()
    }
}

fn told(generation: u64, machines: Vec<MachineSpec>) -> DesiredSet {
    let kept = HostVolume { volume: volume(1), ..fairmazon_hypervisor::contract::wish(1) };
    let machines = machines.into_iter().map(Arc::new).collect();
    DesiredSet { generation: Generation(generation), machines, volumes: vec![kept] }
}

fn awaited(generation: u64) -> DesiredSet {
    let arrival = Some(Arrival { from: host_id(), shows: Default::default(), open: true });
    told(generation, vec![MachineSpec { epoch: Epoch(2), departure: None, arrival, ..carrier() }])
}

fn has_left(seen: &ObservedSet) -> bool {
    of(seen, instance(5)).is_some_and(|seen| seen.handover == Some(Handover::Left))
}

fn has_come(seen: &ObservedSet) -> bool {
    of(seen, instance(5)).is_some_and(|seen| match seen.handover {
        Some(handover) => handover == Handover::Arrived,
        None => seen.state == ObservedState::Stopped && seen.epoch == Epoch(2),
    })
}

fn is_alone(seen: &ObservedSet) -> bool {
    seen.machines.is_empty() && has_volume(seen, volume(1))
}

/// A machine of the first host has written to its volume, and is gone.
async fn left_behind() -> Pair {
    let pair = Pair::running().await;
    pair.from.broker.desire(told(2, Vec::new()));
    pair.from.broker.sees(is_alone).await;
    pair
}

/// It has come to the other host, whose next machine finds what is in it.
async fn is_found(pair: &Pair) {
    for (host, generation) in [(&pair.to, 2), (&pair.from, 4)] {
        host.broker.desire(told(generation, Vec::new()));
        host.broker.sees(|seen| seen.generation == Generation(generation) && is_alone(seen)).await;
    }
    assert_eq!(pair.from.world.ledger().starts(instance(5)), 0, "nothing ran for it");
    assert_eq!(pair.to.host.writes(volume(1)), Some(1));
    let next = MachineSpec { instance: instance(6), ..machine(1) };
    pair.to.broker.desire(told(3, vec![next.clone()]));
    pair.to.broker.sees(|seen| runs(seen, &next)).await;
    assert_eq!(pair.to.host.writes(volume(1)), Some(2));
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn a_volume_moves_without_a_machine() {
    let pair = left_behind().await;
    pair.to.broker.desire(awaited(1));
    pair.from.broker.desire(told(3, vec![carrier()]));
    pair.from.broker.sees(has_left).await;
    pair.to.broker.sees(has_come).await;
    is_found(&pair).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_is_not_made_anew_to_be_sent() {
    let pair = Pair::new(false);
    let mut pair = pair;
    pair.from.start_agent();
    pair.to.start_agent();
    pair.to.broker.desire(awaited(1));
    let mut lost = told(1, vec![carrier()]);
    lost.volumes[0].copy = Some(fairmazon_model::machine::VolumeCopy::Made);
    pair.from.broker.desire(lost);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.from.host.volume(volume(1)).await.unwrap(), None);
    let seen = pair.from.broker.last_seen().unwrap();
    assert!(!has_left(&seen), "{seen:?}");
    pair.is_right();
}

/// At every call of either hypervisor either agent may end: in the end the other host has all of it.
#[tokio::test(start_paused = true)]
async fn agents_that_end_midway_leave_it_whole() {
    for at_source in [true, false] {
        for calls in 0..28 {
            let mut pair = left_behind().await;
            let begin = |pair: &Pair| {
                pair.to.broker.desire(awaited(1));
                pair.from.broker.desire(told(3, vec![carrier()]));
            };
            pair.ends_after((at_source, calls), begin).await;
            let both = async {
                tokio::join!(pair.from.broker.sees(has_left), pair.to.broker.sees(has_come))
            };
            tokio::time::timeout(Duration::from_secs(1_000), both).await.unwrap();
            is_found(&pair).await;
        }
    }
}
