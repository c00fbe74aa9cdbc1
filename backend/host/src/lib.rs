//! The host agent: makes the hypervisor match what the broker wants.
//!
//! It dials the broker, takes whole desired sets, converges machine by machine, and reports the
//! whole observed set. Machines go on while the broker is away, until the host's lease ends.
//! Knows neither store nor scheduler, and no machine that the platform did not make.

mod agent;
mod backoff;
pub mod clock;
mod config;
mod error;
mod files;
pub mod identity;
pub mod lease;
pub mod metering;
pub mod peers;
pub mod plan;
pub mod reclaim;
pub mod standard;
pub mod state;
pub mod transport;

pub use agent::run;
pub use config::Config;
pub use error::HostError;
