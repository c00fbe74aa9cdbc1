//! The books of capacity: who has reserved what on which host, exact to the unit.
//!
//! What is taken of a host is always the sum of the bookings; [`Fleet::audit`] recomputes it.
//! Machines and volumes are booked apart, because a volume stays when its machine goes.

use std::fmt;

use fairmazon_model::{
    id::{HostId, InstanceId, VolumeId},
    limits,
    placement::Placement,
    units::{Gib, Mib, Vcpus},
};

use crate::{
    SpotTerms,
    fleet::{Fleet, Slot, Stock},
    groups::Groups,
    interrupt::OnSpot,
};

/// A machine's share of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineBooking {
    /// Where.
    pub host: HostId,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Mib,
    /// Bytes of its specification in the host's desired set.
    pub specification: u64,
    /// Its constraints, for the groups that it belongs to.
    pub placement: Placement,
    /// Whether it is a spot machine, under notice or not: memory can be taken back from it, so that
    /// it may have some that is sold beyond what the host has.
    pub is_spot: bool,
    /// What its interruption costs; none when it can't be interrupted.
    pub spot: Option<SpotTerms>,
    /// Seconds of the notice under which it gives its share back; none when it stays.
    pub leaves_in: Option<u32>,
}

impl MachineBooking {
    /// What it has of the memory that is sold once.
    pub(crate) const fn real_memory(&self) -> u64 {
        if self.is_spot { 0 } else { self.memory.0 }
    }

    /// Whether it gives its share back, or would be asked to.
    const fn makes_room(&self) -> bool {
        self.spot.is_some() || self.leaves_in.is_some()
    }
}

/// Which share of a machine or a volume is meant. While it moves to another host it has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Share<Id> {
    /// Where it is.
    Here(Id),
    /// Where it comes to.
    Coming(Id),
}

impl<Id> From<Id> for Share<Id> {
    fn from(id: Id) -> Self {
        Self::Here(id)
    }
}

impl<Id: fmt::Display> fmt::Display for Share<Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(id) => id.fmt(f),
            Self::Coming(id) => write!(f, "{id} (coming)"),
        }
    }
}

/// A volume's share of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeBooking {
    /// Where.
    pub host: HostId,
    /// Storage class.
    pub class: String,
    /// How much.
    pub size: Gib,
}

/// Why a booking was not made; nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The fleet has no such host.
    #[error("there is no host {host} in the fleet")]
    UnknownHost {
        /// Which.
        host: HostId,
    },
    /// The host can't leave yet.
    #[error("{host} still has {machines} machines and {volumes} volumes")]
    HostInUse {
        /// Which.
        host: HostId,
        /// Machines booked on it.
        machines: u32,
        /// Volumes booked on it.
        volumes: u32,
    },
    /// It is booked already; release it first.
    #[error("{what} is booked on {host} already")]
    AlreadyBooked {
        /// The machine or volume.
        what: String,
        /// Where.
        host: HostId,
    },
    /// It is not booked.
    #[error("{what} is not booked anywhere")]
    NotBooked {
        /// The machine or volume.
        what: String,
    },
    /// The host has not enough left.
    #[error("{host} has {free} {unit} left, {wanted} are needed")]
    NoRoom {
        /// Which.
        host: HostId,
        /// Of what.
        unit: &'static str,
        /// How much is left.
        free: u64,
        /// How much is needed.
        wanted: u64,
    },
    /// A sum left the range of its type.
    #[error("the books of {host} can't hold a number this large")]
    TooLarge {
        /// Which.
        host: HostId,
    },
}

/// A host whose books are not the sum of its bookings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the books of {host} say {books} {what}, its bookings are {bookings}")]
pub struct Imbalance {
    /// Which; none for the groups.
    pub host: String,
    /// Of what.
    pub what: &'static str,
    /// What the books say.
    pub books: u64,
    /// What the bookings sum up to.
    pub bookings: u64,
}

/// Whether a booking must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Needed,
    Whatever,
}

impl Fleet {
    /// The booking of a machine.
    pub fn machine(&self, id: impl Into<Share<InstanceId>>) -> Option<&MachineBooking> {
        self.machines.get(&id.into())
    }

    /// The booking of a volume.
    pub fn volume(&self, id: impl Into<Share<VolumeId>>) -> Option<&VolumeBooking> {
        self.volumes.get(&id.into())
    }

    /// Books a machine on a host that has room for it.
    ///
    /// # Errors
    /// `UnknownHost`, `AlreadyBooked` or `NoRoom`.
    pub fn reserve_machine(
        &mut self,
        id: impl Into<Share<InstanceId>>,
        booking: MachineBooking,
    ) -> Result<(), BookError> {
        self.book_machine(id.into(), booking, Room::Needed)
    }

    /// Books a machine that is known to be on the host, whether or not there is room: for
    /// what was decided before, at a start.
    ///
    /// # Errors
    /// `UnknownHost` or `AlreadyBooked`.
    pub fn restore_machine(
        &mut self,
        id: impl Into<Share<InstanceId>>,
        booking: MachineBooking,
    ) -> Result<(), BookError> {
        self.book_machine(id.into(), booking, Room::Whatever)
    }

    /// Books a volume on a host that has room for it.
    ///
    /// # Errors
    /// `UnknownHost`, `AlreadyBooked` or `NoRoom`.
    pub fn reserve_volume(
        &mut self,
        id: impl Into<Share<VolumeId>>,
        booking: VolumeBooking,
    ) -> Result<(), BookError> {
        self.book_volume(id.into(), booking, Room::Needed)
    }

    /// Books a volume that is known to be on the host, whether or not there is room.
    ///
    /// # Errors
    /// `UnknownHost` or `AlreadyBooked`.
    pub fn restore_volume(
        &mut self,
        id: impl Into<Share<VolumeId>>,
        booking: VolumeBooking,
    ) -> Result<(), BookError> {
        self.book_volume(id.into(), booking, Room::Whatever)
    }

    /// Gives a machine's share back.
    ///
    /// # Errors
    /// `NotBooked`.
    pub fn release_machine(
        &mut self,
        id: impl Into<Share<InstanceId>>,
    ) -> Result<MachineBooking, BookError> {
        let id = id.into();
        let not_booked = || BookError::NotBooked { what: id.to_string() };
        let booking = self.machines.remove(&id).ok_or_else(not_booked)?;
        if let Some(index) = self.by_id.get(&booking.host) {
            let slot = &mut self.slots[*index as usize];
            slot.vcpus.give_back(booking.vcpus.0.into());
            slot.memory.give_back(booking.memory.0);
            slot.real_memory.give_back(booking.real_memory());
            slot.specifications.give_back(booking.specification);
            slot.machines -= 1;
            self.groups.leave(*index, id, &booking.placement);
            if let (Share::Here(machine), true) = (id, booking.makes_room()) {
                self.spot[*index as usize].leave(machine);
                self.spot_machines -= 1;
            }
        }
        Ok(booking)
    }

    /// Gives a volume's share back.
    ///
    /// # Errors
    /// `NotBooked`.
    pub fn release_volume(
        &mut self,
        id: impl Into<Share<VolumeId>>,
    ) -> Result<VolumeBooking, BookError> {
        let id = id.into();
        let not_booked = || BookError::NotBooked { what: id.to_string() };
        let booking = self.volumes.remove(&id).ok_or_else(not_booked)?;
        let class = self.class(&booking.class);
        if let Some(index) = self.by_id.get(&booking.host) {
            let index = *index;
            self.stock_mut(index, class).give_back(booking.size.0);
            let slot = &mut self.slots[index as usize];
            slot.specifications.give_back(limits::VOLUME_SPECIFICATION_BYTES);
            slot.volumes -= 1;
        }
        Ok(booking)
    }

    /// Changes a machine's share where it is: another size, other groups.
    ///
    /// # Errors
    /// `NotBooked`, or `NoRoom` when it does not fit beside the others.
    pub fn rebook_machine(
        &mut self,
        id: impl Into<Share<InstanceId>>,
        to: MachineBooking,
    ) -> Result<(), BookError> {
        let id = id.into();
        let before = self.release_machine(id)?;
        // What does not grow needs no room, even on a host that is too full.
        let grows = to.vcpus > before.vcpus
            || to.memory > before.memory
            || to.real_memory() > before.real_memory()
            || to.specification > before.specification;
        let room = if grows { Room::Needed } else { Room::Whatever };
        let booking = MachineBooking { host: before.host, ..to };
        self.book_machine(id, booking, room).inspect_err(|_| {
            // It was there a moment ago: putting it back needs no room and can't fail.
            let _ = self.restore_machine(id, before);
        })
    }

    /// Changes a volume's size where it is.
    ///
    /// # Errors
    /// `NotBooked`, or `NoRoom` when it does not fit beside the others.
    pub fn resize_volume(
        &mut self,
        id: impl Into<Share<VolumeId>>,
        size: Gib,
    ) -> Result<(), BookError> {
        let id = id.into();
        let before = self.release_volume(id)?;
        let room = if size > before.size { Room::Needed } else { Room::Whatever };
        let booking = VolumeBooking { size, ..before.clone() };
        self.book_volume(id, booking, room).inspect_err(|_| {
            // As above: it was there a moment ago.
            let _ = self.restore_volume(id, before);
        })
    }

    fn book_machine(
        &mut self,
        id: Share<InstanceId>,
        booking: MachineBooking,
        room: Room,
    ) -> Result<(), BookError> {
        if let Some(booked) = self.machines.get(&id) {
            return Err(BookError::AlreadyBooked { what: id.to_string(), host: booked.host });
        }
        let (index, slot) = slot_mut(&self.by_id, &mut self.slots, booking.host)?;
        let vcpus = slot.vcpus.take(booking.vcpus.0.into(), room, booking.host, "vCPU")?;
        let memory = slot.memory.take(booking.memory.0, room, booking.host, "MiB of memory")?;
        let real = "MiB of memory for machines that are not spot";
        let real_memory = match booking.real_memory() {
            0 => slot.real_memory,
            wanted => slot.real_memory.take(wanted, room, booking.host, real)?,
        };
        let bytes = "bytes for specifications";
        let specifications =
            slot.specifications.take(booking.specification, room, booking.host, bytes)?;
        slot.vcpus = vcpus;
        slot.memory = memory;
        slot.real_memory = real_memory;
        slot.specifications = specifications;
        slot.machines += 1;
        self.groups.join(index, id, &booking.placement);
        if let (Share::Here(machine), true) = (id, booking.makes_room()) {
            self.spot[index as usize].join(machine, &booking);
            self.spot_machines += 1;
        }
        self.machines.insert(id, booking);
        Ok(())
    }

    fn book_volume(
        &mut self,
        id: Share<VolumeId>,
        booking: VolumeBooking,
        room: Room,
    ) -> Result<(), BookError> {
        if let Some(booked) = self.volumes.get(&id) {
            return Err(BookError::AlreadyBooked { what: id.to_string(), host: booked.host });
        }
        let class = self.class(&booking.class);
        let (index, slot) = slot_mut(&self.by_id, &mut self.slots, booking.host)?;
        let bytes = "bytes for specifications";
        let wanted = limits::VOLUME_SPECIFICATION_BYTES;
        let specifications = slot.specifications.take(wanted, room, booking.host, bytes)?;
        let stock = self.stock_mut(index, class);
        *stock = stock.take(booking.size.0, room, booking.host, "GiB of disk")?;
        let slot = &mut self.slots[index as usize];
        slot.specifications = specifications;
        slot.volumes += 1;
        self.volumes.insert(id, booking);
        Ok(())
    }

    /// Recomputes every host's books from the bookings and names what differs.
    ///
    /// # Errors
    /// The first imbalance; it is a fault of this crate.
    pub fn audit(&self) -> Result<(), Imbalance> {
        let mut sums: Vec<Sums> = self.slots.iter().map(|_| Sums::default()).collect();
        let mut groups = Groups::default();
        let mut spot = vec![OnSpot::default(); self.slots.len()];
        for (id, booking) in &self.machines {
            let index = self.by_id[&booking.host];
            if let Share::Here(machine) = id {
                spot[index as usize].join(*machine, booking);
            }
            let sum = &mut sums[index as usize];
            sum.vcpus += u64::from(booking.vcpus.0);
            sum.memory += booking.memory.0;
            sum.real_memory += booking.real_memory();
            sum.specifications += booking.specification;
            sum.machines += 1;
            groups.join(index, *id, &booking.placement);
        }
        for booking in self.volumes.values() {
            let sum = &mut sums[self.by_id[&booking.host] as usize];
            let class = self.classes.known(&booking.class).unwrap_or(u32::MAX);
            *sum.storage.entry(class).or_default() += booking.size.0;
            sum.volumes += 1;
            sum.specifications += limits::VOLUME_SPECIFICATION_BYTES;
        }
        for (index, sum) in (0..).zip(&sums) {
            sum.compare(self, index)?;
        }
        let differs = [(groups != self.groups, "other groups"), (spot != self.spot, "other spot")];
        if let Some((_, what)) = differs.into_iter().find(|(differs, _)| *differs) {
            let host = "all hosts".to_owned();
            return Err(Imbalance { host, what, books: 0, bookings: 0 });
        }
        Ok(())
    }
}

fn slot_mut<'a>(
    by_id: &rustc_hash::FxHashMap<HostId, u32>,
    slots: &'a mut [Slot],
    host: HostId,
) -> Result<(u32, &'a mut Slot), BookError> {
    let index = *by_id.get(&host).ok_or(BookError::UnknownHost { host })?;
    Ok((index, &mut slots[index as usize]))
}

impl Stock {
    fn take(
        mut self,
        wanted: u64,
        room: Room,
        host: HostId,
        unit: &'static str,
    ) -> Result<Self, BookError> {
        let free = self.free();
        if room == Room::Needed && wanted > free {
            return Err(BookError::NoRoom { host, unit, free, wanted });
        }
        self.taken = self.taken.checked_add(wanted).ok_or(BookError::TooLarge { host })?;
        Ok(self)
    }

    fn give_back(&mut self, size: u64) {
        debug_assert!(self.taken >= size, "more was given back than taken");
        self.taken = self.taken.saturating_sub(size);
    }
}

/// What the bookings of one host sum up to.
#[derive(Default)]
struct Sums {
    vcpus: u64,
    memory: u64,
    real_memory: u64,
    specifications: u64,
    storage: rustc_hash::FxHashMap<u32, u64>,
    machines: u64,
    volumes: u64,
}

impl Sums {
    fn compare(&self, fleet: &Fleet, index: u32) -> Result<(), Imbalance> {
        let slot = &fleet.slots[index as usize];
        let equal = |what, books: u64, bookings: u64| {
            if books == bookings {
                return Ok(());
            }
            let host = fleet.hosts[index as usize].as_ref();
            let host = host.map_or_else(|| "no host".into(), |host| host.id.to_string());
            Err(Imbalance { host, what, books, bookings })
        };
        equal("vCPU", slot.vcpus.taken, self.vcpus)?;
        equal("MiB of memory", slot.memory.taken, self.memory)?;
        let real = "MiB of memory of machines that are not spot";
        equal(real, slot.real_memory.taken, self.real_memory)?;
        let specifications = "bytes for specifications";
        equal(specifications, slot.specifications.taken, self.specifications)?;
        equal("machines", slot.machines.into(), self.machines)?;
        equal("volumes", slot.volumes.into(), self.volumes)?;
        let bookings = self.storage.values().sum();
        equal("GiB of disk in all", fleet.storage_taken(index), bookings)?;
        self.storage.iter().try_for_each(|(class, bookings)| {
            equal("GiB of disk", fleet.stock(index, slot, *class).taken, *bookings)
        })
    }
}
