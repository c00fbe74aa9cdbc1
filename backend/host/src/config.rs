//! The agent's options, with their defaults.

use std::{sync::Arc, time::Duration};

use fairmazon_keys::HostSecret;
use fairmazon_model::id::HostId;

use crate::{metering::Metering, peers::Peers, standard::Standard, state::StateStore};

/// The agent's options.
#[derive(Clone)]
pub struct Config {
    /// Which host it is.
    pub host: HostId,
    /// Another one at each start: session name and jitter come from it.
    pub seed: u64,
    /// Where it keeps its state.
    pub state: Arc<dyn StateStore>,
    /// What the keys of volumes are sealed to; a host without it opens none.
    pub secret: Option<Arc<HostSecret>>,
    /// The way to other hosts; a host without it neither sends machines nor takes any.
    pub peers: Option<Arc<dyn Peers>>,
    /// Who signs for hosts, as PEM: keys are made only for hosts with their certificates.
    pub authorities: String,
    /// How it meters; a host without it is charged for nothing.
    pub metering: Option<Metering>,
    /// What it says of the host standard; a host without it says nothing, and gets no machines of a
    /// platform that wants proof.
    pub standard: Option<Standard>,
    /// Steps of machines that may be under way at once, and as many of volumes; stops because of a
    /// lost lease do not count, nor volumes that are made.
    pub parallel_steps: usize,
    /// Volumes that may be made at once: filled from images, copied, proven. Each may take hours.
    pub parallel_makes: usize,
    /// How long one step may take.
    pub step_deadline: Duration,
    /// The shortest time between two reports.
    pub report_every: Duration,
    /// How often it looks at everything, hints or not.
    pub look_every: Duration,
    /// How often it looks at the host's memory, while there are spot machines to take some back
    /// from.
    pub memory_every: Duration,
    /// The first pause after a failure.
    pub first_pause: Duration,
    /// The longest pause after failures.
    pub longest_pause: Duration,
    /// A machine that ends by itself sooner than this after its start waits before the next one.
    pub quick_end: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Config {
    /// The defaults for this host. `seed` has to be another one at each start.
    pub fn new(host: HostId, seed: u64, state: Arc<dyn StateStore>) -> Self {
        Self {
            host,
            seed,
            state,
            secret: None,
            peers: None,
            authorities: String::new(),
            metering: None,
            standard: None,
            parallel_steps: 8,
            parallel_makes: 4,
            step_deadline: Duration::from_secs(120),
            report_every: Duration::from_millis(50),
            look_every: Duration::from_secs(60),
            memory_every: Duration::from_secs(2),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            quick_end: Duration::from_secs(60),
        }
    }
}
