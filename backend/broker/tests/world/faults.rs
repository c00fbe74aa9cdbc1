//! The faults of a schedule: what befalls which part when, and when it is over.
//!
//! Bounds, on purpose: a call of the hypervisor that is under way can't be taken back, so a single
//! slow call is shorter than the broker's margin; a host's clock is at most a tenth wrong. All else
//! may be away for as long as it likes, an agent whose machines go on without a lease too.

use rand::{Rng, rngs::StdRng};

/// Something that is done to a part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    BrokerDies,
    BrokerStarts,
    AgentDies(usize),
    AgentStarts(usize),
    AgentFreezes(usize),
    AgentThaws(usize),
    PowerFails(usize),
    PowerIsBack(usize),
    CutToBroker(usize, bool),
    CutToHost(usize, bool),
    Lossy(usize, u32),
    /// That many percent of the connections between hosts are refused or cut midway.
    RoadsLossy(u32),
    /// That many percent of the calls fail or take up to a second.
    HypervisorFails(usize, u32),
    HostDiskSlow(usize, u64),
    HostDiskRefuses(usize, u64),
    StoreSlow(u64),
    StoreRefuses(bool),
    /// The next commit is durable and the broker dies before it knows.
    AnswerLost,
    WallClockJumps(i64),
    GuestCrashes(usize),
    /// The guests of the host touch that many percent of their memory.
    MemoryFills(usize, u64),
    /// The host is emptied by its operator.
    Drains(usize, bool),
    /// The host reaches this level of the host standard.
    Proves(usize, Option<u8>),
    /// A host ends for good: one that a machine is on its way to or from, or else this one.
    Dies(usize, Death),
    /// Their operator gives up all that have, where the platform takes his word.
    GivesUp,
}

/// How a host ends for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It has no power any more.
    Power,
    /// The broker is out of its reach, and other hosts are not.
    CutOff,
}

impl Act {
    /// The host that it befalls.
    pub const fn host(&self) -> Option<usize> {
        match *self {
            Self::AgentDies(host)
            | Self::AgentStarts(host)
            | Self::AgentFreezes(host)
            | Self::AgentThaws(host)
            | Self::PowerFails(host)
            | Self::PowerIsBack(host)
            | Self::CutToBroker(host, _)
            | Self::CutToHost(host, _)
            | Self::Lossy(host, _)
            | Self::HypervisorFails(host, _)
            | Self::HostDiskSlow(host, _)
            | Self::HostDiskRefuses(host, _)
            | Self::GuestCrashes(host)
            | Self::MemoryFills(host, _)
            | Self::Drains(host, _)
            | Self::Proves(host, _) => Some(host),
            Self::BrokerDies
            | Self::BrokerStarts
            | Self::RoadsLossy(_)
            | Self::StoreSlow(_)
            | Self::StoreRefuses(_)
            | Self::AnswerLost
            | Self::WallClockJumps(_)
            | Self::Dies(..)
            | Self::GivesUp => None,
        }
    }
}

/// Acts with their times in ms, in order.
pub fn schedule(random: &mut StdRng, hosts: usize, length_ms: u64) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    for _ in 0..random.random_range(5..=15) {
        let at = random.random_range(0..length_ms);
        let host = random.random_range(0..hosts);
        add(random, &mut acts, at, host);
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

/// Whether hosts may lose their leases by it, or have no memory left: they end what they run then,
/// without notice.
pub const fn ends_leases(act: &Act) -> bool {
    matches!(
        act,
        Act::BrokerDies
            | Act::BrokerStarts
            | Act::AgentDies(_)
            | Act::AgentStarts(_)
            | Act::AgentFreezes(_)
            | Act::AgentThaws(_)
            | Act::PowerFails(_)
            | Act::PowerIsBack(_)
            | Act::CutToBroker(..)
            | Act::CutToHost(..)
            | Act::Lossy(..)
            | Act::HostDiskSlow(..)
            | Act::HostDiskRefuses(..)
            | Act::MemoryFills(..)
            | Act::Dies(..)
            | Act::GivesUp
    )
}

/// Adds one fault and its end.
fn add(random: &mut StdRng, acts: &mut Vec<(u64, Act)>, at: u64, host: usize) {
    let (begin, end, most_ms) = match random.random_range(0..27) {
        0 | 1 => (Act::BrokerDies, Act::BrokerStarts, 30_000),
        2 => (Act::AgentDies(host), Act::AgentStarts(host), 60_000),
        3 => (Act::AgentFreezes(host), Act::AgentThaws(host), 60_000),
        4 => (Act::PowerFails(host), Act::PowerIsBack(host), 60_000),
        5 => (Act::CutToBroker(host, true), Act::CutToBroker(host, false), 60_000),
        6 => (Act::CutToHost(host, true), Act::CutToHost(host, false), 60_000),
        7 => {
            let until = at + random.random_range(1..=60_000);
            acts.push((at, Act::CutToBroker(host, true)));
            acts.push((until, Act::CutToBroker(host, false)));
            (Act::CutToHost(host, true), Act::CutToHost(host, false), 60_000)
        }
        8 | 9 => {
            let percent = random.random_range(5..=60);
            (Act::Lossy(host, percent), Act::Lossy(host, 0), 40_000)
        }
        10 => {
            let percent = random.random_range(10..=60);
            (Act::HypervisorFails(host, percent), Act::HypervisorFails(host, 0), 40_000)
        }
        11 => {
            let ms = random.random_range(1..=30_000);
            (Act::HostDiskSlow(host, ms), Act::HostDiskSlow(host, 0), 40_000)
        }
        12 => (Act::HostDiskRefuses(host, 20), Act::HostDiskRefuses(host, 0), 20_000),
        13 => {
            let ms = random.random_range(1..=5_000);
            (Act::StoreSlow(ms), Act::StoreSlow(0), 20_000)
        }
        14 | 15 => {
            let percent = random.random_range(20..=90);
            (Act::RoadsLossy(percent), Act::RoadsLossy(0), 40_000)
        }
        16..=18 => {
            let level = [None, None, Some(0)][random.random_range(0..3)];
            (Act::Proves(host, level), Act::Proves(host, Some(3)), 40_000)
        }
        19 => (Act::StoreRefuses(true), Act::StoreRefuses(false), 20_000),
        20 | 21 => {
            let percent = random.random_range(50..=100);
            (Act::MemoryFills(host, percent), Act::MemoryFills(host, 0), 40_000)
        }
        22 | 23 => (Act::Drains(host, true), Act::Drains(host, false), 60_000),
        24 | 25 => {
            let death = if random.random() { Death::Power } else { Death::CutOff };
            (Act::Dies(host, death), Act::GivesUp, 60_000)
        }
        _ => {
            let act = match random.random_range(0..3) {
                0 => Act::AnswerLost,
                1 => Act::WallClockJumps(random.random_range(-60_000..=60_000)),
                _ => Act::GuestCrashes(host),
            };
            acts.push((at, act));
            return;
        }
    };
    acts.push((at, begin));
    acts.push((at + random.random_range(1..=most_ms), end));
}
