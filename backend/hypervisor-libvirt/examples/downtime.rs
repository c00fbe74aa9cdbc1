//! How long a guest stands still when it moves: two hosts on this machine, a guest that writes to
//! its serial console all the time, and ten moves to and fro. Prints each pause, from the last that
//! was heard of it at one host to the first at the other, and the median. What agents need to
//! agree on a move between two of their hosts is not in it.
//!
//! Needs root, and what `scripts/setup --for test` installs. Run it with
//! `cargo run --release -p fairmazon-hypervisor-libvirt --features guests --example downtime`.

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
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use fairmazon_hypervisor::{
    Halt, Hypervisor, Marks,
    contract::{instance, spec, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_model::machine::{Disk, HostVolume, MachineSpec};
use tokio_util::sync::CancellationToken;

use lab::{IMAGE, Lab, give_keys, says};

const MOVES: usize = 10;
/// Writes to its console every 5 ms, by a shell that starts no process for it, and dirties memory
/// and its data disk meanwhile.
const SCRIPT: &str = "#!/bin/sh\n(while :; do dd if=/dev/urandom of=/data/vdb/work bs=64k count=8 \
    conv=fsync 2>/dev/null; sleep 0.1; done) &\nmkfifo /run/never && exec 3<>/run/never\n\
    while :; do echo GUEST-TICK; read -t 0.005 nothing <&3; done\n";

#[tokio::main]
async fn main() {
    let labs = [Lab::start(), Lab::start()];
    let hosts = [labs[0].host(), labs[1].host()];
    let disk = Disk { name: "data".into(), volume: volume(2), read_only: false };
    let machine = Arc::new(MachineSpec { disks: vec![disk], user_data: SCRIPT.into(), ..spec(1) });
    for host in &hosts {
        give_keys(host).await;
    }
    hosts[0].create_volume(&HostVolume { image: Some(IMAGE.into()), ..wish(1) }).await.unwrap();
    hosts[0].create_volume(&wish(2)).await.unwrap();
    hosts[0].define(&machine, Marks::default()).await.unwrap();
    hosts[0].start(instance(1)).await.unwrap();
    says(&hosts[0], instance(1), "GUEST-TICK").await;
    let mut pauses = Vec::with_capacity(MOVES);
    for number in 0..MOVES {
        let (from, to) = (number % 2, (number + 1) % 2);
        let begin = Instant::now();
        let console = |at: usize| labs[at].consoles.join(instance(1).to_string());
        let pause =
            one_move(&machine, (&hosts[from], &console(from)), (&hosts[to], &console(to))).await;
        println!(
            "move {:>2}: {:>5} ms still, {:>5} ms in all",
            number + 1,
            pause.as_millis(),
            begin.elapsed().as_millis()
        );
        pauses.push(pause);
    }
    pauses.sort_unstable();
    println!("median: {} ms still", pauses[MOVES / 2].as_millis());
}

/// Moves the machine, and leaves nothing of it where it was; how long its guest stood still.
async fn one_move(
    machine: &Arc<MachineSpec>,
    (from, last): (&QemuHost, &Path),
    (to, first): (&QemuHost, &Path),
) -> Duration {
    for number in [1, 2] {
        to.create_volume(&wish(number)).await.unwrap();
    }
    to.define(machine, Marks { halt: Halt::Arriving, ..Marks::default() }).await.unwrap();
    from.mark(instance(1), Marks { halt: Halt::Leaving, ..Marks::default() }).await.unwrap();
    let description = from.describe(instance(1)).await.unwrap();
    let landing = to.prepare(instance(1), &description).await.unwrap();
    let channels = Arc::clone(&landing.channels);
    let sent =
        from.depart(instance(1), &landing.description, channels, CancellationToken::new()).await;
    sent.unwrap();
    to.resume(instance(1)).await.unwrap();
    let begin = Instant::now();
    while fs::metadata(first).unwrap().len() == 0 {
        assert!(begin.elapsed() < lab::PATIENCE, "the guest does not go on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let goes_on = SystemTime::now();
    let stopped = fs::metadata(last).unwrap().modified().unwrap();
    drop(landing);
    to.mark(instance(1), Marks { halt: Halt::Started, ..Marks::default() }).await.unwrap();
    from.undefine(instance(1)).await.unwrap();
    for number in [1, 2] {
        from.delete_volume(volume(number)).await.unwrap();
    }
    goes_on.duration_since(stopped).unwrap()
}
