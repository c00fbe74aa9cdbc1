//! The host's lease: under it machines run, and when it ends they are stopped.
//!
//! One lease covers all machines of a host. It runs from when its renewal was *sent*, on the
//! host's own clock, so no delay of the network and no clock of the broker can lengthen it; a
//! tenth of the term (at most a second) is kept back, for the stopping itself. After a restart
//! of the agent the recorded end holds if the machine has not booted since; otherwise, and when
//! nothing is recorded, there is no lease and what runs is stopped at once: that costs a restart
//! and can never cost a second writer.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Renewals that may be unanswered; older ones are forgotten.
const PENDING_MOST: usize = 32;
/// The most that is kept back of a term, in ms.
const KEPT_BACK_MOST_MS: u64 = 1_000;

/// The lease as it is written down for the next start of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The boot that the clock below belongs to.
    pub boot_id: String,
    /// When it ends, in ms of the clock that counts since that boot.
    pub until_ms: u64,
}

/// The lease as the agent holds it. All times are ms of the agent's clock.
#[derive(Debug, Default)]
pub struct Lease {
    until_ms: Option<u64>,
    sequence: u64,
    pending: VecDeque<(u64, u64)>,
}

impl Lease {
    /// The lease that an earlier run of the agent recorded, if it is of this boot.
    pub fn resume(record: Option<&LeaseRecord>, boot_id: &str) -> Self {
        let until_ms =
            record.filter(|record| record.boot_id == boot_id).map(|record| record.until_ms);
        Self { until_ms, ..Self::default() }
    }

    /// Whether machines may run.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.until_ms.is_some_and(|until| now_ms < until)
    }

    /// How much of it is left, in ms; none when it does not hold.
    pub fn left_ms(&self, now_ms: u64) -> Option<u64> {
        self.until_ms?.checked_sub(now_ms).filter(|&left| left > 0)
    }

    /// When it ends, in ms; none where there never was one.
    pub fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }

    /// Forgets the renewals of a stream that ended: answers to them can't come any more.
    pub fn new_stream(&mut self) {
        self.pending.clear();
        self.sequence = 0;
    }

    /// Notes that a renewal is about to be sent; its sequence number.
    pub fn renew(&mut self, now_ms: u64) -> u64 {
        self.sequence += 1;
        if self.pending.len() == PENDING_MOST {
            self.pending.pop_front();
        }
        self.pending.push_back((self.sequence, now_ms));
        self.sequence
    }

    /// Takes the answer to a renewal; whether the lease now lasts longer. Answers that nobody
    /// waits for, repeated or made up, change nothing.
    pub fn renewed(&mut self, sequence: u64, term_ms: u64) -> bool {
        let Some(index) = self.pending.iter().position(|(known, _)| *known == sequence) else {
            return false;
        };
        let (_, sent_ms) = self.pending[index];
        self.pending.drain(..=index);
        let kept_back = (term_ms / 10).min(KEPT_BACK_MOST_MS);
        let until = sent_ms.saturating_add(term_ms - kept_back);
        let longer = self.until_ms.is_none_or(|had| until > had);
        if longer {
            self.until_ms = Some(until);
        }
        longer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_from_the_sending_not_from_the_answer() {
        let mut lease = Lease::default();
        assert!(!lease.holds(0));
        let sequence = lease.renew(1_000);
        assert!(lease.renewed(sequence, 500));
        assert!(lease.holds(1_449) && !lease.holds(1_450));
    }

    #[test]
    fn repeated_late_and_unknown_answers_change_nothing() {
        let mut lease = Lease::default();
        let first = lease.renew(1_000);
        let second = lease.renew(2_000);
        assert!(lease.renewed(second, 10_000));
        let until = lease.until_ms();
        assert!(!lease.renewed(first, 10_000_000), "overtaken");
        assert!(!lease.renewed(second, 10_000_000), "repeated");
        assert!(!lease.renewed(99, 10_000_000), "never sent");
        assert_eq!(lease.until_ms(), until);
        lease.renew(3_000);
        lease.new_stream();
        assert!(!lease.renewed(1, 10_000_000), "of another stream");
        assert_eq!(lease.until_ms(), until);
    }

    #[test]
    fn a_record_holds_for_its_own_boot_only() {
        let record = LeaseRecord { boot_id: "a".into(), until_ms: 100 };
        assert!(Lease::resume(Some(&record), "a").holds(99));
        assert!(!Lease::resume(Some(&record), "a").holds(100));
        assert!(!Lease::resume(Some(&record), "b").holds(0));
        assert!(!Lease::resume(None, "a").holds(0));
    }

    #[test]
    fn unanswered_renewals_are_bounded() {
        let mut lease = Lease::default();
        for now in 0..10_000 {
            lease.renew(now);
        }
        assert!(lease.pending.len() <= PENDING_MOST);
        assert!(lease.renewed(10_000, 1_000));
    }
}
