//! The agent against a simulated hypervisor and a small broker: what an operator would see.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Subject, boot_of, has_volume, host_id, machine, of, runs, set};
use fairmazon_host::clock::Clock;
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    contract::{instance, volume},
    sim::{Call, Fault, Verb},
};
use fairmazon_model::{
    instance::{ObservedState, Power, RestartPolicy},
    machine::{Disk, HostVolume, MachineSpec, VolumeWish},
    units::{Epoch, Generation, Gib, Mib},
};

fn is(state: &ObservedState) -> impl Fn(&fairmazon_model::machine::ObservedSet) -> bool {
    let state = state.clone();
    move |set| of(set, instance(1)).is_some_and(|seen| seen.state == state)
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_comes_changes_and_goes() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    let seen = subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    assert_eq!(seen.generation, Generation(1));
    let machine_seen = of(&seen, instance(1)).unwrap();
    assert_eq!(machine_seen.addresses.len(), 1);
    assert!(machine_seen.guest.agent, "{machine_seen:?}");
    // A guest without an agent is told to have none.
    let agent = |seen: &fairmazon_model::machine::ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| seen.guest.agent)
    };
    subject.host.set_agents(false);
    subject.broker.sees(|seen| !agent(seen)).await;
    subject.host.set_agents(true);
    subject.broker.sees(agent).await;

    let larger = MachineSpec { memory: Mib(512), spec_version: 2, ..machine(1) };
    subject.broker.desire(set(2, vec![larger.clone()]));
    subject.broker.sees(|seen| runs(seen, &larger)).await;
    let found = subject.host.machine(instance(1)).await.unwrap().unwrap();
    assert_eq!(found.definition.memory, Mib(512));
    assert_eq!(subject.world.ledger().starts(instance(1)), 1, "it grows while it runs");
    let smaller = MachineSpec { spec_version: 3, ..machine(1) };
    subject.broker.desire(set(3, vec![smaller.clone()]));
    subject.broker.sees(|seen| runs(seen, &smaller)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 2, "less needs a new start");

    let off = MachineSpec { power: Power::Stopped, spec_version: 4, ..larger };
    subject.broker.desire(set(4, vec![off]));
    subject
        .broker
        .sees(|seen| {
            of(seen, instance(1))
                .is_some_and(|m| m.state == ObservedState::Stopped && m.spec_version == 4)
        })
        .await;

    let mut last = set(5, Vec::new());
    subject.broker.desire(last.clone());
    let seen = subject.broker.sees(|seen| of(seen, instance(1)).is_none()).await;
    assert!(has_volume(&seen, volume(1)), "its volume is kept without a wish for its end");

    last.generation = Generation(6);
    last.volumes = vec![HostVolume { wish: VolumeWish::Delete, ..boot_of(&machine(1)) }];
    subject.broker.desire(last);
    subject.broker.sees(|seen| !has_volume(seen, volume(1))).await;
    assert_eq!(subject.world.ledger().deleted_volumes(), [volume(1)]);
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_soon_brought_about_takes_one_report() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let before = subject.broker.reports();
    subject.broker.desire(set(2, vec![machine(1), machine(2)]));
    subject.broker.sees(|seen| runs(seen, &machine(2))).await;
    assert_eq!(subject.broker.reports(), before + 1);

    // What takes long is told of before it is through.
    subject.host.set_faults(|call: &Call| match call.verb {
        Verb::Start => Fault::Delay(Duration::from_secs(100)),
        _ => Fault::None,
    });
    subject.broker.desire(set(3, vec![machine(1), machine(2), machine(3)]));
    let began = subject.clock.now_ms();
    subject.broker.sees(|seen| seen.generation == Generation(3)).await;
    assert!(subject.clock.now_ms() - began < 1_000);
    subject.broker.sees(|seen| runs(seen, &machine(3))).await;
}

#[tokio::test(start_paused = true)]
async fn disks_and_names_change_without_a_restart() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let disk = Disk { name: "data".into(), volume: volume(7), read_only: false };
    let with =
        MachineSpec { disks: vec![disk], name: "other".into(), spec_version: 2, ..machine(1) };
    let mut two = set(2, vec![with.clone()]);
    two.volumes.push(HostVolume { volume: volume(7), size: Gib(5), ..boot_of(&machine(1)) });
    subject.broker.desire(two.clone());
    subject.broker.sees(|seen| runs(seen, &with)).await;
    let without = MachineSpec { spec_version: 3, ..machine(1) };
    subject.broker.desire(set(3, vec![without.clone()]));
    let seen = subject.broker.sees(|seen| runs(seen, &without)).await;
    assert!(has_volume(&seen, volume(7)));
    assert_eq!(subject.world.ledger().starts(instance(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn counted_wishes_are_done_once() {
    let mut subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let first = subject.world.volume_serial(host_id(), volume(1)).unwrap();

    let reboot = MachineSpec { reboots: 1, spec_version: 2, ..machine(1) };
    subject.broker.desire(set(2, vec![reboot.clone()]));
    subject.broker.sees(|seen| runs(seen, &reboot)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 2);

    let rebuild = MachineSpec { rebuilds: 1, spec_version: 3, ..reboot };
    subject.broker.desire(set(3, vec![rebuild.clone()]));
    subject.broker.sees(|seen| runs(seen, &rebuild)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 3);
    assert_eq!(subject.world.ledger().deleted_volumes(), [volume(1)]);
    assert_ne!(subject.world.volume_serial(host_id(), volume(1)).unwrap(), first);

    let fresh = MachineSpec { first_boots: 1, spec_version: 4, ..rebuild };
    subject.broker.desire(set(4, vec![fresh.clone()]));
    subject.broker.sees(|seen| runs(seen, &fresh)).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 3, "it waits for the next start");

    // Neither a new agent nor the same set again repeats any of it.
    subject.crash_agent().await;
    subject.start_agent();
    subject.broker.desire(set(5, vec![fresh.clone()]));
    subject.broker.sees(|seen| seen.generation == Generation(5) && runs(seen, &fresh)).await;
    sleep_ms(120_000).await;
    assert_eq!(subject.world.ledger().starts(instance(1)), 3);
    assert_eq!(subject.world.ledger().deleted_volumes(), [volume(1)]);
}

#[tokio::test(start_paused = true)]
async fn older_and_repeated_sets_change_nothing() {
    let subject = Subject::start();
    let newest = set(9, vec![machine(1)]);
    let older = set(8, vec![machine(2)]);
    subject.broker.desire_all(vec![
        set(7, vec![machine(3)]),
        newest.clone(),
        older,
        set(1, Vec::new()),
        newest.clone(),
        newest,
    ]);
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    sleep_ms(120_000).await;
    let seen = subject.broker.sees(|seen| seen.generation == Generation(9)).await;
    assert!(of(&seen, instance(2)).is_none() && of(&seen, instance(3)).is_none(), "{seen:?}");
    assert!(runs(&seen, &machine(1)));
}

#[tokio::test(start_paused = true)]
async fn a_restored_broker_is_followed_again() {
    let mut subject = Subject::start();
    subject.broker.desire(set(9, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.broker.say_generation(Generation(3));
    subject.broker.desire(set(3, vec![machine(2)]));
    sleep_ms(60_000).await;
    assert!(subject.host.machine(instance(2)).await.unwrap().is_none(), "refused on the stream");
    subject.crash_agent().await;
    subject.start_agent();
    subject.broker.sees(|seen| runs(seen, &machine(2)) && of(seen, instance(1)).is_none()).await;
    assert_eq!(subject.broker.hello().unwrap().generation, Generation(9));
}

#[tokio::test(start_paused = true)]
async fn restart_policies_are_kept() {
    let policies = [
        (RestartPolicy::Always, true, true),
        (RestartPolicy::OnHostFailure, false, true),
        (RestartPolicy::Never, false, false),
    ];
    for (restart, after_guest, after_host) in policies {
        let subject = Subject::start();
        let spec = MachineSpec { restart, ..machine(1) };
        subject.broker.desire(set(1, vec![spec.clone()]));
        subject.broker.sees(|seen| runs(seen, &spec)).await;
        subject.world.host_loses_power(host_id());
        sleep_ms(120_000).await;
        assert_eq!(subject.world.ledger().running() == 1, after_host, "{restart:?} after host");
        let again = MachineSpec { reboots: 1, spec_version: 2, ..spec };
        subject.broker.desire(set(2, vec![again.clone()]));
        subject.broker.sees(|seen| runs(seen, &again)).await;
        subject.world.guest_powers_off(host_id(), instance(1));
        sleep_ms(120_000).await;
        assert_eq!(subject.world.ledger().running() == 1, after_guest, "{restart:?} after guest");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_at_once_again_and_again_is_started_ever_less_often() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    for _ in 0..1_000 {
        subject.world.guest_crashes(host_id(), instance(1));
        sleep_ms(100).await;
    }
    let starts = subject.world.ledger().starts(instance(1));
    assert!((5..40).contains(&starts), "{starts} starts in 100 s");
}

fn failure(set: &fairmazon_model::machine::ObservedSet) -> Option<&str> {
    match &of(set, instance(1))?.state {
        ObservedState::Failed { reason } => Some(reason),
        _ => None,
    }
}

/// Why the machine has failed, once the broker sees that it has.
async fn why_failed(subject: &Subject) -> String {
    let seen = subject.broker.sees(|set| failure(set).is_some()).await;
    failure(&seen).unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_soon_after_its_start_is_told_with_its_last_lines() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.say(instance(1), "[ 1.0 ] booting\r\n\x1b[31mno init found\x1b[0m\r\n");
    sleep_ms(3_000).await;
    subject.world.guest_powers_off(host_id(), instance(1));
    assert_eq!(
        why_failed(&subject).await,
        "its guest ended 3 s after its start and is started again; the last on its serial \
         console: [ 1.0 ] booting | no init found"
    );
    // It is over when it runs again, and one that ran for long has no failure.
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    sleep_ms(120_000).await;
    subject.world.guest_powers_off(host_id(), instance(1));
    subject
        .broker
        .sees(|set| {
            assert_eq!(failure(set), None);
            runs(set, &machine(1)) && subject.world.ledger().starts(instance(1)) == 3
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_and_stays_off_has_not_failed() {
    let subject = Subject::start();
    let once = MachineSpec { restart: RestartPolicy::Never, ..machine(1) };
    subject.broker.desire(set(1, vec![once.clone()]));
    subject.broker.sees(|seen| runs(seen, &once)).await;
    subject.host.say(instance(1), "done");
    subject.world.guest_powers_off(host_id(), instance(1));
    subject.broker.sees(is(&ObservedState::Stopped)).await;
    sleep_ms(60_000).await;
    let seen = subject.broker.sees(|_| true).await;
    assert_eq!(of(&seen, instance(1)).unwrap().state, ObservedState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_ended_from_outside_has_said_nothing_about_that() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.say(instance(1), "all is well");
    subject.world.host_loses_power(host_id());
    subject
        .broker
        .sees(|set| {
            assert_eq!(failure(set), None);
            runs(set, &machine(1)) && subject.world.ledger().starts(instance(1)) == 2
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_told_with_what_its_guest_said_in_it() {
    for (says, told) in [(true, true), (false, false)] {
        let subject = Subject::start();
        subject.broker.desire(set(1, vec![machine(1)]));
        subject.broker.sees(|seen| runs(seen, &machine(1))).await;
        subject.host.say(instance(1), "of the run before\n");
        let host = subject.host.clone();
        subject.host.set_faults(move |call: &Call| {
            if call.verb != Verb::Start {
                return Fault::None;
            }
            if says {
                host.say(instance(1), "kernel panic\n");
            }
            Fault::Fail(HypervisorError::Full { what: "memory".into() })
        });
        sleep_ms(120_000).await;
        subject.world.guest_crashes(host_id(), instance(1));
        let why = why_failed(&subject).await;
        assert!(why.starts_with("the host has no memory left for this"), "{why}");
        assert_eq!(why.contains("kernel panic"), told, "{why}");
        assert_eq!(why.contains("console"), told, "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ignores_the_stop_is_ended() {
    let subject = Subject::start();
    subject.host.set_stop_takes(None);
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let off = MachineSpec { power: Power::Stopped, stop_timeout_ms: 10_000, ..machine(1) };
    let before = tokio::time::Instant::now();
    subject.broker.desire(set(2, vec![off]));
    subject.broker.sees(is(&ObservedState::Stopping)).await;
    subject.broker.sees(is(&ObservedState::Stopped)).await;
    // What counts is what the set says that asks for the stop.
    let took = before.elapsed();
    assert!((10_000..12_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_guest_has_all_of_the_time_that_a_later_set_gives_it() {
    let subject = Subject::start();
    subject.host.set_stop_takes(None);
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let off =
        |stop_timeout_ms| MachineSpec { power: Power::Stopped, stop_timeout_ms, ..machine(1) };
    subject.broker.desire(set(2, vec![off(3_600_000)]));
    subject.broker.sees(is(&ObservedState::Stopping)).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let before = tokio::time::Instant::now();
    subject.broker.desire(set(3, vec![off(30_000)]));
    subject.broker.sees(is(&ObservedState::Stopped)).await;
    let took = before.elapsed();
    assert!((30_000..32_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_machine_holds_up_no_other() {
    let subject = Subject::start();
    subject.host.set_faults(|call: &Call| match (call.verb, call.number % 5) {
        (Verb::Define, 0) => Fault::Hang,
        _ => Fault::None,
    });
    let machines: Vec<_> = (1..=40).map(machine).collect();
    subject.broker.desire(set(1, machines.clone()));
    subject.broker.sees(|seen| machines.iter().all(|machine| runs(seen, machine))).await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_and_tried_again() {
    let subject = Subject::start();
    subject.host.set_faults(|call: &Call| match call.verb {
        Verb::CreateVolume => Fault::Fail(HypervisorError::Full { what: "storage".into() }),
        _ => Fault::None,
    });
    subject.broker.desire(set(1, vec![machine(1)]));
    let seen = subject
        .broker
        .sees(|seen| {
            matches!(
                of(seen, instance(1)).map(|m| &m.state),
                Some(ObservedState::Failed { reason }) if reason.contains("no storage left")
            )
        })
        .await;
    assert!(!seen.volumes.is_empty(), "the volume tells why as well");
    subject.host.clear_faults();
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_vanished_is_told_and_not_made_anew() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    subject.host.force_stop(instance(1)).await.unwrap();
    subject.host.delete_volume(volume(1)).await.unwrap();
    subject
        .broker
        .sees(|seen| {
            matches!(
                of(seen, instance(1)).map(|m| &m.state),
                Some(ObservedState::Failed { reason }) if reason.contains("data is gone")
            )
        })
        .await;
    assert!(subject.host.volume(volume(1)).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_volume_moves_from_one_machine_to_another() {
    let subject = Subject::start();
    let disk = Disk { name: "data".into(), volume: volume(7), read_only: false };
    let data = HostVolume { volume: volume(7), ..boot_of(&machine(1)) };
    let with = |number, version| MachineSpec {
        disks: vec![disk.clone()],
        spec_version: version,
        ..machine(number)
    };
    let without = |number, version| MachineSpec { spec_version: version, ..machine(number) };
    let mut one = set(1, vec![with(1, 1), without(2, 1)]);
    one.volumes.push(data.clone());
    subject.broker.desire(one);
    subject.broker.sees(|seen| runs(seen, &with(1, 1)) && runs(seen, &without(2, 1))).await;
    let mut two = set(2, vec![without(1, 2), with(2, 2)]);
    two.volumes.push(data);
    subject.broker.desire(two);
    subject.broker.sees(|seen| runs(seen, &without(1, 2)) && runs(seen, &with(2, 2))).await;
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_ends_the_old_run_first() {
    let subject = Subject::start();
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(|seen| runs(seen, &machine(1))).await;
    let next = MachineSpec { epoch: Epoch(2), ..machine(1) };
    subject.broker.desire(set(2, vec![next.clone()]));
    subject.broker.sees(|seen| runs(seen, &next)).await;
    let runs = subject.world.ledger().runs();
    assert_eq!(runs.iter().map(|run| run.epoch).collect::<Vec<_>>(), [Epoch(1), Epoch(2)]);
    assert!(runs[0].until_ms.is_some_and(|end| end <= runs[1].from_ms));
    assert_eq!(subject.world.ledger().violations(), []);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_may_run_is_never_told_to_be_off_or_gone() {
    // The start takes long, and the looks after it fail for a while.
    let subject = Subject::start();
    let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let after = Arc::clone(&begun);
    let until = subject.clock.now_ms() + 60_000;
    let clock = subject.clock.clone();
    subject.host.set_faults(move |call: &Call| {
        use std::sync::atomic::Ordering::Relaxed;
        match call.verb {
            Verb::Start => {
                after.store(true, Relaxed);
                Fault::Delay(Duration::from_secs(10))
            }
            Verb::Look if after.load(Relaxed) && clock.now_ms() < until => {
                Fault::Fail(HypervisorError::busy("x", "y"))
            }
            _ => Fault::None,
        }
    });
    subject.broker.desire(set(1, vec![machine(1)]));
    subject.broker.sees(is(&ObservedState::Starting)).await;
    while !begun.load(std::sync::atomic::Ordering::Relaxed) {
        sleep_ms(10).await;
    }
    subject.broker.desire(set(2, Vec::new()));
    let mut ran = false;
    while subject.clock.now_ms() + 200 < until {
        sleep_ms(100).await;
        ran |= subject.world.ledger().running() == 1;
        let seen = subject.broker.last_seen().unwrap();
        let state = of(&seen, instance(1)).map(|seen| seen.state.clone());
        assert_eq!(state, Some(ObservedState::Starting));
    }
    assert!(ran, "the start was to be done in the meantime");
    subject.broker.sees(|seen| of(seen, instance(1)).is_none()).await;
    assert_eq!(subject.world.ledger().running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_machine_is_never_touched() {
    let subject = Subject::start();
    subject.world.add_foreign(host_id(), instance(1));
    subject.broker.desire(set(1, vec![machine(1)]));
    subject
        .broker
        .sees(|seen| {
            matches!(
                of(seen, instance(1)).map(|m| &m.state),
                Some(ObservedState::Failed { reason }) if reason.contains("something else")
            )
        })
        .await;
    subject.broker.desire(set(2, Vec::new()));
    subject.broker.sees(|seen| seen.generation == Generation(2)).await;
    sleep_ms(120_000).await;
    assert!(subject.world.foreign_is_untouched(host_id(), instance(1)));
}
