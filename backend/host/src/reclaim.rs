//! Taking memory back from spot machines: what each is asked to get along with, and which one is
//! ended when that is not enough. Pure: what is measured comes in, what is to be done goes out.
//!
//! A guest has to follow when it is asked, and may not. So nothing here counts on memory before it
//! is seen to be free, and who gives nothing, or says nothing of what it needs, is the first that
//! goes. Machines that are not spot are never asked for anything.

use std::{cmp::Reverse, collections::BTreeMap};

use fairmazon_hypervisor::{HostMemory, MachineMemory};
use fairmazon_model::{id::InstanceId, units::Mib};

/// The part of its memory that a host keeps free, and the bounds of that in MiB.
const RESERVE_PART: u64 = 20;
const RESERVE_LEAST_MIB: u64 = 256;
const RESERVE_MOST_MIB: u64 = 4_096;
/// The part of what a guest needs that it has beside that, and what it has in any case, in MiB.
const MARGIN_PART: u64 = 8;
const MARGIN_MIB: u64 = 32;
/// For so many looks in a row a guest may get no further, and memory be nearly gone.
const PATIENCE: u32 = 3;

/// What is known from one look to the next. A process that begins anew knows nothing, and takes
/// what it finds for what it has asked for.
#[derive(Debug, Default)]
pub struct Reclaim {
    is_short: bool,
    asked: BTreeMap<InstanceId, Asked>,
    /// Looks in a row at which memory was nearly gone, with too little to come.
    nearly_gone: u32,
}

/// What a guest was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// To get along with this.
    goal: Mib,
    /// What it was defined with then.
    defined: Mib,
    /// What it had at the last look.
    had: Mib,
    /// Looks in a row at which it had more than that, and no less than before.
    in_vain: u32,
}

/// What is to be done after a look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// What guests shall have.
    pub balloons: Vec<(InstanceId, Mib)>,
    /// The machine that is to be ended, as the host has no memory left for it.
    pub give_up: Option<InstanceId>,
}

/// A spot machine at one look.
struct Guest {
    instance: InstanceId,
    defined: u64,
    has: u64,
    goal: u64,
    floor: u64,
    in_vain: u32,
    follows: bool,
}

impl Guest {
    /// How much less it can have.
    const fn can_give(&self) -> u64 {
        if self.follows { self.goal.saturating_sub(self.floor) } else { 0 }
    }

    const fn lacks(&self) -> u64 {
        self.defined.saturating_sub(self.goal)
    }
}

/// What a host keeps free: below it memory is taken back, above twice as much it is given again.
pub fn reserve(total: Mib) -> Mib {
    let part = (total.0 / RESERVE_PART).clamp(RESERVE_LEAST_MIB, RESERVE_MOST_MIB);
    Mib(part.min(total.0 / 4))
}

/// The least that a guest is asked to get along with: what it says that it needs with some more,
/// and never less than half of what it is defined with. One that says nothing keeps all: what it
/// needs is not known.
pub fn floor(machine: &MachineMemory) -> Mib {
    let Some(needs) = machine.needs else { return machine.defined };
    let wanted = needs.0.saturating_add(needs.0 / MARGIN_PART).saturating_add(MARGIN_MIB);
    Mib(wanted.max(machine.defined.0.div_ceil(2)).min(machine.defined.0))
}

impl Reclaim {
    /// Whether memory was below the reserve, and has not been above twice that since.
    pub const fn is_short(&self) -> bool {
        self.is_short
    }

    /// Decides what follows from a look. `is_free` says whether a machine may be touched now.
    pub fn look(&mut self, host: &HostMemory, is_free: impl Fn(InstanceId) -> bool) -> Round {
        let machines = || host.machines.iter().filter(|machine| is_free(machine.instance));
        let mut round = Round::default();
        // Those that are not spot any more.
        let kept = machines().filter(|machine| !machine.spot && machine.has < machine.defined);
        round.balloons.extend(kept.map(|machine| (machine.instance, machine.defined)));
        let mut guests: Vec<_> =
            machines().filter(|machine| machine.spot).map(|machine| self.guest(machine)).collect();
        let (available, reserve) = (host.available.0, reserve(host.total).0);
        if available < reserve {
            self.is_short = true;
            let behind = |guest: &Guest| guest.has.saturating_sub(guest.goal);
            let coming: u64 = guests.iter().filter(|guest| guest.follows).map(behind).sum();
            let can_give: u64 = guests.iter().map(Guest::can_give).sum();
            let missing = (reserve + reserve / 2).saturating_sub(available + coming);
            share(&mut guests, missing, Guest::can_give, |guest, part| guest.goal -= part);
            let is_nearly_gone = available.saturating_add(coming + can_give) < reserve / 2;
            self.nearly_gone = if is_nearly_gone { self.nearly_gone + 1 } else { 0 };
        } else {
            self.nearly_gone = 0;
            if available >= reserve * 2 {
                self.is_short = false;
                let left = available - reserve - reserve / 2;
                share(&mut guests, left, Guest::lacks, |guest, part| guest.goal += part);
            }
        }
        if self.nearly_gone >= PATIENCE {
            self.nearly_gone = 0;
            // Who does not follow goes before who does, and of those who has the most.
            let first = guests.iter().max_by_key(|guest| {
                (!guest.follows || guest.floor == guest.defined, guest.has, Reverse(guest.instance))
            });
            round.give_up = first.map(|guest| guest.instance);
        }
        self.asked = guests.iter().map(|guest| (guest.instance, Asked::from(guest))).collect();
        let asked = guests.iter().filter(|guest| guest.goal != guest.has);
        round.balloons.extend(asked.map(|guest| (guest.instance, Mib(guest.goal))));
        round
    }

    fn guest(&self, machine: &MachineMemory) -> Guest {
        // One that has grown since was not asked for anything yet.
        let asked = self.asked.get(&machine.instance);
        let asked = asked.filter(|asked| asked.defined == machine.defined);
        // What it needs by now it has, or it would take that back again and again.
        let floor = floor(machine);
        let least = if machine.needs.is_some() { floor } else { Mib(0) };
        let goal = asked.map_or(machine.has, |asked| asked.goal).max(least).min(machine.defined);
        let in_vain = match asked {
            Some(asked) if machine.has > goal && machine.has >= asked.had => asked.in_vain + 1,
            _ => 0,
        };
        Guest {
            instance: machine.instance,
            defined: machine.defined.0,
            has: machine.has.0,
            goal: goal.0,
            floor: floor.0,
            in_vain,
            follows: in_vain < PATIENCE,
        }
    }
}

impl From<&Guest> for Asked {
    fn from(guest: &Guest) -> Self {
        Self {
            goal: Mib(guest.goal),
            defined: Mib(guest.defined),
            had: Mib(guest.has),
            in_vain: guest.in_vain,
        }
    }
}

/// Shares `sum` out, to each in proportion to the most that is for it: all of that where there is
/// enough, and up to a MiB each too much where there is not.
fn share(
    guests: &mut [Guest],
    sum: u64,
    most: impl Fn(&Guest) -> u64,
    give: impl Fn(&mut Guest, u64),
) {
    let all: u64 = guests.iter().map(&most).sum();
    let sum = u128::from(sum.min(all));
    for guest in guests {
        let most = most(guest);
        let part = (u128::from(most) * sum).div_ceil(u128::from(all.max(1)));
        give(guest, u64::try_from(part).unwrap_or(most).min(most));
    }
}
