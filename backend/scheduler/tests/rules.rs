//! Placement against a naive reference, the books against recomputation, and the texts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_model::{
    geo::Coordinates,
    id::HostId,
    limits,
    placement::{Placement, Prefer},
    units::{Gib, Mib, Vcpus},
};
use fairmazon_scheduler::{
    Arrangement, BookError, Fleet, FleetHost, Images, MachineBooking, Near, Preferences, Request,
    Rule, Share, Size, VolumeBooking,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod world;

use world::{
    booking, group_id, host_id, host_in, machine_id, plain_host, plain_request, version, volume_id,
};

fn fleet_of(hosts: impl IntoIterator<Item = FleetHost>) -> Fleet {
    let mut fleet = Fleet::new(1);
    hosts.into_iter().for_each(|host| fleet.put_host(host));
    fleet
}

fn place_and_book(fleet: &mut Fleet, request: &Request) -> HostId {
    let placed = fleet.place(request).unwrap();
    fleet.reserve_machine(request.machine, booking(request, placed.host)).unwrap();
    placed.host
}

/// The books and rules once more, written as plainly as possible.
#[derive(Default)]
struct Naive {
    hosts: Vec<FleetHost>,
    machines: Vec<(u64, MachineBooking)>,
    volumes: Vec<(u64, VolumeBooking)>,
}

impl Naive {
    fn obeys(&self, request: &Request, host: &FleetHost) -> bool {
        let (size, placement) = (&request.sizes[0], &request.placement);
        let others: Vec<_> = self
            .machines
            .iter()
            .filter(|(number, _)| machine_id(*number) != request.machine)
            .map(|(_, booking)| booking)
            .collect();
        let here: Vec<_> = others.iter().filter(|booking| booking.host == host.id).collect();
        let capacity = &host.spec.capacity;
        let vcpus: u32 = here.iter().map(|booking| booking.vcpus.0).sum();
        let memory: u64 = here.iter().map(|booking| booking.memory.0).sum();
        let not_spot = here.iter().filter(|booking| !booking.is_spot);
        let real: u64 = not_spot.map(|booking| booking.memory.0).sum();
        let percent = if host.reclaims_memory { host.spec.memory_overcommit_percent } else { 100 };
        let sold = capacity.vcpus.0 * host.spec.cpu_overcommit_percent / 100;
        let room = size.vcpus.0 <= capacity.vcpus.0
            && size.vcpus.0 + vcpus <= sold
            && size.memory.0 + memory <= capacity.memory.0 * u64::from(percent) / 100
            && (request.spot || size.memory.0 + real <= capacity.memory.0)
            && request.storage.iter().all(|(class, wanted)| {
                let taken: u64 = self
                    .volumes
                    .iter()
                    .filter(|(_, volume)| volume.host == host.id && volume.class == *class)
                    .map(|(_, volume)| volume.size.0)
                    .sum();
                taken + wanted.0 <= capacity.storage.get(class).copied().unwrap_or_default().0
            });
        let gathered = placement.with.iter().all(|group| {
            let mut friends = others.iter().filter(|b| b.placement.with.contains(group)).peekable();
            friends.peek().is_none() || friends.any(|friend| friend.host == host.id)
        });
        let apart = here.iter().all(|booking| {
            let mine: BTreeSet<_> = placement.with.union(&placement.not_with).collect();
            !placement.not_with.iter().any(|group| booking.placement.names(*group))
                && !booking.placement.not_with.iter().any(|group| mine.contains(group))
        });
        let site = &host.spec.site;
        let image = match &host.images {
            Images::All => true,
            Images::Untold => request.images.values().all(Option::is_none),
            Images::Only(images) => request.images.iter().all(|(id, version)| {
                let had = images.get(id);
                had.is_some_and(|had| version.is_none() || had == version)
            }),
        };
        room && gathered
            && apart
            && image
            && host.alive
            && host.spec.schedulable
            && (placement.countries.is_empty() || placement.countries.contains(&site.country))
            && (placement.regions.is_empty() || placement.regions.contains(&site.region))
            && host.level.is_some_and(|level| level >= placement.min_conformity)
            && (!placement.confidential || host.spec.features.contains("confidential"))
            && request.features.is_subset(&host.spec.features)
            && request.volume_hosts.iter().all(|only| *only == host.id)
            && !request.excluded.contains(&host.id)
    }
}

fn any_request(machine: u64, hosts: u64, random: &mut ChaCha8Rng) -> Request {
    let mut request = plain_request(machine);
    let catalogue = request.alternatives.clone();
    request.sizes = vec![catalogue[random.random_range(0..catalogue.len())].clone()];
    request.storage.insert("standard".into(), Gib(random.random_range(1..300)));
    if random.random_bool(0.2) {
        request.storage.insert("fast".into(), Gib(random.random_range(1..100)));
    }
    if random.random_bool(0.1) {
        request.images = [("alpine-3.22".into(), None)].into();
    } else if random.random_bool(0.3) {
        request.images = [("debian-13".into(), Some(version(random.random_range(1..3))))].into();
    }
    let placement = &mut request.placement;
    for country in ["DE", "FR", "SE", "XX"] {
        if random.random_bool(0.15) {
            placement.countries.insert(country.into());
        }
    }
    if random.random_bool(0.2) {
        placement.regions.insert("eu-central".into());
    }
    for group in 0..3 {
        match random.random_range(0..8) {
            0 => _ = placement.with.insert(group_id(group)),
            1 => _ = placement.not_with.insert(group_id(group)),
            _ => {}
        }
    }
    placement.min_conformity = if random.random_bool(0.3) { random.random_range(0..4) } else { 0 };
    placement.confidential = random.random_bool(0.1);
    if random.random_bool(0.1) {
        request.features.insert("gpu".into());
    }
    if random.random_bool(0.05) {
        request.volume_hosts.insert(host_id(random.random_range(0..hosts)));
    }
    if random.random_bool(0.1) {
        request.excluded.insert(host_id(random.random_range(0..hosts)));
    }
    if random.random_bool(0.3) {
        let munich = Coordinates { latitude: 48.0, longitude: 11.0 };
        request.preferences.near = Some(Near { name: "munich".into(), points: vec![munich] });
        request.preferences.arrangement = Arrangement::Pack;
    }
    request.spot = random.random_bool(0.4);
    request
}

/// One random history: every answer is checked against the reference.
fn history(seed: u64, steps: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let hosts = random.random_range(1..25);
    let mut fleet = Fleet::new(seed);
    let mut naive = Naive::default();
    for number in 0..hosts {
        let host = world::any_host(number, &mut random);
        fleet.put_host(host.clone());
        naive.hosts.push(host);
    }
    for step in 0..steps {
        match random.random_range(0..10) {
            0 if !naive.machines.is_empty() => {
                let victim = random.random_range(0..naive.machines.len());
                let (number, booking) = naive.machines.swap_remove(victim);
                assert_eq!(fleet.release_machine(machine_id(number)).unwrap(), booking);
            }
            1 if !naive.volumes.is_empty() => {
                let victim = random.random_range(0..naive.volumes.len());
                let (number, booking) = naive.volumes.swap_remove(victim);
                assert_eq!(fleet.release_volume(volume_id(number)).unwrap(), booking);
            }
            2 => {
                let number = random.random_range(0..hosts);
                let host = world::any_host(number, &mut random);
                fleet.put_host(host.clone());
                naive.hosts[number as usize] = host;
            }
            3 => {
                let number = random.random_range(0..hosts);
                let reclaims = random.random_bool(0.7);
                fleet.set_reclaims_memory(host_id(number), reclaims);
                naive.hosts[number as usize].reclaims_memory = reclaims;
            }
            _ => {
                // Sometimes a machine that is booked already: it may stay where it is.
                let again = random.random_bool(0.1).then(|| naive.machines.last()).flatten();
                let number = again.map_or(step, |(number, _)| *number);
                let request = any_request(number, hosts, &mut random);
                step_place(&mut fleet, &mut naive, &request, number, seed);
            }
        }
        fleet.audit().unwrap();
    }
}

fn step_place(fleet: &mut Fleet, naive: &mut Naive, request: &Request, number: u64, seed: u64) {
    let good: Vec<_> = naive.hosts.iter().filter(|host| naive.obeys(request, host)).collect();
    match fleet.place(request) {
        Ok(placed) => {
            assert!(good.iter().any(|host| host.id == placed.host), "seed {seed}: {placed:?}");
            assert_eq!(placed.candidates as usize, good.len(), "seed {seed}");
            assert_eq!(fleet.place(request).unwrap(), placed, "seed {seed}");
            if fleet.machine(request.machine).is_some() {
                return;
            }
            fleet.reserve_machine(request.machine, booking(request, placed.host)).unwrap();
            naive.machines.push((number, booking(request, placed.host)));
            for (index, (class, size)) in (0..).zip(&request.storage) {
                let volume = VolumeBooking { host: placed.host, class: class.clone(), size: *size };
                let number = number * 2 + index;
                fleet.reserve_volume(volume_id(number), volume.clone()).unwrap();
                naive.volumes.push((number, volume));
            }
        }
        Err(why) => {
            assert!(good.is_empty(), "seed {seed}: {why}");
            let first: u32 = why.rules.iter().map(|count| count.first).sum();
            assert_eq!(first as usize, naive.hosts.len(), "seed {seed}: {why}");
            assert_eq!(first, why.hosts);
            for count in &why.rules {
                let lifted = lift(request, count.rule);
                let fits = lifted.map(|request| {
                    naive.hosts.iter().filter(|host| naive.obeys(&request, host)).count()
                });
                assert!(fits.is_none_or(|fits| fits == count.only as usize), "seed {seed}: {why}");
            }
        }
    }
}

/// The request without one of its constraints, where it is the request's to lift.
fn lift(request: &Request, rule: Rule) -> Option<Request> {
    let mut request = request.clone();
    match rule {
        Rule::Volumes => request.volume_hosts.clear(),
        Rule::Excluded => request.excluded.clear(),
        Rule::Country => request.placement.countries.clear(),
        Rule::Region => request.placement.regions.clear(),
        Rule::Conformity => request.placement.min_conformity = 0,
        Rule::Confidential => request.placement.confidential = false,
        Rule::Features => request.features.clear(),
        Rule::ImageVersion => request.images.values_mut().for_each(|version| *version = None),
        Rule::Storage => request.storage.clear(),
        Rule::RealMemory => request.spot = true,
        // The rest is the host's: a host that is too full has no room even for nothing.
        _ => return None,
    }
    Some(request)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn placement_obeys_every_rule_and_the_books_balance(seed: u64) {
        history(seed, 120);
    }
}

#[test]
fn the_order_of_hosts_does_not_matter_and_the_seed_does() {
    let chosen = |seed, numbers: Vec<u64>| {
        let mut fleet = Fleet::new(seed);
        numbers.into_iter().for_each(|number| fleet.put_host(plain_host(number)));
        fleet.place(&plain_request(0)).unwrap()
    };
    assert_eq!(chosen(1, (0..50).collect()), chosen(1, (0..50).rev().collect()));
    let hosts: BTreeSet<_> = (0..20).map(|seed| chosen(seed, (0..50).collect()).host).collect();
    assert!(hosts.len() > 5, "{hosts:?}");
}

#[test]
fn spread_and_pack_do_what_they_say() {
    let hosts_used = |arrangement| {
        let mut fleet = fleet_of((0..4).map(plain_host));
        let used: BTreeSet<_> = (0..4)
            .map(|number| {
                let mut request = plain_request(number);
                request.preferences.arrangement = arrangement;
                place_and_book(&mut fleet, &request)
            })
            .collect();
        used.len()
    };
    assert_eq!(hosts_used(Arrangement::Spread), 4);
    assert_eq!(hosts_used(Arrangement::Pack), 1);
}

/// Whatever the hosts cost and however full they are.
#[test]
fn what_is_preferred_decides() {
    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let hosts: Vec<_> = (0..8).map(|number| host_in(number, number as usize)).collect();
        let mut fleet = Fleet::new(seed);
        for mut host in hosts.iter().cloned() {
            host.spec.price_percent = random.random_range(80..120);
            fleet.put_host(host);
        }
        for number in 0..random.random_range(0..12) {
            place_and_book(&mut fleet, &plain_request(number));
        }
        let mut request = plain_request(100);
        let mut place = |fleet: &Fleet, prefer, near| {
            request.preferences = Preferences::of(prefer, near);
            fleet.place(&request).unwrap()
        };
        // Of the same size each, so that what is booked says how full they are.
        let booked = |fleet: &Fleet, host: HostId| fleet.free(host).unwrap().memory;
        let all = || hosts.iter().map(|host| host.id);
        let emptiest = all().map(|host| booked(&fleet, host)).max();
        let spread = place(&fleet, Prefer::Spread, None);
        assert_eq!(Some(booked(&fleet, spread.host)), emptiest, "seed {seed}");
        let wanted = plain_request(100).sizes[0].vcpus;
        let fits = |host: &HostId| fleet.free(*host).unwrap().vcpus >= wanted;
        let fullest = all().filter(fits).map(|host| booked(&fleet, host)).min();
        let packed = place(&fleet, Prefer::Pack, None);
        assert_eq!(Some(booked(&fleet, packed.host)), fullest, "seed {seed}");

        let site = hosts[random.random_range(0..hosts.len())].spec.site.clone();
        let near = Near { name: site.name.clone(), points: vec![site.coordinates] };
        let there = place(&fleet, Prefer::Price, Some(near)).host;
        let there = hosts.iter().find(|host| host.id == there).unwrap();
        let km = there.spec.site.coordinates.distance_km(site.coordinates);
        assert!(km < 10.0, "seed {seed}: {km} km from {}", site.name);

        // A region is all of its sites, not its middle.
        let points: Vec<_> = hosts
            .iter()
            .filter(|host| host.spec.site.region == site.region)
            .map(|host| host.spec.site.coordinates)
            .collect();
        let near = Near { name: site.region.clone(), points };
        let placed = place(&fleet, Prefer::Price, Some(near));
        let there = hosts.iter().find(|host| host.id == placed.host).unwrap();
        assert_eq!(there.spec.site.region, site.region, "seed {seed}");
        assert!(placed.reason.ends_with(&format!("km from {}", site.region)), "{}", placed.reason);
    }
}

#[test]
fn a_placement_says_why() {
    let mut cheap = host_in(1, 0);
    cheap.spec.price_percent = 80;
    let mut fleet = fleet_of([host_in(0, 0), cheap, host_in(2, 1), host_in(3, 2)]);
    let mut request = plain_request(0);
    request.placement.countries.insert("DE".into());
    let placed = fleet.place(&request).unwrap();
    assert_eq!(placed.host, host_id(1));
    assert_eq!(placed.reason, "fra2: cheapest of 3 hosts in DE with 2 vCPU and 4096 MiB free");
    request.placement.countries = BTreeSet::from(["FR".into()]);
    assert_eq!(
        fleet.place(&request).unwrap().reason,
        "par4: the only host in FR with 2 vCPU and 4096 MiB free"
    );
    request.placement.countries.clear();
    let site = host_in(0, 2).spec.site;
    let near = Near { name: site.region, points: vec![site.coordinates] };
    request.preferences = Preferences::of(Prefer::Price, Some(near));
    assert_eq!(
        fleet.place(&request).unwrap().reason,
        "par4: nearest of 4 hosts with 2 vCPU and 4096 MiB free, 0 km from eu-west"
    );
    fleet.set_alive(host_id(3), false);
    assert_ne!(fleet.place(&request).unwrap().host, host_id(3));
}

#[test]
fn a_refusal_says_which_rule_and_where_it_would_fit() {
    let mut fleet = fleet_of([host_in(0, 0), host_in(1, 1), host_in(2, 2), host_in(3, 5)]);
    fleet.set_alive(host_id(1), false);
    let mut request = plain_request(0);
    request.placement.countries.insert("DE".into());
    request.sizes[0].memory = Mib(60_000);
    place_and_book(&mut fleet, &request);
    request.machine = machine_id(1);
    let why = fleet.place(&request).unwrap_err();
    assert_eq!(
        why.text,
        "none of 4 hosts fits (not in DE: 2; not reachable now: 1; less than 60000 MiB free: 1); \
         hosts that would do but for one thing: the countries (2), unreachable hosts (1), memory (1)"
    );
    let sites: Vec<_> = why.sites.iter().map(|fit| fit.site.as_str()).collect();
    assert_eq!(sites, ["par3", "sto4"]);
    assert_eq!(why.flavors, ["tiny", "small", "medium"]);
    assert!(why.advice().contains("tiny, small or medium"), "{}", why.advice());
}

#[test]
fn no_hosts_is_an_answer() {
    let why = Fleet::new(0).place(&plain_request(0)).unwrap_err();
    assert_eq!((why.hosts, why.text.as_str()), (0, "there are no hosts yet"));
}

#[test]
fn fallback_sizes_are_tried_in_order() {
    let fleet = fleet_of([plain_host(0)]);
    let mut request = plain_request(0);
    request.sizes.insert(
        0,
        fairmazon_scheduler::Size { flavor: "giant".into(), vcpus: Vcpus(32), memory: Mib(1) },
    );
    assert_eq!(fleet.place(&request).unwrap().flavor, "medium");
}

#[test]
fn groups_hold_both_ways() {
    let mut fleet = fleet_of((0..3).map(plain_host));
    let mut apart = plain_request(0);
    apart.placement.not_with.insert(group_id(0));
    let first = place_and_book(&mut fleet, &apart);
    let mut together = plain_request(1);
    together.placement.with.insert(group_id(0));
    let second = place_and_book(&mut fleet, &together);
    assert_ne!(first, second, "a machine that keeps apart gets no neighbour of its group");
    let third = place_and_book(&mut fleet, &Request { machine: machine_id(2), ..together });
    assert_eq!(second, third);
    let fourth = place_and_book(&mut fleet, &Request { machine: machine_id(3), ..apart.clone() });
    let used = BTreeSet::from([first, second, fourth]);
    assert_eq!(used.len(), 3);
    let why = fleet.place(&Request { machine: machine_id(4), ..apart }).unwrap_err();
    assert_eq!(
        why.rules.iter().map(|count| (count.rule, count.first)).collect::<Vec<_>>(),
        [(Rule::NotWith, 3)]
    );
}

#[test]
fn the_books_refuse_what_they_cannot_hold() {
    let mut fleet = fleet_of([plain_host(0)]);
    let booking = |memory| MachineBooking {
        host: host_id(0),
        vcpus: Vcpus(1),
        memory: Mib(memory),
        specification: 1_000,
        placement: Placement::default(),
        is_spot: false,
        spot: None,
        leaves_in: None,
    };
    fleet.reserve_machine(machine_id(0), booking(65_000)).unwrap();
    let error = fleet.reserve_machine(machine_id(0), booking(1)).unwrap_err();
    assert!(matches!(error, BookError::AlreadyBooked { .. }), "{error}");
    let error = fleet.reserve_machine(machine_id(1), booking(1_000)).unwrap_err();
    assert!(matches!(error, BookError::NoRoom { free: 536, wanted: 1_000, .. }), "{error}");
    let error = fleet.rebook_machine(machine_id(0), booking(70_000));
    assert!(matches!(error, Err(BookError::NoRoom { .. })), "{error:?}");
    assert_eq!(fleet.machine(machine_id(0)), Some(&booking(65_000)));
    // What is known to be there is booked even beyond the host's size, and can shrink there.
    fleet.restore_machine(machine_id(1), booking(1_000)).unwrap();
    fleet.rebook_machine(machine_id(1), booking(900)).unwrap();
    let error = fleet.restore_machine(machine_id(2), booking(u64::MAX)).unwrap_err();
    assert!(matches!(error, BookError::TooLarge { .. }), "{error}");
    fleet.audit().unwrap();
    let error = fleet.remove_host(host_id(0)).unwrap_err();
    assert!(matches!(error, BookError::HostInUse { machines: 2, volumes: 0, .. }), "{error}");
    fleet.release_machine(machine_id(0)).unwrap();
    fleet.release_machine(machine_id(1)).unwrap();
    let error = fleet.release_machine(machine_id(1)).unwrap_err();
    assert!(matches!(error, BookError::NotBooked { .. }), "{error}");
    fleet.remove_host(host_id(0)).unwrap();
    assert!(fleet.is_empty());
    fleet.put_host(plain_host(5));
    assert_eq!(fleet.place(&plain_request(0)).unwrap().host, host_id(5));
}

#[test]
fn volumes_grow_where_there_is_room() {
    let mut fleet = fleet_of([plain_host(0)]);
    let booking = VolumeBooking { host: host_id(0), class: "standard".into(), size: Gib(600) };
    fleet.reserve_volume(volume_id(0), booking.clone()).unwrap();
    let error = fleet.reserve_volume(volume_id(1), booking.clone()).unwrap_err();
    assert!(matches!(error, BookError::NoRoom { free: 400, wanted: 600, .. }), "{error}");
    fleet.resize_volume(volume_id(0), Gib(1_000)).unwrap();
    fleet.resize_volume(volume_id(0), Gib(1_001)).unwrap_err();
    assert_eq!(fleet.free(host_id(0)).unwrap().storage["standard"], Gib(0));
    let error = fleet
        .reserve_volume(volume_id(2), VolumeBooking { class: "fast".into(), ..booking })
        .unwrap_err();
    assert!(matches!(error, BookError::NoRoom { free: 0, .. }), "{error}");
    fleet.audit().unwrap();
}

#[test]
fn what_a_host_is_told_of_all_its_machines_is_bounded() {
    let mut fleet = fleet_of([plain_host(0)]);
    let large = |machine| Request {
        specification: limits::HOST_SPECIFICATIONS_MAX / 3,
        sizes: vec![Size { flavor: "tiny".into(), vcpus: Vcpus(1), memory: Mib(1) }],
        storage: BTreeMap::new(),
        ..plain_request(machine)
    };
    for machine in 0..3 {
        let placed = fleet.place(&large(machine)).unwrap();
        fleet.reserve_machine(machine_id(machine), booking(&large(machine), placed.host)).unwrap();
    }
    let why = fleet.place(&large(3)).unwrap_err();
    assert_eq!(
        why.rules.iter().map(|count| count.rule).collect::<Vec<_>>(),
        [Rule::Specifications]
    );
    let refused = fleet.reserve_machine(machine_id(3), booking(&large(3), host_id(0)));
    assert!(matches!(refused, Err(BookError::NoRoom { .. })), "{refused:?}");
    fleet.place(&large(0)).expect("what is booked already does not stand in its own way");
    fleet.audit().unwrap();
    fleet.release_machine(machine_id(0)).unwrap();
    fleet.place(&large(3)).unwrap();
    fleet.audit().unwrap();
}

#[test]
fn a_machine_that_moves_counts_at_both_hosts_and_stands_in_its_own_way_at_none() {
    let group = group_id(0);
    let mut request = plain_request(0);
    request.placement.not_with = [group].into();
    let mut fleet = fleet_of([plain_host(0), plain_host(1)]);
    let id = request.machine;
    fleet.reserve_machine(id, booking(&request, host_id(0))).unwrap();
    fleet.reserve_machine(Share::Coming(id), booking(&request, host_id(1))).unwrap();
    let there = VolumeBooking { host: host_id(1), class: "standard".into(), size: Gib(10) };
    fleet.reserve_volume(Share::Coming(volume_id(0)), there).unwrap();
    for host in [host_id(0), host_id(1)] {
        assert_eq!(fleet.free(host).unwrap().machines, 1);
        let only = Request { excluded: [host].into(), ..request.clone() };
        fleet.place(&only).expect("it keeps apart from others, not from itself");
    }
    let mut other = request;
    other.machine = machine_id(1);
    let why = fleet.place(&other).unwrap_err();
    assert_eq!(why.rules.iter().map(|count| count.rule).collect::<Vec<_>>(), [Rule::NotWith]);
    fleet.audit().unwrap();
    fleet.release_machine(Share::Coming(id)).unwrap();
    fleet.release_volume(Share::Coming(volume_id(0))).unwrap();
    assert_eq!(fleet.place(&other).unwrap().host, host_id(1));
    assert_eq!(fleet.machine(id).map(|booking| booking.host), Some(host_id(0)));
    fleet.audit().unwrap();
}

#[test]
fn the_level_that_counts_decides_and_not_the_one_that_is_offered() {
    let offers = |number, level| {
        let mut host = plain_host(number);
        host.spec.conformity = 3;
        FleetHost { level, ..host }
    };
    let fleet = fleet_of([offers(0, None), offers(1, Some(1)), offers(2, Some(2))]);
    let mut request = plain_request(0);
    request.placement.min_conformity = 2;
    assert_eq!(fleet.place(&request).unwrap().host, host_id(2));
    request.placement.min_conformity = 0;
    request.excluded = [host_id(1), host_id(2)].into();
    let why = fleet.place(&request).unwrap_err();
    assert!(why.text.contains("not conforming to the host standard: 1"), "{why}");
    let lifted = why.rules.iter().find(|count| count.rule == Rule::Conforms).unwrap();
    assert_eq!(lifted.only, 1, "it would do if it conformed");
}

#[test]
fn hosts_that_are_emptied_or_take_no_running_machine_are_explained() {
    let draining = FleetHost { draining: true, ..plain_host(0) };
    let fleet = fleet_of([draining, plain_host(1)]);
    assert_eq!(fleet.place(&plain_request(0)).unwrap().host, host_id(1));
    let moving = Request { incapable: [host_id(1)].into(), ..plain_request(0) };
    let why = fleet.place(&moving).unwrap_err();
    let rules: Vec<_> = why.rules.iter().map(|count| (count.rule, count.first)).collect();
    assert_eq!(rules, [(Rule::Draining, 1), (Rule::Incapable, 1)]);
    assert!(why.text.contains("being emptied: 1"), "{why}");
    assert!(why.text.contains("takes machines from its host: 1"), "{why}");
}
