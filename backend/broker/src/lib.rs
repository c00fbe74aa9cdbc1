//! The broker: API, reconcilers, host streams.

pub mod core;
