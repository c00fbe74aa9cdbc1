//! Metering: how much of this host was used, measured in windows that the host signs and keeps
//! until the broker has them.

mod meter;

pub use meter::{Key, Limits, Look, Memory, Meter, Room, Use};
