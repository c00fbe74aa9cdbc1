//! Making room by interrupting spot machines, against all sets of victims that there are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use fairmazon_model::{
    id::{HostId, InstanceId},
    price::NanoEur,
    units::{Mib, Vcpus},
};
use fairmazon_scheduler::{Fleet, MachineBooking, Request, SpotTerms};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[allow(dead_code, reason = "these tests use some of the world")]
mod world;

use world::{any_host, host_id, machine_id, plain_host, plain_request};

fn booked(request: &Request, host: HostId, spot: Option<SpotTerms>) -> MachineBooking {
    MachineBooking { is_spot: spot.is_some(), spot, ..world::booking(request, host) }
}

fn terms(notice_seconds: u32, price: i64) -> SpotTerms {
    SpotTerms { notice_seconds, price: NanoEur(price) }
}

fn request(machine: u64, vcpus: u32, memory: u64) -> Request {
    let mut request = plain_request(machine);
    request.sizes[0].vcpus = Vcpus(vcpus);
    request.sizes[0].memory = Mib(memory);
    request
}

/// A fleet that is nearly full, and the machines on it; this part of them is under notice.
fn full(
    random: &mut ChaCha8Rng,
    hosts: u64,
    most: u64,
    leaving: f64,
) -> (Fleet, BTreeMap<InstanceId, MachineBooking>) {
    let (mut fleet, mut machines) = (Fleet::new(random.random()), BTreeMap::new());
    for number in 0..hosts {
        let mut host = any_host(number, random);
        host.spec.capacity.storage.insert("standard".into(), fairmazon_model::units::Gib(5));
        if random.random_bool(0.8) {
            host.spec
                .capacity
                .storage
                .insert("standard".into(), fairmazon_model::units::Gib(5_000));
        }
        fleet.put_host(host);
    }
    for number in 0..hosts * most {
        let host = host_id(number % hosts);
        let free = fleet.free(host).unwrap();
        let vcpus = random.random_range(1..=8).min(free.vcpus.0);
        let memory = (random.random_range(1..=4) * 1_024).min(free.memory.0);
        let request = request(number, vcpus, memory);
        let spot = random.random_bool(0.6).then(|| {
            terms(*[30, 60, 120].get(random.random_range(0..3)).unwrap(), random.random_range(1..9))
        });
        let mut booking = booked(&request, host, spot);
        if random.random_bool(leaving) {
            (booking.spot, booking.leaves_in) = (None, Some(random.random_range(30..90)));
            booking.is_spot = random.random_bool(0.8);
        }
        fleet.restore_machine(request.machine, booking.clone()).unwrap();
        machines.insert(request.machine, booking);
    }
    (fleet, machines)
}

/// Whether the machine fits on this host once these have gone.
fn fits_without(fleet: &Fleet, request: &Request, host: HostId, gone: &[InstanceId]) -> bool {
    let mut fleet = fleet.clone();
    for machine in gone {
        fleet.release_machine(*machine).unwrap();
    }
    let mut only = request.clone();
    let others = fleet_hosts(&fleet).filter(|other| *other != host);
    only.excluded.extend(others.collect::<Vec<_>>());
    fleet.place(&only).is_ok()
}

fn fleet_hosts(fleet: &Fleet) -> impl Iterator<Item = HostId> + use<> {
    (0..fleet.len() as u64).map(host_id)
}

/// The machines of the host that leave it.
fn leaving(machines: &BTreeMap<InstanceId, MachineBooking>, host: HostId) -> Vec<InstanceId> {
    let here = machines.iter().filter(|(_, booking)| booking.host == host);
    here.filter(|(_, booking)| booking.leaves_in.is_some()).map(|(id, _)| *id).collect()
}

/// The fewest spot machines of one host that have to go, and the shortest notice of so few.
fn fewest(
    fleet: &Fleet,
    machines: &BTreeMap<InstanceId, MachineBooking>,
    request: &Request,
) -> Option<(usize, u32)> {
    let mut best = None;
    for host in fleet_hosts(fleet) {
        let spot: Vec<_> = machines
            .iter()
            .filter(|(_, booking)| booking.host == host)
            .filter_map(|(id, booking)| Some((*id, booking.spot?)))
            .collect();
        let leaving = leaving(machines, host);
        for set in u32::from(leaving.is_empty())..1 << spot.len() {
            let chosen: Vec<_> = (0..)
                .zip(&spot)
                .filter(|(bit, _)| set & (1 << bit) != 0)
                .map(|(_, s)| *s)
                .collect();
            let notice = chosen.iter().map(|(_, terms)| terms.notice_seconds).max().unwrap_or(0);
            let found = (chosen.len(), notice);
            if best.is_some_and(|best| best <= found) {
                continue;
            }
            let chosen = chosen.iter().map(|(id, _)| *id);
            let gone: Vec<_> = chosen.chain(leaving.iter().copied()).collect();
            if fits_without(fleet, request, host, &gone) {
                best = Some(found);
            }
        }
    }
    best
}

#[test]
fn the_fewest_spot_machines_go_and_none_in_vain() {
    let (mut made, mut none, mut several, mut waiting, mut spared_all) = (0, 0, 0, 0, 0);
    for seed in 0..300 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let part = if seed % 2 == 0 { 0.0 } else { 0.15 };
        let (fleet, machines) = full(&mut random, 4, 6, part);
        let wanted =
            request(9_999, random.random_range(1..=12), random.random_range(1..=12) * 1_024);
        if fleet.place(&wanted).is_ok() {
            continue;
        }
        let best = fewest(&fleet, &machines, &wanted);
        let Some(room) = fleet.make_room(&wanted) else {
            assert_eq!(best, None, "seed {seed}");
            none += 1;
            continue;
        };
        made += 1;
        several += usize::from(room.victims.len() > 1);
        waiting += usize::from(!room.leaving.is_empty());
        spared_all += usize::from(room.victims.is_empty());
        let notices = room.victims.iter().map(|id| machines[id].spot.unwrap().notice_seconds);
        let found = (room.victims.len(), notices.max().unwrap_or(0));
        assert_eq!(Some(found), best, "seed {seed}: {room:?}");
        let notices = room.leaving.iter().map(|id| machines[id].leaves_in.unwrap());
        assert_eq!(room.notice_seconds, notices.fold(found.1, u32::max), "seed {seed}: {room:?}");
        assert_eq!(Some(&room), fleet.make_room(&wanted).as_ref(), "seed {seed}");
        for victim in &room.victims {
            let booking = &machines[victim];
            assert!(booking.spot.is_some() && booking.host == room.host, "seed {seed}: {victim}");
        }
        // It waits for those that leave anyway only where it needs their room.
        let all = leaving(&machines, room.host);
        let waits = !fits_without(&fleet, &wanted, room.host, &room.victims);
        assert_eq!(room.leaving, if waits { all.clone() } else { Vec::new() }, "seed {seed}");
        let gone: Vec<_> = room.victims.iter().chain(&room.leaving).copied().collect();
        assert!(fits_without(&fleet, &wanted, room.host, &gone), "seed {seed}: {room:?}");
        for spared in &room.victims {
            let others = room.victims.iter().chain(&all).copied().filter(|id| id != spared);
            let others: Vec<_> = others.collect();
            assert!(!fits_without(&fleet, &wanted, room.host, &others), "seed {seed}: {spared}");
        }
    }
    assert!(made > 60 && none > 10 && several > 10, "{made} made, {none} none, {several} several");
    assert!(waiting > 10 && spared_all > 5, "{waiting} waiting, {spared_all} spared all");
}

#[test]
fn many_victims_are_found_quickly_and_none_of_them_in_vain() {
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut fleet = Fleet::new(seed);
        let mut host = plain_host(0);
        host.spec.capacity.vcpus = Vcpus(256);
        host.spec.capacity.memory = Mib(1 << 20);
        fleet.put_host(host);
        let mut left = 256;
        for number in 0.. {
            let vcpus = random.random_range(1..=5).min(left);
            if vcpus == 0 {
                break;
            }
            left -= vcpus;
            let request = request(number, vcpus, random.random_range(1..2_000));
            let spot = terms(random.random_range(30..3_600), random.random_range(1..9_000));
            fleet
                .restore_machine(request.machine, booked(&request, host_id(0), Some(spot)))
                .unwrap();
        }
        let wanted = request(9_999, 97, 1_024);
        let room = fleet.make_room(&wanted).unwrap();
        assert!(fits_without(&fleet, &wanted, host_id(0), &room.victims));
        for spared in &room.victims {
            let others: Vec<_> = room.victims.iter().copied().filter(|id| id != spared).collect();
            assert!(!fits_without(&fleet, &wanted, host_id(0), &others), "seed {seed}: {spared}");
        }
    }
}

#[test]
fn notice_then_price_then_seed_decide_between_as_few() {
    let mut fleet = Fleet::new(1);
    for number in 0..3 {
        fleet.put_host(plain_host(number));
        let full = request(number * 10, 15, 1_024);
        fleet.restore_machine(full.machine, booked(&full, host_id(number), None)).unwrap();
    }
    for (number, terms) in [(0, terms(60, 1)), (1, terms(30, 9)), (2, terms(30, 5))] {
        let small = request(100 + number, 1, 1_024);
        let booking = booked(&small, host_id(number), Some(terms));
        fleet.restore_machine(small.machine, booking).unwrap();
    }
    let wanted = request(9_999, 1, 1_024);
    let room = fleet.make_room(&wanted).unwrap();
    assert_eq!((room.host, room.victims.as_slice()), (host_id(2), &[machine_id(102)][..]));
    assert!(room.reason.contains("a spot machine leaves this one"), "{}", room.reason);
    fleet.release_machine(machine_id(102)).unwrap();
    let full = request(500, 1, 1_024);
    fleet.restore_machine(full.machine, booked(&full, host_id(2), None)).unwrap();
    assert_eq!(fleet.make_room(&wanted).unwrap().host, host_id(1));
    fleet.audit().unwrap();
    // A rule that room does not mend holds.
    let mut abroad = wanted;
    abroad.placement.countries.insert("SE".into());
    assert_eq!(fleet.make_room(&abroad), None);
}
