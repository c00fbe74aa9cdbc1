//! What a host proves of the host standard, and which level of it counts.
//!
//! A level that an operator offers is a wish; what counts is what the host's agent has proven,
//! and never more than what is offered. What is not known is no reason to move anything away,
//! and none to place anything there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::UnixMs;

/// The highest level; the lowest is 0.
pub const LEVEL_MOST: u8 = 3;
/// Most failed checks that are kept of a host.
pub const FAILED_MOST: usize = 64;

/// What a host's agent says of the host standard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Nothing is proven.
    Unproven {
        /// Why not, for the operator.
        why: String,
    },
    /// It was looked at.
    Proven {
        /// The highest level that the host reaches; none when not even the lowest.
        level: Option<u8>,
        /// What keeps it from higher ones.
        failed: Vec<FailedCheck>,
    },
}

/// A check of the standard that keeps a host from a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// Its name, which does not change.
    pub check: String,
    /// The highest level that a host reaches with it; none when it may run no machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allows: Option<u8>,
    /// What to do.
    pub remedy: String,
}

/// What becomes of hosts that have proven nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnprovenHosts {
    /// They get no new machines.
    #[default]
    NoWork,
    /// They count at the level that they are offered with: for trials, and for hosts whose driver
    /// runs no guests.
    AsOffered,
}

/// What is known of a host's conformity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conformity {
    /// What its agent said last.
    pub proof: Proof,
    /// The levels that it does not reach, each with since when without a break.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lacks: BTreeMap<u8, UnixMs>,
}

impl Conformity {
    /// What is known after `proof` was said at `now`, with what was known before.
    pub fn after(before: Option<&Self>, proof: Proof, now: UnixMs) -> Self {
        let none = BTreeMap::new();
        let had = before.map_or(&none, |before| &before.lacks);
        let lacks = match &proof {
            Proof::Unproven { .. } => BTreeMap::new(),
            Proof::Proven { level, .. } => (0..=LEVEL_MOST)
                .filter(|wanted| *level < Some(*wanted))
                .map(|wanted| (wanted, had.get(&wanted).copied().unwrap_or(now)))
                .collect(),
        };
        Self { proof, lacks }
    }

    /// Whether the host was seen to reach not even the lowest level.
    pub fn fails(&self) -> bool {
        self.lacks.contains_key(&0)
    }

    /// Whether the host has lacked this level for `grace_ms` or longer.
    pub fn lacks_for(&self, level: u8, grace_ms: i64, now: UnixMs) -> bool {
        self.lacks.get(&level).is_some_and(|since| now.0.saturating_sub(since.0) >= grace_ms)
    }

    /// The checks that keep the host from this level, by name.
    pub fn failed_for(&self, level: u8) -> impl Iterator<Item = &FailedCheck> {
        let failed = match &self.proof {
            Proof::Unproven { .. } => &[][..],
            Proof::Proven { failed, .. } => failed,
        };
        failed.iter().filter(move |failed| failed.allows < Some(level))
    }
}

/// The level that counts for placement; none when the host takes nothing new.
pub fn level_that_counts(
    offered: u8,
    known: Option<&Conformity>,
    unproven: UnprovenHosts,
) -> Option<u8> {
    match known.map(|known| &known.proof) {
        Some(Proof::Proven { level, .. }) => level.map(|level| level.min(offered)),
        None | Some(Proof::Unproven { .. }) => match unproven {
            UnprovenHosts::NoWork => None,
            UnprovenHosts::AsOffered => Some(offered),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven(level: Option<u8>) -> Proof {
        let failed = |check: &str, allows| FailedCheck {
            check: check.into(),
            allows,
            remedy: String::new(),
        };
        let failed = match level {
            None => vec![failed("no-swap", None), failed("disk-sync", Some(1))],
            Some(level) if level < LEVEL_MOST => vec![failed("disk-sync", Some(level))],
            Some(_) => Vec::new(),
        };
        Proof::Proven { level, failed }
    }

    #[test]
    fn the_lower_of_offered_and_proven_counts() {
        let known = |proof| Some(Conformity::after(None, proof, UnixMs(1)));
        let unproven = || Proof::Unproven { why: "it is simulated".into() };
        for (offered, proof, strict, trusting) in [
            (2, Some(proven(Some(3))), Some(2), Some(2)),
            (2, Some(proven(Some(1))), Some(1), Some(1)),
            (2, Some(proven(None)), None, None),
            (2, Some(unproven()), None, Some(2)),
            (2, None, None, Some(2)),
        ] {
            let known = proof.and_then(known);
            let counts = |unproven| level_that_counts(offered, known.as_ref(), unproven);
            assert_eq!(counts(UnprovenHosts::NoWork), strict, "{known:?}");
            assert_eq!(counts(UnprovenHosts::AsOffered), trusting, "{known:?}");
        }
    }

    #[test]
    fn a_level_is_lacking_since_it_was_last_reached() {
        let first = Conformity::after(None, proven(Some(1)), UnixMs(10));
        assert_eq!(first.lacks, BTreeMap::from([(2, UnixMs(10)), (3, UnixMs(10))]));
        assert!(!first.fails());
        let worse = Conformity::after(Some(&first), proven(None), UnixMs(20));
        assert_eq!(worse.lacks[&3], UnixMs(10), "not reached all the time");
        assert_eq!((worse.lacks[&0], worse.lacks[&1]), (UnixMs(20), UnixMs(20)));
        assert!(worse.fails());
        assert!(!worse.lacks_for(0, 5, UnixMs(24)) && worse.lacks_for(0, 5, UnixMs(25)));
        assert_eq!(worse.failed_for(0).map(|f| &*f.check).collect::<Vec<_>>(), ["no-swap"]);
        assert_eq!(worse.failed_for(2).count(), 2);
        let again = Conformity::after(Some(&worse), proven(Some(3)), UnixMs(30));
        assert!(again.lacks.is_empty());
        let anew = Conformity::after(Some(&again), proven(None), UnixMs(40));
        assert_eq!(anew.lacks[&0], UnixMs(40), "counted from the last time that it was well");
        let silent = Proof::Unproven { why: String::new() };
        assert!(Conformity::after(Some(&anew), silent, UnixMs(50)).lacks.is_empty());
    }

    #[test]
    fn it_is_stored_and_loaded() {
        for proof in [proven(None), proven(Some(2)), Proof::Unproven { why: "dev".into() }] {
            let known = Conformity::after(None, proof, UnixMs(7));
            let text = serde_json::to_string(&known).unwrap();
            assert_eq!(serde_json::from_str::<Conformity>(&text).unwrap(), known, "{text}");
        }
    }
}
