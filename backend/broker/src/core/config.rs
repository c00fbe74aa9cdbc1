//! Settings of the broker's core, with the values that a platform starts with.

use std::time::Duration;

use fairmazon_model::{conformity::UnprovenHosts, limits};

/// How the core behaves. Every duration is on tokio's clock unless its name ends in `_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreConfig {
    /// How long a host may run its machines after the sending of an answered Renew.
    pub lease_term: Duration,
    /// What is waited beyond the term before a host counts as gone: covers the drift of clocks.
    pub lease_margin: Duration,
    /// How long changes of a host's set are gathered before it is sent.
    pub publish_delay: Duration,
    /// How long a new stream may take to say Hello.
    pub hello_timeout: Duration,
    /// How often the reconciler looks by itself: lapsed leases, working hours, waiting work.
    pub tick: Duration,
    /// Most instances or volumes that one reconciler commit changes.
    pub batch: usize,
    /// How long a creation waits for a host before its operation fails (the instance stays
    /// and is placed when there is room), on the wall clock.
    pub placement_patience_ms: i64,
    /// How long a failure that a host reports may last before the operation fails, on the
    /// wall clock.
    pub failure_patience_ms: i64,
    /// Most machines that move away at the same time from a host that is being emptied.
    pub migrations_per_host: usize,
    /// By how much another host must be better before a running machine moves there of the
    /// platform's own accord, in percent of the scale of what is preferred most, which is the
    /// price; 0 is never.
    pub rebalance_percent: u8,
    /// How long a machine stays where it was placed at least before it moves for that, on the wall
    /// clock.
    pub rebalance_rest_ms: i64,
    /// How long after all machines were looked at for that they are looked at again, on the wall
    /// clock.
    pub rebalance_every_ms: i64,
    /// How long a machine may take to another host before it stays where it is, on the wall clock.
    pub migration_patience_ms: i64,
    /// How long a machine that its host has let go may be missing at the next one, while that
    /// answers, before it starts again where it was; on the wall clock.
    pub landing_patience_ms: i64,
    /// What becomes of hosts that have proven nothing of the host standard.
    pub unproven_hosts: UnprovenHosts,
    /// How long a host must have lacked a level of the host standard before machines are moved
    /// away for it, on the wall clock. It gets no new ones at once.
    pub conformity_grace_ms: i64,
    /// How long machines are moved from a host that does not conform, on the wall clock.
    pub conformity_drain_ms: i64,
    /// How long a spot machine stays off after an interruption at least, on the wall clock.
    pub spot_pause_ms: i64,
    /// How long the file of a volume that is imported may take to come, from when the volume was
    /// asked for, before the volume is deleted; on the wall clock.
    pub import_patience_ms: i64,
    /// How long a finished operation can be read, on the wall clock.
    pub operation_keep_ms: i64,
    /// How long a credential that has ended or was revoked is listed, on the wall clock. A revoked
    /// one stays longer where the same could be registered again.
    pub credential_keep_ms: i64,
    /// How long an idempotency key answers with the first result, on the wall clock.
    pub idempotency_keep_ms: i64,
    /// How long windows of usage are kept after their end, on the wall clock.
    pub usage_keep_ms: i64,
    /// How far the wall clock of a host may be off before its windows are refused.
    pub usage_skew_ms: i64,
    /// How long something may seem to be in use at two places at once, as clocks differ.
    pub usage_overlap_ms: i64,
    /// Most instances of one account.
    pub instances_per_account: u64,
    /// Most volumes of one account, boot volumes included.
    pub volumes_per_account: u64,
    /// Most placement groups of one account.
    pub groups_per_account: u64,
    /// Most hosts of one account.
    pub hosts_per_account: u64,
    /// Most valid credentials of one account; those of its hosts do not count.
    pub tokens_per_account: u64,
    /// Breaks ties of placement, the same way for the same seed.
    pub placement_seed: u64,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            lease_term: Duration::from_secs(15),
            lease_margin: Duration::from_secs(5),
            publish_delay: Duration::from_millis(50),
            hello_timeout: Duration::from_secs(10),
            tick: Duration::from_secs(1),
            batch: 1_000,
            placement_patience_ms: 30_000,
            failure_patience_ms: 60_000,
            migrations_per_host: 4,
            rebalance_percent: 10,
            rebalance_rest_ms: 24 * 60 * 60 * 1_000,
            rebalance_every_ms: 10 * 60 * 1_000,
            migration_patience_ms: 30 * 60 * 1_000,
            landing_patience_ms: 60 * 1_000,
            unproven_hosts: UnprovenHosts::NoWork,
            conformity_grace_ms: 15 * 60 * 1_000,
            conformity_drain_ms: 24 * 60 * 60 * 1_000,
            spot_pause_ms: 60_000,
            import_patience_ms: 7 * 24 * 60 * 60 * 1_000,
            operation_keep_ms: 60 * 60 * 1_000,
            credential_keep_ms: 7 * 24 * 60 * 60 * 1_000,
            idempotency_keep_ms: limits::IDEMPOTENCY_KEEP_MS,
            usage_keep_ms: 400 * 24 * 60 * 60 * 1_000,
            usage_skew_ms: 60_000,
            usage_overlap_ms: 5_000,
            instances_per_account: limits::INSTANCES_PER_ACCOUNT,
            volumes_per_account: limits::VOLUMES_PER_ACCOUNT,
            groups_per_account: limits::PLACEMENT_GROUPS_PER_ACCOUNT,
            hosts_per_account: limits::HOSTS_PER_ACCOUNT,
            tokens_per_account: limits::TOKENS_PER_ACCOUNT,
            placement_seed: 0,
        }
    }
}

impl CoreConfig {
    /// How often a host shall renew: a third of the term.
    pub fn renew_every(&self) -> Duration {
        self.lease_term / 3
    }
}
