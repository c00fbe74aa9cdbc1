//! How many statistics of real guests can be read in a second, and how much of that the thread of
//! the async runtime has to do with: what blocks is done on the host's own threads.
//!
//! Needs root, and what `scripts/setup --for test` installs. Run it with
//! `cargo run --release -p fairmazon-hypervisor-libvirt --features guests --example statistics`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "it measures or stops at the first surprise"
)]

#[path = "../tests/qemu/lab.rs"]
#[allow(dead_code, reason = "the laboratory is that of the tests")]
mod lab;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, Marks,
    contract::{instance, spec, wish},
};
use fairmazon_model::machine::{HostVolume, MachineSpec};
use futures::{StreamExt, stream};

use lab::{IMAGE, Lab, give_keys, says};

const GUESTS: u128 = 4;
/// As an agent with many machines has asked for at once.
const AT_ONCE: usize = 16;
const MEASURED: Duration = Duration::from_secs(5);
/// A guest that rests, so that what is measured is not how fast it is emulated.
const SCRIPT: &str = "#!/bin/sh\necho 3600 >/pace\necho GUEST-RESTS\n";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    for number in 1..=GUESTS {
        host.create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(number) })
            .await
            .unwrap();
        let machine = MachineSpec { user_data: SCRIPT.into(), ..spec(number) };
        host.define(&Arc::new(machine), Marks::default()).await.unwrap();
        host.start(instance(number)).await.unwrap();
        says(&host, instance(number), "GUEST-RESTS").await;
    }
    let (begin, before) = (Instant::now(), ran());
    let numbers = stream::iter((1..=GUESTS).cycle()).take_while(|_| {
        let goes_on = begin.elapsed() < MEASURED;
        async move { goes_on }
    });
    let reads = numbers.map(|number| host.statistics(instance(number))).buffer_unordered(AT_ONCE);
    let count = reads.fold(0_u32, async |count, read| {
        assert!(read.unwrap().is_some());
        count + 1
    });
    let count = f64::from(count.await);
    let (took, busy) = (begin.elapsed().as_secs_f64(), (ran() - before).as_secs_f64());
    println!("statistics: {:.0} reads per second", count / took);
    println!("async thread: {:.1} us each, {:.1} % busy", busy / count * 1e6, busy / took * 1e2);
}

/// How long this thread has run, by the kernel (`/proc/PID/schedstat`, in nanoseconds).
fn ran() -> Duration {
    let said = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(said.split(' ').next().unwrap().parse().unwrap())
}
