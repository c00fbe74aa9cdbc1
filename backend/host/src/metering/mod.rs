//! Metering: how much of this host was used, measured in windows that the host signs and keeps
//! until the broker has them.

mod file;
mod ledger;
mod meter;

pub use file::{BYTES_MAX, FileLedger};
pub use ledger::{Batch, Found, Ledger, LedgerError, MemoryLedger, Signer};
pub use meter::{Key, Limits, Look, Memory, Meter, Room, Use};
