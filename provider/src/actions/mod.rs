//! Actions, one file each.

mod reboot;

pub use reboot::Reboot;
