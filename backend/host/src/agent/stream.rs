//! The stream to the broker: opened again and again, renewals sent, reports coalesced.

use std::sync::Arc;

use fairmazon_model::{machine::ObservedSet, units::Generation};
use tokio::sync::mpsc;

use super::{Agent, observe::ms, work::Done};
use crate::{
    backoff::Backoff,
    lease::LeaseRecord,
    state::StateError,
    transport::{FromHost, Hello, Link, ToHost, TransportError},
};

/// How long a broker may be silent before its Welcome, in ms.
const WELCOME_WITHIN_MS: u64 = 10_000;
/// Renewals that may go unanswered before the stream is given up: while there is something left of
/// the lease, of which the broker has hosts renew it every third.
const SILENT_RENEWALS: u64 = 2;
/// The same before the first set of a stream is saved, of the renewals that there would have been.
const SILENT_AT_FIRST: u64 = 4;
/// How many attempts to connect go into what is left of the lease, at least.
const ATTEMPTS_WHILE_LEASED: u64 = 4;
/// The time between attempts that is not shortened for the lease, in ms.
const SHORTEST_WHILE_LEASED_MS: u64 = 1_000;
/// Things to look at for each step that may be under way, above which the agent is behind.
const BACKLOG_PER_STEP: usize = 2;
/// The time between reports while it is, in ms.
const REPORT_WHEN_BUSY_MS: u64 = 1_000;
/// How long to wait when the stream takes no more now, in ms.
const CONGESTED_MS: u64 = 50;

/// The stream, or when it is to be tried again.
#[derive(Debug, Default)]
pub(super) struct Stream {
    state: State,
    failures: Backoff,
    /// The lowest generation that is taken.
    pub(super) accepts_from: Generation,
}

#[derive(Debug)]
enum State {
    Down { retry_at_ms: u64 },
    Connecting,
    Up(Up),
}

impl Default for State {
    fn default() -> Self {
        Self::Down { retry_at_ms: 0 }
    }
}

#[derive(Debug)]
struct Up {
    link: Link,
    /// None before the broker's Welcome.
    renewals: Option<Renewals>,
    set: FirstSet,
    silent_from_ms: u64,
}

/// How far the set is that a stream begins with. No lease is asked for before it is applied:
/// under a lease the host would run what the set before it names, which may run elsewhere now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstSet {
    Awaited,
    Taken(Generation),
    Applied,
}

#[derive(Debug, Clone, Copy)]
struct Renewals {
    every_ms: u64,
    next_at_ms: u64,
}

/// The longest pause between attempts to connect while this much of the lease is left, in ms: who
/// comes back within the lease must be found within it, or every machine is stopped for nothing.
fn while_leased(left_ms: u64) -> u64 {
    (left_ms / ATTEMPTS_WHILE_LEASED).max(SHORTEST_WHILE_LEASED_MS)
}

impl Up {
    fn given_up_at_ms(&self) -> u64 {
        let patience = match (self.renewals, self.set) {
            (None, _) => WELCOME_WITHIN_MS,
            (Some(renewals), FirstSet::Applied) => SILENT_RENEWALS * renewals.every_ms,
            // Until then the agent asks for nothing that would be answered, and a busy disk is slow.
            (Some(renewals), _) => SILENT_AT_FIRST * renewals.every_ms,
        };
        self.silent_from_ms + patience
    }
}

impl Stream {
    /// The next message; never while there is no stream.
    pub(super) async fn next(&mut self) -> Option<Result<ToHost, TransportError>> {
        match &mut self.state {
            State::Up(up) => up.link.receiver.recv().await,
            _ => std::future::pending().await,
        }
    }

    pub(super) fn is_welcome(&self) -> bool {
        matches!(&self.state, State::Up(Up { renewals: Some(_), .. }))
    }

    pub(super) fn next_at_ms(&self) -> Option<u64> {
        match &self.state {
            State::Down { retry_at_ms } => Some(*retry_at_ms),
            State::Connecting => None,
            State::Up(up) => {
                let renewals = up.renewals.filter(|_| up.set == FirstSet::Applied);
                let renew = renewals.map(|renewals| renewals.next_at_ms);
                Some(renew.map_or(up.given_up_at_ms(), |at| at.min(up.given_up_at_ms())))
            }
        }
    }

    /// Notes that a set was taken from the stream, and whether it is what is applied already.
    pub(super) fn took(&mut self, generation: Generation, is_applied: bool) {
        let State::Up(up) = &mut self.state else { return };
        match up.set {
            FirstSet::Applied => {}
            _ if is_applied => up.set = FirstSet::Applied,
            FirstSet::Awaited => up.set = FirstSet::Taken(generation),
            FirstSet::Taken(_) => {}
        }
    }

    /// Notes that a set was applied; one of an earlier stream is none of this one's.
    pub(super) fn applied(&mut self, generation: Generation, now_ms: u64) {
        let last = self.accepts_from;
        if let State::Up(up) = &mut self.state
            && let FirstSet::Taken(first) = up.set
            && (first..=last).contains(&generation)
        {
            up.set = FirstSet::Applied;
            // Only from here on it is asked for something.
            up.silent_from_ms = now_ms;
        }
    }

    /// The way to the broker; none while there is no stream.
    pub(super) fn sender(&self) -> Option<mpsc::Sender<FromHost>> {
        match &self.state {
            State::Up(up) => Some(up.link.sender.clone()),
            _ => None,
        }
    }

    fn send(&self, message: FromHost) -> bool {
        match &self.state {
            State::Up(up) => up.link.sender.try_send(message).is_ok(),
            _ => false,
        }
    }
}

/// Whether the broker is to be told, and what it was told last.
#[derive(Debug, Default)]
pub(super) struct Report {
    wanted: bool,
    /// When it was first found to be wanted.
    wanted_at_ms: Option<u64>,
    sequence: u64,
    last_at_ms: Option<u64>,
    not_before_ms: u64,
}

impl Report {
    /// Something that the broker is told has changed.
    pub(super) fn wanted(&mut self) {
        self.wanted = true;
    }

    /// Whether the broker was told on the stream that is open, or was last.
    pub(super) fn was_made(&self) -> bool {
        self.last_at_ms.is_some()
    }
}

impl Agent {
    pub(super) fn tend_stream(&mut self, now_ms: u64) {
        match &mut self.stream.state {
            State::Connecting => {}
            State::Down { retry_at_ms } => {
                if *retry_at_ms <= now_ms {
                    self.stream.state = State::Connecting;
                    let transport = Arc::clone(&self.transport);
                    self.work
                        .push(Box::pin(async move { Done::Connected(transport.connect().await) }));
                }
            }
            // What has come and was not read yet is no silence.
            State::Up(up) if up.given_up_at_ms() <= now_ms && up.link.receiver.is_empty() => {
                let reason = "the broker has been silent".into();
                self.stream_ended(Some(TransportError::Ended { reason }));
            }
            State::Up(up) => {
                let Some(renewals) = &mut up.renewals else { return };
                if up.set != FirstSet::Applied {
                    return;
                }
                if renewals.next_at_ms <= now_ms {
                    renewals.next_at_ms = now_ms + renewals.every_ms;
                    // Noted before it is sent: the lease may only be shorter than it could be.
                    let sequence = self.lease.renew(now_ms);
                    if !self.stream.send(FromHost::Renew { sequence }) {
                        tracing::warn!(host = %self.config.host, "a renewal could not be sent");
                    }
                }
            }
        }
    }

    pub(super) fn connected(&mut self, result: Result<Link, TransportError>) {
        let link = match result {
            Ok(link) => link,
            Err(error) => return self.stream_ended(Some(error)),
        };
        self.lease.new_stream();
        let now_ms = self.clock.now_ms();
        self.stream.state =
            State::Up(Up { link, renewals: None, set: FirstSet::Awaited, silent_from_ms: now_ms });
        let hello = Hello {
            host: self.config.host,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            hypervisor: self.hypervisor_kind.into(),
            session: self.session.clone(),
            generation: self.generation(),
            migration_address: self
                .config
                .peers
                .as_ref()
                .map(|peers| peers.address())
                .unwrap_or_default(),
            reads_consoles: true,
            accelerator: self.hands.hypervisor.features().accelerator.into(),
            conformity: self.proof.borrow_and_update().clone(),
        };
        if !self.stream.send(FromHost::Hello(hello)) {
            self.stream_ended(None);
        }
    }

    pub(super) fn on_message(&mut self, message: Option<Result<ToHost, TransportError>>) {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return self.stream_ended(Some(error)),
            None => return self.stream_ended(None),
        };
        let now_ms = self.clock.now_ms();
        if let State::Up(up) = &mut self.stream.state {
            up.silent_from_ms = now_ms;
        }
        match message {
            ToHost::Welcome { renew_every_ms, generation, .. } => {
                self.welcomed(renew_every_ms, generation, now_ms);
            }
            ToHost::Renewed { sequence, lease_term_ms } => {
                if self.lease.renewed(sequence, lease_term_ms) {
                    self.save_lease();
                }
            }
            ToHost::Desired(set) => self.on_desired(set),
            ToHost::MeteredThrough { batch, refused } => self.meter.through(batch, refused),
            ToHost::Send(asked) => self.send_volume(asked),
            ToHost::Receive(asked) => self.receive_volume(asked),
            ToHost::ReadConsole(asked) => self.read_console(asked),
        }
    }

    fn welcomed(&mut self, renew_every_ms: u64, generation: Generation, now_ms: u64) {
        if generation < self.stream.accepts_from {
            tracing::warn!(
                host = %self.config.host, had = %self.stream.accepts_from, %generation,
                "the broker was restored to an earlier state: its sets are taken from here on"
            );
            self.stream.accepts_from = generation;
        }
        if let State::Up(up) = &mut self.stream.state {
            up.renewals = Some(Renewals { every_ms: renew_every_ms.max(1), next_at_ms: now_ms });
            self.meter.connected(&up.link.sender);
        }
        self.stream.failures.succeeded();
        self.report.wanted();
        self.report.not_before_ms = 0;
        self.report.last_at_ms = None;
    }

    fn stream_ended(&mut self, error: Option<TransportError>) {
        let now_ms = self.clock.now_ms();
        let pause = self.pauses.after(&mut self.stream.failures);
        let pause = self.lease.left_ms(now_ms).map_or(pause, |left| pause.min(while_leased(left)));
        self.stream.state = State::Down { retry_at_ms: now_ms + pause };
        match error {
            Some(error) => tracing::warn!(
                host = %self.config.host, pause_ms = pause,
                error = &error as &dyn std::error::Error,
                "no stream to the broker; machines go on until the lease ends"
            ),
            None => tracing::info!(
                host = %self.config.host, pause_ms = pause, "the stream to the broker ended"
            ),
        }
    }

    /// When the next report is due. Each is about everything: while much is still to be done one
    /// goes out only now and then, steps under way are given a moment to end and to be in it, and
    /// when all is through it goes at once.
    pub(super) fn report_at_ms(&self) -> Option<u64> {
        if !self.report.wanted || !self.looks.complete || !self.stream.is_welcome() {
            return None;
        }
        let busy = self.queue.len() > BACKLOG_PER_STEP * self.config.parallel_steps;
        let pause = if busy { REPORT_WHEN_BUSY_MS } else { ms(self.config.report_every) };
        let spaced = self.report.last_at_ms.map_or(0, |last| last + pause);
        let moment = self.report.wanted_at_ms.filter(|_| self.under_way.any());
        let whole = moment.map_or(0, |wanted| wanted + ms(self.config.report_every));
        Some(spaced.max(whole).max(self.report.not_before_ms))
    }

    pub(super) fn tend_report(&mut self, now_ms: u64) {
        if self.report.wanted {
            self.report.wanted_at_ms.get_or_insert(now_ms);
        }
        if self.report_at_ms().is_none_or(|at| at > now_ms) {
            return;
        }
        let conformity = self.proof.borrow().clone();
        let reclaims_memory = self.book.reclaims_memory();
        let mut set =
            ObservedSet { conformity, reclaims_memory, ..self.book.observed(self.leased) };
        self.tell_unsaved(&mut set);
        self.report.sequence += 1;
        let sequence = self.report.sequence;
        if self.stream.send(FromHost::Observed { sequence, set }) {
            self.report.wanted = false;
            self.report.wanted_at_ms = None;
            if self.report.last_at_ms.replace(now_ms).is_none() {
                // What may be forgotten once it was told.
                self.queue.unblock();
            }
        } else {
            self.report.not_before_ms = now_ms + CONGESTED_MS;
        }
    }

    fn save_lease(&mut self) {
        let Some(until_ms) = self.lease.until_ms().filter(|_| !self.lease_saving) else { return };
        self.lease_saving = true;
        let store = Arc::clone(&self.config.state);
        let record = LeaseRecord { boot_id: self.clock.boot_id().to_owned(), until_ms };
        self.work.push(Box::pin(async move { Done::LeaseSaved(store.save_lease(record).await) }));
    }

    pub(super) fn lease_saved(&mut self, result: Result<(), StateError>) {
        self.lease_saving = false;
        if let Err(error) = result {
            tracing::warn!(
                host = %self.config.host, error = &error as &dyn std::error::Error,
                "the lease could not be noted: a restart of the agent would stop its machines"
            );
        }
    }
}
