//! Machines that have to be on one host: where all of them go, what is counted, and why none will do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use fairmazon_model::{
    placement::Placement,
    units::{Gib, Vcpus},
};
use fairmazon_scheduler::{Fleet, FleetHost, Member, Request, Rule, Share, VolumeBooking};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod world;

use world::{
    any_host, booking, group_id, host_id, host_in, machine_id, plain_host, plain_request, volume_id,
};

/// A small request in a group.
fn with(machine: u64, groups: &[u64]) -> Request {
    let mut request = plain_request(machine);
    request.placement.with = groups.iter().copied().map(group_id).collect();
    request
}

/// A fleet of plain hosts, of which the first has these machines.
fn together(hosts: impl IntoIterator<Item = FleetHost>, machines: &[Request]) -> Fleet {
    let mut fleet = Fleet::new(1);
    hosts.into_iter().for_each(|host| fleet.put_host(host));
    for request in machines {
        fleet.reserve_machine(request.machine, booking(request, host_id(0))).unwrap();
    }
    fleet
}

/// It has to leave the first host.
fn leaves(request: &Request) -> Member {
    Member { at: host_id(0), stays: false, elsewhere: Some(request.clone()) }
}

fn is_at(number: u64, request: &Request) -> Member {
    Member { at: host_id(number), stays: true, elsewhere: Some(request.clone()) }
}

#[test]
fn machines_gather_where_their_groups_overlap() {
    let all = [with(0, &[0]), with(1, &[0, 1]), with(2, &[1, 2]), with(3, &[2]), with(4, &[3])];
    let fleet = together([plain_host(0)], &all);
    let found = |n: usize| fleet.gathers_with(all[n].machine, &all[n].placement);
    let ids = |of: &[u64]| of.iter().copied().map(machine_id).collect::<BTreeSet<_>>();
    assert_eq!(found(0), ids(&[1, 2, 3]));
    assert_eq!(found(2), ids(&[0, 1, 3]));
    assert_eq!(found(4), ids(&[]));
    // One that only keeps apart from a group does not gather in it.
    let apart = Placement { not_with: [group_id(0)].into(), ..Placement::default() };
    assert_eq!(fleet.gathers_with(machine_id(9), &apart), ids(&[]));
    // Neither does one that is on no host yet pull others, though it would join all of them.
    assert_eq!(
        fleet.gathers_with(machine_id(9), &with(9, &[2, 3]).placement),
        ids(&[0, 1, 2, 3, 4])
    );
}

#[test]
fn whoever_joins_a_group_goes_where_its_machines_go() {
    let all = [with(0, &[0]), with(1, &[0])];
    let mut fleet = together([plain_host(0), plain_host(1), plain_host(2)], &all);
    let new = with(2, &[0]);
    assert_eq!(fleet.place(&new).unwrap().host, host_id(0));
    for request in &all {
        let coming = booking(request, host_id(1));
        fleet.reserve_machine(Share::Coming(request.machine), coming).unwrap();
        assert_eq!(fleet.goal(request.machine), Some(host_id(1)));
    }
    fleet.audit().unwrap();
    assert_eq!(fleet.place(&new).unwrap().host, host_id(1));
    // Each of them is a neighbour at both hosts as long as it may be there.
    let mut apart = plain_request(3);
    apart.placement.not_with = [group_id(0)].into();
    assert_eq!(fleet.place(&apart).unwrap().host, host_id(2));
    for request in &all {
        fleet.release_machine(Share::Coming(request.machine)).unwrap();
    }
    assert_eq!(fleet.place(&new).unwrap().host, host_id(0));
    fleet.audit().unwrap();
}

#[test]
fn all_go_to_one_host_that_has_room_for_all() {
    let all = [with(0, &[0]), with(1, &[0]), with(2, &[0])];
    let members: Vec<_> = all.iter().map(leaves).collect();
    // Each has room for one or two of them, by one thing or another.
    let mut vcpus = plain_host(1);
    vcpus.spec.capacity.vcpus = Vcpus(4);
    let mut memory = plain_host(2);
    memory.spec.capacity.memory.0 = 8_192;
    let mut disk = plain_host(3);
    disk.spec.capacity.storage.insert("standard".into(), Gib(29));
    let mut fleet = together([plain_host(0), vcpus, memory, disk], &all);
    for request in &all {
        let alone = Request { placement: Placement::default(), ..request.clone() };
        assert!(fleet.place(&alone).is_ok());
    }
    let why = fleet.gather(&members, None).unwrap_err();
    let rules: Vec<_> = why.rules.iter().map(|count| (count.rule, count.first)).collect();
    let expected = [(Rule::Excluded, 1), (Rule::Vcpus, 1), (Rule::Memory, 1), (Rule::Storage, 1)];
    assert_eq!(rules, expected);
    assert_eq!(
        why.text,
        "none of 4 hosts fits (left out for now: 1; less than 6 vCPU free: 1; less than 12288 MiB \
         free: 1; less than 30 GiB of standard free: 1); hosts that would do but for one thing: the \
         hosts left out (1), vCPU (1), memory (1), disk (1)"
    );
    fleet.put_host(plain_host(4));
    assert_eq!(fleet.gather(&members, None).unwrap(), host_id(4));
    // The same when somebody else takes some of it.
    let size = VolumeBooking { host: host_id(4), class: "standard".into(), size: Gib(971) };
    fleet.reserve_volume(volume_id(1), size).unwrap();
    assert!(fleet.gather(&members, None).is_err());
}

#[test]
fn each_ones_own_constraints_hold() {
    let mut all = [with(0, &[0]), with(1, &[0]), with(2, &[0])];
    all[1].placement.countries = ["FR".to_owned()].into();
    all[2].placement.not_with = [group_id(7)].into();
    let mut apart = plain_request(8);
    apart.placement.not_with = [group_id(7)].into();
    let hosts = [host_in(0, 2), host_in(1, 0), host_in(2, 2), host_in(3, 3)];
    let mut fleet = together(hosts, &all);
    fleet.reserve_machine(apart.machine, booking(&apart, host_id(2))).unwrap();
    let members: Vec<_> = all.iter().map(leaves).collect();
    assert_eq!(fleet.gather(&members, None).unwrap(), host_id(3));
    fleet.set_alive(host_id(3), false);
    let why = fleet.gather(&members, None).unwrap_err();
    let rules: BTreeSet<_> = why.rules.iter().map(|count| count.rule).collect();
    assert_eq!(rules, [Rule::Excluded, Rule::Country, Rule::NotWith, Rule::Alive].into());
}

#[test]
fn whoever_keeps_apart_from_a_group_of_the_others_finds_no_host_with_them() {
    let mut all = [with(0, &[0]), with(1, &[0, 1])];
    all[0].placement.not_with = [group_id(1)].into();
    let fleet = together([plain_host(0), plain_host(1)], &all);
    let members: Vec<_> = all.iter().map(leaves).collect();
    let why = fleet.gather(&members, None).unwrap_err();
    assert!(why.rules.iter().any(|count| count.rule == Rule::NotWith && count.only == 1), "{why}");
}

#[test]
fn those_that_can_t_leave_are_gone_to() {
    let all = [with(0, &[0]), with(1, &[0]), with(2, &[0])];
    let fleet = together([plain_host(0), plain_host(1), plain_host(2)], &all);
    let mut members =
        vec![is_at(0, &all[0]), is_at(1, &all[1]), Member { elsewhere: None, ..is_at(2, &all[2]) }];
    assert_eq!(fleet.gather(&members, None).unwrap(), host_id(2));
    assert!(fleet.gather(&members, Some(host_id(1))).is_err());
    // Where all can leave, the fewest do.
    members[2] = is_at(1, &all[2]);
    assert_eq!(fleet.gather(&members, None).unwrap(), host_id(1));
    // But not to where one of them may not stay.
    members[1].stays = false;
    assert_eq!(fleet.gather(&members, None).unwrap(), host_id(0));
    assert_eq!(fleet.gather(&members, Some(host_id(2))).unwrap(), host_id(2));
    // To a host where all of them are nobody goes.
    let there: Vec<_> = all.iter().map(|request| is_at(1, request)).collect();
    assert!(fleet.gather(&there, Some(host_id(1))).is_err());
}

#[test]
fn what_was_found_can_be_booked_and_what_was_not_can_t() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let (mut found, mut refused) = (0, 0);
    for _ in 0..400 {
        let hosts: Vec<_> = (1..3).map(|number| any_host(number, &mut random)).collect();
        let all: Vec<_> = (0..random.random_range(1..4))
            .map(|machine| {
                let mut request = with(machine, &[0]);
                request.spot = random.random_bool(0.3);
                request.sizes[0].vcpus = Vcpus(random.random_range(1..8));
                request.sizes[0].memory.0 = random.random_range(1..16) * 1_024;
                request
            })
            .collect();
        let fleet = together(std::iter::once(plain_host(0)).chain(hosts.clone()), &[]);
        let members: Vec<_> = all.iter().map(leaves).collect();
        // Booked one after the other, where the first of them goes.
        let all_fit = |host: &FleetHost| {
            let mut fleet = fleet.clone();
            all.iter().all(|request| {
                let others = hosts.iter().map(|host| host.id).filter(|id| *id != host.id);
                let excluded = others.chain([host_id(0)]).collect();
                let placed = fleet.place(&Request { excluded, ..request.clone() });
                let size = request.storage["standard"];
                let volume = VolumeBooking { host: host.id, class: "standard".into(), size };
                placed.is_ok()
                    && fleet.reserve_machine(request.machine, booking(request, host.id)).is_ok()
                    && fleet.reserve_volume(volume_id(random_id(request)), volume).is_ok()
            })
        };
        let fitting: BTreeSet<_> =
            hosts.iter().filter(|host| all_fit(host)).map(|h| h.id).collect();
        match fleet.gather(&members, None) {
            Ok(host) => {
                assert!(fitting.contains(&host));
                found += 1;
            }
            Err(why) => {
                assert!(fitting.is_empty(), "{fitting:?}: {why}");
                refused += 1;
            }
        }
    }
    assert!(found > 100 && refused > 100, "{found} {refused}");
}

fn random_id(request: &Request) -> u64 {
    request.machine.ulid().0 as u64
}
