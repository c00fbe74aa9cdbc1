//! Why the agent could not start. Once it runs, nothing ends it but its shutdown.

use crate::state::StateError;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its state can't be kept.
    #[error("the host agent can't use its state")]
    State(#[from] StateError),
}
