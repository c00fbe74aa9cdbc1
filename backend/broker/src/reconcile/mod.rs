//! The reconciler: brings what is decided and observed towards what is desired.
//!
//! One task. Whatever changes a row puts its id into a queue; reports of hosts and the clock
//! do the same. Each pass takes from the queue, computes the next steps purely ([`step`]),
//! and commits them together. Losing the queue loses nothing: a start looks at every row.

mod batch;
mod gather;
mod interrupt;
mod interrupting;
mod keys;
mod migrate;
mod moving;
#[cfg(test)]
mod moving_tests;
mod observe;
mod place;
pub(crate) mod publish;
mod restored;
mod standard;
pub(crate) mod step;
#[cfg(test)]
mod step_tests;
mod tick;

use std::{panic::AssertUnwindSafe, time::Duration};

use fairmazon_model::units::Generation;
use fairmazon_store::{Key, StoreError};
use futures::FutureExt;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{batch::Batch, tick::Ticker};
use crate::core::Engine;

/// How long the reconciler waits after the store has failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// Half of how long the reconciler waits after a first panic.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long it waits at most after one of many, and works to be taken for sound again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What one pass came to.
enum Pass {
    /// There was something to do, and there may be more.
    Busy,
    /// Nothing can be done before something happens.
    Idle,
}

impl Engine {
    /// Starts the reconciler; it ends soon after `shutdown`. Run one for each engine.
    ///
    /// After a panic it is logged and starts anew, so that what it tripped over holds up nothing
    /// else for long.
    pub fn start(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        let engine = self.clone();
        tokio::spawn(async move {
            let work = supervise("the reconciler", |starts| {
                let engine = engine.clone();
                async move {
                    if starts > 0 {
                        engine.clear_up();
                    }
                    engine.reconcile().await;
                }
            });
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        })
    }

    /// Puts right what a panic may have left half done: claims without a draft, and reports
    /// that were taken and not committed, which hosts make again on a new stream.
    fn clear_up(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let instances = state.world.instances.iter().map(|row| Key::Instance(row.id));
        let volumes = state.world.volumes.iter().map(|row| Key::Volume(row.id));
        let free = |key: &Key| state.holds.may_change(*key);
        let keys: Vec<_> = instances.chain(volumes).filter(free).collect();
        state.settle(keys.into_iter());
        state.hosts.begin_anew();
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
        // First, so that nothing is placed on a host that is known not to conform.
        self.follow_standard().await?;
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
        let taken = kept.reports.iter().filter(|(.., report)| report.generation > Generation(0));
        let first: Vec<_> = taken.map(|(host, ..)| *host).collect();
        for host in first.into_iter().filter(|_| !failed) {
            if !std::mem::replace(&mut state.hosts.entry(host).is_known, true) {
                state.hosts.wake_strays();
            }
        }
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
        let (draft, mut kept) = batch.into_draft();
        // One whose volumes or host others hold was only looked at in vain.
        kept.instances.retain(|id| !kept.held_instances.contains(id));
        kept.volumes.retain(|id| !kept.held_volumes.contains(id));
        looked |= !kept.instances.is_empty() || !kept.volumes.is_empty();
        // What is held is looked at when its holder has ended, which rings.
        state.dirty.instances.append(&mut kept.held_instances);
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

/// Does the work, which does not end by itself, and again after each panic. The work is told how
/// often it was started before.
async fn supervise<F: Future<Output = ()>>(what: &str, mut work: impl FnMut(u64) -> F) {
    let mut pause = FIRST_PAUSE;
    for starts in 0.. {
        let begun = Instant::now();
        let Err(panic) = AssertUnwindSafe(work(starts)).catch_unwind().await else { return };
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        pause = if begun.elapsed() > LONGEST_PAUSE {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        tracing::error!(
            panic = text.unwrap_or("without a text"),
            pause_ms = pause.as_millis(),
            "{what} has panicked, which is a fault of the platform; it starts anew"
        );
        tokio::time::sleep(pause).await;
    }
}

fn log_failure(error: &StoreError) {
    let error = error as &dyn std::error::Error;
    tracing::error!(error, "unable to commit the steps of a pass");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_begins_again_after_growing_pauses() {
        let panics = AtomicU64::new(0);
        let begun = Instant::now();
        supervise("the work", |starts| {
            let panics = &panics;
            async move {
                assert_eq!(panics.fetch_add(1, Ordering::Relaxed), starts);
                assert!(starts == 12, "on purpose");
            }
        })
        .await;
        assert_eq!(panics.load(Ordering::Relaxed), 13);
        assert!(begun.elapsed() > 4 * LONGEST_PAUSE && begun.elapsed() < 8 * LONGEST_PAUSE);
    }
}
