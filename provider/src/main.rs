//! The plugin binary: takes what it needs from the process, and serves.

use std::{process::ExitCode, time::SystemTime};

use mimalloc::MiMalloc;
use terraform_provider_fairmazon::{ADDRESS, Fairmazon, Process};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started = since.map_or(0, |since| since.as_nanos());
    let process = Process {
        env: |name| std::env::var(name).ok(),
        working_directory: std::env::current_dir().unwrap_or_default(),
        name: format!("{:x}-{:x}", std::process::id(), started),
    };
    tfplugin::serve(Fairmazon::new(process), ADDRESS)
}
