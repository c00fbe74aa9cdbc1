//! Growing pauses between attempts at the same thing, with jitter.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Pauses that double from a first to a longest one, each shortened by up to a half at random so
/// that many who failed together do not come back together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure; how long to wait until the next attempt, in ms.
    fn failed(&mut self, first_ms: u64, longest_ms: u64, random: &mut impl Rng) -> u64 {
        let doubled = first_ms.saturating_mul(1 << self.failures.min(30));
        self.failures = self.failures.saturating_add(1);
        let most = doubled.clamp(1, longest_ms.max(1));
        random.random_range(most.div_ceil(2)..=most)
    }

    /// How many failures there were since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a success.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// The shortest and the longest pause of an agent, and the jitter of all of them.
#[derive(Debug)]
pub(crate) struct Pauses {
    pub(crate) first_ms: u64,
    pub(crate) longest_ms: u64,
    pub(crate) random: ChaCha8Rng,
}

impl Pauses {
    /// Notes a failure; how long to wait until the next attempt, in ms.
    pub(crate) fn after(&mut self, backoff: &mut Backoff) -> u64 {
        backoff.failed(self.first_ms, self.longest_ms, &mut self.random)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_over() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for most in [100, 200, 400, 800, 1_000, 1_000] {
            let pause = backoff.failed(100, 1_000, &mut random);
            assert!((most / 2..=most).contains(&pause), "{pause} of {most}");
        }
        for _ in 0..1_000 {
            assert!(backoff.failed(100, 1_000, &mut random) <= 1_000);
        }
        backoff.succeeded();
        assert!(backoff.failed(100, 1_000, &mut random) <= 100);
    }
}
