//! When another host is so much better for a machine that it should move there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use fairmazon_model::{
    id::HostId,
    units::{Mib, Vcpus},
};
use fairmazon_scheduler::{Arrangement, Fleet, Request};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[allow(dead_code, reason = "each test uses its part")]
mod world;

use world::{booking, host_id, plain_host, plain_request};

/// The request of one that leaves `from`.
fn leaving(request: &Request, from: HostId) -> Request {
    Request { excluded: [from].into(), ..request.clone() }
}

fn book(fleet: &mut Fleet, request: &Request, host: HostId) {
    fleet.restore_machine(request.machine, booking(request, host)).unwrap();
}

/// Two hosts, the first of which has this price and the machine.
fn two(price_percent: u32, vcpus: u32) -> (Fleet, Request) {
    let mut fleet = Fleet::new(1);
    for number in 0..2 {
        let mut host = plain_host(number);
        host.spec.price_percent = if number == 0 { price_percent } else { 100 };
        fleet.put_host(host);
    }
    let mut request = plain_request(1);
    request.sizes.truncate(1);
    request.sizes[0].vcpus = Vcpus(vcpus);
    request.sizes[0].memory = Mib(1_024);
    book(&mut fleet, &request, host_id(0));
    (fleet, request)
}

#[test]
fn a_machine_moves_for_a_tenth_of_the_price_and_for_less_it_stays() {
    let goes = |price_percent, percent| {
        let (fleet, request) = two(price_percent, 1);
        let request = leaving(&request, host_id(0));
        fleet.better(&request, host_id(0), percent).map(|placed| placed.host)
    };
    assert_eq!(goes(110, 10), Some(host_id(1)));
    assert_eq!(goes(109, 10), None);
    assert_eq!(goes(109, 9), Some(host_id(1)));
    assert_eq!(goes(100, 1), None, "as good is not better");
    assert_eq!(goes(90, 1), None);
}

#[test]
fn a_machine_leaves_a_full_host_for_an_empty_one_of_the_same_price() {
    let goes = |others: u64, arrangement| {
        let (mut fleet, mut request) = two(100, 1);
        for number in 0..others {
            let mut other = plain_request(10 + number);
            other.sizes = request.sizes.clone();
            book(&mut fleet, &other, host_id(0));
        }
        request.preferences.arrangement = arrangement;
        fleet.better(&leaving(&request, host_id(0)), host_id(0), 10).is_some()
    };
    // Its own share counts at neither: 8 of 16 threads in use beside it are half a host.
    assert!(!goes(7, Arrangement::Spread));
    assert!(goes(8, Arrangement::Spread));
    assert!(!goes(15, Arrangement::Pack), "who likes full hosts stays");
}

#[test]
fn only_a_host_that_will_do_is_better() {
    let (mut fleet, mut request) = two(200, 1);
    request.placement.countries = ["FR".to_owned()].into();
    assert_eq!(fleet.better(&leaving(&request, host_id(0)), host_id(0), 10), None);
    request.placement.countries.clear();
    let mut full = plain_host(1);
    full.draining = true;
    fleet.put_host(full);
    assert_eq!(fleet.better(&leaving(&request, host_id(0)), host_id(0), 10), None);
    assert_eq!(fleet.better(&request, host_id(9), 10), None, "an unknown host");
}

#[test]
fn whoever_has_moved_does_not_want_to_move_back_and_all_come_to_rest() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let hosts = random.random_range(2..8);
        let mut fleet = Fleet::new(seed);
        for number in 0..hosts {
            fleet.put_host(world::any_host(number, &mut random));
        }
        let mut machines = Vec::new();
        for number in 0..random.random_range(1..30) {
            let mut request = plain_request(number);
            request.sizes.truncate(1);
            request.preferences.price_weight = random.random_range(0..=100);
            // Some are where chance has put them.
            let placed = fleet.place(&request).map(|placed| placed.host);
            let host = placed.unwrap_or_else(|_| host_id(random.random_range(0..hosts)));
            book(&mut fleet, &request, host);
            machines.push((request, host));
        }
        let mut moves = 0;
        loop {
            let mut moved = false;
            for (request, host) in &mut machines {
                let Some(better) = fleet.better(&leaving(request, *host), *host, 10) else {
                    continue;
                };
                fleet.release_machine(request.machine).unwrap();
                book(&mut fleet, request, better.host);
                let back = fleet.better(&leaving(request, better.host), better.host, 10);
                assert!(back.is_none_or(|back| back.host != *host), "seed {seed}");
                *host = better.host;
                moved = true;
                moves += 1;
                assert!(moves < 1_000, "seed {seed}: they move for ever");
            }
            if !moved {
                break;
            }
        }
    }
}
