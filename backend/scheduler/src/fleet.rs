//! The hosts with what is taken of them, laid out so that all can be looked at for each
//! placement: an exact answer and an exact explanation, without samples or guesses.

use std::collections::BTreeMap;

use fairmazon_model::{
    geo::Coordinates,
    id::{HostId, InstanceId, VolumeId},
    units::{Gib, Mib, Vcpus},
};
use rustc_hash::FxHashMap;

use crate::{
    BookError, FleetHost, Images, MachineBooking, Placed, Request, VolumeBooking, WhyNot, choose,
    explain, groups::Groups, rules::Query,
};

/// The hosts and the books of what is reserved on them.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub(crate) seed: u64,
    pub(crate) slots: Vec<Slot>,
    /// Slots without a host, to be used again.
    vacant: Vec<u32>,
    pub(crate) by_id: FxHashMap<HostId, u32>,
    pub(crate) names: Names,
    pub(crate) groups: Groups,
    pub(crate) machines: FxHashMap<InstanceId, MachineBooking>,
    pub(crate) volumes: FxHashMap<VolumeId, VolumeBooking>,
}

/// A host's place in the fleet; what the rules look at lies together.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// None when no host is here.
    pub(crate) host: Option<Box<FleetHost>>,
    pub(crate) country: u32,
    pub(crate) region: u32,
    pub(crate) price_percent: u32,
    pub(crate) threads: u32,
    pub(crate) conformity: u8,
    pub(crate) alive: bool,
    pub(crate) schedulable: bool,
    pub(crate) confidential: bool,
    pub(crate) all_images: bool,
    pub(crate) vcpus: Stock,
    pub(crate) memory: Stock,
    /// By the storage class's number.
    pub(crate) storage: Vec<Stock>,
    /// Where it is, as a point on a sphere of radius 1.
    pub(crate) point: [f64; 3],
    /// Spreads equal hosts evenly; from the seed and the id.
    pub(crate) tie: u64,
    pub(crate) machines: u32,
    pub(crate) volumes: u32,
}

/// What there is of something and what is taken. More may be taken than there is, when the
/// host has become smaller than its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stock {
    pub(crate) capacity: u64,
    pub(crate) taken: u64,
}

impl Stock {
    pub(crate) const fn free(self) -> u64 {
        self.capacity.saturating_sub(self.taken)
    }
}

/// What a host has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Free {
    /// Virtual processors, overcommit included.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Mib,
    /// Disk by storage class.
    pub storage: BTreeMap<String, Gib>,
    /// Machines booked on it.
    pub machines: u32,
    /// Volumes booked on it.
    pub volumes: u32,
}

/// Numbers for texts that are compared often.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(FxHashMap<String, u32>);

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let number = self.0.len() as u32;
        self.0.insert(name.to_owned(), number);
        number
    }

    /// The number of a name that was seen before.
    pub(crate) fn known(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }
}

impl Fleet {
    /// A fleet without hosts. The seed decides between hosts that are equally good.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: FxHashMap::default(),
            names: Names::default(),
            groups: Groups::default(),
            machines: FxHashMap::default(),
            volumes: FxHashMap::default(),
        }
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are no hosts.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The host of that id.
    pub fn host(&self, id: HostId) -> Option<&FleetHost> {
        self.slot(id).and_then(|slot| slot.host.as_deref())
    }

    /// Takes a host in, or changes what it offers; its bookings stay, even when they no
    /// longer fit.
    pub fn put_host(&mut self, host: FleetHost) {
        let slot = match self.by_id.get(&host.id) {
            Some(slot) => *slot,
            None => self.vacant.pop().unwrap_or_else(|| {
                self.slots.push(Slot::empty());
                (self.slots.len() - 1) as u32
            }),
        };
        self.by_id.insert(host.id, slot);
        let spec = &host.spec;
        let country = self.names.number(&spec.site.country);
        let region = self.names.number(&spec.site.region);
        let classes: Vec<_> = spec
            .capacity
            .storage
            .iter()
            .map(|(class, size)| (self.names.number(class), size.0))
            .collect();
        let place = &mut self.slots[slot as usize];
        place.country = country;
        place.region = region;
        place.price_percent = spec.price_percent;
        place.threads = spec.capacity.vcpus.0;
        place.conformity = spec.conformity;
        place.alive = host.alive;
        place.schedulable = spec.schedulable;
        place.confidential = spec.features.contains("confidential");
        place.all_images = host.images == Images::All;
        place.vcpus.capacity =
            u64::from(spec.capacity.vcpus.0) * u64::from(spec.cpu_overcommit_percent) / 100;
        place.memory.capacity = spec.capacity.memory.0;
        place.storage.iter_mut().for_each(|stock| stock.capacity = 0);
        for (class, size) in classes {
            place.stock_mut(class).capacity = size;
        }
        place.point = unit_vector(spec.site.coordinates);
        place.tie = tie(self.seed, host.id);
        place.host = Some(Box::new(host));
    }

    /// Notes whether a host can be reached. False when there is no such host.
    pub fn set_alive(&mut self, id: HostId, alive: bool) -> bool {
        let Some(slot) = self.by_id.get(&id) else { return false };
        let slot = &mut self.slots[*slot as usize];
        slot.alive = alive;
        if let Some(host) = &mut slot.host {
            host.alive = alive;
        }
        true
    }

    /// Takes a host out.
    ///
    /// # Errors
    /// `UnknownHost`, or `HostInUse` while machines or volumes are booked on it.
    pub fn remove_host(&mut self, id: HostId) -> Result<FleetHost, BookError> {
        let index = *self.by_id.get(&id).ok_or(BookError::UnknownHost { host: id })?;
        let slot = &mut self.slots[index as usize];
        let (machines, volumes) = (slot.machines, slot.volumes);
        if machines > 0 || volumes > 0 {
            return Err(BookError::HostInUse { host: id, machines, volumes });
        }
        let host = std::mem::replace(slot, Slot::empty()).host;
        self.by_id.remove(&id);
        self.vacant.push(index);
        host.map(|host| *host).ok_or(BookError::UnknownHost { host: id })
    }

    /// What a host has left; none when there is no such host.
    pub fn free(&self, id: HostId) -> Option<Free> {
        let slot = self.slot(id)?;
        let host = slot.host.as_deref()?;
        let storage = host.spec.capacity.storage.keys().map(|class| {
            let stock = self.names.known(class).map(|class| slot.stock(class));
            (class.clone(), Gib(stock.unwrap_or_default().free()))
        });
        Some(Free {
            vcpus: Vcpus(slot.vcpus.free().try_into().unwrap_or(u32::MAX)),
            memory: Mib(slot.memory.free()),
            storage: storage.collect(),
            machines: slot.machines,
            volumes: slot.volumes,
        })
    }

    /// Finds the best host for a machine. Changes nothing: book the answer with
    /// [`Fleet::reserve_machine`].
    ///
    /// # Errors
    /// [`WhyNot`] when no host obeys every rule.
    pub fn place(&self, request: &Request) -> Result<Placed, Box<WhyNot>> {
        for size in &request.sizes {
            let query = Query::new(self, request, size);
            if let Some(placed) = choose::best(self, &query) {
                return Ok(placed);
            }
        }
        Err(Box::new(explain::why_not(self, request)))
    }

    pub(crate) fn slot(&self, id: HostId) -> Option<&Slot> {
        self.by_id.get(&id).map(|slot| &self.slots[*slot as usize])
    }

    pub(crate) fn class(&mut self, class: &str) -> u32 {
        self.names.number(class)
    }

    /// Every slot with a host, with its number.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (u32, &Slot, &FleetHost)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| Some((index, slot, slot.host.as_deref()?)))
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            host: None,
            country: 0,
            region: 0,
            price_percent: 0,
            threads: 0,
            conformity: 0,
            alive: false,
            schedulable: false,
            confidential: false,
            all_images: false,
            vcpus: Stock::default(),
            memory: Stock::default(),
            storage: Vec::new(),
            point: [0.0; 3],
            tie: 0,
            machines: 0,
            volumes: 0,
        }
    }

    pub(crate) fn stock(&self, class: u32) -> Stock {
        self.storage.get(class as usize).copied().unwrap_or_default()
    }

    pub(crate) fn stock_mut(&mut self, class: u32) -> &mut Stock {
        let index = class as usize;
        if self.storage.len() <= index {
            self.storage.resize(index + 1, Stock::default());
        }
        &mut self.storage[index]
    }
}

/// The point on a sphere of radius 1: comparing distances needs no trigonometry then.
pub(crate) fn unit_vector(place: Coordinates) -> [f64; 3] {
    let (latitude, longitude) = (place.latitude.to_radians(), place.longitude.to_radians());
    [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
}

/// Well-mixed bits of the seed and the id (the finaliser of SplitMix64, G. Steele and others,
/// 2014, over both halves of the id).
fn tie(seed: u64, id: HostId) -> u64 {
    let id = id.ulid().0;
    let mix = |value: u64| {
        let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    mix(mix(seed ^ id as u64) ^ (id >> 64) as u64)
}
