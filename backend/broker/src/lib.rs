//! The broker: API, reconcilers, host streams.

pub mod api;
mod config;
mod consoles;
pub mod core;
mod files;
pub mod metering;
mod reconcile;
mod server;
pub mod session;
pub mod transfer;

pub use config::ApiConfig;
pub use files::{make_private_folder, write_private};
pub use server::{Server, ServerError};
