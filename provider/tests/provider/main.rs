//! The provider through the same server code as the real client uses, against a broker in this
//! process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod attributes;
mod changes;
mod common;
mod connection;
mod instance;
mod keys;
mod offers;
mod pages;
mod refusals;
mod schema;
mod snapshot;
mod taken_over;
mod timeouts;
mod unfinished;
mod volume;
