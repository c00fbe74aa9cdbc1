//! Limits of use: requests per second and open streams, each for one credential, and requests
//! per second of one address for what needs no credential.
//!
//! Owns counts in memory only; a restart begins with full buckets. Entries that nobody uses
//! are dropped, so the memory is bounded by those who are active.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fairmazon_model::{DomainError, ErrorKind, id::TokenId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often unused entries are looked for, in calls.
const SWEEP_EVERY: u32 = 4_096;

/// How many requests are admitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Sustained, above zero.
    pub per_second: f64,
    /// At once, after a pause; at least 1.
    pub burst: f64,
}

/// A bucket that fills with time and from which each request takes one.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, at: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.at = now;
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn is_full(&self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens + passed * rate.per_second >= rate.burst
    }
}

/// Buckets by key.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    state: Mutex<(HashMap<K, Bucket>, u32)>,
}

impl<K: Hash + Eq> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, state: Mutex::new((HashMap::new(), 0)) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// `LimitExceeded` when there is none.
    pub(crate) fn take(&self, key: K, now: Instant) -> Result<(), DomainError> {
        let mut state = self.state.lock();
        let (buckets, calls) = &mut *state;
        *calls = calls.wrapping_add(1);
        if calls.is_multiple_of(SWEEP_EVERY) {
            buckets.retain(|_, bucket| !bucket.is_full(self.rate, now));
        }
        let bucket = buckets.entry(key).or_insert_with(|| Bucket::full(self.rate, now));
        if bucket.take(self.rate, now) { Ok(()) } else { Err(too_many(self.rate)) }
    }
}

/// What one credential has in use.
#[derive(Debug)]
pub(crate) struct Use {
    bucket: Mutex<Bucket>,
    streams: AtomicUsize,
    ended: CancellationToken,
}

/// What all credentials have in use.
#[derive(Debug)]
pub(crate) struct Uses {
    rate: Rate,
    streams_max: usize,
    state: Mutex<(HashMap<TokenId, Arc<Use>>, u32)>,
}

impl Uses {
    pub(crate) fn new(rate: Rate, streams_max: usize) -> Self {
        Self { rate, streams_max, state: Mutex::new((HashMap::new(), 0)) }
    }

    /// Counts one request of the credential.
    ///
    /// # Errors
    /// `LimitExceeded` when it made too many.
    pub(crate) fn request(&self, id: TokenId, now: Instant) -> Result<Arc<Use>, DomainError> {
        let entry = self.entry(id, now);
        let admitted = entry.bucket.lock().take(self.rate, now);
        if admitted { Ok(entry) } else { Err(too_many(self.rate)) }
    }

    /// Ends all that the credential has open.
    pub(crate) fn end(&self, id: TokenId) {
        // Removed as well: an entry made later belongs to requests that are refused anyway.
        let entry = self.state.lock().0.remove(&id);
        if let Some(entry) = entry {
            entry.ended.cancel();
        }
    }

    /// Ends all that is open.
    pub(crate) fn end_all(&self) {
        let entries = std::mem::take(&mut self.state.lock().0);
        for entry in entries.into_values() {
            entry.ended.cancel();
        }
    }

    /// Holds one of the credential's streams for as long as the answer lives.
    ///
    /// # Errors
    /// `LimitExceeded` when it holds too many.
    pub(crate) fn open_stream(&self, entry: &Arc<Use>) -> Result<OpenStream, DomainError> {
        let before = entry.streams.fetch_add(1, Ordering::Relaxed);
        let open = OpenStream { entry: entry.clone() };
        if before < self.streams_max {
            return Ok(open);
        }
        Err(DomainError::new(
            ErrorKind::LimitExceeded,
            format!("one credential may hold {} streams open at once", self.streams_max),
        )
        .advise("close streams that are not needed, or use several credentials"))
    }

    fn entry(&self, id: TokenId, now: Instant) -> Arc<Use> {
        let mut state = self.state.lock();
        let (entries, calls) = &mut *state;
        *calls = calls.wrapping_add(1);
        if calls.is_multiple_of(SWEEP_EVERY) {
            entries.retain(|_, entry| {
                Arc::strong_count(entry) > 1 || !entry.bucket.lock().is_full(self.rate, now)
            });
        }
        let fresh = || {
            Arc::new(Use {
                bucket: Mutex::new(Bucket::full(self.rate, now)),
                streams: AtomicUsize::new(0),
                ended: CancellationToken::new(),
            })
        };
        entries.entry(id).or_insert_with(fresh).clone()
    }
}

/// A stream that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    entry: Arc<Use>,
}

impl OpenStream {
    /// Rung when the credential is no longer valid.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.entry.ended.clone()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.entry.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn too_many(rate: Rate) -> DomainError {
    DomainError::new(
        ErrorKind::LimitExceeded,
        format!("more than {} requests in a second", rate.per_second),
    )
    .advise("send fewer requests at once, and read lists instead of single things")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fairmazon_model::limits;

    use super::*;
    use crate::config::ApiConfig;

    const RATE: Rate = Rate { per_second: 10.0, burst: 3.0 };

    #[test]
    fn a_burst_passes_and_then_the_sustained_rate() {
        let (buckets, now) = (Buckets::new(RATE), Instant::now());
        for _ in 0..3 {
            buckets.take("a", now).unwrap();
        }
        assert_eq!(buckets.take("a", now).unwrap_err().kind, ErrorKind::LimitExceeded);
        buckets.take("b", now).unwrap();
        let later = now + Duration::from_millis(100);
        buckets.take("a", later).unwrap();
        assert!(buckets.take("a", later).is_err());
    }

    #[test]
    fn by_default_a_credential_has_the_stated_rate_and_takes_nothing_from_others() {
        let config = ApiConfig::on(([127, 0, 0, 1], 0).into());
        let (uses, now) = (Uses::new(config.credential_rate, 1), Instant::now());
        let [one, other] = [1, 2].map(|number| TokenId::from_parts(1, number));
        let per_second = limits::REQUESTS_PER_SECOND;
        for _ in 0..2 * per_second {
            uses.request(one, now).unwrap();
        }
        let error = uses.request(one, now).unwrap_err();
        assert_eq!(error.kind, ErrorKind::LimitExceeded);
        assert!(error.message.contains(&per_second.to_string()), "{error}");
        assert!(!error.advice.is_empty(), "{error:?}");
        uses.request(other, now).unwrap();
        let later = now + Duration::from_secs(1);
        for _ in 0..per_second {
            uses.request(one, later).unwrap();
        }
        assert!(uses.request(one, later).is_err());
    }

    #[test]
    fn by_default_an_address_that_shows_no_credential_has_a_lower_rate() {
        let rate = ApiConfig::on(([127, 0, 0, 1], 0).into()).address_rate;
        let (buckets, now) = (Buckets::new(rate), Instant::now());
        for _ in 0..200 {
            buckets.take("one", now).unwrap();
        }
        assert_eq!(buckets.take("one", now).unwrap_err().kind, ErrorKind::LimitExceeded);
        buckets.take("other", now).unwrap();
        let later = now + Duration::from_secs(1);
        for _ in 0..50 {
            buckets.take("one", later).unwrap();
        }
        assert!(buckets.take("one", later).is_err());
    }

    #[test]
    fn what_nobody_uses_is_dropped() {
        let (buckets, now) = (Buckets::new(RATE), Instant::now());
        for key in 0..SWEEP_EVERY - 1 {
            buckets.take(key, now).unwrap();
        }
        buckets.take(0, now + Duration::from_secs(1)).unwrap();
        assert_eq!(buckets.state.lock().0.len(), 1);
    }

    #[test]
    fn streams_are_counted_and_ended() {
        let (uses, id) = (Uses::new(RATE, 1), TokenId::from_parts(1, 1));
        let entry = uses.request(id, Instant::now()).unwrap();
        let open = uses.open_stream(&entry).unwrap();
        assert!(uses.open_stream(&entry).is_err());
        let ended = open.ended();
        drop(open);
        let _again = uses.open_stream(&entry).unwrap();
        assert!(!ended.is_cancelled());
        uses.end(id);
        assert!(ended.is_cancelled());
    }
}
