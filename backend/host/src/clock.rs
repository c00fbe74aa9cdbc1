//! The agent's clock: counts on while the machine sleeps, and says which boot it belongs to.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairmazon_model::units::UnixMs;
use tokio::time::Instant;

/// The wall clock, for certificates.
pub(crate) fn unix_now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Time as leases need it. Never a wall clock: nobody may set it.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since an origin that stays the same for the life of [`Clock::boot_id`].
    fn now_ms(&self) -> u64;

    /// Names the boot of the machine: readings of different boots can't be compared.
    fn boot_id(&self) -> &str;

    /// The longest that the agent may rely on timers that stop while the machine sleeps.
    fn longest_nap(&self) -> Duration;
}

/// The host's clock since its boot, sleep included.
#[derive(Debug)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Reads which boot this is.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn new() -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self { boot_id: boot_id.trim().to_owned() })
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn longest_nap(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// Tokio's clock, for simulated worlds: follows a paused clock.
#[derive(Debug, Clone)]
pub struct SimClock {
    origin: Instant,
}

impl SimClock {
    /// Begins now; clones tell the same time.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn boot_id(&self) -> &str {
        "simulated"
    }

    fn longest_nap(&self) -> Duration {
        Duration::from_secs(3_600)
    }
}
