//! The agent's one task: takes messages, hints and ends of steps one at a time, decides with the
//! pure functions of [`crate::plan`], and lets the steps run beside it.
//!
//! Nothing here waits for a step, so a slow machine never holds up another one, and the end of a
//! lease is acted on whatever else goes on.

mod book;
mod change;
mod console;
mod keep;
mod memory;
mod migrate;
mod observe;
mod queue;
mod receive;
mod set;
mod stream;
mod transfer;
mod volume;
mod work;

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{Hint, Hypervisor};
use fairmazon_model::{
    conformity::Proof,
    id::{InstanceId, VolumeId},
};
use futures::{FutureExt, StreamExt, future::OptionFuture, stream::FuturesUnordered};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, watch,
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, HostError,
    backoff::{Backoff, Pauses},
    clock::Clock,
    lease::Lease,
    metering::{self, MeterHandle},
    peers::Incoming,
    plan::{MachineAction, VolumeAction},
    state::Loaded,
    transport::Transport,
};
use book::Book;
use observe::ms;
use queue::{Queue, Target};
use set::Saving;
use stream::{Report, Stream};
use work::{Done, Hands, Work};

/// How long to wait after a stop for want of a lease failed: short, as somebody else may be about
/// to run the machine.
const FENCE_AGAIN: Duration = Duration::from_millis(500);

/// Ended steps that are taken in one go.
const AT_ONCE: usize = 32;
/// The shortest time between two looks at everything, in ms.
const LOOK_APART_MS: u64 = 1_000;

/// Runs the agent of one host until `shutdown`, and [tends](Transport::tend) its way to the broker.
/// Its machines go on after that.
///
/// # Errors
/// When its state can't be used at the start. Later failures are logged and tried again.
pub async fn run(
    config: Config,
    hypervisor: Arc<dyn Hypervisor>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<(), HostError> {
    // Before the first look, so that nothing that happens after it is missed.
    let hints = hypervisor.hints();
    let loaded = config.state.load().await?;
    let (meter, keeper) = metering::keeper(
        config.host,
        config.metering.clone(),
        Arc::clone(&hypervisor),
        Arc::clone(&clock),
    );
    let (tell, proof) = watch::channel(None);
    let standard = config.standard.clone().map(|standard| {
        // On the heap, too: the facts of a host are many.
        Box::pin(standard.watch(config.host, tell, shutdown.clone()))
    });
    let standard = OptionFuture::from(standard);
    let way = Arc::clone(&transport);
    let agent = Agent::new(config, hypervisor, transport, clock, loaded, meter, proof);
    let metering = OptionFuture::from(keeper.map(|keeper| keeper.run(shutdown.clone())));
    // On the heap: thousands of agents may run in one process.
    let tending = way.tend(shutdown.clone());
    tokio::join!(Box::pin(agent.run(hints, shutdown)), metering, standard, tending);
    Ok(())
}

/// The next connection of another host; never where none can come.
async fn next_of(incoming: &mut Option<mpsc::Receiver<Incoming>>) -> Option<Incoming> {
    match incoming {
        Some(incoming) => incoming.recv().await,
        None => std::future::pending().await,
    }
}

/// The next change of what is proven; never where nothing will be.
async fn changed(proof: &mut watch::Receiver<Option<Proof>>) {
    if proof.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

struct Agent {
    config: Config,
    hypervisor_kind: &'static str,
    hands: Hands,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    pauses: Pauses,
    session: String,
    book: Book,
    queue: Queue,
    lease: Lease,
    /// Whether the lease held when it was last looked at.
    leased: bool,
    lease_saving: bool,
    stream: Stream,
    report: Report,
    saving: Saving,
    looks: Looks,
    memory: memory::Watch,
    meter: MeterHandle,
    /// What it proves of the host standard.
    proof: watch::Receiver<Option<Proof>>,
    work: FuturesUnordered<Work>,
    under_way: UnderWay,
    /// What other hosts open.
    incoming: Option<mpsc::Receiver<Incoming>>,
    /// Connections of other hosts that have not said what they are for.
    openings: usize,
    /// Channels of machines that come.
    leads: JoinSet<()>,
    /// Volumes' files that customers wait for.
    transfers: JoinSet<()>,
    /// Consoles that customers wait for.
    consoles: console::Reads,
}

/// Steps under way that count against a limit, each kind against one of its own: what takes hours
/// keeps no machine from being stopped.
#[derive(Default)]
struct UnderWay {
    machines: usize,
    volumes: usize,
    /// Volumes that are made: filled, copied, proven.
    makes: usize,
}

impl UnderWay {
    fn any(&self) -> bool {
        self.machines + self.volumes + self.makes > 0
    }

    /// Those of the kind of this step of a volume.
    fn of_volume(&mut self, action: Option<&VolumeAction>) -> &mut usize {
        let makes = action == Some(&VolumeAction::Create);
        if makes { &mut self.makes } else { &mut self.volumes }
    }
}

/// When everything is looked at.
#[derive(Default)]
struct Looks {
    /// Everything was seen at least once: before that nothing is decided or reported.
    complete: bool,
    under_way: bool,
    last_at_ms: u64,
    next_at_ms: u64,
    failures: Backoff,
    /// Counts looks and steps, to tell an older sight from a newer one.
    counter: u64,
}

impl Looks {
    /// Something unknown has changed: look again, but not all the time.
    fn sooner(&mut self) {
        let soon = self.last_at_ms + LOOK_APART_MS;
        self.next_at_ms = self.next_at_ms.min(soon);
    }
}

impl Agent {
    fn new(
        config: Config,
        hypervisor: Arc<dyn Hypervisor>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        loaded: Loaded,
        meter: MeterHandle,
        proof: watch::Receiver<Option<Proof>>,
    ) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        let lease = Lease::resume(loaded.lease.as_ref(), clock.boot_id());
        let mut agent = Self {
            hypervisor_kind: hypervisor.kind(),
            book: Book::new(config.host, hypervisor.features()),
            hands: Hands::new(hypervisor, &config),
            transport,
            session: format!("{:016x}", random.next_u64()),
            pauses: Pauses {
                first_ms: ms(config.first_pause),
                longest_ms: ms(config.longest_pause),
                random,
            },
            queue: Queue::default(),
            leased: lease.holds(clock.now_ms()),
            lease,
            lease_saving: false,
            stream: Stream::default(),
            report: Report::default(),
            saving: Saving::default(),
            looks: Looks::default(),
            memory: memory::Watch::default(),
            meter,
            proof,
            work: FuturesUnordered::new(),
            under_way: UnderWay::default(),
            incoming: config.peers.as_ref().map(|peers| peers.incoming()),
            openings: 0,
            leads: JoinSet::new(),
            transfers: JoinSet::new(),
            consoles: console::Reads::default(),
            clock,
            config,
        };
        if let Some(message) = &loaded.put_aside {
            tracing::error!(
                host = %agent.config.host,
                "{message}; the host starts without a desired set and asks the broker for it"
            );
        }
        if let Some(state) = loaded.state {
            agent.book.done_before = state.done.iter().map(|(k, v)| (*k, *v)).collect();
            agent.apply(state);
        }
        agent
    }

    async fn run(mut self, mut hints: broadcast::Receiver<Hint>, shutdown: CancellationToken) {
        loop {
            let now_ms = self.clock.now_ms();
            self.check_lease(now_ms);
            self.tend_stream(now_ms);
            self.tend_looks(now_ms);
            self.tend_memory(now_ms);
            self.tend_saving(now_ms);
            self.queue.due(now_ms);
            self.dispatch(now_ms);
            self.tend_report(now_ms);
            let nap = self.nap(self.clock.now_ms());
            tokio::select! {
                // In this order: what renews the lease is never behind a pile of ended steps, and
                // a simulated world is the same for the same seed.
                biased;
                () = shutdown.cancelled() => break,
                message = self.stream.next() => self.on_message(message),
                () = changed(&mut self.proof) => self.report.wanted(),
                incoming = next_of(&mut self.incoming) => self.on_incoming(incoming),
                hint = hints.recv() => {
                    self.on_hint(&hint);
                    while let Ok(hint) = hints.try_recv() {
                        self.on_hint(&Ok(hint));
                    }
                }
                Some(done) = self.work.next(), if !self.work.is_empty() => {
                    self.on_done(done);
                    // What else has ended by now, before everything is gone through again.
                    for _ in 1..AT_ONCE {
                        let Some(Some(done)) = self.work.next().now_or_never() else { break };
                        self.on_done(done);
                    }
                }
                () = tokio::time::sleep(nap) => {}
            }
        }
        tracing::info!(host = %self.config.host, "the host agent ends; its machines go on");
    }

    /// How long nothing is due by itself.
    fn nap(&self, now_ms: u64) -> Duration {
        let lease_end = self.lease.until_ms().filter(|_| self.leased);
        let due = [
            self.queue.next_at_ms(),
            lease_end,
            self.stream.next_at_ms(),
            self.report_at_ms(),
            (!self.looks.under_way).then_some(self.looks.next_at_ms),
            self.memory_at_ms(),
            self.saving.next_at_ms(),
        ];
        let next = due.into_iter().flatten().min();
        let nap = next.map_or(u64::MAX, |at| at.saturating_sub(now_ms));
        Duration::from_millis(nap).min(self.clock.longest_nap())
    }

    /// Acts when the lease was gained or has ended.
    fn check_lease(&mut self, now_ms: u64) {
        let holds = self.lease.holds(now_ms);
        if holds == self.leased {
            return;
        }
        self.leased = holds;
        if !holds {
            tracing::warn!(
                host = %self.config.host,
                "the lease has ended without a renewal: all machines are stopped"
            );
            self.end_transits();
        }
        self.queue_all();
        self.report.wanted();
    }

    fn queue_all(&mut self) {
        self.book.machines.keys().for_each(|&id| self.queue.push(Target::Machine(id)));
        self.book.volumes.keys().for_each(|&id| self.queue.push(Target::Volume(id)));
    }

    fn tend_looks(&mut self, now_ms: u64) {
        if !self.looks.under_way && self.looks.next_at_ms <= now_ms {
            self.looks.under_way = true;
            self.looks.last_at_ms = now_ms;
            self.looks.counter += 1;
            self.work.push(self.hands.inventory(self.looks.counter));
        }
    }

    /// Begins the next step of everything that is to be looked at, as far as there is room. The stop
    /// of a machine for want of a lease needs none.
    fn dispatch(&mut self, now_ms: u64) {
        if !self.looks.complete {
            return;
        }
        if !self.leased {
            self.fence_all();
        }
        let most = self.config.parallel_steps;
        while self.under_way.machines < most
            && let Some(instance) = self.queue.pop_machine()
        {
            self.begin_machine(instance, now_ms);
        }
        while self.under_way.makes < self.config.parallel_makes
            && let Some(volume) = self.queue.pop_to_make()
        {
            self.begin_volume(volume, now_ms);
        }
        while self.under_way.volumes < most
            && let Some(volume) = self.queue.pop_volume()
        {
            self.begin_volume(volume, now_ms);
        }
    }

    /// Begins the stop of each machine to be looked at that runs without a lease, whatever else is
    /// under way with it.
    fn fence_all(&mut self) {
        let Self { queue, book, hands, work, config, .. } = self;
        queue.retain_machines(|instance| {
            let Some(record) = book.machines.get_mut(&instance) else { return false };
            if !(record.runs() || record.may_run && !record.busy || record.transit.is_some()) {
                return true;
            }
            if !record.fencing {
                record.fencing = true;
                tracing::warn!(host = %config.host, %instance, "stopped: the lease has ended");
                work.push(hands.fence(instance));
            }
            false
        });
    }

    fn begin_machine(&mut self, instance: InstanceId, now_ms: u64) {
        let target = Target::Machine(instance);
        let leased = self.lease.holds(now_ms);
        let Some(step) = self.book.decide_machine(instance, leased, now_ms) else { return };
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        if record.busy || record.fencing {
            return;
        }
        let settled = step.action == MachineAction::Settled;
        if settled != record.settled {
            record.settled = settled;
            self.report.wanted();
        }
        let work = match step.action {
            // A broker that was restored may not know that its last run was here, and nothing else
            // would say so.
            MachineAction::Undefine if record.desired.is_none() && !self.report.was_made() => {
                self.queue.block(target);
                return;
            }
            MachineAction::Settled | MachineAction::Wait
                if record.look && record.not_before_ms <= now_ms =>
            {
                record.look = false;
                self.hands.look_machine(instance)
            }
            MachineAction::Settled if record.look => {
                self.queue.push_at(record.not_before_ms, target);
                return;
            }
            MachineAction::Settled => return,
            MachineAction::Wait => {
                let look = record.look.then_some(record.not_before_ms);
                for at_ms in self.book.stop_is_over_at(instance).into_iter().chain(look) {
                    self.queue.push_at(at_ms, target);
                }
                self.queue.block(target);
                return;
            }
            _ if record.not_before_ms > now_ms => {
                self.queue.push_at(record.not_before_ms, target);
                return;
            }
            MachineAction::Depart => {
                let departure = record.desired.as_ref().and_then(|spec| spec.departure.clone());
                // The host that it goes to has other keys; these are left as they are meanwhile.
                if self.book.changes_keys_of(instance) {
                    self.queue.block(target);
                } else if let Some(departure) = departure {
                    self.begin_departure(instance, departure);
                }
                return;
            }
            action => {
                tracing::debug!(
                    host = %self.config.host, %instance, ?action, reason = step.reason, "step"
                );
                record.look = false;
                record.may_run |= action == MachineAction::Start;
                self.hands.machine(instance, record.desired.clone(), action)
            }
        };
        record.busy = true;
        self.under_way.machines += 1;
        self.work.push(work);
    }

    fn begin_volume(&mut self, volume: VolumeId, now_ms: u64) {
        let target = Target::Volume(volume);
        let Some(step) = self.book.decide_volume(volume) else { return };
        let Some(record) = self.book.volumes.get_mut(&volume) else { return };
        if record.busy {
            return;
        }
        let action = match step.action {
            // Whatever the last step did: nothing is decided on an older sight.
            _ if record.unsure && record.not_before_ms > now_ms => {
                self.queue.push_at(record.not_before_ms, target);
                return;
            }
            _ if record.unsure => None,
            VolumeAction::Settled | VolumeAction::Wait | VolumeAction::Lost if record.look => None,
            VolumeAction::Settled => {
                // What failed on the way here is over: a deleted volume is gone, not failed.
                if record.error.take().is_some() {
                    self.report.wanted();
                }
                return;
            }
            VolumeAction::Wait => {
                self.queue.block(target);
                return;
            }
            VolumeAction::Lost => {
                if record.error.is_none() {
                    tracing::error!(host = %self.config.host, %volume, "{}", step.reason);
                    record.error = Some(step.reason.into());
                    self.report.wanted();
                }
                self.queue.block(target);
                return;
            }
            _ if record.not_before_ms > now_ms => {
                self.queue.push_at(record.not_before_ms, target);
                return;
            }
            action => Some(action),
        };
        // One that waited to be made may be to go by now.
        match action {
            Some(VolumeAction::Create) if self.under_way.makes >= self.config.parallel_makes => {
                self.queue.push_to_make(volume);
                return;
            }
            Some(VolumeAction::Create) => {}
            _ if self.under_way.volumes >= self.config.parallel_steps => {
                self.queue.push(target);
                return;
            }
            _ => {}
        }
        if let Some(action) = action {
            tracing::debug!(
                host = %self.config.host, %volume, ?action, reason = step.reason, "step"
            );
        }
        if action == Some(VolumeAction::Create)
            && let Some(source) = record.copies()
        {
            self.book.copying.insert(volume, source);
        }
        record.change.under_way = action == Some(VolumeAction::ChangeKey);
        record.look = false;
        record.busy = true;
        *self.under_way.of_volume(action.as_ref()) += 1;
        let in_use = record.key_in_use().cloned();
        self.work.push(self.hands.volume(volume, record.desired.clone(), action, in_use));
    }

    fn on_hint(&mut self, hint: &Result<Hint, RecvError>) {
        match *hint {
            Ok(Hint::Machine(instance)) => {
                if let Some(record) = self.book.machines.get_mut(&instance) {
                    record.look = true;
                    self.queue.push(Target::Machine(instance));
                }
            }
            Ok(Hint::Volume(volume)) => {
                if let Some(record) = self.book.volumes.get_mut(&volume) {
                    record.look = true;
                    self.queue.push(Target::Volume(volume));
                }
            }
            Ok(Hint::All) | Err(RecvError::Lagged(_)) => self.looks.sooner(),
            // The hypervisor is held by `hands`, so its hints can't end before the agent.
            Err(RecvError::Closed) => {}
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Machine { instance, step, seen } => self.machine_done(instance, &step, seen),
            Done::Ended { instance, ran_ms, said } => self.ended(instance, ran_ms, &said),
            Done::Fenced { instance, result, seen } => self.fenced(instance, result, seen),
            Done::Volume { volume, step, seen } => self.volume_done(volume, &step, seen),
            Done::Inventory { started, result } => self.inventory_done(started, result),
            Done::Saved { set, result } => self.saved(set, result),
            Done::LeaseSaved(result) => self.lease_saved(result),
            Done::Connected(result) => self.connected(result),
            Done::Opened(opened) => self.opened(opened),
            Done::Received { volume, number, bytes } => self.received(volume, number, bytes),
            Done::Transit { instance, result, seen } => self.transit_done(instance, &result, seen),
            Done::Memory(seen) => self.memory_seen(seen),
            Done::Balloons => self.balloons_set(),
            Done::Nothing => {}
        }
    }
}
