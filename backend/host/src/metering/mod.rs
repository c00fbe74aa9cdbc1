//! Metering: how much of this host was used, measured in windows that the host signs and keeps
//! until the broker has them.

mod file;
mod keeper;
mod ledger;
mod meter;
mod seen;

pub(crate) use keeper::{MeterHandle, keeper};

pub use file::{BYTES_MAX, FileLedger};
pub use keeper::{Metering, SystemWall, WallClock, look};
pub use ledger::{Batch, Found, Ledger, LedgerError, MemoryLedger, Signer};
pub use meter::{Key, Limits, Look, Memory, Meter, Room, Use};
