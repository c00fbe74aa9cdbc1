//! The calls of a QEMU host to libvirt, in lanes of their own: a QEMU that hangs has the call that
//! speaks to it hang, and with it whoever needs the same thread, connection or lock. So what speaks to
//! a QEMU that runs waits for nobody but those who change the same machine, and what ends a machine
//! waits for nobody.

use std::{io, sync::Arc, time::Duration};

use fairmazon_hypervisor::{HypervisorError, Result, within};
use fairmazon_model::id::InstanceId;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::{
    host::{Inner, QemuHost},
    live::NotStarted,
    session::Session,
    tool,
};
use crate::threads::Threads;

/// Calls under way at once that speak to no QEMU that runs.
const MAIN: usize = 4;
/// Calls under way at once that speak to one, each to another machine's: so many may hang before
/// nothing of running machines changes any more. libvirt's daemon does 20 at once for everybody.
const TALKING: usize = 8;
/// Machines that are ended at once: of a QEMU that hangs it takes some ten seconds.
const FENCING: usize = 4;
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a QEMU may take to answer what can be done without.
pub(super) const ANSWERS: Duration = Duration::from_secs(5);
/// Between two times that a guest is asked the same. QEMU refuses to ask again within one second.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(1_500);

/// The threads.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    pub(super) main: Threads,
    talking: Threads,
    /// Of each call that speaks to a QEMU, so that none waits for a thread: it would keep its machine
    /// to itself also when nobody waits for it any more.
    free: Arc<Semaphore>,
    fencing: Threads,
}

impl Lanes {
    pub(super) fn start() -> io::Result<Self> {
        let start = |count| Threads::start(count, DEADLINE);
        let free = Arc::new(Semaphore::new(TALKING));
        Ok(Self { main: start(MAIN)?, talking: start(TALKING)?, free, fencing: start(FENCING)? })
    }
}

impl QemuHost {
    /// Does what speaks to no QEMU that runs.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        attempted: &str,
        call: impl FnOnce(&Inner, &Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let call = move || {
            let session = inner.sessions.get()?;
            call(&inner, &session)
        };
        self.lanes.main.call(attempted, call).await
    }

    /// As [`call`](Self::call), alone among those that change this machine. It stays alone to its
    /// end when nobody waits for it any more.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        attempted: &str,
        instance: InstanceId,
        call: impl FnOnce(&Inner, &Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = self.alone(attempted, instance).await?;
        let call = move |inner: &Inner, session: &Session| {
            let _alone = alone;
            call(inner, session)
        };
        self.call(attempted, call).await
    }

    /// As [`change`](Self::change), for what speaks to the machine's QEMU, which may hang. Nothing
    /// of other machines waits for that.
    pub(super) async fn talk<T: Send + 'static>(
        &self,
        attempted: &str,
        instance: InstanceId,
        call: impl FnOnce(&Inner, &Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = self.alone(attempted, instance).await?;
        let free = within(DEADLINE, attempted, self.thread(attempted)).await?;
        let inner = Arc::clone(&self.inner);
        let call = move || {
            let _until_its_end = (alone, free);
            inner.sessions.alone(|session| call(&inner, session))
        };
        self.lanes.talking.call(attempted, call).await
    }

    async fn thread(&self, attempted: &str) -> Result<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.lanes.free).acquire_owned().await;
        free.map_err(|error| HypervisorError::Driver {
            attempted: attempted.into(),
            source: error.into(),
        })
    }

    /// Ends something, whatever the others are at.
    pub(super) async fn fence(
        &self,
        attempted: &str,
        end: impl FnOnce(&Session) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.lanes.fencing.call(attempted, move || inner.sessions.alone(end)).await
    }

    async fn alone(&self, attempted: &str, instance: InstanceId) -> Result<OwnedMutexGuard<()>> {
        within(DEADLINE, attempted, async { Ok(self.inner.changing.lock(instance).await) }).await
    }

    /// What has become of a call that opens volumes: one that its key does not open is named.
    pub(super) async fn opened(&self, outcome: std::result::Result<(), NotStarted>) -> Result<()> {
        let Err(NotStarted { error, opened }) = outcome else { return Ok(()) };
        for (volume, path) in opened {
            let key = self.inner.keys.get(volume)?;
            let opens = tool::opens(&path, volume, &key).await;
            if let Err(
                closed @ (HypervisorError::KeyWrong { .. } | HypervisorError::Damaged { .. }),
            ) = opens
            {
                return Err(closed);
            }
        }
        Err(error)
    }

    /// The run that a machine is in, none when it is off.
    pub(super) async fn run_of(&self, instance: InstanceId) -> Result<Option<u32>> {
        self.call("look at a machine", move |_, session| {
            Ok(session.domains.expect(instance)?.0.id())
        })
        .await
    }

    /// Presses the power button once. Where QEMU does not answer in time it has been pressed as far
    /// as that goes: what follows is the end by force.
    pub(super) async fn press(&self, instance: InstanceId) -> Result<()> {
        let attempted = "ask a machine to shut down";
        let press =
            self.talk(attempted, instance, move |_, session| session.domains.ask_to_stop(instance));
        match within(ANSWERS, attempted, press).await {
            Err(error @ HypervisorError::Timeout { .. }) => {
                tracing::warn!(%instance, %error, "a machine does not hear its power button");
                Ok(())
            }
            other => other,
        }
    }

    /// Presses the power button again until the run has ended: a guest that still boots does not
    /// see it.
    pub(super) async fn keep_pressing(self, instance: InstanceId, run: u32) {
        // Not the host itself: whoever drops it does not wait for this.
        let Self { inner, lanes, hints } = self;
        let weak = Arc::downgrade(&inner);
        drop(inner);
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let Some(inner) = weak.upgrade() else { return };
            let host = Self { inner, lanes: lanes.clone(), hints: hints.clone() };
            match host.run_of(instance).await {
                Ok(now) if now == Some(run) => {
                    if let Err(error) = host.press(instance).await {
                        tracing::debug!(%instance, %error, "the power button was not pressed");
                    }
                }
                Ok(_) | Err(HypervisorError::NotFound { .. }) => {
                    host.inner.asking.lock().remove(&(instance, run));
                    return;
                }
                Err(error) => tracing::debug!(%instance, %error, "unable to see whether it runs"),
            }
        }
    }
}
