//! The core on a real store: each rule of the commands, and whole stories with simulated hosts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "helpers of one test binary")]

mod commands;
mod conformity;
mod copies;
mod crashes;
mod credentials;
mod drains;
mod followed;
mod idempotency;
mod imports;
mod kit;
mod losses;
mod lost_hosts;
mod metering;
mod migrations;
mod of_images;
mod played;
mod preferences;
mod readings;
mod rotation;
mod sets;
mod spot;
mod stories;
mod together;
mod wishes;
