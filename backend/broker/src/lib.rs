//! The broker: API, reconcilers, host streams.

pub mod core;
mod reconcile;
pub mod session;
