//! The one binary of the backend: reads the command line, sets up logging, runs a command.

mod catalogue;
mod client;
mod commands;
mod dev;
mod error;
mod folder;
mod hypervisors;
mod keys;
mod logging;
mod memory;
mod open_files;
mod output;
mod platform;
mod signals;
mod standard;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

use crate::{commands::Command, logging::LogOptions};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Fairmazon: computing capacity from many providers as one platform.
#[derive(Debug, Parser)]
#[command(name = "fairmazon", version, about, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start();
    let is_server = arguments.command.is_server();
    match arguments.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if is_server && arguments.log.is_json() {
                logging::failure(&error);
            } else {
                output::error(&error);
            }
            ExitCode::FAILURE
        }
    }
}
