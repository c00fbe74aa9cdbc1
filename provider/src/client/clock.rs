//! When this client began, by the clock of the broker. The times in rows are of that clock, and the
//! one of this machine may be wrong by any amount.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fairmazon_model::units::UnixMs;
use parking_lot::Mutex;
use tonic::metadata::MetadataMap;

/// The beginning of a client.
pub(super) struct Beginning {
    at: Instant,
    /// By this machine's clock, for as long as the broker has said nothing of its own.
    by_own: i64,
    /// By the broker's, as its last answer tells.
    by_broker: Mutex<Option<i64>>,
}

impl Beginning {
    /// Now.
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), by_own: now().0, by_broker: Mutex::default() }
    }

    /// Learns from the `date` of an answer, which every HTTP server sends.
    pub(super) fn hear(&self, answer: &MetadataMap) {
        let date = answer.get("date").and_then(|date| date.to_str().ok());
        let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
        let since = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        let began = date.timestamp().as_millisecond().saturating_sub(since);
        *self.by_broker.lock() = Some(began);
    }

    /// Whether it was after a moment of the broker's. A date is in whole seconds, and it takes its
    /// time to arrive: a moment so shortly before counts as later.
    pub(super) fn is_after(&self, moment: UnixMs) -> bool {
        moment.0 < self.by_broker.lock().unwrap_or(self.by_own)
    }
}

/// The time by this machine's clock.
pub(super) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(date: &str) -> MetadataMap {
        let mut answer = MetadataMap::new();
        answer.insert("date", date.parse().unwrap());
        answer
    }

    #[test]
    fn the_brokers_clock_counts_once_it_is_known() {
        let began = Beginning::now();
        let hour = |hours: i64| UnixMs(now().0 + hours * 3_600_000);
        assert!(began.is_after(hour(-1)) && !began.is_after(hour(1)));
        began.hear(&MetadataMap::new());
        began.hear(&answer("soon"));
        assert!(began.is_after(hour(-1)), "what is no date says nothing");
        // Its clock is far behind: this is an hour before and after.
        began.hear(&answer("Tue, 14 Nov 2023 22:13:20 GMT"));
        let there = |seconds: i64| UnixMs((1_700_000_000 + seconds) * 1_000);
        assert!(began.is_after(there(-3_600)) && !began.is_after(there(1)));
    }
}
