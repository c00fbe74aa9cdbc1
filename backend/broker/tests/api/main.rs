//! The broker's API as clients meet it: over TLS on loopback, with a real store.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod harness;

mod advice;
mod bounds;
mod changes;
mod connections;
mod credentials;
mod errors;
mod health;
mod host_stream;
mod images;
mod imports;
mod joining;
mod labels;
mod limits;
mod lists;
mod matrix;
mod metrics;
mod refusals;
mod renewals;
mod services;
mod streams;
mod tenants;
mod transfers;
mod volume_keys;
