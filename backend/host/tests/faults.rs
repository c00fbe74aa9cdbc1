//! The agent under faults: ended at every call of its hypervisor, and in random worlds from a
//! seed that is printed when one goes wrong. After each: what is desired is there, nothing ran
//! twice, no volume was lost, counted wishes were done once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Network, Subject, TERM_MS, boot_of, has_volume, host_id, machine, of, runs, set};
use fairmazon_host::{
    clock::Clock,
    lease::LeaseRecord,
    state::{Loaded, MemoryState, SavedState, StateError, StateStore},
};
use fairmazon_hypervisor::{
    Hypervisor,
    contract::{instance, volume},
    sim::{Call, Fault, SeededFaults, Verb},
};
use fairmazon_model::{
    instance::{ObservedState, Power},
    machine::{DesiredSet, Disk, HostVolume, MachineSpec, ObservedSet, VolumeCopy, VolumeWish},
    units::{Epoch, Generation, Gib, Mib, Vcpus},
};
use rand::{
    Rng, SeedableRng,
    seq::{IndexedMutRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;

fn data() -> HostVolume {
    HostVolume { volume: volume(9), ..boot_of(&machine(1)) }
}

fn disk() -> Disk {
    Disk { name: "data".into(), volume: volume(9), read_only: false }
}

/// Three sets that between them have every kind of step.
fn story() -> [DesiredSet; 3] {
    let one = MachineSpec { disks: vec![disk()], ..machine(1) };
    let mut first = set(1, vec![one, machine(2)]);
    first.volumes.push(data());
    let one = MachineSpec { memory: Mib(512), reboots: 1, spec_version: 2, ..machine(1) };
    let two = MachineSpec { rebuilds: 1, disks: vec![disk()], spec_version: 2, ..machine(2) };
    let mut second = set(2, vec![one.clone(), two, machine(3), machine(4)]);
    second.volumes.push(HostVolume { size: Gib(2), ..data() });
    let one = MachineSpec { epoch: Epoch(2), spec_version: 3, ..one };
    let three = MachineSpec { power: Power::Stopped, spec_version: 2, ..machine(3) };
    let four = MachineSpec { vcpus: Vcpus(2), memory: Mib(512), spec_version: 2, ..machine(4) };
    let mut third = set(3, vec![one, three, four]);
    third.volumes.push(HostVolume { wish: VolumeWish::Delete, ..boot_of(&machine(2)) });
    third.volumes.push(data());
    [first, second, third]
}

async fn is_brought_about(subject: &Subject, wanted: &DesiredSet) {
    subject
        .broker
        .sees(|seen| {
            seen.generation == wanted.generation
                && seen.machines.len() == wanted.machines.len()
                && wanted.machines.iter().all(|machine| match machine.power {
                    Power::Running => runs(seen, machine),
                    Power::Stopped => of(seen, machine.instance).is_some_and(|found| {
                        found.state == ObservedState::Stopped
                            && found.spec_version == machine.spec_version
                    }),
                })
                && wanted.volumes.iter().all(|wish| {
                    let there = seen.volumes.iter().any(|found| found.volume == wish.volume);
                    there == (wish.wish == VolumeWish::Keep)
                })
        })
        .await;
}

/// Plays the story; at the call of that number the agent is ended, before or after it is done.
/// How many calls there were.
async fn play(crash_at: Option<u64>, after: bool) -> u64 {
    let mut subject = Subject::idle(Arc::new(fairmazon_host::state::MemoryState::default()));
    let calls = Arc::new(AtomicU64::new(0));
    let crash = Arc::new(Notify::new());
    let (counted, notify) = (Arc::clone(&calls), Arc::clone(&crash));
    subject.host.set_faults(move |_: &Call| {
        if Some(counted.fetch_add(1, Ordering::Relaxed)) != crash_at {
            return Fault::None;
        }
        notify.notify_one();
        if after { Fault::HangAfter } else { Fault::Hang }
    });
    subject.start_agent();
    for wanted in story() {
        subject.broker.desire(wanted.clone());
        let crashed = tokio::select! {
            () = is_brought_about(&subject, &wanted) => false,
            () = crash.notified() => true,
        };
        if crashed {
            subject.crash_agent().await;
            subject.start_agent();
            is_brought_about(&subject, &wanted).await;
        }
    }
    let ledger = subject.world.ledger();
    let context = format!("crash at {crash_at:?}, after: {after}");
    assert_eq!(ledger.violations(), [], "{context}");
    // The rebuild's boot volume, and the deleted one: of machine 2, in this order.
    assert_eq!(ledger.deleted_volumes(), [volume(2), volume(2)], "{context}");
    assert!(subject.world.volume_serial(host_id(), volume(9)).is_some(), "{context}");
    assert_eq!(ledger.starts(instance(2)), 2, "{context}: the first start and the rebuild");
    assert_eq!(ledger.starts(instance(1)), 3, "{context}: the first, the new shape, the new epoch");
    assert_eq!(ledger.starts(instance(4)), 1, "{context}: it grows while it runs");
    subject.host.clear_faults();
    let grown = subject.host.machine(instance(4)).await.unwrap().unwrap().definition;
    assert_eq!((grown.vcpus, grown.memory), (Vcpus(2), Mib(512)), "{context}");
    calls.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_at_any_call_loses_and_repeats_nothing() {
    let calls = play(None, false).await;
    assert!(calls > 40, "the story has become too short: {calls}");
    for crash_at in 0..calls {
        for after in [false, true] {
            play(Some(crash_at), after).await;
        }
    }
}

/// A machine as it was last desired.
struct Known {
    spec: MachineSpec,
    away: bool,
}

/// A random set of up to four machines; counts and epochs only grow.
fn random_set(random: &mut ChaCha8Rng, generation: u64, known: &mut [Known]) -> DesiredSet {
    let mut machines = Vec::new();
    for Known { spec, away } in known {
        if random.random_bool(0.3) {
            *away = true;
            continue;
        }
        spec.spec_version = generation;
        // A machine that was away comes back for a later run.
        if std::mem::take(away) {
            spec.epoch = Epoch(generation);
        }
        match random.random_range(0..7) {
            0 => spec.memory = Mib(256 * random.random_range(1..4)),
            1 => spec.power = Power::Stopped,
            2 => spec.power = Power::Running,
            3 => spec.reboots += 1,
            4 => spec.epoch = Epoch(generation),
            5 => spec.user_data = format!("{generation}"),
            _ => spec.rebuilds += 1,
        }
        machines.push(spec.clone());
    }
    if let Some(lucky) = machines.choose_mut(random) {
        lucky.disks.push(disk());
    }
    let mut wanted = set(generation, machines);
    wanted.volumes.push(data());
    wanted
}

/// One random world. All that is random comes from the seed.
async fn random_world(seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut subject = Subject::start();
    let faults = SeededFaults::new(seed, 20, 60, Duration::from_secs(20));
    subject.host.set_faults(faults);
    let takes = Duration::from_millis(random.random_range(0..1_500));
    subject.host.set_stop_takes(Some(takes).filter(|_| random.random_bool(0.9)));
    let mut sets: Vec<DesiredSet> = Vec::new();
    let mut known: Vec<_> =
        (1..=4).map(|number| Known { spec: machine(number), away: true }).collect();
    for generation in 1..=6 {
        sets.push(random_set(&mut random, generation, &mut known));
        // Repeated, reordered, older ones in between: the newest is the one of later streams.
        let mut sent = sets.clone();
        sent.shuffle(&mut random);
        sent.extend(sets.last().cloned());
        subject.broker.desire_all(sent);
        match random.random_range(0..8) {
            0 => {
                subject.crash_agent().await;
                subject.start_agent();
            }
            1 => subject.broker.network(Network::Cut),
            2 => subject.broker.network(Network::Silent),
            3 => subject.world.host_loses_power(host_id()),
            4 => subject.world.guest_crashes(host_id(), instance(random.random_range(1..=4))),
            _ => subject.broker.network(Network::Whole),
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2 * TERM_MS))).await;
    }
    subject.host.clear_faults();
    subject.broker.network(Network::Whole);
    // An earlier report may look right while a lease ends or a stop is still under way.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let wanted = sets.pop().unwrap();
    let right = is_brought_about(&subject, &wanted);
    let in_time = tokio::time::timeout(Duration::from_secs(1_800), right).await;
    let last = subject.broker.last_seen();
    assert!(in_time.is_ok(), "FAIRMAZON_SEED={seed}: {last:?} is not {wanted:?}");
    let ledger = subject.world.ledger();
    assert_eq!(ledger.violations(), [], "seed {seed}");
    assert!(!ledger.deleted_volumes().contains(&volume(9)), "seed {seed}: data was deleted");
    let running = wanted.machines.iter().filter(|machine| machine.power == Power::Running);
    assert_eq!(ledger.running(), running.count(), "seed {seed}");
    subject.stop_agent().await;
}

/// Keeps the state in memory; a save takes as long as it is told, and fails while it is full.
#[derive(Default)]
struct SlowState {
    memory: MemoryState,
    save_ms: AtomicU64,
    full: AtomicBool,
}

#[async_trait::async_trait]
impl StateStore for SlowState {
    async fn load(&self) -> Result<Loaded, StateError> {
        self.memory.load().await
    }

    async fn save(&self, state: SavedState) -> Result<(), StateError> {
        tokio::time::sleep(Duration::from_millis(self.save_ms.load(Ordering::SeqCst))).await;
        if self.full.load(Ordering::SeqCst) {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(StateError::Io { attempted: "write", path: "state".into(), source });
        }
        self.memory.save(state).await
    }

    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError> {
        self.memory.save_lease(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn no_lease_is_asked_for_before_the_set_of_the_stream_is_applied() {
    let state = Arc::new(SlowState::default());
    let mut subject = Subject::idle(state.clone());
    subject.start_agent();
    let (stays, goes) = (machine(1), machine(2));
    let both = set(1, vec![stays.clone(), goes.clone()]);
    subject.broker.desire(both.clone());
    is_brought_about(&subject, &both).await;
    subject.broker.network(Network::Cut);
    tokio::time::sleep(Duration::from_millis(2 * TERM_MS)).await;
    assert_eq!(subject.world.ledger().running(), 0);

    // Decided elsewhere meanwhile; the host's disk takes its time to note that.
    let starts = subject.world.ledger().starts(goes.instance);
    state.save_ms.store(TERM_MS / 2, Ordering::SeqCst);
    let one = set(2, vec![stays]);
    subject.broker.desire(one.clone());
    subject.broker.network(Network::Whole);
    is_brought_about(&subject, &one).await;
    assert_eq!(subject.world.ledger().starts(goes.instance), starts, "it runs elsewhere");
    subject.stop_agent().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_begun_for_want_of_room_is_told_and_done_when_there_is() {
    let state = Arc::new(SlowState::default());
    let mut subject = Subject::idle(state.clone());
    subject.start_agent();
    let first = set(1, vec![machine(1)]);
    subject.broker.desire(first.clone());
    is_brought_about(&subject, &first).await;

    state.full.store(true, Ordering::SeqCst);
    let changed = MachineSpec { memory: Mib(512), spec_version: 2, ..machine(1) };
    let second = set(2, vec![changed.clone(), machine(2)]);
    subject.broker.desire(second);
    let of = |seen: &ObservedSet, machine: &MachineSpec| {
        seen.machines.iter().find(|seen| seen.instance == machine.instance).cloned()
    };
    let told = |seen: &ObservedSet, number: u128| {
        let runs = of(seen, &changed).is_some_and(|seen| {
            seen.state == ObservedState::Running
                && seen.spec_version == 1
                && seen.failure.is_some_and(|why| why.contains("can't write down"))
        });
        let new = of(seen, &machine(number)).is_some_and(|seen| {
            matches!(&seen.state, ObservedState::Failed { reason } if reason.contains("its disk"))
                && seen.spec_version == 0
        });
        runs && new && seen.generation == first.generation && seen.machines.len() == 2
    };
    subject.broker.sees(|seen| told(seen, 2)).await;
    assert_eq!(subject.world.ledger().starts(instance(2)), 0, "nothing is begun");
    // What is wanted meanwhile takes the place of what was.
    let third = set(3, vec![changed.clone(), machine(3)]);
    subject.broker.desire(third.clone());
    subject.broker.sees(|seen| told(seen, 3)).await;

    state.full.store(false, Ordering::SeqCst);
    is_brought_about(&subject, &third).await;
    let last = subject.broker.last_seen().unwrap();
    assert!(last.machines.iter().all(|seen| seen.failure.is_none()), "{last:?}");
    assert_eq!(subject.world.ledger().starts(instance(2)), 0, "it was not wanted any more");
    assert_eq!(subject.world.ledger().violations(), []);
    subject.stop_agent().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_go_to_grow_and_to_be_copied_is_told_for_want_of_room_too() {
    let state = Arc::new(SlowState::default());
    let mut subject = Subject::idle(state.clone());
    subject.start_agent();
    let extra = |number| HostVolume { volume: volume(number), ..data() };
    let mut first = set(1, vec![machine(1), machine(2)]);
    first.volumes.extend([extra(11), extra(12), extra(13)]);
    subject.broker.desire(first.clone());
    subject.broker.sees(|seen| has_volume(seen, volume(13))).await;
    is_brought_about(&subject, &first).await;

    state.full.store(true, Ordering::SeqCst);
    let mut second = set(2, vec![machine(1)]);
    let copy = Some(VolumeCopy::Of(volume(13)));
    second.volumes.extend([
        HostVolume { wish: VolumeWish::Delete, ..boot_of(&machine(2)) },
        HostVolume { wish: VolumeWish::Delete, ..extra(11) },
        HostVolume { size: Gib(2), ..extra(12) },
        extra(13),
        HostVolume { copy, image: None, ..extra(14) },
    ]);
    subject.broker.desire(second.clone());
    let told = |seen: &ObservedSet| {
        let why = |number: u128| {
            let seen = seen.volumes.iter().find(|seen| seen.volume == volume(number));
            seen.and_then(|seen| seen.state.failure()).unwrap_or_default().to_owned()
        };
        let goes = of(seen, instance(2)).and_then(|seen| seen.failure.clone());
        goes.is_some_and(|why| why.contains("its disk"))
            && of(seen, instance(1)).is_some_and(|seen| seen.failure.is_none())
            && [11, 12, 14].into_iter().all(|number| why(number).contains("its disk"))
            && why(13).is_empty()
    };
    subject.broker.sees(told).await;

    state.full.store(false, Ordering::SeqCst);
    subject.broker.sees(|seen| has_volume(seen, volume(14)) && !has_volume(seen, volume(11))).await;
    is_brought_about(&subject, &second).await;
    let last = subject.broker.last_seen().unwrap();
    assert!(last.volumes.iter().all(|seen| seen.state.failure().is_none()), "{last:?}");
    subject.stop_agent().await;
}

/// A host with one machine that runs, on which volumes are being made that take hours, more of them
/// than are made at once. How many are.
async fn busy_with_volumes() -> (Subject, Arc<AtomicU64>) {
    let subject = Subject::start();
    let first = set(1, vec![machine(1)]);
    subject.broker.desire(first.clone());
    is_brought_about(&subject, &first).await;
    let making = Arc::new(AtomicU64::new(0));
    let begun = Arc::clone(&making);
    subject.host.set_faults(move |call: &Call| {
        if call.verb != Verb::CreateVolume {
            return Fault::None;
        }
        begun.fetch_add(1, Ordering::Relaxed);
        Fault::Delay(Duration::from_secs(3_600))
    });
    subject.broker.desire(with_large_volumes(2, vec![machine(1)]));
    subject.broker.sees(|seen| seen.generation == Generation(2)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    (subject, making)
}

fn with_large_volumes(generation: u64, machines: Vec<MachineSpec>) -> DesiredSet {
    let mut wanted = set(generation, machines);
    let large = |number| HostVolume { volume: volume(number), size: Gib(500), ..data() };
    wanted.volumes.extend((20..36).map(large));
    wanted
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_lease_waits_for_no_volume_that_is_made() {
    let (subject, _) = busy_with_volumes().await;
    subject.broker.network(Network::Cut);
    tokio::time::sleep(Duration::from_millis(TERM_MS)).await;
    assert_eq!(subject.world.ledger().running(), 0);
}

#[tokio::test(start_paused = true)]
async fn machines_are_stopped_and_made_while_volumes_take_hours_to_be_made() {
    let (subject, making) = busy_with_volumes().await;
    let off = MachineSpec { power: Power::Stopped, spec_version: 2, ..machine(1) };
    let began = subject.clock.now_ms();
    subject.broker.desire(with_large_volumes(3, vec![off.clone()]));
    let is_off = |seen: &ObservedSet| {
        of(seen, instance(1)).is_some_and(|seen| {
            seen.state == ObservedState::Stopped && seen.spec_version == off.spec_version
        })
    };
    subject.broker.sees(is_off).await;
    assert!(subject.clock.now_ms() - began < 60_000);
    // Other steps of volumes go through as well.
    let mut with_gone = with_large_volumes(4, vec![off.clone()]);
    with_gone.machines.clear();
    with_gone.volumes[0].wish = VolumeWish::Delete;
    subject.broker.desire(with_gone);
    subject.broker.sees(|seen| !has_volume(seen, volume(1))).await;
    assert!(subject.clock.now_ms() - began < 60_000);
    assert_eq!(making.load(Ordering::Relaxed), 4, "made at once");
    // Those that wait have their turn when others are made, one that is not wanted any more aside.
    let mut fewer = with_large_volumes(5, Vec::new());
    fewer.volumes.pop();
    subject.broker.desire(fewer);
    let all = |seen: &ObservedSet| (20..35).all(|number| has_volume(seen, volume(number)));
    let in_time = Duration::from_secs(4 * 3_600 + 60);
    subject.broker.sees_within(in_time, all).await;
    assert_eq!(making.load(Ordering::Relaxed), 15);
    assert!(!has_volume(&subject.broker.last_seen().unwrap(), volume(35)));
}

#[tokio::test(start_paused = true)]
async fn random_worlds_come_right() {
    let seeds = match std::env::var("FAIRMAZON_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..400,
    };
    for seed in seeds {
        random_world(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_its_state_asks_the_broker_and_deletes_nothing() {
    let mut subject = Subject::start();
    let [first, ..] = story();
    subject.broker.desire(first.clone());
    is_brought_about(&subject, &first).await;
    let before = subject.world.volume_serial(host_id(), volume(9));
    subject.crash_agent().await;
    subject.state = Arc::new(fairmazon_host::state::MemoryState::default());
    subject.broker.network(Network::Cut);
    subject.start_agent();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(subject.world.ledger().deleted_volumes(), []);
    subject.broker.network(Network::Whole);
    is_brought_about(&subject, &first).await;
    assert_eq!(subject.world.volume_serial(host_id(), volume(9)), before);
    assert_eq!(subject.world.ledger().violations(), []);
}
