//! The commands, one file each.

mod account;
mod audit;
mod backup;
mod bench;
pub(crate) mod broker;
mod console;
mod dev;
mod host;
mod host_agent;
mod host_check;
mod host_drain;
mod host_moves;
mod host_show;
mod host_update;
mod image;
pub(crate) mod key;
mod token;
mod usage;
mod volume;

use std::{
    ffi::OsString,
    future::Future,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use tokio::runtime::Builder;

use crate::error::CommandError;

/// Worker threads of an agent. Its one task is on the main thread and what blocks on others, so
/// that these have little more than the stream.
const AGENT_THREADS: usize = 2;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole platform on this machine: broker and hosts in one process.
    Dev(dev::Dev),
    /// Run the broker.
    Broker(broker::Broker),
    /// Run the agent of a host, or register, list, empty and remove hosts.
    Host(Box<host::Host>),
    /// Make the identity that opens your volumes, and give keys to hosts.
    Key(key::Key),
    /// List volumes, export them to files that only you can open, and open those.
    Volume(volume::Volume),
    /// Show what the guest of an instance has written last to its serial console.
    Console(console::Console),
    /// Open and list accounts, for the platform's operators.
    Account(account::Account),
    /// Make, list and revoke tokens.
    Token(token::Token),
    /// Show what was used, by instance and by volume.
    Usage(usage::Usage),
    /// Make images of machines, sign them, and take them into a host's folder.
    Image(image::Image),
    /// Export the audit log, or check that nothing in it was changed.
    Audit(audit::Audit),
    /// Copy the store of a data folder, consistently.
    Backup(backup::Backup),
    /// Measure the platform.
    Bench(bench::Bench),
}

impl Command {
    /// Whether it runs until it is asked to end, so that its log is all that is read of it.
    pub(crate) fn is_server(&self) -> bool {
        match self {
            Self::Dev(_) | Self::Broker(_) => true,
            Self::Host(command) => command.is_agent(),
            _ => false,
        }
    }

    pub(crate) fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Dev(command) => run(command.run()),
            Self::Broker(command) => run(command.run()),
            Self::Host(command) => run_beside_guests(command.run()),
            Self::Key(command) => run(command.run()),
            Self::Volume(command) => run(command.run()),
            Self::Console(command) => run(command.run()),
            Self::Account(command) => run(command.run()),
            Self::Token(command) => run(command.run()),
            Self::Usage(command) => run(command.run()),
            Self::Image(command) => run(command.run()),
            Self::Audit(command) => run(command.run()),
            Self::Backup(command) => run(command.run()),
            Self::Bench(command) => run(command.run()),
        }
    }
}

/// Runs a command to its end.
fn run(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    run_on(&mut Builder::new_multi_thread(), command)
}

/// The same for what leaves a machine to its guests: not a thread for each of many processors.
fn run_beside_guests(
    command: impl Future<Output = Result<(), CommandError>>,
) -> Result<(), CommandError> {
    run_on(Builder::new_multi_thread().worker_threads(AGENT_THREADS), command)
}

fn run_on(
    runtime: &mut Builder,
    command: impl Future<Output = Result<(), CommandError>>,
) -> Result<(), CommandError> {
    runtime.enable_all().build().map_err(CommandError::System)?.block_on(Box::pin(command))
}

/// The file whose name goes on so.
pub(crate) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}
