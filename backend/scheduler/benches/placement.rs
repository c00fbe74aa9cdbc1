//! Measures placements in a fleet of 10,000 hosts with 100,000 machines: into the whole
//! fleet, with constraints, and where nothing fits. Prints one line a figure: the time that
//! passed, and the processor time, which does not count what else the machine is doing.
//!
//! `cargo bench -p fairmazon-scheduler [-- HOSTS MACHINES]`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench prints and may stop"
)]

use std::time::{Duration, Instant};

use fairmazon_model::{
    placement::Prefer,
    price::NanoEur,
    units::{Mib, Vcpus},
};
use fairmazon_scheduler::{Fleet, MachineBooking, Near, Preferences, Request, SpotTerms};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[allow(dead_code, reason = "the bench uses some of the world")]
#[path = "../tests/world/mod.rs"]
mod world;

const ROUNDS: u64 = 5_000;

/// Processor time of this thread.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn show(name: &str, (mut wall, mut cpu): (Vec<Duration>, Vec<Duration>)) {
    let [wall, cpu] = [&mut wall, &mut cpu].map(|times| {
        times.sort_unstable();
        [500, 990, 1_000]
            .map(|permille| times[(times.len() - 1) * permille / 1_000].as_secs_f64() * 1e6)
    });
    println!(
        "{name}: p50 {:.0} us, p99 {:.0} us, max {:.0} us (processor time {:.0}, {:.0}, {:.0})",
        wall[0], wall[1], wall[2], cpu[0], cpu[1], cpu[2]
    );
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let hosts = numbers.first().copied().unwrap_or(10_000);
    let machines = numbers.get(1).copied().unwrap_or(100_000);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut fleet = Fleet::new(1);
    for number in 0..hosts {
        let mut host = world::any_host(number, &mut random);
        host.spec.capacity.vcpus = Vcpus(64);
        host.spec.capacity.memory = Mib(262_144);
        fleet.put_host(host);
    }
    let start = Instant::now();
    for number in 0..machines {
        let request = world::plain_request(number);
        let host = world::host_id(random.random_range(0..hosts));
        fleet.restore_machine(request.machine, world::booking(&request, host)).unwrap();
    }
    println!(
        "{hosts} hosts, {machines} machines booked in {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );

    let one = |change: fn(&mut Request, u64)| {
        let mut fleet = fleet.clone();
        let mut times = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut request = world::plain_request(machines + round);
            change(&mut request, round);
            let (begun, used) = (Instant::now(), processor());
            let placed = fleet.place(&request);
            if let Ok(placed) = placed {
                fleet
                    .reserve_machine(request.machine, world::booking(&request, placed.host))
                    .unwrap();
            }
            times.1.push(processor() - used);
            times.0.push(begun.elapsed());
        }
        times
    };
    show("anywhere", one(|_, _| {}));
    show(
        "in one country",
        one(|request, _| {
            request.placement.countries.insert("FR".into());
        }),
    );
    show(
        "keeping apart from its group",
        one(|request, round| {
            request.placement.not_with.insert(world::group_id(round % 10));
        }),
    );
    show(
        "near a place",
        one(|request, _| {
            let site = world::plain_host(0).spec.site;
            let near = Near { name: site.name, points: vec![site.coordinates] };
            request.preferences = Preferences::of(Prefer::Price, Some(near));
        }),
    );
    show("where nothing fits", one(|request, _| request.sizes[0].memory = Mib(1 << 40)));
    make_room(&fleet, hosts, &mut random);
    fleet.audit().expect("the books balance");
}

/// What is added where no host has room: every host is full, with spot machines among the others.
fn make_room(fleet: &Fleet, hosts: u64, random: &mut ChaCha8Rng) {
    let mut fleet = fleet.clone();
    for number in 0..hosts {
        let free = fleet.free(world::host_id(number)).unwrap();
        let (mut vcpus, mut memory) = (free.vcpus.0, free.memory.0);
        for part in 0.. {
            let size = [1, 2, 4, 8][random.random_range(0..4)].min(vcpus);
            if size == 0 || memory < 1_024 {
                break;
            }
            let request = world::plain_request(1_000_000 + number * 1_000 + part);
            let terms = SpotTerms {
                notice_seconds: *[30, 60, 120].get(random.random_range(0..3)).unwrap(),
                price: NanoEur(random.random_range(1_000..9_000) * i64::from(size)),
            };
            let booked = MachineBooking {
                vcpus: Vcpus(size),
                memory: Mib(memory.min(u64::from(size) * 2_048)),
                spot: Some(terms),
                ..world::booking(&request, world::host_id(number))
            };
            (vcpus, memory) = (vcpus - size, memory - booked.memory.0);
            fleet.restore_machine(request.machine, booked).unwrap();
        }
    }
    for (name, size, memory) in [
        ("room made of one spot machine", 2, 4_096),
        ("room made of several spot machines", 24, 49_152),
        ("room made nowhere", 2, 1 << 40),
    ] {
        let mut times = (Vec::new(), Vec::new());
        let mut victims = 0;
        for round in 0..ROUNDS / 10 {
            let mut request = world::plain_request(9_000_000 + round);
            request.sizes[0].vcpus = Vcpus(size);
            request.sizes[0].memory = Mib(memory);
            let (begun, used) = (Instant::now(), processor());
            let made = fleet.make_room(&request);
            times.1.push(processor() - used);
            times.0.push(begun.elapsed());
            victims = made.map_or(0, |made| made.victims.len());
        }
        show(&format!("{name} ({victims})"), times);
    }
}
