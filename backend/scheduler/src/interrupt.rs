//! Making room: which spot machines have to go so that a machine fits that no host has room for.
//!
//! Only vCPU and memory are made free this way, every other rule holds as it is. What machines
//! under notice have is counted as free: where that is enough, no other one goes. The fewest
//! machines go, then those with the shortest notice, then the cheapest, as far as a bounded search
//! finds them; the seed decides between equals. No one of them is superfluous. Looked at only when
//! nothing fits.

use std::{cmp::Reverse, collections::BinaryHeap};

use fairmazon_model::{
    id::{HostId, InstanceId},
    price::NanoEur,
};

use crate::{
    MachineBooking, Request, Rule,
    fleet::Fleet,
    rules::{Query, Rules},
};

/// What a machine's interruption costs its customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpotTerms {
    /// Seconds of its notice.
    pub notice_seconds: u32,
    /// What an hour of it costs.
    pub price: NanoEur,
}

/// Where a machine fits once spot machines have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeRoom {
    /// The host.
    pub host: HostId,
    /// The flavor: the first of the request's sizes that room can be made for.
    pub flavor: String,
    /// The spot machines that have to go, by their ids.
    pub victims: Vec<InstanceId>,
    /// The machines that leave the host already and whose room it needs as well, by their ids.
    pub leaving: Vec<InstanceId>,
    /// The longest of all their notices, in seconds.
    pub notice_seconds: u32,
    /// Why this host, for the customer.
    pub reason: String,
}

/// The spot machines of one host that may be interrupted, and those that are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OnSpot {
    /// Of all of them.
    room: Room,
    /// The most that one of them has, each part for itself.
    largest: Room,
    /// The shortest notice and the lowest price among them.
    least: (u32, NanoEur),
    machines: Vec<Victim>,
    /// Those that give their room back, in the order of their ids.
    leaving: Vec<Leaver>,
    /// Of all that leave.
    promised: Room,
}

/// A machine under notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaver {
    id: InstanceId,
    room: Room,
    notice_seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Victim {
    id: InstanceId,
    room: Room,
    terms: SpotTerms,
}

/// What machines have, or what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Room {
    vcpus: u64,
    memory: u64,
    /// Of the memory that is sold once.
    real_memory: u64,
}

impl Room {
    const fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus + other.vcpus,
            memory: self.memory + other.memory,
            real_memory: self.real_memory + other.real_memory,
        }
    }

    const fn less(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory: self.memory.saturating_sub(other.memory),
            real_memory: self.real_memory.saturating_sub(other.real_memory),
        }
    }

    const fn covers(self, need: Self) -> bool {
        self.vcpus >= need.vcpus
            && self.memory >= need.memory
            && self.real_memory >= need.real_memory
    }

    /// How much of the need this is, in thousandths of its parts.
    fn share_of(self, need: Self) -> u64 {
        let share = |has: u64, needs: u64| (has.min(needs) * 1_000).checked_div(needs).unwrap_or(0);
        share(self.vcpus, need.vcpus)
            + share(self.memory, need.memory)
            + share(self.real_memory, need.real_memory)
    }
}

impl From<&MachineBooking> for Room {
    fn from(booking: &MachineBooking) -> Self {
        Self {
            vcpus: booking.vcpus.0.into(),
            memory: booking.memory.0,
            real_memory: booking.real_memory(),
        }
    }
}

impl OnSpot {
    pub(crate) fn join(&mut self, id: InstanceId, booking: &MachineBooking) {
        let room = booking.into();
        // In one order, whichever way they came here.
        if let Some(notice_seconds) = booking.leaves_in {
            let place = self.leaving.partition_point(|other| other.id < id);
            self.leaving.insert(place, Leaver { id, room, notice_seconds });
        } else if let Some(terms) = booking.spot {
            let victim = Victim { id, room, terms };
            let place = self.machines.partition_point(|other| other.order() < victim.order());
            self.machines.insert(place, victim);
        }
        self.survey();
    }

    pub(crate) fn leave(&mut self, id: InstanceId) {
        self.machines.retain(|victim| victim.id != id);
        self.leaving.retain(|leaver| leaver.id != id);
        self.survey();
    }

    fn survey(&mut self) {
        let machines = || self.machines.iter();
        self.room = machines().map(|victim| victim.room).fold(Room::default(), Room::plus);
        let leaving = self.leaving.iter().map(|leaver| leaver.room);
        self.promised = leaving.fold(Room::default(), Room::plus);
        self.largest = Room {
            vcpus: machines().map(|victim| victim.room.vcpus).max().unwrap_or(0),
            memory: machines().map(|victim| victim.room.memory).max().unwrap_or(0),
            real_memory: machines().map(|victim| victim.room.real_memory).max().unwrap_or(0),
        };
        self.least = (
            machines().map(|victim| victim.terms.notice_seconds).min().unwrap_or(0),
            machines().map(|victim| victim.terms.price).min().unwrap_or_default(),
        );
    }

    /// What the need costs at least, whichever of them go; none when they are not enough.
    fn hope(&self, need: Room) -> Option<Cost> {
        let count = |needs: u64, largest: u64| match needs {
            0 => Some(0),
            needs => (largest > 0).then(|| needs.div_ceil(largest)),
        };
        let vcpus = count(need.vcpus, self.largest.vcpus)?;
        let victims = vcpus
            .max(count(need.memory, self.largest.memory)?)
            .max(count(need.real_memory, self.largest.real_memory)?);
        let (notice_seconds, price) = if victims > 0 { self.least } else { Default::default() };
        let price = price.times(i64::try_from(victims).unwrap_or(i64::MAX));
        Some(Cost { victims: usize::try_from(victims).ok()?, notice_seconds, price })
    }
}

impl Victim {
    /// Larger ones first, and those that cost less before others of their size.
    fn order(&self) -> impl Ord + use<> {
        (Reverse(self.room), self.terms.notice_seconds, self.terms.price, self.id)
    }
}

/// What is compared, in this order, each the lower the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    victims: usize,
    notice_seconds: u32,
    price: NanoEur,
}

impl Cost {
    fn of<'a>(victims: impl Iterator<Item = &'a Victim>) -> Self {
        let none = Self { victims: 0, notice_seconds: 0, price: NanoEur(0) };
        victims.fold(none, |cost, victim| Self {
            victims: cost.victims + 1,
            notice_seconds: cost.notice_seconds.max(victim.terms.notice_seconds),
            price: cost.price + victim.terms.price,
        })
    }
}

struct Best {
    order: (Cost, u64),
    slot: u32,
    victims: Vec<Victim>,
    /// What is missing, those that leave being there.
    short: Room,
}

/// What is missing on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Missing {
    /// As long as those that leave are there.
    short: Room,
    /// When they have gone.
    need: Room,
}

/// What may be lacking where room is made.
const LACKING: Rules = Rules::of(&[Rule::Vcpus, Rule::Memory, Rule::RealMemory]);

/// How many hosts are looked at for victims that cost less, once the fewest are known.
const HOSTS_MOST: u32 = 64;

/// How many sets of victims one question looks at before it takes what is found quickly.
const SETS_MOST: u32 = 20_000;

impl Fleet {
    /// Finds where a machine that no host has room for fits once spot machines have gone. The
    /// machine is not spot itself. Changes nothing.
    pub fn make_room(&self, request: &Request) -> Option<MadeRoom> {
        if self.spot_machines == 0 {
            return None;
        }
        request.sizes.iter().find_map(|size| {
            let query = Query::new(self, request, size);
            let best = self.fewest_victims(&query)?;
            let host = self.hosts[best.slot as usize].as_ref()?;
            let mut victims: Vec<_> = best.victims.iter().map(|victim| victim.id).collect();
            victims.sort_unstable();
            let given = best.victims.iter().map(|victim| victim.room);
            let waits = !given.fold(Room::default(), Room::plus).covers(best.short);
            let leaving: &[Leaver] =
                if waits { &self.spot[best.slot as usize].leaving } else { &[] };
            let machines = match victims.len() + leaving.len() {
                1 => "a spot machine leaves".to_owned(),
                count => format!("{count} spot machines leave"),
            };
            let notices = leaving.iter().map(|leaver| leaver.notice_seconds);
            let notice_seconds = notices.fold(best.order.0.notice_seconds, u32::max);
            Some(MadeRoom {
                host: host.id,
                flavor: size.flavor.clone(),
                victims,
                leaving: leaving.iter().map(|leaver| leaver.id).collect(),
                notice_seconds,
                reason: format!(
                    "{}: no host had room, and {machines} this one",
                    host.spec.site.name
                ),
            })
        })
    }

    /// Where the fewest go, then the cheapest of what the most promising hosts have.
    fn fewest_victims(&self, query: &Query<'_>) -> Option<Best> {
        let candidates = self.lacking(query).filter_map(|(slot, tie, missing)| {
            let hope = self.spot[slot as usize].hope(missing.need)?;
            Some(Reverse((hope, tie, slot, missing)))
        });
        let mut candidates: BinaryHeap<_> = candidates.collect();
        let (mut best, mut sets, mut hosts) = (None::<Best>, SETS_MOST, HOSTS_MOST);
        while let Some(Reverse((hope, tie, slot, missing))) = candidates.pop() {
            let most = best.as_ref().map_or(usize::MAX, |best| best.order.0.victims);
            // Those that follow have no better hope.
            let is_no_better = best.as_ref().is_some_and(|best| (hope, tie) >= best.order);
            if is_no_better || (hope.victims == most && hosts == 0) {
                break;
            }
            if !query.broken(slot, &self.slots[slot as usize]).within(LACKING) {
                continue;
            }
            hosts = hosts.saturating_sub(1);
            let mut search = Search::new(&self.spot[slot as usize].machines, missing.need);
            let Some(victims) = search.cheapest(most, &mut sets) else { continue };
            let order = (Cost::of(victims.iter()), tie);
            if best.as_ref().is_none_or(|best| order < best.order) {
                best = Some(Best { order, slot, victims, short: missing.short });
            }
        }
        best
    }

    /// Hosts with spot machines that have enough, and what is missing there.
    fn lacking(&self, query: &Query<'_>) -> impl Iterator<Item = (u32, u64, Missing)> {
        let memory = query.size.memory.0;
        let real_memory = if query.request.spot { 0 } else { memory };
        let wanted = Room { vcpus: query.size.vcpus.0.into(), memory, real_memory };
        self.occupied().filter_map(move |(index, slot)| {
            let on_spot = &self.spot[index as usize];
            let is_empty = on_spot.machines.is_empty() && on_spot.leaving.is_empty();
            if is_empty || query.size.vcpus.0 > slot.threads {
                return None;
            }
            let (vcpus, memory) = query.taken(index, slot);
            let has = Room {
                vcpus: slot.vcpus.capacity,
                memory: slot.memory.capacity,
                real_memory: slot.real_memory.capacity,
            };
            let taken = Room { vcpus, memory, real_memory: query.real_taken(index, slot) };
            let short = taken.plus(wanted).less(has);
            let need = taken.less(on_spot.promised).plus(wanted).less(has);
            let helps = short != Room::default() && on_spot.room.covers(need);
            helps.then_some((index, slot.tie, Missing { short, need }))
        })
    }
}

/// The search for the victims of one host.
struct Search<'a> {
    machines: &'a [Victim],
    need: Room,
    /// The most that so many machines have, each part for itself.
    most: Vec<Room>,
    chosen: Vec<usize>,
    best: Option<(Cost, Vec<usize>)>,
}

impl<'a> Search<'a> {
    fn new(machines: &'a [Victim], need: Room) -> Self {
        let largest = |part: fn(&Room) -> u64| {
            let mut parts: Vec<_> = machines.iter().map(|victim| part(&victim.room)).collect();
            parts.sort_unstable_by_key(|part| Reverse(*part));
            parts
        };
        let memory = largest(|room| room.memory).into_iter().zip(largest(|room| room.real_memory));
        let parts = largest(|room| room.vcpus).into_iter().zip(memory);
        let most = std::iter::once(Room::default()).chain(parts.scan(
            Room::default(),
            |sum, (vcpus, (memory, real_memory))| {
                *sum = sum.plus(Room { vcpus, memory, real_memory });
                Some(*sum)
            },
        ));
        Self { machines, need, most: most.collect(), chosen: Vec::new(), best: None }
    }

    /// How many it takes at least; none when all of them are not enough.
    fn fewest(&self) -> Option<usize> {
        self.most.iter().position(|most| most.covers(self.need))
    }

    /// The cheapest set of as few as will do, at most `most`; `sets` is how many may be looked at.
    fn cheapest(&mut self, most: usize, sets: &mut u32) -> Option<Vec<Victim>> {
        let fewest = self.fewest()?;
        for count in fewest..=most.min(self.machines.len()) {
            self.choose(0, count, Room::default(), sets);
            if self.best.is_some() || *sets == 0 {
                break;
            }
        }
        let chosen = match self.best.take() {
            Some((_, chosen)) => chosen,
            None if *sets == 0 => self.quick(),
            None => return None,
        };
        Some(chosen.into_iter().map(|index| self.machines[index]).collect())
    }

    /// Looks at all sets with so many more machines from this one on.
    fn choose(&mut self, from: usize, count: usize, has: Room, sets: &mut u32) {
        if count == 0 {
            *sets = sets.saturating_sub(1);
            let cost = Cost::of(self.chosen.iter().map(|index| &self.machines[*index]));
            if has.covers(self.need) && self.best.as_ref().is_none_or(|(best, _)| cost < *best) {
                self.best = Some((cost, self.chosen.clone()));
            }
            return;
        }
        let mut passed = None;
        for index in from..self.machines.len() {
            if *sets == 0 || self.machines.len() - index < count {
                return;
            }
            let room = self.machines[index].room;
            // Of machines of one size the first are taken: they cost the least.
            if passed == Some(room) || !has.plus(self.most[count]).covers(self.need) {
                continue;
            }
            passed = Some(room);
            self.chosen.push(index);
            self.choose(index + 1, count - 1, has.plus(room), sets);
            self.chosen.pop();
        }
    }

    /// Takes what helps most until it is enough, and puts back what is then superfluous.
    fn quick(&self) -> Vec<usize> {
        let (mut missing, mut chosen) = (self.need, Vec::new());
        let mut left: Vec<_> = (0..self.machines.len()).collect();
        while missing != Room::default() {
            let share = |index: &usize| self.machines[*index].room.share_of(missing);
            // The first of equals, which costs the least.
            let best = (0..left.len()).rev().max_by_key(|place| share(&left[*place]));
            let Some(place) = best else { break };
            let index = left.remove(place);
            missing = missing.less(self.machines[index].room);
            chosen.push(index);
        }
        let sum = |chosen: &[usize]| {
            let rooms = chosen.iter().map(|index| self.machines[*index].room);
            rooms.fold(Room::default(), Room::plus)
        };
        let mut place = 0;
        while place < chosen.len() {
            let mut without = chosen.clone();
            without.remove(place);
            if sum(&without).covers(self.need) { chosen = without } else { place += 1 }
        }
        chosen
    }
}
