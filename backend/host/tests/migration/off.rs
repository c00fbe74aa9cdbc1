//! Machines that move while they are off: what they have written comes along, and they are started
//! at one host at most, by whoever they are decided at.

use super::*;

fn off(spec: MachineSpec) -> MachineSpec {
    MachineSpec { power: Power::Stopped, ..spec }
}

fn sent(generation: u64) -> DesiredSet {
    set(generation, vec![off(leaving())])
}

fn awaited(generation: u64) -> DesiredSet {
    DesiredSet { machines: vec![Arc::new(off(arriving(true)))], ..arrivals(generation, true) }
}

fn is_off(seen: &ObservedSet) -> bool {
    of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Stopped)
}

fn is_off_there(seen: &ObservedSet) -> bool {
    let there = of(seen, instance(1)).filter(|seen| seen.epoch == Epoch(2));
    is_off(seen) && there.is_some_and(|seen| seen.handover.is_none())
}

/// The machine has run at the first host, and is off.
async fn stopped() -> Pair {
    let pair = Pair::running().await;
    pair.from.broker.desire(set(2, vec![off(machine(1))]));
    pair.from.broker.sees(is_off).await;
    pair
}

/// It starts at its next host, with what it has written where it comes from.
async fn starts_there(pair: &Pair, generation: u64) {
    pair.to.broker.desire(set(generation, vec![off(landed())]));
    pair.to.broker.sees(is_off_there).await;
    pair.to.broker.desire(set(generation + 1, vec![landed()]));
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    assert_eq!(pair.from.world.ledger().running(), 1);
    assert_eq!(pair.from.world.ledger().starts(instance(1)), 2, "nothing ran in between");
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_is_off_is_off_at_its_next_host() {
    let pair = stopped().await;
    pair.to.broker.desire(awaited(1));
    pair.to.broker.sees(|seen| handover(seen) == Some(Handover::Awaited)).await;
    pair.from.broker.desire(sent(3));
    let there = pair.to.broker.sees(is_off_there).await;
    assert_eq!(of(&there, instance(1)).unwrap().addresses, [] as [String; 0]);
    let left = pair.from.broker.sees(is_left).await;
    assert!(is_off(&left));
    assert_eq!(pair.seen(&pair.from).await, Some((RunState::Off(OffReason::Moved), Halt::Left)));
    let (run, halt) = pair.seen(&pair.to).await.unwrap();
    assert!(matches!(run, RunState::Off(_)) && halt == Halt::Idle, "{run:?} {halt:?}");
    assert_eq!(pair.from.world.ledger().running(), 0);
    starts_there(&pair, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_host_can_be_left_and_come_to() {
    let pair = stopped().await;
    for host in [&pair.from, &pair.to] {
        // As much as there is.
        let capacity = host.host.capacity().await.unwrap();
        let is_source = host.id == pair.from.id;
        let number = if is_source { 2 } else { 3 };
        let large = MachineSpec { memory: capacity.memory, ..machine(number) };
        let mut machines = vec![large.clone()];
        machines.extend(is_source.then(|| off(machine(1))));
        host.broker.desire(set(3, machines));
        host.broker.sees(|seen| runs(seen, &large)).await;
        let way = if is_source { off(leaving()) } else { off(arriving(true)) };
        let mut full = set(4, vec![large.clone(), way]);
        full.volumes.iter_mut().for_each(|wish| wish.image = None);
        host.broker.desire(full);
    }
    pair.to.broker.sees(is_off_there).await;
    pair.from.broker.sees(is_left).await;
    pair.is_right();
}

#[tokio::test(start_paused = true)]
async fn what_the_other_host_can_not_take_stays_and_says_nothing_of_it() {
    for verb in [Verb::Hold, Verb::Describe, Verb::Depart, Verb::Prepare] {
        let pair = stopped().await;
        let at = if verb == Verb::Prepare { &pair.to } else { &pair.from };
        at.host.set_faults(fails(verb));
        pair.to.broker.desire(awaited(1));
        pair.from.broker.desire(sent(3));
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_ne!(pair.seen(&pair.from).await.unwrap().1, Halt::Left, "{verb:?}");
        // It is to start after all: it does, where it is.
        pair.from.broker.desire(set(4, vec![machine(1)]));
        let here = pair.from.broker.sees(|seen| runs(seen, &machine(1))).await;
        assert_eq!(of(&here, instance(1)).unwrap().failure, None, "{verb:?}");
        pair.to.broker.desire(arrivals(2, false));
        let gone = |seen: &ObservedSet| {
            of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Absent)
        };
        at.host.clear_faults();
        pair.to.broker.sees(gone).await;
        assert_eq!(pair.seen(&pair.from).await, Some((RunState::Running, Halt::Started)));
        pair.is_right();
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_changes_before_it_leaves() {
    let pair = stopped().await;
    pair.from.broker.desire(sent(3));
    // Nobody takes it yet.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Held));
    let other = |spec: MachineSpec| MachineSpec {
        memory: fairmazon_model::units::Mib(2_048),
        spec_version: 2,
        ..off(spec)
    };
    pair.from.broker.desire(set(4, vec![other(leaving())]));
    let changed = |seen: &ObservedSet| of(seen, instance(1)).is_some_and(|m| m.spec_version == 2);
    pair.from.broker.sees(changed).await;
    let mut expected = awaited(1);
    expected.machines = vec![Arc::new(other(arriving(true)))];
    pair.to.broker.desire(expected);
    pair.to.broker.sees(is_off_there).await;
    pair.from.broker.sees(is_left).await;
    pair.is_right();
}

/// The word that it left is lost: it is off at its next host when it is decided there.
#[tokio::test(start_paused = true)]
async fn a_machine_whose_word_is_lost_is_off_once_it_is_decided() {
    let mut pair = stopped().await;
    pair.to.broker.desire(awaited(1));
    pair.to.host.set_faults(fails(Verb::Mark));
    pair.from.broker.desire(sent(3));
    pair.from.broker.sees(is_left).await;
    pair.to.broker.sees(has_arrived).await;
    pair.from.crash_agent().await;
    pair.from.start_agent();
    // It is not started here under its epoch, whatever is desired.
    pair.from.broker.desire(set(4, vec![machine(1)]));
    pair.from.broker.sees(|seen| seen.generation == Generation(4) && is_left(seen)).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.from.world.ledger().running(), 0);
    pair.to.host.clear_faults();
    starts_there(&pair, 2).await;
}

/// Decided there, it may be to run by then: it starts as any machine does, and is not let run as
/// one that came running.
#[tokio::test(start_paused = true)]
async fn one_that_is_to_run_by_then_is_started() {
    let pair = stopped().await;
    pair.to.broker.desire(awaited(1));
    pair.to.host.set_faults(fails(Verb::Mark));
    pair.from.broker.desire(sent(3));
    pair.from.broker.sees(is_left).await;
    pair.to.broker.sees(has_arrived).await;
    pair.to.host.set_faults(fails(Verb::Resume));
    pair.to.broker.desire(set(2, vec![landed()]));
    pair.to.broker.sees(|seen| runs(seen, &landed())).await;
    pair.is_right();
}

/// At every call of either hypervisor either agent may end: its data is at its next host in the
/// end, and it never ran meanwhile.
#[tokio::test(start_paused = true)]
async fn agents_that_end_midway_leave_it_off_and_whole() {
    for at_source in [true, false] {
        for calls in 0..24 {
            let mut pair = stopped().await;
            pair.to.broker.desire(awaited(1));
            pair.to.broker.sees(|seen| has_volume(seen, volume(1))).await;
            pair.ends_after((at_source, calls), |pair| pair.from.broker.desire(sent(3))).await;
            let both = async {
                let left = pair.from.broker.sees(is_left);
                let there = pair.to.broker.sees(|seen| has_arrived(seen) || is_off_there(seen));
                tokio::join!(left, there);
            };
            tokio::time::timeout(Duration::from_secs(1_000), both).await.unwrap();
            assert_eq!(pair.from.world.ledger().running(), 0, "{at_source} {calls}");
            starts_there(&pair, 2).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_what_is_held_is_ended() {
    let pair = stopped().await;
    pair.from.broker.desire(sent(3));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(pair.seen(&pair.from).await.map(|(run, _)| run), Some(RunState::Held));
    pair.from.broker.network(Network::Cut);
    tokio::time::sleep(Duration::from_millis(2 * TERM_MS)).await;
    let (run, _) = pair.seen(&pair.from).await.unwrap();
    assert!(matches!(run, RunState::Off(_)), "{run:?}");
    pair.from.broker.network(Network::Whole);
    pair.to.broker.desire(awaited(1));
    pair.to.broker.sees(is_off_there).await;
    pair.is_right();
}
