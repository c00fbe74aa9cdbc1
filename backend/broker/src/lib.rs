//! The broker: API, reconcilers, host streams.
