//! The hard rules: what a host must obey, in the order in which explanations name them.
//!
//! What the customer asked for comes first, what may change by itself (reachable, room) last,
//! so that a host counts under the reason that is hardest to remove.

use std::fmt;

use fairmazon_model::id::HostId;

use crate::{
    FleetHost, Request, Share, Size,
    fleet::{Fleet, Slot, flag},
    groups::GroupRules,
};

/// A hard rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The host holds the machine's volumes.
    Volumes,
    /// The host is not left out by the request.
    Excluded,
    /// The host is in one of the countries.
    Country,
    /// The host is in one of the regions.
    Region,
    /// The host's standard level is high enough.
    Conformity,
    /// The host has confidential computing, where that is asked for.
    Confidential,
    /// The host has the features.
    Features,
    /// The host can boot the image.
    Image,
    /// The host has the image in the version of the catalogue.
    ImageVersion,
    /// The host has the machines that this one gathers with.
    With,
    /// The host has no machine that this one keeps apart from, or that keeps apart from it.
    NotWith,
    /// The host can be reached.
    Alive,
    /// The host takes new machines.
    Schedulable,
    /// The host conforms to the host standard.
    Conforms,
    /// The host is not being emptied.
    Draining,
    /// The host's agent can take the machine while it runs elsewhere.
    Incapable,
    /// Enough virtual processors are left, and the host has as many threads.
    Vcpus,
    /// Enough memory is left, of what the host sells.
    Memory,
    /// Enough memory is left that the host has, where the machine is not spot.
    RealMemory,
    /// Enough disk of each class is left.
    Storage,
    /// What the host is told of all its machines stays within one message.
    Specifications,
}

impl Rule {
    /// All, in order.
    pub const ALL: [Self; 21] = [
        Self::Volumes,
        Self::Excluded,
        Self::Country,
        Self::Region,
        Self::Conformity,
        Self::Confidential,
        Self::Features,
        Self::Image,
        Self::ImageVersion,
        Self::With,
        Self::NotWith,
        Self::Alive,
        Self::Schedulable,
        Self::Conforms,
        Self::Draining,
        Self::Incapable,
        Self::Vcpus,
        Self::Memory,
        Self::RealMemory,
        Self::Storage,
        Self::Specifications,
    ];

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rules(u32);

impl Rules {
    pub(crate) const fn of(rules: &[Rule]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < rules.len() {
            bits |= rules[index].bit();
            index += 1;
        }
        Self(bits)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of these are among `others`.
    pub(crate) const fn within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    pub(crate) const fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub(crate) const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The first in order.
    pub(crate) fn first(self) -> Option<Rule> {
        Rule::ALL.get(self.0.trailing_zeros() as usize).copied()
    }

    /// The only one.
    pub(crate) fn single(self) -> Option<Rule> {
        if self.0.count_ones() == 1 { self.first() } else { None }
    }
}

/// A request in the fleet's own numbers.
pub(crate) struct Query<'a> {
    fleet: &'a Fleet,
    pub(crate) request: &'a Request,
    pub(crate) size: &'a Size,
    /// Empty means any.
    countries: Vec<u32>,
    regions: Vec<u32>,
    /// Class and GiB; a class that no host has is [`u32::MAX`].
    pub(crate) storage: Vec<(u32, u64)>,
    volume_host: Option<Option<HostId>>,
    /// Which sets of features will do, by number; empty means all.
    features: Vec<bool>,
    /// Which sets of images have those that are asked for, by number.
    images: Vec<bool>,
    /// Which of them have no other versions of those, by number.
    image_versions: Vec<bool>,
    groups: GroupRules,
    own: [Option<Own>; 2],
}

/// What the machine has booked already.
#[derive(Debug, Clone, Copy)]
struct Own {
    slot: u32,
    vcpus: u64,
    memory: u64,
    real_memory: u64,
    specification: u64,
}

impl<'a> Query<'a> {
    pub(crate) fn new(fleet: &'a Fleet, request: &'a Request, size: &'a Size) -> Self {
        let shares = [Share::Here(request.machine), Share::Coming(request.machine)];
        let booked = shares.map(|share| {
            let booking = fleet.machine(share)?;
            Some((*fleet.by_id.get(&booking.host)?, booking))
        });
        let own = booked.map(|booked| {
            booked.map(|(slot, booking)| Own {
                slot,
                vcpus: booking.vcpus.0.into(),
                memory: booking.memory.0,
                real_memory: booking.real_memory(),
                specification: booking.specification,
            })
        });
        let groups = booked.iter().flatten().map(|(slot, booking)| (*slot, &booking.placement));
        let own_groups: Vec<_> = groups.collect();
        // A name that no host has ever had stands for a number that none has.
        let place = |name: &String| fleet.places.known(name).unwrap_or(u32::MAX);
        let class = |name: &String| fleet.classes.known(name).unwrap_or(u32::MAX);
        let mut volume_hosts = request.volume_hosts.iter();
        Self {
            fleet,
            request,
            size,
            countries: request.placement.countries.iter().map(place).collect(),
            regions: request.placement.regions.iter().map(place).collect(),
            storage: request.storage.iter().map(|(name, size)| (class(name), size.0)).collect(),
            volume_host: match (volume_hosts.next(), volume_hosts.next()) {
                (None, _) => None,
                (Some(host), None) => Some(Some(*host)),
                (Some(_), Some(_)) => Some(None),
            },
            features: if request.features.is_empty() {
                Vec::new()
            } else {
                fleet.feature_sets.test(|set| request.features.is_subset(set))
            },
            images: fleet.image_sets.test(|set| set.have(&request.images)),
            image_versions: fleet.image_sets.test(|set| set.have_versions(&request.images)),
            groups: fleet.groups.rules(
                request.machine,
                &request.placement,
                &own_groups,
                fleet.slots.len(),
                |machine| fleet.by_id.get(&fleet.goal(machine)?).copied(),
            ),
            own,
        }
    }

    /// Whether the host obeys every rule.
    #[inline]
    pub(crate) fn fits(&self, index: u32, slot: &Slot) -> bool {
        // Unrolled by hand, what most often excludes first: this runs for every host.
        !(self.breaks(Rule::Country, index, slot)
            || self.breaks(Rule::Region, index, slot)
            || self.breaks(Rule::Memory, index, slot)
            || self.breaks(Rule::RealMemory, index, slot)
            || self.breaks(Rule::Vcpus, index, slot)
            || self.breaks(Rule::Alive, index, slot)
            || self.breaks(Rule::Schedulable, index, slot)
            || self.breaks(Rule::Conforms, index, slot)
            || self.breaks(Rule::Draining, index, slot)
            || self.breaks(Rule::Storage, index, slot)
            || self.breaks(Rule::Specifications, index, slot)
            || self.breaks(Rule::Conformity, index, slot)
            || self.breaks(Rule::Confidential, index, slot)
            || self.breaks(Rule::With, index, slot)
            || self.breaks(Rule::NotWith, index, slot)
            || self.breaks(Rule::Volumes, index, slot)
            || self.breaks(Rule::Excluded, index, slot)
            || self.breaks(Rule::Incapable, index, slot)
            || self.breaks(Rule::Image, index, slot)
            || self.breaks(Rule::ImageVersion, index, slot)
            || self.breaks(Rule::Features, index, slot))
    }

    /// Every rule that the host breaks.
    pub(crate) fn broken(&self, index: u32, slot: &Slot) -> Rules {
        let mut bits = 0;
        macro_rules! check {
            ($($rule:ident),+) => {
                // Unrolled, so that each rule is compiled by itself.
                $(if self.breaks(Rule::$rule, index, slot) {
                    bits |= Rule::$rule.bit();
                })+
            };
        }
        check!(
            Volumes,
            Excluded,
            Country,
            Region,
            Conformity,
            Confidential,
            Features,
            Image,
            ImageVersion,
            With,
            NotWith,
            Alive,
            Schedulable,
            Conforms,
            Draining,
            Incapable,
            Vcpus,
            Memory,
            RealMemory,
            Storage,
            Specifications
        );
        Rules(bits)
    }

    /// What is left of vCPU and memory for this machine.
    pub(crate) fn left(&self, index: u32, slot: &Slot) -> (u64, u64) {
        let (vcpus, memory) = self.taken(index, slot);
        let sold = slot.memory.capacity.saturating_sub(memory);
        let memory = if self.request.spot { sold } else { sold.min(self.real_left(index, slot)) };
        (slot.vcpus.capacity.saturating_sub(vcpus), memory)
    }

    /// What is left of the memory that the host has, for machines that are not spot.
    fn real_left(&self, index: u32, slot: &Slot) -> u64 {
        slot.real_memory.capacity.saturating_sub(self.real_taken(index, slot))
    }

    /// What others have taken of it.
    pub(crate) fn real_taken(&self, index: u32, slot: &Slot) -> u64 {
        slot.real_memory.taken - self.own_at(index).map_or(0, |own| own.real_memory)
    }

    /// What others have taken.
    pub(crate) fn taken(&self, index: u32, slot: &Slot) -> (u64, u64) {
        match self.own_at(index) {
            Some(own) => (slot.vcpus.taken - own.vcpus, slot.memory.taken - own.memory),
            None => (slot.vcpus.taken, slot.memory.taken),
        }
    }

    /// What the machine itself has booked there.
    #[inline]
    fn own_at(&self, index: u32) -> Option<Own> {
        self.own.iter().flatten().find(|own| own.slot == index).copied()
    }

    #[inline(always)]
    fn breaks(&self, rule: Rule, index: u32, slot: &Slot) -> bool {
        let (request, placement) = (self.request, &self.request.placement);
        match rule {
            Rule::Volumes => self
                .volume_host
                .is_some_and(|only| self.host(index).is_none_or(|host| only != Some(host.id))),
            Rule::Excluded => {
                !request.excluded.is_empty()
                    && self.host(index).is_none_or(|host| request.excluded.contains(&host.id))
            }
            Rule::Country => !self.countries.is_empty() && !self.countries.contains(&slot.country),
            Rule::Region => !self.regions.is_empty() && !self.regions.contains(&slot.region),
            Rule::Conformity => slot.conformity < placement.min_conformity,
            Rule::Confidential => placement.confidential && slot.flags & flag::CONFIDENTIAL == 0,
            Rule::Features => !self.features.is_empty() && !self.features[slot.features as usize],
            Rule::Image => !self.images[slot.images as usize],
            Rule::ImageVersion => !self.image_versions[slot.images as usize],
            Rule::With => self.groups.only.as_ref().is_some_and(|only| !only.contains(index)),
            Rule::NotWith => self.groups.never.as_ref().is_some_and(|never| never.contains(index)),
            Rule::Alive => slot.flags & flag::ALIVE == 0,
            Rule::Schedulable => slot.flags & flag::SCHEDULABLE == 0,
            Rule::Conforms => slot.flags & flag::CONFORMS == 0,
            Rule::Draining => slot.flags & flag::DRAINING != 0,
            Rule::Incapable => {
                !request.incapable.is_empty()
                    && self.host(index).is_none_or(|host| request.incapable.contains(&host.id))
            }
            Rule::Vcpus => {
                self.size.vcpus.0 > slot.threads
                    || u64::from(self.size.vcpus.0) > self.left(index, slot).0
            }
            Rule::Memory => self.lacks_memory(index, slot),
            // Where even less is sold than there is, that is the reason.
            Rule::RealMemory => {
                !self.request.spot
                    && self.size.memory.0 > self.real_left(index, slot)
                    && !self.lacks_memory(index, slot)
            }
            Rule::Storage => self
                .storage
                .iter()
                .any(|(class, wanted)| self.fleet.stock(index, slot, *class).free() < *wanted),
            Rule::Specifications => {
                let own = self.own_at(index).map_or(0, |own| own.specification);
                // What does not grow is no reason to go, even from a host that is too full.
                request.specification > own
                    && request.specification - own > slot.specifications.free()
            }
        }
    }

    #[inline(always)]
    fn lacks_memory(&self, index: u32, slot: &Slot) -> bool {
        let (_, taken) = self.taken(index, slot);
        self.size.memory.0 > slot.memory.capacity.saturating_sub(taken)
    }

    fn host(&self, index: u32) -> Option<&FleetHost> {
        self.fleet.hosts[index as usize].as_ref()
    }
}

/// What the constraint is called when one speaks of lifting it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volumes => "the place of its volumes",
            Self::Excluded => "the hosts left out",
            Self::Country => "the countries",
            Self::Region => "the regions",
            Self::Conformity => "the host standard level",
            Self::Confidential => "confidential computing",
            Self::Features => "the features",
            Self::Image => "the image",
            Self::ImageVersion => "the version of the image",
            Self::With => "the groups to be with",
            Self::NotWith => "the groups not to be with",
            Self::Alive => "unreachable hosts",
            Self::Schedulable => "hosts closed to new machines",
            Self::Conforms => "hosts that do not conform to the host standard",
            Self::Draining => "hosts that are being emptied",
            Self::Incapable => "hosts without an agent that takes machines",
            Self::Vcpus => "vCPU",
            Self::Memory => "memory",
            Self::RealMemory => "memory that is not for spot machines",
            Self::Storage => "disk",
            Self::Specifications => "room for user data and keys",
        })
    }
}
