//! Clocks of the world: the broker's wall clock, and each host's own, which drifts.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use fairmazon_broker::core::Clock;
use fairmazon_model::units::UnixMs;
use tokio::time::Instant;

/// The broker's wall clock, which somebody may set.
pub struct WallClock {
    origin: Instant,
    offset_ms: AtomicI64,
}

impl WallClock {
    pub fn new() -> Self {
        Self { origin: Instant::now(), offset_ms: AtomicI64::new(1_790_000_000_000) }
    }

    pub fn jump(&self, ms: i64) {
        self.offset_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for WallClock {
    fn now(&self) -> UnixMs {
        let since = i64::try_from(self.origin.elapsed().as_millis()).unwrap();
        UnixMs(self.offset_ms.load(Ordering::SeqCst) + since)
    }
}

/// A host's clock since one boot of it: it goes at its own rate.
pub struct HostClock {
    origin: Instant,
    percent: u64,
    boot: String,
}

impl HostClock {
    /// `percent` of the true rate.
    pub fn new(percent: u64, boot: u64) -> Self {
        Self { origin: Instant::now(), percent, boot: format!("boot-{boot}") }
    }
}

impl fairmazon_host::clock::Clock for HostClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap() * self.percent / 100
    }

    fn boot_id(&self) -> &str {
        &self.boot
    }

    fn longest_nap(&self) -> Duration {
        Duration::from_secs(1)
    }
}
