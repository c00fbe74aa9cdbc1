//! The agents in guests (qemu-guest-agent): asked at times for what only the guest knows, and to
//! hold its file systems still for the beginning of a copy.
//!
//! They are asked over a connection and by threads of their own. libvirt does few calls of one
//! connection at once, and a guest may let each wait for its time, so nothing else is behind them;
//! who does is asked ever less.

mod talk;

use std::{
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{Hint, RunState};
use fairmazon_model::id::InstanceId;
use tokio::sync::{broadcast, oneshot};
use ulid::Ulid;
use virt::{domain::Domain, error::Error};
use virt_sys as sys;

use super::{host::QemuHost, line::Line};
use crate::{
    domains::Domains,
    guests::{Guests, Hold, Outcome, Question},
    threads::Threads,
    xml::mac_of,
};

/// Guests that are asked at once, and guests that are held still or let go on at once: those wait
/// for no guest that lets a question wait for its time. libvirt's daemon does five calls of a
/// connection at a time.
const ASKING: usize = 3;
const HOLDING: usize = 2;
/// How long it may take to hold a guest still: what a command may take, twice.
const DEADLINE: Duration = Duration::from_secs(12);
/// Between two looks at who is to be asked.
const LOOK: Duration = Duration::from_millis(500);
/// Between two tries to have a guest that is asked something now.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long a guest is held still at most: a copy begins in less, or is made of what it is then.
const STILL: Duration = Duration::from_secs(5);

/// Who asks the agents of a host's guests.
#[derive(Debug)]
pub(super) struct Agents {
    line: Line,
    guests: Arc<Guests>,
    hints: broadcast::Sender<Hint>,
    asking: Threads,
    holding: Threads,
}

impl Agents {
    /// Begins to ask, until the last handle is dropped.
    pub(super) fn start(
        uri: String,
        domain_type: &'static str,
        guests: Arc<Guests>,
        hints: broadcast::Sender<Hint>,
    ) -> std::io::Result<Arc<Self>> {
        let asking = Threads::start(ASKING, DEADLINE)?;
        let holding = Threads::start(HOLDING, DEADLINE)?;
        let line = Line::new(uri, domain_type);
        let agents = Arc::new(Self { line, guests, hints, asking, holding });
        let weak = Arc::downgrade(&agents);
        thread::Builder::new().name("guest-agents".into()).spawn(move || look(&weak))?;
        Ok(agents)
    }

    /// Asks whoever is to be asked now.
    fn ask(&self) -> Result<(), Error> {
        let domains = self.line.domains()?;
        let mut running = Vec::new();
        let listed = domains.connection.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)?;
        for domain in &listed {
            if let (Ok(uuid), Some(run)) = (domain.uuid(), domain.id()) {
                running.push((InstanceId::from_ulid(Ulid::from_bytes(uuid.into_bytes())), run));
            }
        }
        for question in self.guests.due(&running, Instant::now()) {
            let (domains, guests) = (Arc::clone(&domains), Arc::clone(&self.guests));
            let hints = self.hints.clone();
            self.asking.later(move || {
                let outcome = ask_one(&domains, question);
                if guests.note(question, outcome, Instant::now()) {
                    // Nobody listening is no failure: a listener that comes later looks first.
                    let _ = hints.send(Hint::Machine(question.instance));
                }
            });
        }
        Ok(())
    }
}

fn look(agents: &Weak<Agents>) {
    while let Some(asking) = agents.upgrade() {
        if let Err(error) = asking.ask() {
            tracing::debug!(%error, "unable to see which guests there are to ask");
        }
        drop(asking);
        thread::sleep(LOOK);
    }
}

fn ask_one(domains: &Domains, question: Question) -> Outcome {
    // What is not a machine of the platform's is not spoken to, nor what has not all come yet.
    match domains.expect(question.instance) {
        Ok((domain, machine))
            if machine.run == RunState::Running && domain.id() == Some(question.run) =>
        {
            let definition = &machine.definition;
            talk::ask(
                &domain,
                question,
                (definition.vcpus, definition.memory),
                &mac_of(question.instance),
            )
        }
        _ => Outcome::Silent,
    }
}

/// A guest whose file systems are held still, until this is dropped or the time is up.
#[derive(Debug)]
pub(super) struct Still {
    /// Dropped when it may go on.
    go_on: Option<oneshot::Sender<()>>,
    /// Told when it does.
    gone_on: Option<oneshot::Receiver<()>>,
}

impl Still {
    /// Lets the guest go on; returns when it does, or does not answer any more.
    pub(super) async fn end(mut self) {
        drop(self.go_on.take());
        if let Some(gone_on) = self.gone_on.take() {
            let _ = gone_on.await;
        }
    }
}

impl QemuHost {
    /// Holds a guest's file systems still for a moment, so that a copy that begins now has them
    /// whole; none where it has no agent that does that.
    pub(super) async fn hold_still(&self, instance: InstanceId) -> Option<Still> {
        let agents = Arc::clone(&self.inner.agents);
        let run = agents.hold(instance).await?;
        let (go_on, may_go_on) = oneshot::channel::<()>();
        let (goes_on, gone_on) = oneshot::channel();
        let (begun, has_begun) = oneshot::channel();
        // A task of its own: it ends as it should also when nobody waits for it any more.
        tokio::spawn(async move {
            let of = move |domains: &Domains| running(domains, instance, run);
            let frozen = agents.on(move |domains| of(domains).is_some_and(|it| talk::freeze(&it)));
            let frozen = frozen.await;
            // A question that nobody waits for any more may still be asked, after the thaw even.
            let was_asked = frozen.is_some();
            let frozen = frozen == Some(true);
            let _ = begun.send(frozen);
            if frozen && tokio::time::timeout(STILL, may_go_on).await.is_err() {
                tracing::warn!(%instance, "a copy took too long to begin; its guest goes on");
            }
            // Also when that failed: some of its file systems may be held still.
            let thawed = agents.on(move |domains| of(domains).is_some_and(|it| talk::thaw(&it)));
            let thawed = thawed.await == Some(true) && was_asked;
            agents.guests.release(instance, run, thawed, Instant::now());
            let _ = goes_on.send(());
        });
        let still = Still { go_on: Some(go_on), gone_on: Some(gone_on) };
        if has_begun.await == Ok(true) {
            Some(still)
        } else {
            still.end().await;
            None
        }
    }
}

impl Agents {
    /// Has a guest asked soon, since its machine has grown.
    pub(super) fn ask_soon(&self, instance: InstanceId) {
        self.guests.ask_soon(instance, Instant::now());
    }

    /// Keeps a guest from being asked, once what it is asked now is answered; the run that it is in.
    async fn hold(&self, instance: InstanceId) -> Option<u32> {
        let begin = Instant::now();
        loop {
            match self.guests.hold(instance) {
                Hold::Run(run) => return Some(run),
                Hold::Later if begin.elapsed() < STILL => tokio::time::sleep(ASK_AGAIN).await,
                Hold::Later | Hold::No => return None,
            }
        }
    }

    /// Does something on one of the threads that hold guests still; none when that took too long.
    async fn on<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Domains) -> T + Send + 'static,
    ) -> Option<T> {
        let agents = Arc::clone(self);
        let act = move || Ok(agents.line.domains().ok().map(|domains| act(&domains)));
        self.holding.call("speak to a guest", act).await.ok().flatten()
    }
}

fn running(domains: &Domains, instance: InstanceId, run: u32) -> Option<Domain> {
    let (domain, machine) = domains.expect(instance).ok()?;
    (machine.run == RunState::Running && domain.id() == Some(run)).then_some(domain)
}
