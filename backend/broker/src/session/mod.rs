//! One host's stream: sets out, reports and renewals in. Knows messages, not how they travel.
//!
//! A lease is granted only on a stream that has sent a set first, and never on one whose
//! lease has lapsed: the host must open a new stream and take a new set before it runs
//! anything again. So no machine that was decided elsewhere meanwhile is ever granted twice.

mod wire;

use fairmazon_model::{
    DomainError, ErrorKind,
    conformity::Proof,
    id::HostId,
    machine::{DesiredSet, ObservedSet},
    units::Generation,
    usage::WindowBatch,
};
use futures::{Stream, StreamExt};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    asks::Asked,
    core::{Engine, hosts_now::Agent, lost::declared_lost, state::State},
    reconcile::publish,
};
pub use wire::{BrokerSays, Hello, HostSays};

/// An open stream.
struct HostStream<'a> {
    engine: &'a Engine,
    host: HostId,
    number: u64,
    outbound: mpsc::Sender<BrokerSays>,
    /// Sequence of the last report taken; older ones are ignored.
    reported: u64,
    /// Takes the windows that were told last.
    metering: Option<AbortOnDropHandle<()>>,
}

/// Why a stream ended, when it was not the host's wish.
type Ended = Result<(), DomainError>;

impl Engine {
    /// Serves the stream of a host that has been authenticated, until either side ends it.
    ///
    /// # Errors
    /// `Invalid` for messages out of order or that can't be read, `NotFound` when the host was
    /// removed, `Precondition` when it was given up as lost for good, `Conflict` when a later stream of the host took over, `Unavailable` when its
    /// lease lapsed: in all of these the host opens a new stream.
    pub async fn host_stream<S>(
        &self,
        host: HostId,
        mut inbound: S,
        outbound: mpsc::Sender<BrokerSays>,
    ) -> Result<(), DomainError>
    where
        S: Stream<Item = HostSays> + Send + Unpin,
    {
        let hello = self.hello(host, &mut inbound).await?;
        let (number, end) = self.open_stream(host, &hello)?;
        tracing::info!(
            %host, session = hello.session, hypervisor = hello.hypervisor,
            agent = hello.agent_version, "a host has connected"
        );
        let open = OpenStream { engine: self, host, number };
        let mut stream =
            HostStream { engine: self, host, number, outbound, reported: 0, metering: None };
        let result = stream.serve(&mut inbound, &end).await;
        drop(open);
        tracing::info!(%host, reason = ?result.as_ref().err(), "a host has disconnected");
        result
    }

    /// How many hosts have an open stream.
    pub fn hosts_connected(&self) -> usize {
        self.state().hosts.connected()
    }

    fn open_stream(
        &self,
        host: HostId,
        hello: &Hello,
    ) -> Result<(u64, CancellationToken), DomainError> {
        let mut state = self.state();
        check_speaks(&state, host)?;
        let agent = Agent {
            hypervisor: hello.hypervisor.clone(),
            accelerator: hello.accelerator.clone(),
            reads_consoles: hello.reads_consoles,
            migration_address: hello.migration_address.clone(),
        };
        let opened = state.hosts.open(host, agent, Instant::now());
        state.wake_peers(host);
        state.reports.remove(&host);
        state.books.set_alive(host, true);
        state.room();
        note_proof(&mut state, host, hello.conformity.as_ref());
        Ok(opened)
    }

    async fn hello<S>(&self, host: HostId, inbound: &mut S) -> Result<Hello, DomainError>
    where
        S: Stream<Item = HostSays> + Send + Unpin,
    {
        let first = tokio::time::timeout(self.config().hello_timeout, inbound.next()).await;
        let Ok(Some(HostSays::Hello(hello))) = first else {
            return Err(DomainError::invalid("message", "a host's stream has to begin with Hello"));
        };
        if hello.host != host {
            return Err(DomainError {
                field: Some("host_id".into()),
                ..DomainError::new(
                    ErrorKind::Forbidden,
                    format!("this credential is the one of {host}"),
                )
            }
            .advise("give each host the token that its registration answered"));
        }
        Ok(hello)
    }
}

/// Closes the stream in the books when it ends, also when its future is dropped.
struct OpenStream<'a> {
    engine: &'a Engine,
    host: HostId,
    number: u64,
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        let mut state = self.engine.state();
        if state.hosts.close(self.host, self.number) {
            state.books.set_alive(self.host, false);
            state.wake_peers(self.host);
        }
    }
}

impl HostStream<'_> {
    async fn serve<S>(&mut self, inbound: &mut S, end: &CancellationToken) -> Ended
    where
        S: Stream<Item = HostSays> + Send + Unpin,
    {
        let wake = self.engine.state().hosts.entry(self.host).wake.clone();
        let (config, delay) = (self.engine.config(), self.engine.config().publish_delay);
        let set = self.next_set()?;
        let welcome = BrokerSays::Welcome {
            lease_term_ms: millis(config.lease_term),
            renew_every_ms: millis(config.renew_every()),
            generation: set.generation,
        };
        self.send(welcome).await?;
        self.send(BrokerSays::Desired(set)).await?;
        let mut send_at = None::<Instant>;
        let mut asks = self.asks()?;
        loop {
            let due = send_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = end.cancelled() => return Err(self.why_ended()),
                message = inbound.next() => match message {
                    None => return Ok(()),
                    Some(message) => self.take(message).await?,
                },
                // Also while a set is due: what rings until then is in it, and is no reason for
                // another one.
                () = wake.notified() => {
                    send_at.get_or_insert_with(|| Instant::now() + delay);
                }
                Some(asked) = asks.recv() => self.send(match asked {
                    Asked::Send(asked) => BrokerSays::Send(asked),
                    Asked::Receive(asked) => BrokerSays::Receive(asked),
                    Asked::Console(asked) => BrokerSays::ReadConsole(asked),
                }).await?,
                () = tokio::time::sleep_until(due), if send_at.is_some() => {
                    send_at = None;
                    let set = self.next_set()?;
                    self.send(BrokerSays::Desired(set)).await?;
                }
            }
        }
    }

    /// Computes the next set, unless another stream has taken over.
    fn next_set(&self) -> Result<DesiredSet, DomainError> {
        let now = self.engine.now();
        let mut state = self.engine.state();
        if !state.hosts.is_current(self.host, self.number) {
            drop(state);
            return Err(self.why_ended());
        }
        Ok(publish::desired_set(&mut state, &self.engine.catalogue(), self.host, now))
    }

    /// What customers ask this host for from now on, unless another stream has taken over.
    fn asks(&self) -> Result<mpsc::Receiver<Asked>, DomainError> {
        let state = self.engine.state();
        if state.hosts.is_current(self.host, self.number) {
            return Ok(self.engine.inner.asks.listen(self.host));
        }
        drop(state);
        Err(self.why_ended())
    }

    async fn send(&self, message: BrokerSays) -> Ended {
        let sent = self.outbound.send(message).await;
        sent.map_err(|_| DomainError::new(ErrorKind::Unavailable, "the host has hung up"))
    }

    async fn take(&mut self, message: HostSays) -> Ended {
        match message {
            HostSays::Renew { sequence } => self.renew(sequence).await,
            HostSays::Observed { sequence, set } => self.observed(sequence, set),
            HostSays::Metered(batch) => {
                self.metered(batch);
                Ok(())
            }
            HostSays::ConsoleRead(read) => {
                self.engine.inner.consoles.answer(self.host, read);
                Ok(())
            }
            HostSays::Hello(_) => {
                Err(DomainError::invalid("message", "a host must say Hello once in a stream"))
            }
        }
    }

    async fn renew(&self, sequence: u64) -> Ended {
        self.grant()?;
        let lease_term_ms = millis(self.engine.config().lease_term);
        self.send(BrokerSays::Renewed { sequence, lease_term_ms }).await
    }

    /// Notes the lease before the host can know of it.
    fn grant(&self) -> Ended {
        let at = self.engine.now();
        let mut state = self.engine.state();
        let is_current = state.hosts.is_current(self.host, self.number);
        if is_current && state.hosts.renew(self.host, Instant::now()) {
            state.hosts.entry(self.host).last_seen = Some(at);
            return Ok(());
        }
        drop(state);
        Err(self.why_ended())
    }

    fn observed(&mut self, sequence: u64, mut set: ObservedSet) -> Ended {
        if sequence <= self.reported && self.reported > 0 {
            return Ok(());
        }
        let at = self.engine.now();
        let mut state = self.engine.state();
        if !state.hosts.is_current(self.host, self.number) {
            drop(state);
            return Err(self.why_ended());
        }
        self.reported = sequence;
        let now = state.hosts.entry(self.host);
        now.last_seen = Some(at);
        let sent = now.sent;
        note_proof(&mut state, self.host, set.conformity.as_ref());
        let mut has_room = state.books.set_reclaims_memory(self.host, set.reclaims_memory);
        has_room |= state.books.set_images(self.host, set.images.clone());
        if has_room {
            state.room();
        }
        if set.generation > sent {
            // Made under a set of another broker's time: it shows what the host had, which this one's
            // set may have ended, and nothing of what became of that.
            set.generation = Generation(0);
        }
        state.reports.insert(self.host, set);
        state.dirty.wake.notify_one();
        Ok(())
    }

    /// Takes windows beside the stream, whose renewals do not wait for them. A host that says more
    /// before it was answered is told nothing of that, and says it again.
    fn metered(&mut self, batch: WindowBatch) {
        if self.metering.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (engine, host, outbound) = (self.engine.clone(), self.host, self.outbound.clone());
        self.metering = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let batch_number = batch.number;
            match engine.take_windows(host, batch).await {
                // A host that is not answered says it again.
                Ok(None) => {}
                Ok(Some(refused)) => {
                    let says = BrokerSays::MeteredThrough { batch: batch_number, refused };
                    // A host that has hung up says it again.
                    let _ = outbound.send(says).await;
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(%host, error, "unable to keep what a host has metered");
                }
            }
        })));
    }

    fn why_ended(&self) -> DomainError {
        let state = self.engine.state();
        if let Err(error) = check_speaks(&state, self.host) {
            return error;
        }
        if !state.hosts.is_current(self.host, self.number) {
            return DomainError::new(
                ErrorKind::Conflict,
                "a later stream of this host has taken over",
            )
            .advise("run one agent for each host");
        }
        DomainError::new(ErrorKind::Unavailable, "the lease has lapsed")
            .advise("open a new stream and take the set that it begins with")
    }
}

/// The host is one that may speak.
///
/// # Errors
/// `NotFound` when it was removed, `Precondition` when its operator has given it up.
fn check_speaks(state: &State, host: HostId) -> Result<(), DomainError> {
    if state.world.hosts.get(host).is_none() {
        return Err(DomainError::not_found("host", host));
    }
    if state.is_given_up(host) {
        return Err(declared_lost(host));
    }
    Ok(())
}

/// Notes what a host says of the standard; what follows from it is the reconciler's.
fn note_proof(state: &mut State, host: HostId, said: Option<&Proof>) {
    let now = state.hosts.entry(host);
    if said.is_some() && now.said.as_ref() != said {
        now.said = said.cloned();
        state.dirty.hosts.insert(host);
        state.dirty.wake.notify_one();
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
