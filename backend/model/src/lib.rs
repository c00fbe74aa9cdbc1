//! Ids, units, states and the closed domain error of Fairmazon.
//!
//! Everything here is plain data and pure functions: no I/O, no async, no clock.
//! The broker, the host agent and the provider plugin all speak in these types, so a
//! price shown in a plan and a limit enforced by the broker are the same code.

pub mod access;
pub mod catalogue;
pub mod conformity;
pub mod console;
pub mod error;
pub mod geo;
pub mod host;
pub mod id;
pub mod impact;
pub mod instance;
pub mod interruption;
pub mod key;
pub mod limits;
pub mod machine;
pub mod migration;
pub mod operation;
pub mod placement;
pub mod price;
pub mod schedule;
pub mod site;
pub mod transfer;
pub mod units;
pub mod usage;
pub mod volume;

pub use error::{DomainError, ErrorKind};
