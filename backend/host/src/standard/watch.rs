//! Looks at the host standard again and again beside the agent, and says what is proven.
//!
//! What takes long or strains the host (guests that boot, volumes that are made, disks that are
//! measured) is found out seldom, the rest at each look. Nothing of it runs in the agent's task.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_model::{
    conformity::{FailedCheck, Proof},
    id::HostId,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Facts, Finding, LEVEL_MOST, Report, Status};

/// Checks whose facts are used again between thorough looks.
const THOROUGH: [&str; 10] = [
    "guest-boots",
    "hardware-virtualisation",
    "qemu-version",
    "libvirt-version",
    "libvirt-answers",
    "qemu-user",
    "volumes-encrypted",
    "disk-throughput",
    "disk-sync",
    "broker-round-trip",
];

/// Finds the facts of a host.
#[async_trait]
pub trait Prover: Send + Sync + 'static {
    /// Finds the facts; with those of an earlier look, what takes long is taken from there. Never
    /// blocks the thread that it is called on.
    ///
    /// # Errors
    /// Why it could not be looked, which says nothing of the host.
    async fn facts(&self, before: Option<&Facts>) -> Result<Facts, String>;
}

/// What an agent says of the host standard.
#[derive(Clone)]
pub enum Standard {
    /// That nothing is proven, and why.
    Unproven(String),
    /// What it finds.
    Proven(Looks),
}

/// How the standard is looked at.
#[derive(Clone)]
pub struct Looks {
    /// Finds the facts.
    pub prover: Arc<dyn Prover>,
    /// The time between two looks.
    pub every: Duration,
    /// The time between two thorough ones. One that came out worse than another before it is
    /// followed by a thorough one.
    pub thorough_every: Duration,
}

impl Looks {
    /// Every five minutes, thoroughly every six hours.
    pub fn with(prover: Arc<dyn Prover>) -> Self {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        Self { prover, every: minutes(5), thorough_every: minutes(6 * 60) }
    }
}

impl Standard {
    /// Says what is proven, each time that it is another thing, until `shutdown`.
    pub(crate) async fn watch(
        self,
        host: HostId,
        tell: watch::Sender<Option<Proof>>,
        shutdown: CancellationToken,
    ) {
        match self {
            Self::Unproven(why) => {
                tell.send_replace(Some(Proof::Unproven { why }));
            }
            Self::Proven(looks) => {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = looks.run(host, &tell) => {}
                }
            }
        }
    }
}

impl Looks {
    async fn run(self, host: HostId, tell: &watch::Sender<Option<Proof>>) {
        let (mut before, mut thorough_at) = (None::<Facts>, Instant::now());
        let (mut best, mut round_trip) = (None, None);
        loop {
            let reuse = before.as_ref().filter(|_| thorough_at.elapsed() < self.thorough_every);
            let is_thorough = reuse.is_none();
            match self.prover.facts(reuse).await {
                Ok(mut facts) => {
                    // A broker that does not answer now says nothing of the way to it.
                    round_trip = facts.round_trip.as_ref().ok().copied().or(round_trip);
                    facts.round_trip = round_trip.map_or(facts.round_trip, Ok);
                    let report = Report::new(&facts, LEVEL_MOST);
                    let reached = thorough_level(&report);
                    best = best.max(reached);
                    if is_thorough {
                        thorough_at = Instant::now();
                    }
                    // What was worse than before may have been the load of a moment.
                    let doubtful = reached.is_none() || reached < best || is_unknown(&report);
                    before = (!doubtful).then_some(facts);
                    say(host, tell, Proof::from(&report));
                }
                Err(why) => tracing::error!(
                    %host, why, "the host standard could not be looked at; it is tried again"
                ),
            }
            tokio::time::sleep(self.every).await;
        }
    }
}

/// What only thorough looks find out.
fn thorough(report: &Report) -> impl Iterator<Item = &Finding> {
    report.findings.iter().filter(|found| THOROUGH.contains(&found.check.name))
}

/// What that allows.
fn thorough_level(report: &Report) -> Option<u8> {
    thorough(report).map(|found| found.allows).min().flatten()
}

fn is_unknown(report: &Report) -> bool {
    thorough(report).any(|found| found.status == Status::Unknown)
}

fn say(host: HostId, tell: &watch::Sender<Option<Proof>>, proof: Proof) {
    tell.send_if_modified(|said| {
        if said.as_ref() == Some(&proof) {
            return false;
        }
        if let Proof::Proven { level, failed } = &proof {
            let named = |failed: &FailedCheck| failed.check.clone();
            let failed = failed.iter().map(named).collect::<Vec<_>>().join(", ");
            match level {
                Some(level) => tracing::info!(%host, level, failed, "host standard"),
                None => tracing::error!(
                    %host, failed,
                    "the host does not conform to the host standard: it gets no new machines, and \
                     is emptied if that lasts; `fairmazon host check` says what to do"
                ),
            }
        }
        *said = Some(proof);
        true
    });
}

impl From<&Report> for Proof {
    fn from(report: &Report) -> Self {
        let keeps = report.findings.iter().filter(|found| found.allows < Some(LEVEL_MOST));
        let failed = keeps.map(|found| FailedCheck {
            check: found.check.name.into(),
            allows: found.allows,
            remedy: found.check.remedy.into(),
        });
        Self::Proven { level: report.level, failed: failed.collect() }
    }
}
