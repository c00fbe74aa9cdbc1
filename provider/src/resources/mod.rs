//! Managed resources, one folder each.

pub mod instance;
pub mod placement_group;
pub mod shared;
pub mod snapshot;
pub mod volume;
