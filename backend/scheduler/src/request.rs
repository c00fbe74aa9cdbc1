//! What is asked of the scheduler, and what a host is to it.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    catalogue::{Flavor, ImageVersions},
    conformity::UnprovenHosts,
    geo::Coordinates,
    host::{Host, HostSpec},
    id::{HostId, InstanceId},
    placement::{Placement, Prefer},
    units::{Gib, Mib, Vcpus},
};

/// A machine to be placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The machine. When it is booked already, its own share and its place in its groups do
    /// not stand in its way.
    pub machine: InstanceId,
    /// The sizes that will do, the best liked first; the first that fits anywhere is taken.
    pub sizes: Vec<Size>,
    /// Disk by storage class that it needs in addition to what is booked for its volumes.
    pub storage: BTreeMap<String, Gib>,
    /// Bytes that the host's desired set grows by, with its volumes that are not booked yet.
    pub specification: u64,
    /// The images that the host has to have for it; any version of those that name none.
    pub images: ImageVersions,
    /// The customer's constraints.
    pub placement: Placement,
    /// What the host must be able to do beside that.
    pub features: BTreeSet<String>,
    /// The hosts that hold its volumes: it can run only there. Two different ones make it
    /// impossible.
    pub volume_hosts: BTreeSet<HostId>,
    /// Hosts that are not to be taken.
    pub excluded: BTreeSet<HostId>,
    /// Hosts whose agents can't take the machine while it runs elsewhere.
    pub incapable: BTreeSet<HostId>,
    /// Whether it is a spot machine: only those may have memory that a host sells beyond what it
    /// has.
    pub spot: bool,
    /// What is better among the hosts that will do.
    pub preferences: Preferences,
    /// Other sizes that an explanation may propose; the catalogue's.
    pub alternatives: Vec<Size>,
}

/// A size of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// The flavor's name.
    pub flavor: String,
    /// Virtual processors; never more than the host has threads.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Mib,
}

impl From<&Flavor> for Size {
    fn from(flavor: &Flavor) -> Self {
        Self { flavor: flavor.name.clone(), vcpus: flavor.vcpus, memory: flavor.memory }
    }
}

/// How to choose among hosts that will do: a weighted sum, the weights against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Preferences {
    /// Whether empty or full hosts are better.
    pub arrangement: Arrangement,
    /// Weight of the arrangement (0 to 1000).
    pub arrangement_weight: u16,
    /// Weight of the host's price (0 to 1000).
    pub price_weight: u16,
    /// Where the machine should be close to.
    pub near: Option<Near>,
    /// Weight of the distance to there (0 to 1000).
    pub near_weight: u16,
}

impl Preferences {
    /// What a customer prefers. Closeness counts before all else: a thousandth of a host's
    /// capacity, or a percent of its price, is worth a few hundred metres at most. Where a machine
    /// is to be spread or packed, the price decides between hosts that are equally full.
    pub fn of(prefer: Prefer, near: Option<Near>) -> Self {
        let (arrangement, arrangement_weight, price_weight) = match (prefer, near.is_some()) {
            (Prefer::Price, false) => (Arrangement::Spread, 20, 100),
            (Prefer::Price, true) => (Arrangement::Spread, 1, 5),
            (Prefer::Spread, false) => (Arrangement::Spread, 1_000, 1),
            (Prefer::Spread, true) => (Arrangement::Spread, 20, 1),
            (Prefer::Pack, false) => (Arrangement::Pack, 1_000, 1),
            (Prefer::Pack, true) => (Arrangement::Pack, 20, 1),
        };
        Self { arrangement, arrangement_weight, price_weight, near, near_weight: 1_000 }
    }
}

impl Default for Preferences {
    /// Price first, then empty hosts.
    fn default() -> Self {
        Self::of(Prefer::Price, None)
    }
}

/// A place to be close to: the distance to it is that to the nearest of its points.
#[derive(Debug, Clone, PartialEq)]
pub struct Near {
    /// What it is called.
    pub name: String,
    /// Where it is; none is no place.
    pub points: Vec<Coordinates>,
}

impl Near {
    /// How far it is from there, in km.
    pub fn distance_km(&self, from: Coordinates) -> Option<f64> {
        self.points.iter().map(|point| point.distance_km(from)).min_by(f64::total_cmp)
    }
}

/// Whether empty or full hosts are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// The emptiest host: load and failures spread.
    Spread,
    /// The fullest host that still fits: whole hosts stay free.
    Pack,
}

/// A host as the scheduler sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetHost {
    /// Its id.
    pub id: HostId,
    /// As its operator offers it.
    pub spec: HostSpec,
    /// The host standard level that counts; none when it does not conform, and takes nothing new.
    pub level: Option<u8>,
    /// Whether it can be reached now.
    pub alive: bool,
    /// Whether it is being emptied: it takes nothing new then.
    pub draining: bool,
    /// Whether its agent can take memory back from spot machines now. Without, it sells no more
    /// memory than it has.
    pub reclaims_memory: bool,
    /// What it can boot.
    pub images: Images,
}

impl FleetHost {
    /// The host as the broker keeps it. What only the broker's streams know is as of a host that
    /// has none.
    pub fn of(host: &Host, unproven: UnprovenHosts, images: Images) -> Self {
        Self {
            id: host.id,
            spec: host.spec.clone(),
            level: host.level(unproven),
            alive: false,
            draining: host.draining.is_some(),
            reclaims_memory: false,
            images,
        }
    }

    /// The memory that its machines may have in all.
    pub fn memory_sold(&self) -> Mib {
        self.spec.memory_sold(self.reclaims_memory)
    }
}

/// Images that a host can boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Images {
    /// It has not told yet: every image of the catalogue for all that is known, and no version that
    /// is asked for.
    Untold,
    /// Every image of the catalogue, in its version.
    All,
    /// These. A version that is not known is none that is asked for.
    Only(ImageVersions),
}

impl Images {
    /// Whether all of these are there, in any version.
    pub fn have(&self, wanted: &ImageVersions) -> bool {
        match self {
            Self::Untold | Self::All => true,
            Self::Only(images) => wanted.keys().all(|id| images.contains_key(id)),
        }
    }

    /// Whether those of these that are there are there in the version that is wanted.
    pub fn have_versions(&self, wanted: &ImageVersions) -> bool {
        let mut known = wanted.iter().filter(|(_, version)| version.is_some());
        match self {
            Self::Untold => known.next().is_none(),
            Self::All => true,
            Self::Only(images) => {
                known.all(|(id, version)| images.get(id).is_none_or(|had| had == version))
            }
        }
    }
}
