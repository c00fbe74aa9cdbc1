//! The Terraform and OpenTofu provider of Fairmazon.
//!
//! [`Fairmazon`] is what `tfplugin` serves. What a user writes is in `resources`, `data_sources`,
//! `functions`, `ephemeral`, `list` and `actions`, one file or folder each; the way to the broker
//! is in [`client`], and the one map from a failure to what the user reads in [`diagnostics`].

pub mod actions;
pub mod budget;
pub mod client;
pub mod data_sources;
pub mod diagnostics;
pub mod ephemeral;
pub mod functions;
pub mod keyring;
pub mod list;
pub mod path;
pub mod platform;
pub mod provider;
pub mod resources;
pub mod session;
pub mod settings;

pub use provider::{Fairmazon, Process};
pub use session::Session;

/// Where registries keep it.
pub const ADDRESS: &str = "registry.terraform.io/fairmazon/fairmazon";
