//! What only time brings about: lapsed leases, working hours, patience that ends, and rows
//! and keys that are old enough to be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use fairmazon_model::{
    access::Credential,
    host::Host,
    id::{HostId, InstanceId, VolumeId},
    instance::Instance,
    units::{Revision, UnixMs},
    volume::Volume,
};
use fairmazon_store::StoreError;
use tokio::time::Instant;

use crate::core::{Engine, Standing, audit, draft::Draft, state::State, view::wants_to_run};

/// Most rows or keys forgotten at one tick.
const FORGET_MAX: usize = 2_000;
/// How often that many expired keys are forgotten in a minute.
const KEY_ROUNDS: usize = 100;
/// Unplaced instances tried at a tick without new room: something may have been missed.
const UNPLACED_TRIED: usize = 100;
/// Instances that are to be on another host tried at a tick.
const DISPLACED_TRIED: usize = 16;
/// Instances that are asked at a tick whether another host is better.
const ASKED_AT_ONCE: usize = 64;
/// Instances, and volumes, of each host that is being emptied that are looked at at a tick.
const DRAINED_AT_ONCE: usize = 16;
/// Deletions that are kept for those who follow the changes.
const DELETIONS_KEPT: u64 = 200_000;
/// Milliseconds of a minute, the resolution of working hours.
const MINUTE_MS: i64 = 60_000;

/// What was so at the tick before.
#[derive(Default)]
pub(super) struct Ticker {
    standings: HashMap<HostId, Standing>,
    running: BTreeMap<InstanceId, bool>,
    minute: i64,
    last_unplaced: Option<InstanceId>,
    last_displaced: Option<InstanceId>,
    /// The last one that was asked whether another host is better; none between two rounds.
    last_asked: Option<InstanceId>,
    /// When the next round begins.
    next_round: Option<UnixMs>,
    /// By host that machines leave: the last of its instances that was looked at.
    drained: HashMap<HostId, InstanceId>,
    /// By host that is being emptied: the last of its volumes without a machine that was looked at.
    drained_volumes: HashMap<HostId, VolumeId>,
    /// Hosts with machines that ask for a higher level of the host standard than they prove.
    lacking: Vec<HostId>,
}

impl Ticker {
    /// Looks at the clock.
    pub(super) async fn tick(&mut self, engine: &Engine) {
        let now = engine.now();
        self.follow_leases(engine);
        let minute = now.0.div_euclid(MINUTE_MS);
        if minute != self.minute {
            self.minute = minute;
            self.follow_hours(engine, now);
            self.follow_levels(engine, now);
            self.forget_keys(engine, now).await;
            if let Err(error) = engine.forget_usage(now).await {
                log_failure(&error);
            }
        }
        self.retry(engine);
        self.drain(engine, now);
        self.rebalance(engine, now);
        self.forget_operations(engine, now).await;
        self.forget_credentials(engine, now).await;
    }

    fn follow_leases(&mut self, engine: &Engine) {
        let mut guard = engine.state();
        let state = &mut *guard;
        let now = Instant::now();
        for host in state.hosts.lapsed_streams(now) {
            if let Some(session) = &state.hosts.entry(host).session {
                session.end.cancel();
            }
        }
        let hosts: Vec<_> = state.world.hosts.iter().map(|row| row.id).collect();
        self.standings.retain(|host, _| state.world.hosts.get(*host).is_some());
        for host in hosts {
            let standing = state.hosts.standing(host, now);
            if self.standings.insert(host, standing) == Some(standing) {
                continue;
            }
            state.books.set_alive(host, standing == Standing::Connected);
            state.look_at_all_bound_to(host);
            if standing == Standing::Connected {
                state.room();
            }
        }
    }

    fn follow_hours(&mut self, engine: &Engine, now: UnixMs) {
        let mut guard = engine.state();
        let state = &mut *guard;
        let running: BTreeMap<_, _> =
            state.world.scheduled().map(|row| (row.id, wants_to_run(row, now))).collect();
        for (id, runs) in &running {
            if self.running.get(id) == Some(runs) {
                continue;
            }
            state.dirty.instances.insert(*id);
            let row = state.world.instances.get(*id);
            if let Some(decision) = row.and_then(|row| row.decision.as_ref()) {
                state.hosts.wake(decision.host);
            }
        }
        self.running = running;
    }

    /// Finds the hosts that machines leave for the level that they ask for. Not at each tick, as
    /// all machines of hosts that lack a level are gone through.
    fn follow_levels(&mut self, engine: &Engine, now: UnixMs) {
        let state = engine.state();
        let grace_ms = engine.config().conformity_grace_ms;
        let lacks = |host: &&Arc<Host>| {
            let known = host.conformity.as_ref();
            known.is_some_and(|known| !known.lacks.is_empty())
                && state
                    .world
                    .instances_on(host.id)
                    .any(|row| state.lacks_level(host, row.id, grace_ms, now))
        };
        self.lacking = state.world.hosts.iter().filter(lacks).map(|host| host.id).collect();
    }

    /// Puts those that wait for time or room back into the queue.
    fn retry(&mut self, engine: &Engine) {
        let mut guard = engine.state();
        let dirty = &mut guard.dirty;
        dirty.instances.extend(dirty.waiting.iter().copied());
        dirty.volumes.extend(dirty.waiting_volumes.iter().copied());
        let most = if dirty.room { engine.config().batch } else { UNPLACED_TRIED };
        dirty.instances.extend(next_of(&dirty.unplaced, &mut self.last_unplaced, most));
        if self.last_unplaced.is_none() {
            dirty.room = false;
        }
        let next = next_of(&dirty.displaced, &mut self.last_displaced, DISPLACED_TRIED);
        dirty.instances.extend(next);
    }

    /// Has the next machines of hosts that are being emptied looked at, all of them in turn, and
    /// those that ask for a higher level than their host proves. Hosts that fail are emptied when
    /// that has lasted.
    fn drain(&mut self, engine: &Engine, now: UnixMs) {
        let mut guard = engine.state();
        let state = &mut *guard;
        let is_draining =
            |host: &&Arc<Host>| host.draining.is_some_and(|draining| draining.deadline > now);
        let failing = |host: &&Arc<Host>| {
            host.draining.is_none_or(|draining| draining.leaves_it_to_the_platform(now))
                && host.conformity.as_ref().is_some_and(|known| known.fails())
        };
        let failing: Vec<_> =
            state.world.hosts.iter().filter(failing).map(|host| host.id).collect();
        state.dirty.hosts.extend(failing);
        let mut hosts: BTreeSet<_> =
            state.world.hosts.iter().filter(is_draining).map(|host| host.id).collect();
        self.drained_volumes.retain(|host, _| hosts.contains(host));
        for host in &hosts {
            let is_without = |row: &&Arc<Volume>| {
                let machine = row.attached_to.and_then(|id| state.world.instances.get(id));
                machine.is_none_or(|row| row.decision.is_none())
                    && state.world.moves_with(row.id).is_none()
            };
            let rows = || state.world.volumes_on(*host).filter(is_without).map(|row| row.id);
            let next = take_turns(rows, *host, &mut self.drained_volumes);
            state.dirty.volumes.extend(next);
        }
        hosts.extend(&self.lacking);
        self.drained.retain(|host, _| hosts.contains(host));
        for host in hosts {
            let rows = || state.world.instances_on(host).filter(|row| row.migration.is_none());
            let next = take_turns(|| rows().map(|row| row.id), host, &mut self.drained);
            state.dirty.instances.extend(next);
        }
    }

    /// Has the next instances asked whether another host is better for them. Those that were placed
    /// not long ago are left alone.
    fn rebalance(&mut self, engine: &Engine, now: UnixMs) {
        let config = engine.config();
        let later = UnixMs(now.0.saturating_add(config.rebalance_every_ms));
        let begins = *self.next_round.get_or_insert(later);
        if config.rebalance_percent == 0 || self.last_asked.is_none() && now < begins {
            return;
        }
        let mut guard = engine.state();
        let state = &mut *guard;
        let (rows, more) =
            state.world.instances.page(None, self.last_asked, ASKED_AT_ONCE, |_| true);
        self.last_asked = rows.last().map(|row| row.id).filter(|_| more);
        self.next_round = Some(later);
        let since = UnixMs(now.0.saturating_sub(config.rebalance_rest_ms));
        let rests = |row: &&Arc<Instance>| {
            row.migration.is_some() || row.decision.as_ref().is_none_or(|made| made.at > since)
        };
        for row in rows.iter().filter(|row| !rests(row)) {
            state.dirty.restless.insert(row.id);
            state.dirty.instances.insert(row.id);
        }
    }

    async fn forget_operations(&self, engine: &Engine, now: UnixMs) {
        let end = UnixMs(now.0.saturating_sub(engine.config().operation_keep_ms));
        let old = |state: &State, draft: &mut Draft| {
            for (_, id) in state.world.finished_before(end).take(FORGET_MAX) {
                if let Some(row) = state.world.operations.get(id) {
                    draft.delete(id, row.revision);
                }
            }
        };
        forget(engine, old).await;
    }

    async fn forget_credentials(&self, engine: &Engine, now: UnixMs) {
        let end = UnixMs(now.0.saturating_sub(engine.config().credential_keep_ms));
        let old = |state: &State, draft: &mut Draft| {
            for row in state.world.useless_before(end).take(FORGET_MAX) {
                let after = None::<&Credential>;
                let before = Some(row.as_ref());
                draft.audit(audit::own_entry(now, "broker.remove_token", &row.id, before, after));
                draft.delete(row.id, row.revision);
            }
        };
        forget(engine, old).await;
    }

    async fn forget_keys(&self, engine: &Engine, now: UnixMs) {
        let limit = u32::try_from(FORGET_MAX).unwrap_or(u32::MAX);
        let revision = engine.state().world.revision.0.saturating_sub(DELETIONS_KEPT);
        let forget = async {
            for _ in 0..KEY_ROUNDS {
                if engine.store().expire_idempotency(now, limit).await? < u64::from(limit) {
                    break;
                }
            }
            engine.store().forget_deletions(Revision(revision)).await
        };
        if let Err(error) = forget.await {
            log_failure(&error);
        }
    }
}

/// The next ones of a host that is being emptied, all of them in turn: those after the last that was
/// looked at, by ascending id.
fn take_turns<Id: Copy + Ord, Rows: Iterator<Item = Id>>(
    rows: impl Fn() -> Rows,
    host: HostId,
    last: &mut HashMap<HostId, Id>,
) -> Vec<Id> {
    let after = last.get(&host).copied();
    let is_next = |id: &Id| after.is_none_or(|after| *id > after);
    let mut next: Vec<_> = rows().filter(is_next).take(DRAINED_AT_ONCE).collect();
    if next.is_empty() {
        next = rows().take(DRAINED_AT_ONCE).collect();
    }
    if let Some(id) = next.last() {
        last.insert(host, *id);
    }
    next
}

/// The next ones after `last`, so that all have their turn. Afterwards `last` is the last of them;
/// none when they were the last of all.
fn next_of(
    all: &BTreeSet<InstanceId>,
    last: &mut Option<InstanceId>,
    most: usize,
) -> Vec<InstanceId> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let next: Vec<_> = all.range((after, Bound::Unbounded)).take(most).copied().collect();
    *last = if next.len() < most { None } else { next.last().copied() };
    next
}

/// Deletes the rows that `old` puts into the draft. Where somebody holds one of them it is done at
/// a later tick.
async fn forget(engine: &Engine, old: impl FnOnce(&State, &mut Draft)) {
    let draft = {
        let mut state = engine.state();
        let mut draft = Draft::default();
        old(&state, &mut draft);
        if draft.is_empty() || state.holds.acquire(&draft).is_err() {
            return;
        }
        draft
    };
    if let Err(error) = engine.finish(draft).await {
        log_failure(&error);
    }
}

fn log_failure(error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "unable to forget what is old; it is tried again");
}
