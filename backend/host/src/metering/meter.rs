//! The arithmetic of metering: looks go in, windows come out. No clock, no I/O.
//!
//! What counts is what was allotted, for the time between two looks that both saw it in use.
//! What happened between a look that saw it and one that did not is not known and not counted,
//! so that a machine is never charged for more than it ran. Nor is time that only one of the two
//! clocks has seen go by: a step of the wall clock, a host that slept, an agent that was away.

use std::collections::BTreeMap;

use fairmazon_model::{
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
    usage::{Amounts, Subject, UsageWindow, WINDOW_MAX_MS, WindowKind},
};
use serde::{Deserialize, Serialize};

/// What has windows of its own: an instance under one epoch, or a volume under epoch 0.
pub type Key = (Subject, Epoch);

/// What one look has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// On a clock that nobody sets.
    pub monotonic_ms: u64,
    /// On the wall clock.
    pub wall: UnixMs,
    /// How long it took. What is seen in use for the first time may have begun only at its end.
    pub took_ms: u64,
    /// All that is here; none for what is here and not in use.
    pub here: BTreeMap<Key, Option<Use>>,
}

/// How something is in use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Use {
    /// Processors allotted.
    pub vcpus: Vcpus,
    /// Memory allotted.
    pub memory: Mib,
    /// Disk allotted.
    pub size: Gib,
    /// The storage class of a volume; empty for an instance.
    pub class: String,
    /// Which run of its process this is, where that is known.
    pub incarnation: Option<u64>,
    /// What was sent in this run, where that is known.
    pub egress_bytes: Option<u64>,
}

/// How the meter measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a window is, at most [`WINDOW_MAX_MS`].
    pub window_ms: i64,
    /// Two looks that are further apart than this say nothing of the time between them.
    pub longest_look_ms: i64,
}

/// Whether windows can be written down now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// They can.
    Free,
    /// They can't: what has to be closed all the same is given up, and its time counts as unseen.
    None,
}

/// Measures all that one host has.
#[derive(Debug, Clone)]
pub struct Meter {
    limits: Limits,
    series: BTreeMap<Key, Series>,
    /// The wall clock as it was last taken: it never goes back.
    at: UnixMs,
    /// When the last look was, on the clock that nobody sets; none before the first one.
    looked_ms: Option<u64>,
}

/// The windows of one key that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    begun: UnixMs,
    /// Of the next window.
    sequence: u64,
    /// Where the next window begins.
    from: UnixMs,
    class: String,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It was in use when it was last looked at, and for `amounts` since `from`. Of the time to
    /// the next look, `late_ms` are not counted.
    Running { until: UnixMs, amounts: Amounts, seen: Use, late_ms: u64 },
    /// Nothing is counted since `from`.
    Idle { why: WindowKind, incarnation: Option<u64> },
}

/// What the meter has to know again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    at: UnixMs,
    series: Vec<(Subject, Epoch, Series)>,
}

/// What a look means for the time since the one before.
#[derive(Clone, Copy)]
struct Step {
    at: UnixMs,
    elapsed_ms: u64,
    took_ms: u64,
    /// Nobody looked in between.
    blind: bool,
    room: Room,
}

impl Meter {
    /// A meter that goes on from `memory`; windows that were written down after it are told with
    /// [`wrote`](Self::wrote).
    pub fn new(limits: Limits, memory: Memory) -> Self {
        let window_ms = limits.window_ms.clamp(1, WINDOW_MAX_MS);
        let longest_look_ms = limits.longest_look_ms.clamp(1, window_ms);
        let series = memory.series.into_iter();
        Self {
            limits: Limits { window_ms, longest_look_ms },
            series: series.map(|(subject, epoch, series)| ((subject, epoch), series)).collect(),
            at: memory.at,
            looked_ms: None,
        }
    }

    /// What a later meter goes on from.
    pub fn memory(&self) -> Memory {
        let series = self.series.iter();
        Memory {
            at: self.at,
            series: series.map(|(&(subject, epoch), s)| (subject, epoch, s.clone())).collect(),
        }
    }

    /// Takes into account a window that was written down and may not be in the memory.
    pub fn wrote(&mut self, window: &UsageWindow) {
        self.at = self.at.max(window.until);
        let after = Series {
            begun: window.begun,
            sequence: window.sequence + 1,
            from: window.until,
            class: window.class.clone(),
            state: State::Idle { why: WindowKind::Unseen, incarnation: None },
        };
        let known =
            self.series.entry((window.subject, window.epoch)).or_insert_with(|| after.clone());
        if (known.begun, known.sequence) < (after.begun, after.sequence) {
            *known = after;
        }
    }

    /// When the last look was, as the windows have it: ahead of a wall clock that was set back.
    pub fn at(&self) -> UnixMs {
        self.at
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is nothing to measure.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Takes a look; answers the windows that have ended with it.
    pub fn look(&mut self, look: Look, room: Room) -> Vec<UsageWindow> {
        let step = self.step(&look, room);
        let mut windows = Vec::new();
        self.series.retain(|&key, series| {
            let stays = look.here.contains_key(&key);
            if !stays {
                series.close(key, step, &mut windows);
            }
            stays
        });
        for (key, used) in look.here {
            match (self.series.get_mut(&key), used) {
                (Some(series), Some(seen)) => {
                    series.in_use(key, seen, step, self.limits, &mut windows);
                }
                (Some(series), None) => series.not_in_use(key, step, &mut windows),
                (None, Some(seen)) => {
                    self.series.insert(key, Series::begin(step, seen));
                }
                (None, None) => {}
            }
        }
        windows
    }

    fn step(&mut self, look: &Look, room: Room) -> Step {
        let at = self.at.max(look.wall);
        let wall_ms = at.0.saturating_sub(self.at.0).unsigned_abs();
        let passed_ms = self.looked_ms.map(|before| look.monotonic_ms.saturating_sub(before));
        let longest_ms = self.limits.longest_look_ms.unsigned_abs();
        let blind = passed_ms.is_none_or(|passed_ms| passed_ms.max(wall_ms) > longest_ms);
        (self.at, self.looked_ms) = (at, Some(look.monotonic_ms));
        let elapsed_ms = passed_ms.unwrap_or(0).min(wall_ms);
        Step { at, elapsed_ms, took_ms: look.took_ms, blind, room }
    }
}

impl Series {
    fn begin(step: Step, seen: Use) -> Self {
        let (at, amounts, late_ms) = (step.at, Amounts::default(), step.took_ms);
        Self {
            begun: at,
            sequence: 1,
            from: at,
            class: seen.class.clone(),
            state: State::Running { until: at, amounts, seen, late_ms },
        }
    }

    fn in_use(
        &mut self,
        key: Key,
        now: Use,
        step: Step,
        limits: Limits,
        windows: &mut Vec<UsageWindow>,
    ) {
        let (why, begins_anew) = match &self.state {
            State::Running { seen, .. }
                if !step.blind && !differ(seen.incarnation, now.incarnation) =>
            {
                return self.goes_on(key, now, step, limits, windows);
            }
            _ if step.blind => (WindowKind::Unseen, false),
            State::Running { .. } => (WindowKind::Off, true),
            State::Idle { why, incarnation } => {
                (*why, *why == WindowKind::Off && differ(*incarnation, now.incarnation))
            }
        };
        self.close(key, step, windows);
        if step.room == Room::None {
            // It begins again where the time before can be written down.
            self.state = State::Idle { why: WindowKind::Unseen, incarnation: None };
            return;
        }
        self.fill(key, step.at, why, windows);
        // What a run that began since the last look has sent, all of it is of this time.
        let sent = if begins_anew { now.egress_bytes.unwrap_or(0) } else { 0 };
        let amounts = Amounts { egress_bytes: sent, ..Amounts::default() };
        let late_ms = step.took_ms;
        self.state = State::Running { until: step.at, amounts, seen: now, late_ms };
    }

    /// The same run, seen again.
    fn goes_on(
        &mut self,
        key: Key,
        mut now: Use,
        step: Step,
        limits: Limits,
        windows: &mut Vec<UsageWindow>,
    ) {
        // While there is no room a window grows as long as it may be.
        let longest_ms = match step.room {
            Room::Free => limits.window_ms,
            Room::None => WINDOW_MAX_MS,
        };
        if step.at.0 - self.from.0 > longest_ms {
            self.close_running(key, step, windows);
        }
        let State::Running { until, amounts, seen, late_ms } = &mut self.state else { return };
        let counted_ms = step.elapsed_ms.saturating_sub(std::mem::take(late_ms));
        let used = |before: u64, now: u64| before.min(now).saturating_mul(counted_ms);
        let sent = match (seen.egress_bytes, now.egress_bytes) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => 0,
        };
        *amounts = amounts.plus(Amounts {
            vcpu_ms: used(seen.vcpus.0.into(), now.vcpus.0.into()),
            mib_ms: used(seen.memory.0, now.memory.0),
            gib_ms: used(seen.size.0, now.size.0),
            egress_bytes: sent,
        });
        *until = step.at;
        // What was not told this time is as it was: the next difference is from there.
        now.egress_bytes = now.egress_bytes.or(seen.egress_bytes);
        now.incarnation = now.incarnation.or(seen.incarnation);
        *seen = now;
        if step.room == Room::Free && step.at.0 - self.from.0 >= limits.window_ms {
            self.close_running(key, step, windows);
        }
    }

    /// Ends the window and goes on with the next one, where there is room.
    fn close_running(&mut self, key: Key, step: Step, windows: &mut Vec<UsageWindow>) {
        let State::Running { until, amounts, .. } = &mut self.state else { return };
        let (ended, counted) = (*until, std::mem::take(amounts));
        if step.room == Room::None {
            let why = WindowKind::Unseen;
            self.state = State::Idle { why, incarnation: None };
        } else if ended > self.from {
            self.write(key, ended, WindowKind::Used, counted, windows);
        }
    }

    fn not_in_use(&mut self, key: Key, step: Step, windows: &mut Vec<UsageWindow>) {
        if let State::Running { seen, .. } = &self.state {
            let incarnation = seen.incarnation;
            self.close(key, step, windows);
            if step.room == Room::Free {
                let why = if step.blind { WindowKind::Unseen } else { WindowKind::Off };
                self.state = State::Idle { why, incarnation };
            }
        }
    }

    /// Ends what is open, at the last look that saw it in use.
    fn close(&mut self, key: Key, step: Step, windows: &mut Vec<UsageWindow>) {
        self.close_running(key, step, windows);
        if let State::Running { seen, .. } = &self.state {
            let incarnation = seen.incarnation;
            self.state = State::Idle { why: WindowKind::Off, incarnation };
        }
    }

    /// Says of the time up to `at` that nothing is counted in it.
    fn fill(&mut self, key: Key, at: UnixMs, why: WindowKind, windows: &mut Vec<UsageWindow>) {
        if at > self.from {
            self.write(key, at, why, Amounts::default(), windows);
        }
    }

    fn write(
        &mut self,
        (subject, epoch): Key,
        until: UnixMs,
        kind: WindowKind,
        amounts: Amounts,
        windows: &mut Vec<UsageWindow>,
    ) {
        windows.push(UsageWindow {
            subject,
            epoch,
            begun: self.begun,
            sequence: self.sequence,
            from: self.from,
            until,
            kind,
            class: self.class.clone(),
            amounts,
        });
        (self.sequence, self.from) = (self.sequence + 1, until);
    }
}

/// Whether two runs are known to be two.
fn differ(one: Option<u64>, other: Option<u64>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}
