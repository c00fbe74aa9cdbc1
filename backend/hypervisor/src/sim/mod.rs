//! The simulator: thousands of hosts with their machines and volumes, in one process.
//!
//! The [`World`] is kept outside of any agent: it goes on when an agent crashes, as real
//! machines do. [`SimHost`] is one host's [`Hypervisor`](crate::Hypervisor). Faults are asked of
//! a [`Faults`] before each call; a [`Ledger`] sees every start, stop and write and notes what
//! must never happen. The clock is injected. Nothing sleeps unless a test asked for a delay.

mod disk;
mod fault;
mod host;
mod import;
mod ledger;
mod memory;
mod migration;
mod state;
mod volumes;
mod world;

pub use fault::{Call, Fault, Faults, SeededFaults, Verb};
pub use host::SimHost;
pub use ledger::{Forced, Ledger, Run, Violation};
pub use memory::{Load, Manner};
pub use world::{World, WorldClock};
