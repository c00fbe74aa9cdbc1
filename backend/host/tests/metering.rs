//! The arithmetic of metering against an observer who sees everything.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use fairmazon_host::metering::{Key, Limits, Look, Memory, Meter, Room, Use};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
    usage::{Amounts, Subject, UsageWindow, WINDOW_MAX_MS, WindowKind},
};
use proptest::prelude::*;

const LIMITS: Limits = Limits { window_ms: 600_000, longest_look_ms: 60_000 };
const BEGIN: i64 = 1_790_000_000_000;

fn machine() -> Key {
    (Subject::Instance(InstanceId::from_parts(1, 1)), Epoch(1))
}

fn volume() -> Key {
    (Subject::Volume(VolumeId::from_parts(1, 1)), Epoch(0))
}

fn shape(incarnation: u64, egress_bytes: u64) -> Use {
    Use {
        vcpus: Vcpus(2),
        memory: Mib(512),
        incarnation: Some(incarnation),
        egress_bytes: Some(egress_bytes),
        ..Use::default()
    }
}

fn disk(size: u64) -> Use {
    Use { size: Gib(size), class: "standard".into(), ..Use::default() }
}

/// A meter with both of its clocks.
struct Bench {
    meter: Meter,
    monotonic_ms: u64,
    wall: i64,
    took_ms: u64,
    room: Room,
    windows: Vec<UsageWindow>,
}

impl Bench {
    fn new() -> Self {
        let meter = Meter::new(LIMITS, Memory::default());
        Self {
            meter,
            monotonic_ms: 5_000,
            wall: BEGIN,
            took_ms: 0,
            room: Room::Free,
            windows: Vec::new(),
        }
    }

    fn pass(&mut self, ms: u64) -> &mut Self {
        self.monotonic_ms += ms;
        self.wall += i64::try_from(ms).unwrap();
        self
    }

    fn look(&mut self, here: impl IntoIterator<Item = (Key, Option<Use>)>) -> &mut Self {
        let look = Look {
            monotonic_ms: self.monotonic_ms,
            wall: UnixMs(self.wall),
            took_ms: self.took_ms,
            here: here.into_iter().collect(),
        };
        let closed = self.meter.look(look, self.room);
        self.windows.extend(closed);
        self
    }

    /// Ends everything and answers what came of it as (kind, length, vCPU-ms, bytes).
    fn end(&mut self) -> Vec<(WindowKind, i64, u64, u64)> {
        self.look([]);
        check(&self.windows);
        let short =
            |w: &UsageWindow| (w.kind, w.length_ms(), w.amounts.vcpu_ms, w.amounts.egress_bytes);
        self.windows.iter().map(short).collect()
    }

    fn restart(&mut self) -> &mut Self {
        let memory = serde_json::to_string(&self.meter.memory()).unwrap();
        self.meter = Meter::new(LIMITS, serde_json::from_str(&memory).unwrap());
        self
    }
}

/// What holds of all windows, whatever happened.
fn check(windows: &[UsageWindow]) {
    let mut last: BTreeMap<Key, &UsageWindow> = BTreeMap::new();
    for window in windows {
        window.check().unwrap();
        let key = (window.subject, window.epoch);
        match last.insert(key, window) {
            Some(before) if before.begun == window.begun => {
                assert_eq!(window.sequence, before.sequence + 1, "{window:?}");
                assert_eq!(window.from, before.until, "{window:?}");
            }
            before => {
                assert!(before.is_none_or(|before| before.until <= window.begun), "{window:?}");
                assert_eq!((window.sequence, window.from), (1, window.begun), "{window:?}");
            }
        }
    }
}

#[test]
fn what_runs_counts_as_allotted_for_the_time_between_looks() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 100)))]);
    for sent in 1..=120 {
        bench.pass(10_000).look([(machine(), Some(shape(1, 100 + sent)))]);
    }
    assert_eq!(
        bench.end(),
        [(WindowKind::Used, 600_000, 1_200_000, 60), (WindowKind::Used, 600_000, 1_200_000, 60)]
    );
}

#[test]
fn a_machine_that_ends_is_charged_up_to_the_last_look_that_saw_it() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), None)]);
    bench.pass(50_000).look([(machine(), None)]);
    bench.pass(30_000).look([(machine(), Some(shape(2, 40)))]);
    bench.pass(5_000).look([(machine(), Some(shape(2, 45)))]);
    assert_eq!(
        bench.end(),
        [
            (WindowKind::Used, 10_000, 20_000, 0),
            (WindowKind::Off, 90_000, 0, 0),
            // All that the new run has sent, as its counter began at zero.
            (WindowKind::Used, 5_000, 10_000, 45),
        ]
    );
}

#[test]
fn another_run_between_two_looks_is_not_charged_for_the_time_between_them() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 10)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 30)))]);
    bench.pass(10_000).look([(machine(), Some(shape(2, 5)))]);
    bench.pass(10_000).look([(machine(), Some(shape(2, 6)))]);
    assert_eq!(
        bench.end(),
        [
            (WindowKind::Used, 10_000, 20_000, 20),
            (WindowKind::Off, 10_000, 0, 0),
            (WindowKind::Used, 10_000, 20_000, 6),
        ]
    );
}

#[test]
fn a_look_without_statistics_counts_time_and_catches_up_with_bytes() {
    let mut bench = Bench::new();
    let dumb = Use { incarnation: None, egress_bytes: None, ..shape(0, 0) };
    bench.look([(machine(), Some(shape(1, 10)))]);
    bench.pass(10_000).look([(machine(), Some(dumb))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 30)))]);
    assert_eq!(bench.end(), [(WindowKind::Used, 20_000, 40_000, 20)]);
}

#[test]
fn time_that_nobody_looked_is_not_charged() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    bench.pass(7_200_000).look([(machine(), Some(shape(1, 900)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 901)))]);
    assert_eq!(
        bench.end(),
        [
            (WindowKind::Used, 10_000, 20_000, 0),
            (WindowKind::Unseen, 7_200_000, 0, 0),
            (WindowKind::Used, 10_000, 20_000, 1),
        ]
    );
}

#[test]
fn a_wall_clock_that_is_set_charges_nothing_more() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    bench.wall += 3_600_000;
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    bench.wall -= 3_600_000;
    for _ in 0..3 {
        bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    }
    assert_eq!(
        bench.end(),
        [(WindowKind::Used, 10_000, 20_000, 0), (WindowKind::Unseen, 3_610_000, 0, 0)]
    );
}

#[test]
fn a_host_that_slept_is_not_charged_for_it() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    // A monotonic clock that stands still meanwhile tells of it no less than one that does not.
    bench.wall += 900_000;
    bench.monotonic_ms += 10;
    bench.look([(machine(), Some(shape(1, 0)))]);
    assert_eq!(
        bench.end(),
        [(WindowKind::Used, 10_000, 20_000, 0), (WindowKind::Unseen, 900_000, 0, 0)]
    );
}

#[test]
fn an_agent_that_restarts_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0))), (volume(), Some(disk(5)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0))), (volume(), Some(disk(5)))]);
    bench.restart().pass(3_000);
    // Counts from the boot of another machine.
    bench.monotonic_ms = 1;
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    assert_eq!(
        bench.end(),
        [
            (WindowKind::Used, 10_000, 0, 0),
            (WindowKind::Used, 10_000, 20_000, 0),
            (WindowKind::Unseen, 3_000, 0, 0),
            (WindowKind::Used, 10_000, 20_000, 0),
        ]
    );
    let disk = &bench.windows[0];
    assert_eq!((disk.subject, disk.amounts.gib_ms), (volume().0, 50_000));
    assert_eq!(disk.class, "standard");
}

#[test]
fn windows_that_were_written_after_the_memory_are_not_written_again() {
    let mut bench = Bench::new();
    bench.look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    let memory = bench.meter.memory();
    for _ in 0..59 {
        bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    }
    assert_eq!(bench.windows.len(), 1);
    bench.meter = Meter::new(LIMITS, memory);
    bench.meter.wrote(&bench.windows[0]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
    assert_eq!(
        bench.end(),
        [
            (WindowKind::Used, 600_000, 1_200_000, 0),
            (WindowKind::Unseen, 10_000, 0, 0),
            (WindowKind::Used, 10_000, 20_000, 0),
        ]
    );
}

#[test]
fn a_memory_that_was_lost_begins_another_series() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.look([(machine(), Some(shape(1, 0)))]);
        bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
        bench.look([]);
        bench.pass(1_000);
        bench.meter = Meter::new(LIMITS, Memory::default());
    }
    bench.end();
    assert_eq!(bench.windows.len(), 2);
    assert_ne!(bench.windows[0].begun, bench.windows[1].begun);
}

#[test]
fn without_room_time_is_given_up_and_nothing_is_lost_of_what_was_closed() {
    let mut bench = Bench::new();
    let run = |bench: &mut Bench, looks: u32| {
        for _ in 0..looks {
            bench.pass(10_000).look([(machine(), Some(shape(1, 0)))]);
        }
    };
    run(&mut bench, 61);
    bench.room = Room::None;
    run(&mut bench, 300);
    // As long as a window may be, it waits for room.
    bench.room = Room::Free;
    run(&mut bench, 1);
    assert_eq!(bench.windows.last().unwrap().length_ms(), 3_000_000);
    bench.room = Room::None;
    run(&mut bench, 400);
    bench.room = Room::Free;
    run(&mut bench, 10);
    let seen: Vec<_> = bench.end().into_iter().map(|window| (window.0, window.1)).collect();
    assert_eq!(
        seen,
        [
            (WindowKind::Used, 600_000),
            (WindowKind::Used, 3_000_000),
            (WindowKind::Unseen, 4_020_000),
            (WindowKind::Used, 90_000)
        ]
    );
}

#[test]
fn what_begins_during_a_look_is_charged_from_its_end() {
    let mut bench = Bench::new();
    bench.took_ms = 700;
    for _ in 0..3 {
        bench.look([(machine(), Some(shape(1, 0)))]).pass(10_000);
    }
    assert_eq!(bench.end(), [(WindowKind::Used, 20_000, 2 * 19_300, 0)]);
}

#[test]
fn a_smaller_shape_counts_between_two_that_differ() {
    let mut bench = Bench::new();
    bench.look([(volume(), Some(disk(10)))]);
    bench.pass(10_000).look([(volume(), Some(disk(20)))]);
    bench.pass(10_000).look([(volume(), Some(disk(20)))]);
    bench.end();
    assert_eq!(bench.windows[0].amounts.gib_ms, 300_000);
}

/// One thing that happens in a random story.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Look,
    Toggle(usize),
    StepWall(i64),
    /// Longer than what tells two looks apart.
    Sleep(u64),
    Restart,
    Forget,
    Room(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1_u64..20_000).prop_map(Event::Pass),
        8 => Just(Event::Look),
        4 => (0_usize..3).prop_map(Event::Toggle),
        1 => (-4_000_000_i64..4_000_000).prop_map(Event::StepWall),
        1 => (60_001_u64..4_000_000).prop_map(Event::Sleep),
        1 => Just(Event::Restart),
        1 => Just(Event::Forget),
        1 => any::<bool>().prop_map(Event::Room),
    ]
}

/// Sees everything, to the millisecond.
#[derive(Default)]
struct Observer {
    runs: [bool; 3],
    incarnation: [u64; 3],
    ran_ms: [u64; 3],
}

impl Observer {
    fn pass(&mut self, ms: u64) {
        for index in 0..3 {
            self.ran_ms[index] += if self.runs[index] { ms } else { 0 };
        }
    }

    fn key(index: usize) -> Key {
        (Subject::Instance(InstanceId::from_parts(1, index as u128)), Epoch(1))
    }

    fn here(&self) -> Vec<(Key, Option<Use>)> {
        let of = |index: usize| {
            let run = self.runs[index].then(|| shape(self.incarnation[index], 0));
            (Self::key(index), run)
        };
        (0..3).map(of).collect()
    }

    fn counted(windows: &[UsageWindow], index: usize) -> Amounts {
        let own =
            windows.iter().filter(|window| (window.subject, window.epoch) == Self::key(index));
        own.fold(Amounts::default(), |sum, window| sum.plus(window.amounts))
    }
}

proptest! {
    #[test]
    fn nothing_that_happens_makes_windows_that_overlap_or_charge_too_much(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (mut bench, mut observer) = (Bench::new(), Observer::default());
        for event in events {
            match event {
                Event::Pass(ms) => {
                    bench.pass(ms);
                    observer.pass(ms);
                }
                Event::Look => drop(bench.look(observer.here())),
                Event::Toggle(index) => {
                    observer.runs[index] ^= true;
                    observer.incarnation[index] += u64::from(observer.runs[index]);
                }
                Event::StepWall(by) => bench.wall += by,
                Event::Sleep(ms) => drop(bench.pass(ms)),
                Event::Restart => drop(bench.restart()),
                Event::Forget => drop(bench.look([])),
                Event::Room(free) => bench.room = if free { Room::Free } else { Room::None },
            }
        }
        bench.look([]);
        check(&bench.windows);
        for index in 0..3 {
            let Amounts { vcpu_ms, mib_ms, .. } = Observer::counted(&bench.windows, index);
            prop_assert!(vcpu_ms <= 2 * observer.ran_ms[index]);
            prop_assert!(mib_ms <= 512 * observer.ran_ms[index]);
        }
        for window in &bench.windows {
            let length = window.length_ms().unsigned_abs();
            prop_assert!(window.amounts.vcpu_ms <= 2 * length);
            prop_assert!(window.amounts.mib_ms <= 512 * length);
        }
    }

    #[test]
    fn the_sum_is_what_a_perfect_observer_counts_within_a_look(
        every_ms in 1_000_u64..30_000,
        toggles in prop::collection::vec((0_usize..3, 0_u64..100_000), 1..60),
    ) {
        let (mut bench, mut observer) = (Bench::new(), Observer::default());
        let mut since_look = 0;
        let mut changes = [0_u64; 3];
        bench.look(observer.here());
        for (index, ms) in toggles {
            let mut left = ms;
            while left > 0 {
                let next = left.min(every_ms - since_look);
                bench.pass(next);
                observer.pass(next);
                (left, since_look) = (left - next, since_look + next);
                if since_look == every_ms {
                    since_look = 0;
                    bench.look(observer.here());
                }
            }
            observer.runs[index] ^= true;
            observer.incarnation[index] += u64::from(observer.runs[index]);
            changes[index] += 1;
        }
        bench.look(observer.here());
        bench.look([]);
        check(&bench.windows);
        for (index, changes) in changes.iter().enumerate() {
            let counted = Observer::counted(&bench.windows, index).vcpu_ms;
            let ran = 2 * observer.ran_ms[index];
            prop_assert!(counted <= ran);
            prop_assert!(counted + 2 * changes * every_ms >= ran, "{counted} of {ran}");
        }
    }
}

#[test]
fn a_window_is_never_longer_than_an_hour_whatever_is_set() {
    let limits = Limits { window_ms: i64::MAX, longest_look_ms: i64::MAX };
    let mut bench = Bench::new();
    bench.meter = Meter::new(limits, Memory::default());
    for step in 0..100 {
        bench.pass(step * 37_000).look([(machine(), Some(shape(1, 0)))]);
    }
    bench.end();
    let used = bench.windows.iter().filter(|window| window.kind == WindowKind::Used);
    assert!(used.map(UsageWindow::length_ms).max().unwrap() <= WINDOW_MAX_MS);
}
