//! A few threads for libvirt's blocking calls, per host: never the async runtime's.
//!
//! A call that hangs keeps its thread; the others go on, and calls that find none in time fail
//! with a timeout. Dropping the last handle ends the threads once their calls are done.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use fairmazon_hypervisor::{HypervisorError, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Handle of the threads.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    jobs: mpsc::Sender<Job>,
    deadline: Duration,
}

impl Threads {
    /// Starts them.
    pub(crate) fn start(count: usize, deadline: Duration) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name("libvirt".into()).spawn(move || {
                loop {
                    let job = queue.lock().recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            })?;
        }
        Ok(Self { jobs, deadline })
    }

    /// Does something on one of the threads that nobody waits for.
    pub(crate) fn later(&self, job: impl FnOnce() + Send + 'static) {
        // Without threads there is nothing left that it could be done with.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does the call on one of the threads.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        attempted: &str,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            // Whoever asked has given up and may have asked for something else since: a late
            // start must not come after a stop.
            if answer.is_closed() {
                return;
            }
            // Who gives up from here on is told what became of it by the next look.
            let _ = answer.send(call());
        });
        let gone = || HypervisorError::Driver {
            attempted: attempted.into(),
            source: "its threads have ended".into(),
        };
        self.jobs.send(job).map_err(|_| gone())?;
        match tokio::time::timeout(self.deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(HypervisorError::late(attempted, self.deadline)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who waits for what hangs gives up after it; what does not hang is done by then, on a busy
    /// machine too.
    const SHORT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_call_that_hangs_holds_up_no_other_and_times_out() {
        let threads = Threads::start(2, SHORT).unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let hung = threads.call("hang", move || {
            let _ = hang.recv();
            Ok(())
        });
        let (hung, quick) = tokio::join!(hung, threads.call("add", || Ok(1 + 1)));
        assert!(matches!(hung, Err(HypervisorError::Timeout { .. })), "{hung:?}");
        assert_eq!(quick.unwrap(), 2);
        drop(release);
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_any_more_is_not_done() {
        let threads = Threads::start(1, SHORT).unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let (late, was_late) = mpsc::channel();
        let hung = threads.call("hang", move || {
            let _ = hang.recv();
            Ok(())
        });
        let queued = threads.call("start", move || {
            let _ = late.send(());
            Ok(())
        });
        let (hung, queued) = tokio::join!(hung, queued);
        assert!(hung.is_err() && queued.is_err());
        drop(release);
        threads.call("look", || Ok(())).await.unwrap();
        assert!(was_late.recv().is_err(), "it was dropped and not called");
    }

    #[tokio::test]
    async fn a_call_that_panics_fails_and_the_host_goes_on() {
        let threads = Threads::start(2, Duration::from_secs(30)).unwrap();
        let failed: Result<()> = threads.call("panic", || panic!("on purpose")).await;
        assert!(matches!(failed, Err(HypervisorError::Driver { .. })), "{failed:?}");
        assert_eq!(threads.call("add", || Ok(1 + 1)).await.unwrap(), 2);
    }
}
