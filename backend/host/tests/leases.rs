//! How long machines run without a broker: as long as the lease does, and no longer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{Network, RENEW_MS, Subject, TERM_MS, boot_of, machine, runs, set};
use fairmazon_host::{
    lease::LeaseRecord,
    state::{Loaded, MemoryState, SavedState, StateError, StateStore},
};
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, Marks,
    contract::instance,
    sim::{Call, Fault, Verb},
};
use fairmazon_model::{
    instance::Power,
    machine::{MachineSpec, ObservedSet},
    units::Generation,
};

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn machines_go_on_without_the_broker_until_the_lease_ends() {
    for network in [Network::Silent, Network::Cut] {
        let subject = Subject::start();
        subject.broker.desire(set(1, vec![machine(1), machine(2)]));
        subject.broker.sees(|seen| runs(seen, &machine(1)) && runs(seen, &machine(2))).await;
        subject.broker.network(network);
        let cut_ms = tokio::time::Instant::now();
        sleep_ms(TERM_MS - 5_000 - 1_100).await;
        assert_eq!(subject.world.ledger().running(), 2, "they go on while the lease lasts");
        sleep_ms(6_100).await;
        assert_eq!(subject.world.ledger().running(), 0, "and no longer");
        assert!(cut_ms.elapsed() <= Duration::from_millis(TERM_MS));
        subject.broker.network(Network::Whole);
        subject.broker.sees(|seen| runs(seen, &machine(1)) && runs(seen, &machine(2))).await;
        assert_eq!(subject.world.ledger().violations(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_stops_even_a_machine_whose_step_hangs() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.set_faults(|call: &Call| match call.verb {
        Verb::Mark | Verb::AskToStop => Fault::Hang,
        _ => Fault::None,
    });
    let off = MachineSpec { power: Power::Stopped, spec_version: 2, ..machine(1) };
    subject.broker.desire(set(2, vec![off]));
    subject.broker.sees(|seen| seen.generation == Generation(2)).await;
    assert_eq!(subject.world.ledger().running(), 1);
    subject.broker.network(Network::Cut);
    sleep_ms(TERM_MS).await;
    assert_eq!(subject.world.ledger().running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs_under_a_lease_that_holds() {
    let mut subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.broker.network(Network::Cut);
    subject.stop_agent().await;
    assert_eq!(subject.world.ledger().running(), 1, "the end of the agent ends no machine");
    subject.start_agent();
    sleep_ms(5_000).await;
    assert_eq!(subject.world.ledger().running(), 1, "the recorded lease still holds");
    sleep_ms(TERM_MS).await;
    assert_eq!(subject.world.ledger().running(), 0);
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn what_runs_without_a_known_lease_is_stopped_and_nothing_else_is_touched() {
    let mut subject = Subject::idle(Arc::new(MemoryState::default()));
    subject.host.create_volume(&boot_of(&machine(1))).await.unwrap();
    subject.host.define(&Arc::new(machine(1)), Marks::default()).await.unwrap();
    subject.host.start(instance(1)).await.unwrap();
    subject.broker.network(Network::Cut);
    subject.start_agent();
    sleep_ms(600_000).await;
    let found = subject.host.machine(instance(1)).await.unwrap().unwrap();
    assert!(!found.runs());
    assert_eq!(subject.world.ledger().deleted_volumes(), []);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_may_run_is_stopped_when_the_lease_ends() {
    let subject = Subject::start();
    subject.host.set_faults(|call: &Call| match call.verb {
        Verb::Start => Fault::FailAfter(HypervisorError::busy("x", "y")),
        Verb::Look if call.number > 20 => Fault::Fail(HypervisorError::busy("x", "y")),
        _ => Fault::None,
    });
    subject.broker.desire(set(1, vec![machine(1)]));
    while subject.world.ledger().running() == 0 {
        sleep_ms(10).await;
    }
    subject.broker.network(Network::Cut);
    sleep_ms(TERM_MS).await;
    assert_eq!(subject.world.ledger().running(), 0);
}

/// A disk that is so slow, in ms.
struct Slow(MemoryState, AtomicU64);

#[async_trait]
impl StateStore for Slow {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.0.load().await
    }

    async fn save(&self, state: SavedState) -> Result<(), StateError> {
        sleep_ms(self.1.load(Ordering::Relaxed)).await;
        self.0.save(state).await
    }

    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError> {
        self.0.save_lease(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlasts_the_saving_of_its_first_set() {
    let slow = Arc::new(Slow(MemoryState::default(), AtomicU64::new(0)));
    let mut subject = Subject::idle(slow.clone());
    subject.start_agent();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.broker.network(Network::Cut);
    sleep_ms(1_000).await;
    // Longer than a broker may be silent that was asked for something.
    slow.1.store(3 * RENEW_MS, Ordering::Relaxed);
    subject.broker.desire(set(2, vec![machine(1), machine(2)]));
    subject.broker.network(Network::Whole);
    let before = subject.broker.streams();
    let both = |seen: &ObservedSet| runs(seen, &machine(1)) && runs(seen, &machine(2));
    subject.broker.sees_within(Duration::from_millis(6 * RENEW_MS), both).await;
    assert_eq!(subject.broker.streams() - before, 1, "it is given up while it is saved");
}

/// At moments all over the time between two renewals.
const MOMENTS: u64 = 20;

/// A subject whose machine runs, so long after a renewal as this moment is.
async fn running_at(moment: u64) -> Subject {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    sleep_ms(RENEW_MS * moment / MOMENTS).await;
    subject
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_back_within_the_lease_finds_what_ran() {
    for moment in 0..MOMENTS {
        let subject = running_at(moment).await;
        subject.broker.network(Network::Cut);
        // At least nine seconds are left of fourteen, and what follows takes a moment as well.
        sleep_ms(7_000).await;
        subject.broker.network(Network::Whole);
        sleep_ms(TERM_MS).await;
        assert_eq!(subject.world.ledger().starts(instance(1)), 1, "moment {moment}");
        assert_eq!(subject.world.ledger().running(), 1, "moment {moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_went_dead_is_replaced_within_the_lease() {
    for moment in 0..MOMENTS {
        let subject = running_at(moment).await;
        subject.broker.loses_streams();
        sleep_ms(2 * TERM_MS).await;
        assert_eq!(subject.world.ledger().starts(instance(1)), 1, "moment {moment}");
        assert_eq!(subject.world.ledger().running(), 1, "moment {moment}");
    }
}
