//! Memory that is sold beyond what hosts have.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fairmazon_model::units::{Mib, Vcpus};
use fairmazon_scheduler::{BookError, Fleet, FleetHost, MachineBooking, Request, Rule};

#[allow(dead_code, reason = "these tests use some of the world")]
mod world;

use world::{booking, host_id, machine_id, plain_host, plain_request};

fn fleet_of(host: FleetHost) -> Fleet {
    let mut fleet = Fleet::new(1);
    fleet.put_host(host);
    fleet
}

fn place_and_book(fleet: &mut Fleet, request: &Request) {
    let placed = fleet.place(request).unwrap();
    fleet.reserve_machine(request.machine, booking(request, placed.host)).unwrap();
}

/// A host that sells one and a half of its 64 GiB, and a machine of so many GiB.
fn overcommitted(reclaims_memory: bool) -> FleetHost {
    let mut host = plain_host(0);
    host.spec.memory_overcommit_percent = 150;
    FleetHost { reclaims_memory, ..host }
}

fn of_memory(number: u64, gib: u64, spot: bool) -> Request {
    let mut request = Request { spot, ..plain_request(number) };
    request.sizes[0].vcpus = Vcpus(1);
    request.sizes[0].memory = Mib(gib * 1_024);
    request
}

#[test]
fn only_spot_machines_have_memory_that_is_sold_twice() {
    let mut fleet = fleet_of(overcommitted(true));
    place_and_book(&mut fleet, &of_memory(0, 40, false));
    place_and_book(&mut fleet, &of_memory(1, 40, true));
    let free = fleet.free(host_id(0)).unwrap();
    assert_eq!((free.memory, free.real_memory), (Mib(16 * 1_024), Mib(16 * 1_024)));
    // Both kinds have what is left of what is sold, and others than spot what the host has.
    place_and_book(&mut fleet, &of_memory(2, 8, false));
    for gib in [9, 16, 20] {
        let why = fleet.place(&of_memory(3, gib, true)).unwrap_err();
        assert_eq!(why.rules[0].rule, Rule::Memory, "{why}");
    }
    place_and_book(&mut fleet, &of_memory(3, 8, true));
    fleet.release_machine(machine_id(1)).unwrap();
    let why = fleet.place(&of_memory(4, 17, false)).unwrap_err();
    assert_eq!((why.rules[0].rule, why.rules[0].only), (Rule::RealMemory, 1));
    assert!(why.text.contains("free for machines that are not spot"), "{why}");
    let small = fleet.place(&of_memory(4, 16, false)).map(|placed| placed.host);
    assert_eq!(small.unwrap(), host_id(0));
    // One that is spot no more has to have room among the others.
    let not_spot =
        |request: &Request| MachineBooking { is_spot: false, ..booking(request, host_id(0)) };
    place_and_book(&mut fleet, &of_memory(5, 30, true));
    let refused = fleet.rebook_machine(machine_id(5), not_spot(&of_memory(5, 30, true)));
    assert!(matches!(refused, Err(BookError::NoRoom { .. })), "{refused:?}");
    fleet.rebook_machine(machine_id(3), not_spot(&of_memory(3, 8, true))).unwrap();
    fleet.audit().unwrap();
}

#[test]
fn memory_is_sold_once_where_none_can_be_taken_back() {
    let mut fleet = fleet_of(overcommitted(false));
    place_and_book(&mut fleet, &of_memory(0, 40, false));
    let too_much = of_memory(1, 25, true);
    assert!(fleet.place(&too_much).is_err());
    assert!(fleet.set_reclaims_memory(host_id(0), true));
    assert!(!fleet.set_reclaims_memory(host_id(0), true), "no news");
    place_and_book(&mut fleet, &too_much);
    // What was booked stays, and nothing is added to it.
    assert!(fleet.set_reclaims_memory(host_id(0), false));
    assert_eq!(fleet.free(host_id(0)).unwrap().memory, Mib(0));
    assert!(fleet.place(&of_memory(2, 1, true)).is_err());
    fleet.audit().unwrap();
}
