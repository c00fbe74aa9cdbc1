//! The plugin binary: takes what it needs from the process, and serves.

use std::{process::ExitCode, time::SystemTime};

use mimalloc::MiMalloc;
use terraform_provider_fairmazon::{ADDRESS, Fairmazon, Process, Session};

/// Terraform sets this for the providers that it starts.
const COOKIE: &str = "TF_PLUGIN_MAGIC_COOKIE";

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let started = since.map_or(0, |since| since.as_nanos());
    let process = Process {
        env: |name| std::env::var(name).ok(),
        working_directory: std::env::current_dir().unwrap_or_default(),
        name: format!("{:x}-{:x}", std::process::id(), started),
        // Started by hand, for a debugger, the parent is a shell and no run.
        session: Session::of_parent().filter(|_| std::env::var_os(COOKIE).is_some()),
    };
    tfplugin::serve(Fairmazon::new(process), ADDRESS)
}
