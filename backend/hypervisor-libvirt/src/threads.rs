//! A few threads for libvirt's blocking calls, per host: never the async runtime's.
//!
//! A call that hangs keeps its thread; the others go on, and calls that find none in time fail
//! with a timeout. One that panics fails, and its thread goes on. Dropping the last handle ends the threads once their calls are done.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
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
        let job = move || {
            // Nobody waits for how it went: a panic is logged.
            let _ = caught("do what nobody waits for", || {
                job();
                Ok(())
            });
        };
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
        let doing = attempted.to_owned();
        let job = Box::new(move || {
            // Whoever asked has given up and may have asked for something else since: a late
            // start must not come after a stop.
            if answer.is_closed() {
                return;
            }
            // Who gives up from here on is told what became of it by the next look.
            let _ = answer.send(caught(&doing, call));
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

/// Does the call; a panic is an error of it. What it has locked is unlocked then.
fn caught<T>(attempted: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = said(&*panic);
        tracing::error!(attempted, said, "a call has panicked, which is an error of the driver");
        let source = format!("the driver has panicked: {said}").into();
        Err(HypervisorError::Driver { attempted: attempted.into(), source })
    })
}

/// What a panic has said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("nothing")
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
        let threads = Threads::start(1, Duration::from_secs(30)).unwrap();
        for number in 1..=3 {
            threads.later(|| panic!("where nobody waits"));
            let panics = threads.call("panic", move || panic!("on purpose, {number}"));
            let failed: Result<()> = panics.await;
            let Err(HypervisorError::Driver { attempted, source }) = failed else {
                panic!("{failed:?}");
            };
            assert_eq!(attempted, "panic");
            assert!(source.to_string().contains(&format!("on purpose, {number}")), "{source}");
            assert_eq!(threads.call("add", || Ok(1 + 1)).await.unwrap(), 2);
        }
    }
}
