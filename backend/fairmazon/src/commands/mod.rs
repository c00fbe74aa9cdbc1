//! The commands, one file each.

mod account;
mod audit;
mod backup;
mod bench;
pub(crate) mod broker;
mod dev;
mod host;
mod host_check;
mod token;

use std::future::Future;

use clap::Subcommand;

use crate::error::CommandError;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole platform on this machine: broker and hosts in one process.
    Dev(dev::Dev),
    /// Run the broker.
    Broker(broker::Broker),
    /// Run the agent of a host, or register, list and remove hosts.
    Host(host::Host),
    /// Open and list accounts, for the platform's operators.
    Account(account::Account),
    /// Make, list and revoke tokens.
    Token(token::Token),
    /// Export the audit log, or check that nothing in it was changed.
    Audit(audit::Audit),
    /// Copy the store of a data folder, consistently.
    Backup(backup::Backup),
    /// Measure the platform.
    Bench(bench::Bench),
}

impl Command {
    pub(crate) fn run(self) -> Result<(), CommandError> {
        match self {
            Self::Dev(command) => run(command.run()),
            Self::Broker(command) => run(command.run()),
            Self::Host(command) => run(command.run()),
            Self::Account(command) => run(command.run()),
            Self::Token(command) => run(command.run()),
            Self::Audit(command) => run(command.run()),
            Self::Backup(command) => run(command.run()),
            Self::Bench(command) => run(command.run()),
        }
    }
}

/// Runs a command to its end.
fn run(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CommandError::System)?
        .block_on(Box::pin(command))
}
