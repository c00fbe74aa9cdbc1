//! Hosts and requests for tests and the bench, all from a seed.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    catalogue::Catalogue,
    geo::Coordinates,
    host::{Capacity, HostSpec},
    id::{HostId, InstanceId, PlacementGroupId, VolumeId},
    placement::Placement,
    site::Site,
    transfer::Sha256,
    units::{Gib, Mib, Vcpus},
};
use fairmazon_scheduler::{FleetHost, Images, MachineBooking, Preferences, Request, Size};
use rand::{Rng, seq::IndexedRandom};

/// Towns with country, region and coordinates.
const TOWNS: [(&str, &str, &str, f64, f64); 8] = [
    ("Frankfurt", "DE", "eu-central", 50.11, 8.68),
    ("Berlin", "DE", "eu-central", 52.52, 13.41),
    ("Paris", "FR", "eu-west", 48.86, 2.35),
    ("Lyon", "FR", "eu-west", 45.76, 4.84),
    ("Vienna", "AT", "eu-central", 48.21, 16.37),
    ("Stockholm", "SE", "eu-north", 59.33, 18.07),
    ("Warsaw", "PL", "eu-east", 52.23, 21.01),
    ("Madrid", "ES", "eu-south", 40.42, -3.70),
];

/// The id of host number `number`.
pub(crate) fn host_id(number: u64) -> HostId {
    HostId::from_parts(1, number.into())
}

/// The id of machine number `number`.
pub(crate) fn machine_id(number: u64) -> InstanceId {
    InstanceId::from_parts(2, number.into())
}

/// The id of volume number `number`.
pub(crate) fn volume_id(number: u64) -> VolumeId {
    VolumeId::from_parts(3, number.into())
}

/// The id of group number `number`.
pub(crate) fn group_id(number: u64) -> PlacementGroupId {
    PlacementGroupId::from_parts(4, number.into())
}

/// A plain host in Frankfurt: 16 threads, 64 GiB of memory, 1000 GiB of disk.
pub(crate) fn plain_host(number: u64) -> FleetHost {
    host_in(number, 0)
}

/// A plain host in one of the towns.
pub(crate) fn host_in(number: u64, town: usize) -> FleetHost {
    let (name, country, region, latitude, longitude) = TOWNS[town % TOWNS.len()];
    FleetHost {
        id: host_id(number),
        spec: HostSpec {
            name: format!("host-{number}"),
            site: Site {
                name: format!("{}{}", name[..3].to_lowercase(), 1 + number % 4),
                town: name.into(),
                country: country.into(),
                region: region.into(),
                coordinates: Coordinates { latitude, longitude },
            },
            capacity: Capacity {
                vcpus: Vcpus(16),
                memory: Mib(65_536),
                storage: BTreeMap::from([("standard".into(), Gib(1_000))]),
            },
            cpu_overcommit_percent: 100,
            memory_overcommit_percent: 100,
            conformity: 0,
            features: BTreeSet::new(),
            price_percent: 100,
            schedulable: true,
        },
        level: Some(0),
        alive: true,
        draining: false,
        reclaims_memory: true,
        images: Images::All,
    }
}

/// A host with everything left to chance.
pub(crate) fn any_host(number: u64, random: &mut impl Rng) -> FleetHost {
    let mut host = host_in(number, random.random_range(0..TOWNS.len()));
    let spec = &mut host.spec;
    spec.capacity.vcpus = Vcpus(*[2, 4, 8, 16, 64].choose(random).expect("not empty"));
    spec.capacity.memory =
        Mib(u64::from(spec.capacity.vcpus.0) * random.random_range(1..=8) * 1_024);
    spec.capacity.storage.insert("standard".into(), Gib(random.random_range(0..2_000)));
    if random.random_bool(0.5) {
        spec.capacity.storage.insert("fast".into(), Gib(random.random_range(0..500)));
    }
    spec.cpu_overcommit_percent = *[100, 150, 400].choose(random).expect("not empty");
    spec.memory_overcommit_percent = *[100, 100, 150, 200].choose(random).expect("not empty");
    spec.conformity = random.random_range(0..4);
    spec.price_percent = *[80, 100, 100, 120].choose(random).expect("not empty");
    spec.schedulable = random.random_bool(0.9);
    // Never above what is offered; some prove less, and some nothing.
    let level = (0..=spec.conformity).rev().find(|_| random.random_bool(0.7));
    host.alive = random.random_bool(0.9);
    for feature in ["confidential", "gpu"] {
        if random.random_bool(0.3) {
            spec.features.insert(feature.into());
        }
    }
    host.level = level;
    host.reclaims_memory = random.random_bool(0.8);
    if random.random_bool(0.3) {
        let version = [None, Some(version(1)), Some(version(2))][number as usize % 3];
        let had = BTreeMap::from([("debian-13".into(), version)]);
        host.images = if number.is_multiple_of(5) { Images::Untold } else { Images::Only(had) };
    }
    host
}

/// A version of an image.
pub(crate) fn version(number: u8) -> Sha256 {
    Sha256([number; 32])
}

/// What the first size of a request takes of a host.
pub(crate) fn booking(request: &Request, host: HostId) -> MachineBooking {
    MachineBooking {
        host,
        vcpus: request.sizes[0].vcpus,
        memory: request.sizes[0].memory,
        specification: request.specification,
        placement: request.placement.clone(),
        is_spot: request.spot,
        spot: None,
        leaves_in: None,
    }
}

/// A small Debian with 10 GiB anywhere.
pub(crate) fn plain_request(machine: u64) -> Request {
    let catalogue = Catalogue::default_catalogue();
    Request {
        machine: machine_id(machine),
        sizes: vec![Size { flavor: "medium".into(), vcpus: Vcpus(2), memory: Mib(4_096) }],
        storage: BTreeMap::from([("standard".into(), Gib(10))]),
        specification: 1_000,
        images: [("debian-13".into(), None)].into(),
        placement: Placement::default(),
        features: BTreeSet::new(),
        volume_hosts: BTreeSet::new(),
        excluded: BTreeSet::new(),
        incapable: BTreeSet::new(),
        spot: false,
        preferences: Preferences::default(),
        alternatives: catalogue.flavors.iter().map(Size::from).collect(),
    }
}
