//! Time and randomness as the broker is given them.
//!
//! Wall-clock time comes from [`Clock`]; timers and leases use tokio's monotonic clock, which
//! a test can pause. Ids and secrets come from one [`Randomness`], which a test can seed.

use std::time::{SystemTime, UNIX_EPOCH};

use fairmazon_model::units::UnixMs;
use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

/// The wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch, UTC. May jump; nothing is fenced by it.
    fn now(&self) -> UnixMs;
}

/// The machine's own wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Where ids and secrets come from: a cryptographic generator, seeded once.
pub struct Randomness(Mutex<StdRng>);

impl Randomness {
    /// Seeded by the operating system; the only one for a real platform.
    pub fn from_system() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// The same ids and secrets in each run; for tests.
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// The random part of an id.
    pub(crate) fn id(&self) -> u128 {
        self.0.lock().random()
    }

    /// 32 random bytes in hex.
    pub(crate) fn secret(&self) -> String {
        let mut bytes = [0; 32];
        self.0.lock().fill_bytes(&mut bytes);
        hex::encode(bytes)
    }
}

/// The milliseconds that go into an id; before 1970 there were none.
pub(crate) fn id_time(now: UnixMs) -> u64 {
    u64::try_from(now.0).unwrap_or(0)
}
