//! How the client reaches the plugin: the start-up agreement, the socket, the certificates and
//! the services that stand beside the provider's own.
//!
//! Knows nothing of resources: it serves any implementation of the wire's provider service. What
//! a call means is [`crate::server`]'s business.

pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod listen;
mod run;
pub(crate) mod services;
pub(crate) mod tls;

pub(crate) use run::{Mode, RunError, Running, run};

/// The largest message either side may send, in bytes.
pub(crate) const MESSAGE_LIMIT: usize = 64 << 20;
