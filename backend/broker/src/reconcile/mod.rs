//! The reconciler: brings what is decided and observed towards what is desired.
//!
//! One task. Whatever changes a row puts its id into a queue; reports of hosts and the clock
//! do the same. Each pass takes from the queue, computes the next steps purely ([`step`]),
//! and commits them together. Losing the queue loses nothing: a start looks at every row.

mod batch;
mod observe;
mod place;
pub(crate) mod publish;
mod step;
#[cfg(test)]
mod step_tests;
mod tick;

use std::time::Duration;

use fairmazon_store::StoreError;
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::{batch::Batch, tick::Ticker};
use crate::core::Engine;

/// How long the reconciler waits after the store has failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// What one pass came to.
enum Pass {
    /// There was something to do, and there may be more.
    Busy,
    /// Nothing can be done before something happens.
    Idle,
}

impl Engine {
    /// Starts the reconciler; it ends soon after `shutdown`. Run one for each engine.
    pub fn start(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        let engine = self.clone();
        tokio::spawn(async move {
            let work = engine.reconcile();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        })
    }

    async fn reconcile(&self) {
        self.look_at_everything();
        let wake = self.state().dirty.wake.clone();
        let mut ticker = Ticker::default();
        let mut ticks = tokio::time::interval(self.config().tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = wake.notified() => {}
                _ = ticks.tick() => ticker.tick(self).await,
            }
            loop {
                match self.pass().await {
                    Ok(Pass::Busy) => tokio::task::yield_now().await,
                    Ok(Pass::Idle) => break,
                    Err(error) => {
                        log_failure(&error);
                        tokio::time::sleep(STORE_PAUSE).await;
                        break;
                    }
                }
            }
        }
    }

    fn look_at_everything(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.dirty.instances.extend(state.world.instances.iter().map(|row| row.id));
        state.dirty.volumes.extend(state.world.volumes.iter().map(|row| row.id));
    }

    /// Looks at a part of what is dirty.
    async fn pass(&self) -> Result<Pass, StoreError> {
        let begun = {
            let mut state = self.state();
            self.gather(&mut state)
        };
        let Some((draft, kept)) = begun else { return Ok(Pass::Idle) };
        let result = if draft.is_empty() {
            self.state().holds.release(&draft);
            Ok(())
        } else {
            self.finish(draft).await
        };
        self.end_batch(kept, result.is_err());
        match result {
            Ok(()) => Ok(Pass::Busy),
            Err(StoreError::Conflict { key, .. }) => {
                self.refresh(key).await?;
                Ok(Pass::Busy)
            }
            Err(error) => Err(error),
        }
    }

    fn end_batch(&self, kept: batch::Kept, failed: bool) {
        let mut state = self.state();
        for (host, instance) in kept.leaving {
            state.hosts.entry(host).leaving.remove(&instance);
            state.hosts.wake(host);
        }
        if failed {
            state.dirty.instances.extend(kept.instances);
            state.dirty.volumes.extend(kept.volumes);
            for (host, stream, report) in kept.reports {
                // A later report says all that this one does, and a later stream begins anew.
                if state.hosts.stream(host) == stream {
                    state.reports.entry(host).or_insert(report);
                }
            }
        }
    }

    /// Takes steps until the batch is full or nothing is left; none when there was nothing.
    fn gather(
        &self,
        state: &mut crate::core::state::State,
    ) -> Option<(crate::core::draft::Draft, batch::Kept)> {
        let mut batch = Batch::new(self, state);
        let mut looked = false;
        let mut again = Vec::new();
        while !batch.is_full()
            && let Some((host, report)) = batch.state.reports.pop_first()
        {
            looked = true;
            if batch.observe(host, &report) {
                let stream = batch.state.hosts.stream(host);
                batch.kept.reports.push((host, stream, report));
            } else {
                again.push((host, report));
            }
        }
        while !batch.is_full()
            && let Some(id) = batch.state.dirty.instances.pop_first()
        {
            batch.look_at_instance(id);
        }
        while !batch.is_full()
            && let Some(id) = batch.state.dirty.volumes.pop_first()
        {
            batch.look_at_volume(id);
        }
        looked |= !batch.kept.instances.is_empty() || !batch.kept.volumes.is_empty();
        let (draft, mut kept) = batch.into_draft();
        // What is held is looked at when its holder has ended, which rings.
        state.dirty.instances.extend(kept.held_instances.drain(..));
        state.dirty.volumes.extend(kept.held_volumes.drain(..));
        let only_held_reports = !again.is_empty() && draft.is_empty();
        for (host, report) in again {
            state.reports.entry(host).or_insert(report);
        }
        if (!looked || only_held_reports) && draft.is_empty() {
            return None;
        }
        // Every row was asked for before it was changed, under the same lock.
        let held = state.holds.acquire(&draft).is_ok();
        debug_assert!(held, "a batch changes only rows that nobody holds");
        held.then_some((draft, kept))
    }
}

fn log_failure(error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::error!(error, "unable to commit the steps of a pass");
}
