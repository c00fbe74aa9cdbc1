//! The host standard: what a host must prove for each level, and the level that it reaches.
//!
//! [`CHECKS`] is the one table: the command, its JSON and the guide page are made from it.
//! [`collect`] finds the facts and [`Report::new`] judges them, without looking at anything. What
//! is not known does not count as kept.

mod checks;
mod collect;
mod facts;
mod judge;
mod watch;

use std::fmt;

use serde::{Serialize, Serializer};

pub use checks::CHECKS;
pub use collect::{Collector, collect};
pub use facts::{
    Boots, ClassFacts, ClockFacts, DaemonFacts, DiskSpeed, Fact, Facts, HypervisorFacts, Limit,
    Location, Mounted, Settings, StateFolder, Swap, User,
};
pub use fairmazon_model::conformity::LEVEL_MOST;
pub use watch::{Looks, Prover, Standard};

/// A rule of the standard.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name, which does not change.
    pub name: &'static str,
    /// What it belongs to.
    pub about: &'static str,
    /// What the standard wants.
    pub wants: &'static str,
    /// Why.
    pub why: &'static str,
    /// What to do when it is not kept.
    pub remedy: &'static str,
    /// Which levels want it.
    pub needs: Needs,
    judge: fn(&Facts) -> Verdict,
}

/// Which levels want something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// This level and all above it.
    From(u8),
    /// Levels 1, 2 and 3 want at least these.
    AtLeast([u64; 3], &'static str),
    /// Levels 1, 2 and 3 want at most these.
    AtMost([u64; 3], &'static str),
}

impl Needs {
    /// The lowest level that wants it.
    pub const fn lowest(self) -> u8 {
        match self {
            Self::From(level) => level,
            Self::AtLeast(..) | Self::AtMost(..) => 1,
        }
    }

    /// The highest level that a host can have when this is not kept; none when it can have none.
    const fn without(self) -> Option<u8> {
        self.lowest().checked_sub(1)
    }

    /// The highest level that what was measured is good enough for.
    fn measured(self, value: u64) -> u8 {
        let enough = |bound: &u64| match self {
            Self::From(_) => true,
            Self::AtLeast(..) => value >= *bound,
            Self::AtMost(..) => value <= *bound,
        };
        match self {
            Self::From(_) => LEVEL_MOST,
            Self::AtLeast(bounds, _) | Self::AtMost(bounds, _) => {
                bounds.iter().zip(1..).take_while(|(bound, _)| enough(bound)).map(|(_, l)| l).last()
            }
            .unwrap_or(0),
        }
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, [one, two, three], unit) = match self {
            Self::From(level) => return write!(f, "from level {level}"),
            Self::AtLeast(bounds, unit) => ("least", bounds, unit),
            Self::AtMost(bounds, unit) => ("most", bounds, unit),
        };
        write!(f, "at {word} {one} {unit} for level 1, {two} for level 2, {three} for level 3")
    }
}

/// What a rule says of the facts, and what was found.
#[derive(Debug)]
enum Verdict {
    Kept(String),
    Broken(String),
    Unknown(String),
    Measured(u64, String),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is as the standard wants it.
    Pass,
    /// It is not.
    Fail,
    /// It could not be found out, which does not count as passed.
    Unknown,
}

impl Status {
    /// As people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Unknown => "unknown",
        }
    }
}

/// What came of a check.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Which.
    #[serde(flatten, serialize_with = "described")]
    pub check: &'static Check,
    /// How it ended, for the level that was asked for.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// The highest level that it allows; none when a host may not run machines with it.
    pub allows: Option<u8>,
}

/// What came of all checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The level that was asked for.
    pub asked: u8,
    /// The level that the host reaches; none when it may not run machines.
    pub level: Option<u8>,
    /// One a check, in the order of the table.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Judges the facts. Where levels want different measures, those of `asked` count for what
    /// is called passed.
    pub fn new(facts: &Facts, asked: u8) -> Self {
        let findings: Vec<_> = CHECKS.iter().map(|check| find(check, facts, asked)).collect();
        let level = findings.iter().map(|finding| finding.allows).min().flatten();
        Self { asked, level, findings }
    }

    /// Whether the host reaches the level that was asked for.
    pub fn reached(&self) -> bool {
        self.level >= Some(self.asked)
    }
}

fn find(check: &'static Check, facts: &Facts, asked: u8) -> Finding {
    let needs = check.needs;
    let (status, found, allows) = match (check.judge)(facts) {
        Verdict::Kept(found) => (Status::Pass, found, Some(LEVEL_MOST)),
        Verdict::Broken(found) => (Status::Fail, found, needs.without()),
        Verdict::Unknown(why) => (Status::Unknown, why, needs.without()),
        Verdict::Measured(value, found) => {
            let level = needs.measured(value);
            let enough = level >= asked.max(needs.lowest());
            (if enough { Status::Pass } else { Status::Fail }, found, Some(level))
        }
    };
    Finding { check, status, found, allows }
}

fn described<S: Serializer>(check: &&'static Check, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Described {
        name: &'static str,
        about: &'static str,
        wants: &'static str,
        why: &'static str,
        remedy: &'static str,
        needs: String,
    }
    let Check { name, about, wants, why, remedy, needs, .. } = **check;
    Described { name, about, wants, why, remedy, needs: needs.to_string() }.serialize(serializer)
}
