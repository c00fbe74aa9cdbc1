//! How long a thousand agents take to bring 100,000 machines about in one process, and in how
//! much memory: simulated hypervisors, the smallest broker that there can be, real time.
//!
//! `cargo bench -p fairmazon-host`, with `FAIRMAZON_HOSTS` and `FAIRMAZON_MACHINES` (each host's)
//! for other numbers.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and stops at once")]

use std::{sync::Arc, time::Instant};

use fairmazon_host::{
    Config,
    clock::{Clock, SimClock},
    run,
    state::MemoryState,
    transport::{BrokerEnd, FromHost, ToHost},
};
use fairmazon_hypervisor::{
    contract::{CLASS, spec, wish},
    sim::World,
};
use fairmazon_model::{
    host::Capacity,
    id::HostId,
    instance::ObservedState,
    machine::{DesiredSet, HostVolume},
    units::{Generation, Gib, Mib, Vcpus},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

fn desired(host: u64, machines: u64) -> DesiredSet {
    let ids = (0..machines).map(|index| u128::from(host * machines + index + 1));
    let machines: Vec<_> = ids.map(spec).map(Arc::new).collect();
    let volumes = machines
        .iter()
        .map(|machine| HostVolume { volume: machine.boot.volume, ..wish(0) })
        .collect();
    DesiredSet { generation: Generation(1), machines, volumes }
}

/// Serves one host; tells when all its machines run.
async fn serve(
    mut streams: mpsc::Receiver<BrokerEnd>,
    set: DesiredSet,
    ready: oneshot::Sender<()>,
) {
    let wanted = set.machines.len();
    let mut end = streams.recv().await.unwrap();
    let mut set = Some(set);
    let mut ready = Some(ready);
    while let Some(message) = end.receiver.recv().await {
        let answers = match message {
            FromHost::Hello(_) => {
                let welcome = ToHost::Welcome {
                    lease_term_ms: 15_000,
                    renew_every_ms: 5_000,
                    generation: Generation(0),
                };
                std::iter::once(welcome).chain(set.take().map(ToHost::Desired)).collect()
            }
            FromHost::Renew { sequence } => {
                vec![ToHost::Renewed { sequence, lease_term_ms: 15_000 }]
            }
            FromHost::Metered(_) | FromHost::ConsoleRead(_) => Vec::new(),
            FromHost::Observed { set, .. } => {
                let running = set.machines.iter().filter(|m| m.state == ObservedState::Running);
                if running.count() == wanted {
                    ready.take().map(|ready| ready.send(()));
                }
                Vec::new()
            }
        };
        for answer in answers {
            end.sender.send(Ok(answer)).await.unwrap();
        }
    }
}

#[tokio::main]
async fn main() {
    let hosts = number("FAIRMAZON_HOSTS", 1_000);
    let machines = number("FAIRMAZON_MACHINES", 100);
    let clock = SimClock::new();
    let world_clock = clock.clone();
    let world = World::new(Arc::new(move || world_clock.now_ms()));
    let storage = [(CLASS.to_owned(), Gib(1_000_000))].into();
    let capacity = Capacity { vcpus: Vcpus(64), memory: Mib(1 << 30), storage };
    let shutdown = CancellationToken::new();
    let empty = resident_mib();
    let begin = Instant::now();
    let mut waits = Vec::new();
    let mut agents = Vec::new();
    for host in 0..hosts {
        let id = HostId::from_parts(1, u128::from(host));
        let (streams, incoming) = mpsc::channel(1);
        let (ready, wait) = oneshot::channel();
        tokio::spawn(serve(incoming, desired(host, machines), ready));
        waits.push(wait);
        agents.push(tokio::spawn(run(
            Config::new(id, host, Arc::new(MemoryState::default())),
            Arc::new(world.add_host(id, capacity.clone())),
            Arc::new(streams),
            Arc::new(clock.clone()),
            shutdown.clone(),
        )));
    }
    for wait in waits {
        wait.await.unwrap();
    }
    let took = begin.elapsed();
    println!(
        "{hosts} hosts x {machines} machines converge in {:.2} s, {} MiB resident ({empty} before)",
        took.as_secs_f64(),
        resident_mib()
    );
    assert_eq!(world.ledger().violations(), []);
    shutdown.cancel();
    for agent in agents {
        agent.await.unwrap().unwrap();
    }
}
