//! Metering: what is allotted where, windows that hosts tell, and their sums.

pub(crate) mod allotments;
mod judge;
mod list;
mod take;

pub use list::UsageRequest;
