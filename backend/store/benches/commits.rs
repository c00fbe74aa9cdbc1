//! Measures durable commits as a creation through the broker makes them: instance, boot
//! volume, operation, audit entries and idempotency record, from many tasks at once; then
//! loading it all back. Prints one line a figure.
//!
//! `cargo bench -p fairmazon-store [-- COMMITS TASKS]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may stop")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairmazon_store::{
    Actor, AuditEntry, Commit, Expect, IdempotencyRecord, Store, Write,
    sqlite::{SqliteOptions, SqliteStore},
};

#[allow(dead_code, reason = "the bench uses some of the rows")]
#[path = "../tests/conformance/rows.rs"]
mod rows;

fn creation(number: u64) -> Commit {
    let (instance, volume, operation) = rows::machine(rows::account_id(0), number);
    let audit = [
        (instance.id.to_string(), serde_json::to_value(&instance).unwrap()),
        (volume.id.to_string(), serde_json::to_value(&volume).unwrap()),
    ];
    let idempotency = IdempotencyRecord {
        answer: serde_json::json!({ "instance": instance.id, "operation": operation.id }),
        ..rows::idempotency(rows::account_id(0), &format!("key-{number}"))
    };
    Commit {
        writes: vec![
            Write::Put(instance.into(), Expect::New),
            Write::Put(volume.into(), Expect::New),
            Write::Put(operation.into(), Expect::New),
        ],
        audit: audit
            .into_iter()
            .map(|(target, after)| AuditEntry {
                at: rows::NOW,
                actor: Actor::default(),
                verb: "create".into(),
                target,
                before: None,
                after: Some(after),
            })
            .collect(),
        idempotency: Some(idempotency),
        ..Commit::default()
    }
}

async fn commit_all(store: &Arc<dyn Store>, commits: u64, tasks: u64) -> (Duration, Vec<Duration>) {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let workers: Vec<_> = (0..tasks)
        .map(|_| {
            let (store, next) = (store.clone(), next.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= commits {
                        return times;
                    }
                    let begun = Instant::now();
                    store.commit(creation(number)).await.unwrap();
                    times.push(begun.elapsed());
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await.unwrap());
    }
    (start.elapsed(), times)
}

#[tokio::main]
async fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let commits = numbers.first().copied().unwrap_or(50_000);
    let tasks = numbers.get(1).copied().unwrap_or(64);
    // In the build's own folder: a temporary folder may lie in memory and prove nothing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = SqliteOptions::new(folder.path().join("bench.db"));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&options).unwrap());
    let account = rows::account(0);
    store.commit(Commit::of([Write::Put(account.into(), Expect::New)])).await.unwrap();

    let (whole, mut times) = commit_all(&store, commits, tasks).await;
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
    println!(
        "commits: {commits} from {tasks} tasks in {:.2} s: {:.0} per second, p50 {:.2} ms, p99 {:.2} ms",
        whole.as_secs_f64(),
        commits as f64 / whole.as_secs_f64(),
        at(50),
        at(99),
    );
    let start = Instant::now();
    let mut count = 0_u64;
    store.load(&mut |_| count += 1).await.unwrap();
    println!("load: {count} rows in {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let verdict = store.verify_audit().await.unwrap();
    println!(
        "audit: {} entries checked in {:.2} s",
        verdict.whole.sequence,
        start.elapsed().as_secs_f64()
    );
    println!("size: {} MB", store.health().await.unwrap().size_bytes / 1_000_000);
    store.close().await.unwrap();
}
