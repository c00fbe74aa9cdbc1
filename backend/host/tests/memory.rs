//! The agent on a host that sells more memory than it has: what it takes back, from whom, and what
//! becomes of a machine that gives nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{Subject, machine, of, runs, set};
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    contract::instance,
    sim::{Call, Fault, Load, Manner, Verb},
};
use fairmazon_model::{
    instance::{ObservedState, Power},
    machine::{MachineSpec, ObservedSet},
    units::Mib,
};

/// What the subject's host has.
const TOTAL: u64 = 1_000_000;

/// A machine that has six tenths of the host.
fn large(number: u128, spot: bool) -> MachineSpec {
    MachineSpec { memory: Mib(600_000), spot, ..machine(number) }
}

/// It touches this much, and needs a tenth of what it has.
fn touches(mib: u64, manner: Manner) -> Load {
    Load { needs: Mib(60_000), touches: Mib(mib), manner }
}

/// A spot machine and one that is not; together they have more than the host.
async fn both(subject: &Subject) {
    subject.broker.desire(set(1, vec![large(1, true), large(2, false)]));
    subject.broker.sees(|seen| runs(seen, &large(1, true)) && runs(seen, &large(2, false))).await;
    subject.broker.sees(|seen| seen.reclaims_memory).await;
}

async fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("never: {what}");
}

fn is_off(seen: &ObservedSet) -> bool {
    of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Stopped)
}

#[tokio::test(start_paused = true)]
async fn a_spot_machine_gives_memory_back_while_another_needs_it() {
    let mut subject = Subject::start();
    both(&subject).await;
    let host = subject.host.clone();
    host.set_load(instance(1), touches(590_000, Manner::Gives));
    host.set_load(instance(2), touches(500_000, Manner::Gives));
    subject.broker.sees(|seen| !seen.reclaims_memory).await;
    let less = || host.balloon(instance(1)).unwrap() < Mib(600_000);
    until("memory is taken back", less).await;
    let available = async || host.memory().await.unwrap().available;
    let begun = available().await;
    until("there is some again", || host.balloon(instance(1)).unwrap() <= Mib(500_000)).await;
    assert!(available().await >= begun);
    assert_eq!(host.balloon(instance(2)), Some(Mib(600_000)), "it is not spot");
    let seen = subject.broker.last_seen().unwrap();
    assert!(!of(&seen, instance(1)).unwrap().lacks_memory);
    // Whoever comes after an agent that was killed goes on, and gives it back.
    subject.crash_agent().await;
    host.set_load(instance(2), touches(0, Manner::Gives));
    subject.start_agent();
    until("it has all of it", || host.balloon(instance(1)) == Some(Mib(600_000))).await;
    subject.broker.sees(|seen| seen.reclaims_memory).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 1, "it ran all the time");
}

#[tokio::test(start_paused = true)]
async fn a_spot_machine_that_gives_nothing_is_ended_and_told() {
    for manner in [Manner::Keeps, Manner::Silent] {
        let subject = Subject::start();
        both(&subject).await;
        subject.host.set_stop_takes(None);
        subject.host.set_load(instance(1), touches(590_000, manner));
        subject.host.set_load(instance(2), touches(590_000, manner));
        let lacks = |seen: &ObservedSet| of(seen, instance(1)).is_some_and(|it| it.lacks_memory);
        subject.broker.sees(lacks).await;
        let forced = || subject.world.ledger().forced();
        until("it is ended", || forced().iter().any(|it| it.instance == instance(1))).await;
        // There is memory again, and it stays off all the same: the broker has not been heard.
        subject.broker.sees(|seen| seen.reclaims_memory && lacks(seen)).await;
        let starts = || subject.world.ledger().starts(instance(1));
        assert_eq!(starts(), 1);
        // The broker has it off for that, and lets it come back.
        let off = MachineSpec { power: Power::Stopped, ..large(1, true) };
        subject.broker.desire(set(2, vec![off, large(2, false)]));
        subject.broker.sees(|seen| is_off(seen) && !lacks(seen)).await;
        subject.broker.desire(set(3, vec![large(1, true), large(2, false)]));
        subject.host.set_load(instance(1), touches(0, manner));
        subject.broker.sees(|seen| seen.generation.0 == 3 && runs(seen, &large(1, true))).await;
        assert_eq!(starts(), 2);
        assert_eq!(subject.world.ledger().starts(instance(2)), 1, "it was left alone");
    }
}

#[tokio::test(start_paused = true)]
async fn no_spot_machine_is_started_while_memory_is_short() {
    let subject = Subject::start();
    let all = MachineSpec { memory: Mib(TOTAL), ..large(2, false) };
    subject.broker.desire(set(1, vec![all.clone()]));
    subject.broker.sees(|seen| runs(seen, &all)).await;
    subject.host.set_load(instance(2), touches(TOTAL, Manner::Gives));
    subject.broker.sees(|seen| !seen.reclaims_memory).await;
    subject.broker.desire(set(2, vec![large(1, true), all]));
    let waits = |seen: &ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| seen.state == ObservedState::Starting)
    };
    subject.broker.sees(|seen| seen.generation.0 == 2 && waits(seen)).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 0);
    subject.host.set_load(instance(2), touches(0, Manner::Gives));
    subject.broker.sees(|seen| runs(seen, &large(1, true))).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_memory_can_t_be_seen_sells_none_twice_and_holds_nobody_up() {
    let mut subject =
        Subject::idle(std::sync::Arc::new(fairmazon_host::state::MemoryState::default()));
    let fails = |call: &Call| match call.verb {
        Verb::Memory => Fault::Fail(HypervisorError::Driver {
            attempted: "look".into(),
            source: "it was asked to fail".into(),
        }),
        _ => Fault::None,
    };
    subject.host.set_faults(fails);
    subject.start_agent();
    subject.broker.desire(set(1, vec![large(1, true)]));
    let seen = subject.broker.sees(|seen| runs(seen, &large(1, true))).await;
    assert!(!seen.reclaims_memory);
    subject.host.clear_faults();
    subject.broker.sees(|seen| seen.reclaims_memory).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_spot_no_more_has_all_of_its_memory_again() {
    let subject = Subject::start();
    let other = MachineSpec { memory: Mib(400_000), ..large(2, false) };
    subject.broker.desire(set(1, vec![large(1, true), other.clone()]));
    subject.broker.sees(|seen| runs(seen, &large(1, true)) && runs(seen, &other)).await;
    let host = &subject.host;
    host.set_load(instance(1), touches(600_000, Manner::Gives));
    host.set_load(instance(2), touches(400_000, Manner::Gives));
    until("memory is taken back", || host.balloon(instance(1)) < Some(Mib(600_000))).await;
    let firm = MachineSpec { spec_version: 2, ..large(1, false) };
    subject.broker.desire(set(2, vec![firm.clone(), other]));
    subject.broker.sees(|seen| runs(seen, &firm)).await;
    until("it has all of it", || host.balloon(instance(1)) == Some(Mib(600_000))).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 1, "without a restart");
}

/// What runs a machine hangs, in a question or when its guest is asked for memory: the others give
/// theirs as soon as ever, and get it back.
#[tokio::test(start_paused = true)]
async fn a_machine_that_hangs_holds_up_no_other() {
    // Some looks, each with a question that nobody answers.
    const SOON: Duration = Duration::from_secs(15);
    const EACH: u64 = 100_000;
    let subject = Subject::start();
    let spots: Vec<_> =
        (1..=6).map(|number| MachineSpec { memory: Mib(EACH), ..large(number, true) }).collect();
    let other = MachineSpec { memory: Mib(800_000), ..large(7, false) };
    let all: Vec<_> = spots.iter().chain([&other]).cloned().collect();
    subject.broker.desire(set(1, all.clone()));
    subject.broker.sees(|seen| all.iter().all(|spec| runs(seen, spec))).await;
    subject.broker.sees(|seen| seen.reclaims_memory).await;
    let host = &subject.host;
    let needs = |mib: u64, manner| Load { needs: Mib(EACH / 10), ..touches(mib, manner) };
    let load = |manner: fn(u128) -> Manner, rest: u64| {
        for number in 1..=6 {
            host.set_load(instance(number), needs(EACH, manner(number)));
        }
        host.set_load(instance(7), touches(rest, Manner::Gives));
    };
    let hangs = |number: u128| if number <= 5 { Manner::Hangs } else { Manner::Gives };
    let balloon = || host.balloon(instance(6)).unwrap();
    // More of them than are asked at once.
    load(hangs, 398_000);
    let begin = tokio::time::Instant::now();
    until("the one that answers gives memory back", || balloon() < Mib(EACH)).await;
    assert!(begin.elapsed() < SOON, "after {:?}", begin.elapsed());
    // Now those hang that were asked for memory, and are asked again.
    load(|_| Manner::Gives, 410_000);
    until("all have given", || (1..=6).all(|at| host.balloon(instance(at)) < Some(Mib(EACH))))
        .await;
    load(hangs, 0);
    let begin = tokio::time::Instant::now();
    until("the one that answers has all of it", || balloon() == Mib(EACH)).await;
    assert!(begin.elapsed() < SOON, "after {:?}", begin.elapsed());
    for spec in &spots {
        assert_eq!(subject.world.ledger().starts(spec.instance), 1, "they run on");
    }
}
