//! The hosts with what is taken of them, laid out so that all can be looked at for each
//! placement: an exact answer and an exact explanation, without samples or guesses.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
};

use fairmazon_model::{
    geo::Coordinates,
    id::{HostId, InstanceId, VolumeId},
    limits,
    units::{Gib, Mib, Vcpus},
};
use rustc_hash::FxHashMap;

use crate::{
    BookError, FleetHost, Images, MachineBooking, Placed, Request, Rule, Share, VolumeBooking,
    WhyNot, choose, explain, groups::Groups, interrupt::OnSpot, rules::Query,
};

/// The hosts and the books of what is reserved on them.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub(crate) seed: u64,
    /// What every placement looks at, packed; a slot's number is its place here.
    pub(crate) slots: Vec<Slot>,
    /// The hosts by slot; none where no host is.
    pub(crate) hosts: Vec<Option<FleetHost>>,
    /// Where the hosts are by slot, as points on a sphere of radius 1.
    pub(crate) points: Vec<[f64; 3]>,
    /// The spot machines by slot; looked at only when nothing fits.
    pub(crate) spot: Vec<OnSpot>,
    /// How many of them there are in all.
    pub(crate) spot_machines: usize,
    /// Slots without a host, to be used again.
    vacant: Vec<u32>,
    pub(crate) by_id: FxHashMap<HostId, u32>,
    pub(crate) places: Names,
    pub(crate) classes: Names,
    pub(crate) sites: Names,
    pub(crate) feature_sets: Numbers<BTreeSet<String>>,
    pub(crate) image_sets: Numbers<Images>,
    /// Stocks of storage classes beyond the first, by slot and class.
    pub(crate) more_storage: FxHashMap<(u32, u32), Stock>,
    pub(crate) groups: Groups,
    pub(crate) machines: FxHashMap<Share<InstanceId>, MachineBooking>,
    pub(crate) volumes: FxHashMap<Share<VolumeId>, VolumeBooking>,
}

/// What the rules and scores look at of a host. No pointers to follow: ten thousand of these
/// are read for each placement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    /// [`flag`]s.
    pub(crate) flags: u8,
    pub(crate) conformity: u8,
    pub(crate) country: u32,
    pub(crate) region: u32,
    pub(crate) site: u32,
    /// Number of its set of features.
    pub(crate) features: u32,
    /// Number of its set of images.
    pub(crate) images: u32,
    pub(crate) price_percent: u32,
    pub(crate) threads: u32,
    pub(crate) vcpus: Stock,
    /// What is sold of it: to spot machines maybe more than there is.
    pub(crate) memory: Stock,
    /// What there is of it, for those that are not spot.
    pub(crate) real_memory: Stock,
    /// Bytes of the host's desired set.
    pub(crate) specifications: Stock,
    pub(crate) vcpus_scale: Scale,
    pub(crate) memory_scale: Scale,
    /// By the number of the storage class; see [`Fleet::stock`].
    storage: [Stock; CLASSES_INLINE],
    /// Spreads equal hosts evenly; from the seed and the id.
    pub(crate) tie: u64,
    pub(crate) machines: u32,
    pub(crate) volumes: u32,
}

/// Storage classes that every host has room for in its slot; further ones are looked up.
const CLASSES_INLINE: usize = 2;

/// What a slot says with one bit.
pub(crate) mod flag {
    /// There is a host.
    pub(crate) const PRESENT: u8 = 1;
    /// It can be reached.
    pub(crate) const ALIVE: u8 = 2;
    /// It takes new machines.
    pub(crate) const SCHEDULABLE: u8 = 4;
    /// It has confidential computing.
    pub(crate) const CONFIDENTIAL: u8 = 8;
    /// It is being emptied.
    pub(crate) const DRAINING: u8 = 16;
    /// It conforms to the host standard.
    pub(crate) const CONFORMS: u8 = 32;
}

/// What there is of something and what is taken. More may be taken than there is, when the
/// host has become smaller than its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stock {
    pub(crate) capacity: u64,
    pub(crate) taken: u64,
}

/// A thousandth of one, as a share with 32 binary digits behind the point.
const PERMILLE: u64 = 1_000 << 32;

/// Shares of a capacity without a division: ten thousand of those are felt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scale(u64);

impl Scale {
    const fn of(capacity: u64) -> Self {
        Self(PERMILLE / if capacity == 0 { 1 } else { capacity })
    }

    /// The share in thousandths, rounded down.
    #[inline]
    pub(crate) const fn permille(self, size: u64) -> u64 {
        size.saturating_mul(self.0) >> 32
    }
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
    /// Memory, overcommit included.
    pub memory: Mib,
    /// Of that, what a machine may have that is not spot.
    pub real_memory: Mib,
    /// Disk by storage class.
    pub storage: BTreeMap<String, Gib>,
    /// Machines booked on it.
    pub machines: u32,
    /// Volumes booked on it.
    pub volumes: u32,
}

/// Numbers for values that are compared often; many hosts share few of them.
#[derive(Debug, Clone)]
pub(crate) struct Numbers<T>(FxHashMap<T, u32>);

/// Numbers for texts.
pub(crate) type Names = Numbers<String>;

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<T: Hash + Eq> Numbers<T> {
    fn number<Q: ?Sized + Hash + Eq + ToOwned<Owned = T>>(&mut self, value: &Q) -> u32
    where
        T: Borrow<Q>,
    {
        if let Some(number) = self.0.get(value) {
            return *number;
        }
        let number = self.0.len() as u32;
        self.0.insert(value.to_owned(), number);
        number
    }

    /// The number of a value that was seen before.
    pub(crate) fn known<Q: ?Sized + Hash + Eq>(&self, value: &Q) -> Option<u32>
    where
        T: Borrow<Q>,
    {
        self.0.get(value).copied()
    }

    /// What `test` says of each value, by number.
    pub(crate) fn test(&self, test: impl Fn(&T) -> bool) -> Vec<bool> {
        let mut answers = vec![false; self.0.len()];
        for (value, number) in &self.0 {
            answers[*number as usize] = test(value);
        }
        answers
    }
}

impl Fleet {
    /// A fleet without hosts. The seed decides between hosts that are equally good.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            slots: Vec::new(),
            hosts: Vec::new(),
            points: Vec::new(),
            spot: Vec::new(),
            spot_machines: 0,
            vacant: Vec::new(),
            by_id: FxHashMap::default(),
            places: Names::default(),
            classes: Names::default(),
            sites: Names::default(),
            feature_sets: Numbers::default(),
            image_sets: Numbers::default(),
            more_storage: FxHashMap::default(),
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
        self.hosts[*self.by_id.get(&id)? as usize].as_ref()
    }

    /// Takes a host in, or changes what it offers; its bookings stay, even when they no
    /// longer fit.
    pub fn put_host(&mut self, host: FleetHost) {
        let slot = match self.by_id.get(&host.id) {
            Some(slot) => *slot,
            None => self.vacant.pop().unwrap_or_else(|| self.new_slot()),
        };
        self.by_id.insert(host.id, slot);
        let spec = &host.spec;
        let place = &mut self.slots[slot as usize];
        place.country = self.places.number(&spec.site.country);
        place.region = self.places.number(&spec.site.region);
        place.site = self.sites.number(&spec.site.name);
        place.price_percent = spec.price_percent;
        place.threads = spec.capacity.vcpus.0;
        place.conformity = host.level.unwrap_or(0);
        place.flags = flag::PRESENT
            | if host.alive { flag::ALIVE } else { 0 }
            | if spec.schedulable { flag::SCHEDULABLE } else { 0 }
            | if host.draining { flag::DRAINING } else { 0 }
            | if host.level.is_some() { flag::CONFORMS } else { 0 }
            | if spec.features.contains("confidential") { flag::CONFIDENTIAL } else { 0 };
        place.features = self.feature_sets.number(&spec.features);
        place.images = self.image_sets.number(&host.images);
        place.vcpus.capacity =
            u64::from(spec.capacity.vcpus.0) * u64::from(spec.cpu_overcommit_percent) / 100;
        place.memory.capacity = host.memory_sold().0;
        place.real_memory.capacity = spec.capacity.memory.0;
        place.specifications.capacity = limits::HOST_SPECIFICATIONS_MAX;
        place.vcpus_scale = Scale::of(place.vcpus.capacity);
        place.memory_scale = Scale::of(place.memory.capacity);
        place.tie = tie(self.seed, host.id);
        for class in 0..self.classes.0.len() as u32 {
            self.stock_mut(slot, class).capacity = 0;
        }
        for (class, size) in &spec.capacity.storage {
            let class = self.classes.number(class);
            self.stock_mut(slot, class).capacity = size.0;
        }
        self.points[slot as usize] = unit_vector(spec.site.coordinates);
        self.hosts[slot as usize] = Some(host);
    }

    fn new_slot(&mut self) -> u32 {
        self.slots.push(Slot::default());
        self.hosts.push(None);
        self.points.push([0.0; 3]);
        self.spot.push(OnSpot::default());
        (self.slots.len() - 1) as u32
    }

    /// Notes whether a host can be reached. False when there is no such host.
    pub fn set_alive(&mut self, id: HostId, alive: bool) -> bool {
        let Some(index) = self.by_id.get(&id) else { return false };
        let slot = &mut self.slots[*index as usize];
        slot.flags = slot.flags & !flag::ALIVE | if alive { flag::ALIVE } else { 0 };
        if let Some(host) = &mut self.hosts[*index as usize] {
            host.alive = alive;
        }
        true
    }

    /// Notes whether the host's agent can take memory back from spot machines. Bookings stay,
    /// even when they no longer fit. False when there is no such host, or nothing changes.
    pub fn set_reclaims_memory(&mut self, id: HostId, reclaims: bool) -> bool {
        let Some(index) = self.by_id.get(&id).map(|index| *index as usize) else { return false };
        let (slot, Some(host)) = (&mut self.slots[index], &mut self.hosts[index]) else {
            return false;
        };
        let changes = host.reclaims_memory != reclaims;
        host.reclaims_memory = reclaims;
        slot.memory.capacity = host.memory_sold().0;
        slot.memory_scale = Scale::of(slot.memory.capacity);
        changes
    }

    /// Notes which images the host can boot. Bookings stay. False when there is no such host, or
    /// nothing changes.
    pub fn set_images(&mut self, id: HostId, images: &Images) -> bool {
        let Some(index) = self.by_id.get(&id).map(|index| *index as usize) else { return false };
        let (slot, Some(host)) = (&mut self.slots[index], &mut self.hosts[index]) else {
            return false;
        };
        if host.images == *images {
            return false;
        }
        host.images = images.clone();
        slot.images = self.image_sets.number(images);
        true
    }

    /// Takes a host out.
    ///
    /// # Errors
    /// `UnknownHost`, or `HostInUse` while machines or volumes are booked on it.
    pub fn remove_host(&mut self, id: HostId) -> Result<FleetHost, BookError> {
        let unknown = BookError::UnknownHost { host: id };
        let Some(index) = self.by_id.get(&id).copied() else { return Err(unknown) };
        let Slot { machines, volumes, .. } = self.slots[index as usize];
        if machines > 0 || volumes > 0 {
            return Err(BookError::HostInUse { host: id, machines, volumes });
        }
        self.by_id.remove(&id);
        self.vacant.push(index);
        self.slots[index as usize] = Slot::default();
        self.more_storage.retain(|(slot, _), _| *slot != index);
        self.hosts[index as usize].take().ok_or(unknown)
    }

    /// What a host has left; none when there is no such host.
    pub fn free(&self, id: HostId) -> Option<Free> {
        let index = *self.by_id.get(&id)?;
        let slot = &self.slots[index as usize];
        let host = self.host(id)?;
        let storage = host.spec.capacity.storage.keys().map(|class| {
            let stock = self.classes.known(class).map(|class| self.stock(index, slot, class));
            (class.clone(), Gib(stock.unwrap_or_default().free()))
        });
        Some(Free {
            vcpus: Vcpus(slot.vcpus.free().try_into().unwrap_or(u32::MAX)),
            memory: Mib(slot.memory.free()),
            real_memory: Mib(slot.memory.free().min(slot.real_memory.free())),
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

    /// A host that is better for a machine than `from`, which it is on, by at least `percent` of the
    /// scale of what the request prefers most: of the price, for one, as large as the standard one
    /// is. The first of the request's sizes counts, and hosts that it excludes, `from` among them,
    /// are none. Whoever moves so does not want to move back.
    pub fn better(&self, request: &Request, from: HostId, percent: u8) -> Option<Placed> {
        let index = *self.by_id.get(&from)?;
        let query = Query::new(self, request, request.sizes.first()?);
        choose::better(self, &query, index, percent)
    }

    /// The first rule that this host breaks for the first of the request's sizes; none when it
    /// obeys all of them, or is not known.
    pub fn first_broken(&self, request: &Request, host: HostId) -> Option<Rule> {
        let index = *self.by_id.get(&host)?;
        let query = Query::new(self, request, request.sizes.first()?);
        query.broken(index, &self.slots[index as usize]).first()
    }

    pub(crate) fn class(&mut self, class: &str) -> u32 {
        self.classes.number(class)
    }

    /// Every slot with a host, with its number.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.flags & flag::PRESENT != 0)
    }

    /// What a slot has of a storage class.
    #[inline]
    pub(crate) fn stock(&self, index: u32, slot: &Slot, class: u32) -> Stock {
        match slot.storage.get(class as usize) {
            Some(stock) => *stock,
            None => self.more_storage.get(&(index, class)).copied().unwrap_or_default(),
        }
    }

    pub(crate) fn stock_mut(&mut self, index: u32, class: u32) -> &mut Stock {
        match self.slots[index as usize].storage.get_mut(class as usize) {
            Some(stock) => stock,
            None => self.more_storage.entry((index, class)).or_default(),
        }
    }

    /// Disk of all classes that is taken in a slot.
    pub(crate) fn storage_taken(&self, index: u32) -> u64 {
        let slot = &self.slots[index as usize];
        (0..self.classes.0.len() as u32).map(|class| self.stock(index, slot, class).taken).sum()
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
