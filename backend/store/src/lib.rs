//! Durable state of the broker behind repository traits.
