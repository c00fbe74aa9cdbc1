//! How many machines can be looked at in a second for metering, the arithmetic included: one
//! simulated host in real time, so what is measured is all but the hypervisor.
//!
//! `cargo bench -p fairmazon-host --bench statistics`, with `FAIRMAZON_MACHINES` for another
//! number.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at once")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fairmazon_host::metering::{Limits, Memory, Meter, Room, look};
use fairmazon_hypervisor::{
    Hypervisor, Marks,
    contract::{CLASS, spec, wish},
    sim::World,
};
use fairmazon_model::{
    host::Capacity,
    id::HostId,
    machine::HostVolume,
    units::{Gib, Mib, UnixMs, Vcpus},
};

const MEASURED: Duration = Duration::from_secs(3);

fn main() {
    let machines = std::env::var("FAIRMAZON_MACHINES").ok();
    let machines: u32 = machines.and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let ms = move || u64::try_from(begun.elapsed().as_millis()).unwrap();
        let storage = [(CLASS.to_owned(), Gib(1 << 40))].into();
        let capacity = Capacity { vcpus: Vcpus(1 << 20), memory: Mib(1 << 40), storage };
        let world = World::new(Arc::new(ms));
        let host: Arc<dyn Hypervisor> =
            Arc::new(world.add_host(HostId::from_parts(1, 1), capacity));
        let (mut specs, mut volumes) = (Vec::new(), Vec::new());
        for number in 0..u128::from(machines) {
            let machine = Arc::new(spec(number + 1));
            let volume = Arc::new(HostVolume { volume: machine.boot.volume, ..wish(0) });
            host.create_volume(&volume).await.unwrap();
            host.define(&machine, Marks::default()).await.unwrap();
            host.start(machine.instance).await.unwrap();
            specs.push(machine);
            volumes.push(volume);
        }
        let limits = Limits { window_ms: 1_800_000, longest_look_ms: 60_000 };
        let mut meter = Meter::new(limits, Memory::default());
        let (measuring, mut looks) = (Instant::now(), 0);
        while measuring.elapsed() < MEASURED {
            let wall = UnixMs(i64::try_from(ms()).unwrap());
            let seen = look(&host, &specs, &volumes, ms(), wall).await.unwrap();
            meter.look(seen, Room::Free);
            looks += 1;
        }
        assert_eq!(meter.len(), 2 * usize::try_from(machines).unwrap());
        let seconds = measuring.elapsed().as_secs_f64();
        println!(
            "statistics: {:.0} reads per second ({looks} looks at {machines} machines, simulated)",
            f64::from(looks) * f64::from(machines) / seconds
        );
    });
}
