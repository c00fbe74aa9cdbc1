//! Measures how long many instances on many simulated hosts take from their creation until
//! all of them run, broker, store and agents in one process; then a list call of 1,000.
//!
//! `cargo bench -p fairmazon-broker --bench converge [-- INSTANCES HOSTS]`

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a bench may stop")]
#![allow(unreachable_pub, reason = "helpers of one binary")]

#[path = "../tests/core/kit.rs"]
mod kit;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairmazon_broker::core::{CoreConfig, InstanceState, PageRequest};
use fairmazon_model::conformity::UnprovenHosts;
use kit::{Hosts, Kit, host_spec, spec};
use mimalloc::MiMalloc;

/// As in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Clients that create at the same time.
const CLIENTS: u64 = 64;

/// Creates the instances; answers how long that took.
async fn create(kit: &Arc<Kit>, count: u64) -> Duration {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (kit, next) = (kit.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let (wanted, key) = (spec(&format!("m{number}")), kit.key());
                    kit.engine.create_instance(&kit.customer, wanted, &key).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    begun.elapsed()
}

/// How many instances run.
fn running(kit: &Kit) -> u64 {
    kit.engine.instance_counts().get(&InstanceState::Running).copied().unwrap_or(0)
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

#[tokio::main]
async fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let instances = numbers.first().copied().unwrap_or(100_000);
    let count = numbers.get(1).copied().unwrap_or(1_000);
    // In the build's own folder: a temporary folder may lie in memory and prove nothing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let unproven_hosts = UnprovenHosts::AsOffered;
    let config = CoreConfig { unproven_hosts, ..CoreConfig::default() };
    let kit = Arc::new(Kit::open(folder.path(), config).await);
    kit.start();
    let mut hosts = Hosts::none();
    for number in 0..usize::try_from(count).unwrap() {
        hosts.add(&kit, host_spec(number, "DE")).await;
        hosts.connect(number, &kit.engine);
    }
    kit.until("all hosts are connected", || kit.engine.hosts_connected() as u64 == count).await;

    let begun = Instant::now();
    let created = create(&kit, instances).await;
    println!(
        "creations: {instances} in {:.1} s, {:.0} per second, beside everything else",
        created.as_secs_f64(),
        instances as f64 / created.as_secs_f64()
    );
    while running(&kit) < instances {
        if begun.elapsed() > Duration::from_secs(600) {
            panic!("stuck: {:?}", kit.engine.instance_counts());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!(
        "converge: {instances} instances on {count} hosts in {:.1} s, peak {} MB",
        begun.elapsed().as_secs_f64(),
        peak_mb()
    );
    let begun = Instant::now();
    let page = PageRequest { after: None, limit: 1_000 };
    let listed = kit.engine.instances(&kit.customer, page, &BTreeMap::new());
    println!(
        "list: {} of {instances} in {:.2} ms",
        listed.items.len(),
        begun.elapsed().as_secs_f64() * 1_000.0
    );
    hosts.check();
    kit.engine.audit_books().unwrap();
    println!("checked: nothing ran twice, the books of capacity are right");
    // Agents and streams end with the process.
    std::process::exit(0);
}
