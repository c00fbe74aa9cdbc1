//! The capacity books: the scheduler's fleet, kept in step with rows and claims.
//!
//! A claim is booked before its draft is committed and settled afterwards to what the row
//! then says, so that two drafts never share room and a failed one gives its room back.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    catalogue::Catalogue,
    catalogue::ImageVersions,
    conformity::UnprovenHosts,
    host::Host,
    id::{HostId, InstanceId, VolumeId},
    instance::{Instance, Power},
    interruption::Interruption,
    placement::Placement,
    units::{Gib, Mib, Vcpus},
    volume::Volume,
};
use fairmazon_scheduler::{
    BookError, Fleet, FleetHost, Images, MachineBooking, MadeRoom, Member, Placed, Request, Rule,
    Share, SpotTerms, VolumeBooking, WhyNot,
};

use super::view::Usage;

/// The books.
pub(crate) struct Books {
    fleet: Fleet,
    unproven: UnprovenHosts,
}

impl Books {
    pub(crate) fn new(seed: u64, unproven: UnprovenHosts) -> Self {
        Self { fleet: Fleet::new(seed), unproven }
    }

    /// Takes a host in as its row says; what only its stream says stays as it was.
    pub(crate) fn put_host(&mut self, host: &Host) {
        let row = FleetHost::of(host, self.unproven, Images::Untold);
        let host = match self.fleet.host(host.id) {
            None => row,
            Some(FleetHost { alive, reclaims_memory, images, .. }) => FleetHost {
                alive: *alive,
                reclaims_memory: *reclaims_memory,
                images: images.clone(),
                ..row
            },
        };
        self.fleet.put_host(host);
    }

    pub(crate) fn remove_host(&mut self, host: HostId) {
        if let Err(error) = self.fleet.remove_host(host) {
            tracing::error!(%host, %error, "a host was removed while something was booked on it");
        }
    }

    /// Notes whether new machines can reach the host.
    pub(crate) fn set_alive(&mut self, host: HostId, alive: bool) {
        self.fleet.set_alive(host, alive);
    }

    /// Notes whether the host's agent can take memory back from spot machines now; true when that
    /// is news.
    pub(crate) fn set_reclaims_memory(&mut self, host: HostId, reclaims: bool) -> bool {
        self.fleet.set_reclaims_memory(host, reclaims)
    }

    /// Notes which images the host has, none for every one; true when that is news.
    pub(crate) fn set_images(&mut self, host: HostId, images: Option<ImageVersions>) -> bool {
        self.fleet.set_images(host, &images.map_or(Images::All, Images::Only))
    }

    /// The images that the host has; none where it has every one, and where there is no such host.
    pub(crate) fn images(&self, host: HostId) -> Option<&ImageVersions> {
        match &self.fleet.host(host)?.images {
            Images::Untold | Images::All => None,
            Images::Only(images) => Some(images),
        }
    }

    /// Finds a host; books nothing.
    pub(crate) fn place(&self, request: &Request) -> Result<Placed, Box<WhyNot>> {
        self.fleet.place(request)
    }

    /// Finds the host for machines that have to be on one; books nothing.
    pub(crate) fn gather(
        &self,
        members: &[Member],
        only: Option<HostId>,
    ) -> Result<HostId, Box<WhyNot>> {
        self.fleet.gather(members, only)
    }

    /// The booked machines that have to be on one host with this one under such a placement.
    pub(crate) fn gathers_with(
        &self,
        machine: InstanceId,
        placement: &Placement,
    ) -> BTreeSet<InstanceId> {
        self.fleet.gathers_with(machine, placement)
    }

    /// The machines that have to be on one host with a booked one, beside itself.
    pub(crate) fn companions(&self, machine: InstanceId) -> BTreeSet<InstanceId> {
        let booking = self.fleet.machine(machine);
        booking.map_or_else(BTreeSet::new, |it| self.gathers_with(machine, &it.placement))
    }

    /// Whether machines that have to be on one host with this one are on another one, or go to
    /// another one.
    pub(crate) fn is_apart(&self, machine: InstanceId) -> bool {
        let goal = self.fleet.goal(machine);
        self.companions(machine).into_iter().any(|other| self.fleet.goal(other) != goal)
    }

    /// A host that is better for a machine by at least `percent` than the one that it is on.
    pub(crate) fn better(&self, request: &Request, from: HostId, percent: u8) -> Option<Placed> {
        self.fleet.better(request, from, percent)
    }

    /// Finds which spot machines have to go so that a machine fits; changes nothing.
    pub(crate) fn make_room(&self, request: &Request) -> Option<MadeRoom> {
        self.fleet.make_room(request)
    }

    /// As [`Books::claim`], in room that these machines of the host still have and will give.
    ///
    /// # Errors
    /// What its host lacks without them, for people.
    pub(crate) fn claim_after<'a>(
        &mut self,
        machine: Option<(InstanceId, MachineBooking)>,
        volumes: impl Iterator<Item = &'a Volume>,
        given: impl Iterator<Item = InstanceId>,
    ) -> Result<(), String> {
        let given: Vec<_> = given
            .filter_map(|id| Some((Share::Here(id), self.fleet.release_machine(id).ok()?)))
            .collect();
        let claimed = self.claim(machine, volumes);
        given.into_iter().for_each(|(id, booking)| self.restored(id, booking));
        claimed
    }

    /// Whether a machine may stay on its host under this placement, whatever room there is.
    ///
    /// # Errors
    /// The first constraint that the host does not obey, for people.
    pub(crate) fn check_stays(
        &self,
        machine: InstanceId,
        host: HostId,
        placement: &Placement,
    ) -> Result<(), String> {
        if self.is_booked_under(machine, placement) {
            return Ok(());
        }
        self.check_obeys(machine, host, placement)
    }

    /// Whether the machine has its room under this very placement.
    pub(crate) fn is_booked_under(&self, machine: InstanceId, placement: &Placement) -> bool {
        self.fleet.machine(machine).is_some_and(|booking| booking.placement == *placement)
    }

    /// Whether the host obeys every constraint of the placement, whatever room there is.
    ///
    /// # Errors
    /// The first constraint that it does not obey, for people.
    pub(crate) fn check_obeys(
        &self,
        machine: InstanceId,
        host: HostId,
        placement: &Placement,
    ) -> Result<(), String> {
        let request = Request {
            machine,
            sizes: vec![fairmazon_scheduler::Size {
                flavor: String::new(),
                vcpus: Vcpus(0),
                memory: Mib(0),
            }],
            storage: BTreeMap::new(),
            specification: 0,
            images: ImageVersions::new(),
            placement: placement.clone(),
            features: Default::default(),
            volume_hosts: [host].into(),
            excluded: Default::default(),
            incapable: Default::default(),
            spot: false,
            preferences: Default::default(),
            alternatives: Vec::new(),
        };
        let broken = self.fleet.first_broken(&request, host);
        // From `Alive` on the rules are about room, not about constraints.
        match broken.filter(|rule| *rule < Rule::Alive) {
            None => Ok(()),
            Some(rule) => Err(format!("its host does not obey {rule}")),
        }
    }

    /// The first rule that the host breaks for the request; none when it obeys all of them.
    pub(crate) fn first_broken(&self, request: &Request, host: HostId) -> Option<Rule> {
        self.fleet.first_broken(request, host)
    }

    /// Claims what a placed machine and volumes on its host will have; all of it or nothing.
    ///
    /// # Errors
    /// What its host lacks, for people.
    pub(crate) fn claim<'a>(
        &mut self,
        machine: Option<(InstanceId, MachineBooking)>,
        volumes: impl Iterator<Item = &'a Volume>,
    ) -> Result<(), String> {
        let volumes = volumes.filter_map(|row| Some((Share::Here(row.id), volume_booking(row)?)));
        self.claim_shares(machine.map(|(id, booking)| (Share::Here(id), booking)), volumes)
    }

    /// Claims what a machine and its volumes will have of the host that they go to, beside what
    /// they have where they are; all of it or nothing.
    ///
    /// # Errors
    /// What that host lacks, for people.
    pub(crate) fn claim_coming(
        &mut self,
        id: InstanceId,
        machine: Option<MachineBooking>,
        volumes: impl Iterator<Item = (VolumeId, VolumeBooking)>,
    ) -> Result<(), String> {
        let volumes = volumes.map(|(id, booking)| (Share::Coming(id), booking));
        self.claim_shares(machine.map(|booking| (Share::Coming(id), booking)), volumes)
    }

    fn claim_shares(
        &mut self,
        machine: Option<(Share<InstanceId>, MachineBooking)>,
        volumes: impl Iterator<Item = (Share<VolumeId>, VolumeBooking)>,
    ) -> Result<(), String> {
        let mut undo = Vec::new();
        let mut failed = None;
        for (volume, booking) in volumes {
            let before = self.fleet.volume(volume).cloned();
            if let Err(error) = self.claim_volume(volume, booking) {
                failed = Some(error);
                break;
            }
            undo.push((volume, before));
        }
        if failed.is_none()
            && let Some((id, booking)) = machine
        {
            failed = self.claim_machine(id, booking).err();
        }
        let Some(error) = failed else { return Ok(()) };
        for (id, before) in undo {
            self.settle_volume(id, before);
        }
        Err(error.to_string())
    }

    fn claim_machine(
        &mut self,
        id: Share<InstanceId>,
        to: MachineBooking,
    ) -> Result<(), BookError> {
        match self.fleet.machine(id) {
            Some(booked) if *booked == to => Ok(()),
            Some(booked) if booked.host == to.host => self.fleet.rebook_machine(id, to),
            Some(_) => {
                let before = self.fleet.release_machine(id)?;
                self.fleet.reserve_machine(id, to).inspect_err(|_| {
                    self.restored(id, before);
                })
            }
            None => self.fleet.reserve_machine(id, to),
        }
    }

    fn restored(&mut self, id: Share<InstanceId>, booking: MachineBooking) {
        if let Err(error) = self.fleet.restore_machine(id, booking) {
            tracing::error!(%id, %error, "a machine can't be booked where it is");
        }
    }

    fn claim_volume(&mut self, id: Share<VolumeId>, to: VolumeBooking) -> Result<(), BookError> {
        match self.fleet.volume(id) {
            Some(booked) if *booked == to => Ok(()),
            Some(booked) if booked.host == to.host && booked.class == to.class => {
                self.fleet.resize_volume(id, to.size)
            }
            Some(_) => {
                let before = self.fleet.release_volume(id)?;
                self.fleet.reserve_volume(id, to).inspect_err(|_| {
                    self.settle_volume(id, Some(before));
                })
            }
            None => self.fleet.reserve_volume(id, to),
        }
    }

    /// Books a machine as decided, whether or not there is room; true when room became free.
    pub(crate) fn settle_machine(
        &mut self,
        id: impl Into<Share<InstanceId>>,
        to: Option<MachineBooking>,
    ) -> bool {
        let id = id.into();
        if self.fleet.machine(id) == to.as_ref() {
            return false;
        }
        let freed = self.fleet.release_machine(id).is_ok();
        if let Some(booking) = to {
            self.restored(id, booking);
        }
        freed
    }

    /// Books a volume where its data is, whether or not there is room; true when room became
    /// free.
    pub(crate) fn settle_volume(
        &mut self,
        id: impl Into<Share<VolumeId>>,
        to: Option<VolumeBooking>,
    ) -> bool {
        let id = id.into();
        if self.fleet.volume(id) == to.as_ref() {
            return false;
        }
        let freed = self.fleet.release_volume(id).is_ok();
        if let Some(booking) = to
            && let Err(error) = self.fleet.restore_volume(id, booking)
        {
            tracing::error!(%id, %error, "a volume can't be booked where it is");
        }
        freed
    }

    /// The host standard level of the host that counts; none when it takes nothing new for what it
    /// proves.
    pub(crate) fn level(&self, host: HostId) -> Option<u8> {
        self.fleet.host(host)?.level
    }

    /// The host standard level that a booked machine asks for, with its volumes.
    pub(crate) fn wanted_level(&self, machine: InstanceId) -> u8 {
        self.fleet.machine(machine).map_or(0, |booking| booking.placement.min_conformity)
    }

    /// What is taken of a host.
    pub(crate) fn usage(&self, id: HostId) -> Usage {
        let (Some(host), Some(free)) = (self.fleet.host(id), self.fleet.free(id)) else {
            return Usage::default();
        };
        let capacity = &host.spec.capacity;
        let sold = u64::from(capacity.vcpus.0) * u64::from(host.spec.cpu_overcommit_percent) / 100;
        let left = |class: &str| free.storage.get(class).copied().unwrap_or_default();
        Usage {
            machines: free.machines,
            vcpus: Vcpus(u32::try_from(sold).unwrap_or(u32::MAX)).saturating_sub(free.vcpus),
            memory: host.memory_sold().saturating_sub(free.memory),
            storage: capacity
                .storage
                .iter()
                .map(|(class, size)| (class.clone(), Gib(size.0 - left(class).0.min(size.0))))
                .collect(),
        }
    }

    /// Recomputes the books from their bookings.
    ///
    /// # Errors
    /// The first difference, which is a fault of the platform.
    pub(crate) fn audit(&self) -> Result<(), fairmazon_scheduler::Imbalance> {
        self.fleet.audit()
    }
}

/// What a decided instance has of its host; `placement` is its own joined with its volumes'.
pub(crate) fn machine_booking(
    catalogue: &Catalogue,
    instance: &Instance,
    placement: Placement,
) -> Option<MachineBooking> {
    let decision = instance.decision.as_ref()?;
    // A flavor that the catalogue has lost takes nothing; it can't be decided anew either.
    let flavor = catalogue.flavor(&decision.flavor);
    let (vcpus, memory) = flavor
        .filter(|_| instance.holds_room())
        .map_or((Vcpus(0), Mib(0)), |flavor| (flavor.vcpus, flavor.memory));
    let specification = instance.spec.specification_bytes();
    // One that is to be off loses nothing by it.
    let runs = instance.spec.power == Power::Running;
    let spot = instance.interruptible().map(|spot| SpotTerms {
        notice_seconds: if runs { spot.notice_seconds } else { 0 },
        price: flavor.filter(|_| runs).map(|flavor| flavor.spot_hourly).unwrap_or_default(),
    });
    let is_spot = instance.spec.spot.is_some();
    let leaves_in = instance.notice().map(Interruption::notice_seconds);
    let host = decision.host;
    Some(MachineBooking { host, vcpus, memory, specification, placement, is_spot, spot, leaves_in })
}

/// What a bound volume has of its host.
pub(crate) fn volume_booking(volume: &Volume) -> Option<VolumeBooking> {
    let host = volume.host?;
    Some(VolumeBooking { host, class: volume.spec.class.clone(), size: volume.spec.size })
}
