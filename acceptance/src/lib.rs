//! Real Terraform and OpenTofu against the built plugin and a running backend.
//!
//! Owns: finding the programs, starting and ending them, reading what they say. Refuses: mocks,
//! fixed waiting times, and anything left running. The tests themselves are in `tests/`.

mod backend;
mod binaries;
mod cli;
mod failure;
mod mount;
mod plan;
mod process;
mod text;
mod workspace;

pub use backend::{Backend, BackendOptions, Environment};
pub use binaries::{Binaries, repository};
pub use cli::{Cli, Ended, Product};
pub use failure::{Failure, Outcome};
pub use mount::Mount;
pub use plan::{Plan, State};
pub use process::Running;
pub use text::flat;
pub use workspace::Workspace;
