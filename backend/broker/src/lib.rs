//! The broker: API, reconcilers, host streams.

pub mod api;
mod asks;
mod config;
mod consoles;
pub mod core;
mod files;
pub mod metering;
mod places;
mod reconcile;
mod server;
pub mod session;
pub mod transfer;

pub use config::ApiConfig;
pub use files::{make_private_folder, write_private};
pub use server::{Server, ServerError};
