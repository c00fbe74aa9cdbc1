//! A small broker and a host under test, in one process under a paused clock.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::{sync::Arc, time::Duration};

use fairmazon_host::{
    Config, HostError,
    clock::{Clock, SimClock},
    metering::Metering,
    peers::Peers,
    run,
    standard::Standard,
    state::{MemoryState, StateStore},
    transport::{BrokerEnd, FromHost, Hello, ToHost, Transport},
};
use fairmazon_hypervisor::{
    contract::{CLASS, spec, wish},
    sim::{SimHost, World},
};
use fairmazon_keys::HostSecret;
use fairmazon_model::{
    console::ConsoleRead,
    host::Capacity,
    id::{HostId, InstanceId, VolumeId},
    instance::ObservedState,
    machine::{DesiredSet, HostVolume, MachineSeen, MachineSpec, ObservedSet},
    units::{Generation, Gib, Mib, Vcpus},
    usage::{RefusedWindow, WindowBatch},
};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub const TERM_MS: u64 = 15_000;
pub const RENEW_MS: u64 = 5_000;

/// What the broker does with what it hears and says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// All of it arrives.
    #[default]
    Whole,
    /// Streams open, and nothing arrives either way.
    Silent,
    /// No stream opens, and those that are open end.
    Cut,
}

#[derive(Default)]
struct BrokerState {
    network: Network,
    desired: Vec<DesiredSet>,
    hello: Option<Hello>,
    generation: Option<Generation>,
    acknowledges: bool,
    refuses: Vec<RefusedWindow>,
    /// Streams that were opened, and how many of them are dead: nothing arrives there any more.
    opened: u64,
    dead: u64,
}

/// Grants leases, sends the last desired set, keeps the last report.
pub struct Broker {
    state: Mutex<BrokerState>,
    changed: watch::Sender<u64>,
    /// What it asks the host for, beside the sets.
    asks: broadcast::Sender<ToHost>,
    seen: watch::Sender<Option<(u64, ObservedSet)>>,
    metered: Mutex<Vec<WindowBatch>>,
    /// The consoles that were read for it.
    pub consoles: watch::Sender<Vec<ConsoleRead>>,
}

impl Broker {
    pub fn start() -> (Arc<Self>, mpsc::Sender<BrokerEnd>) {
        let (streams, mut incoming) = mpsc::channel::<BrokerEnd>(1);
        let broker = Arc::new(Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            asks: broadcast::Sender::new(128),
            seen: watch::Sender::new(None),
            metered: Mutex::default(),
            consoles: watch::Sender::default(),
        });
        let serving = Arc::clone(&broker);
        tokio::spawn(async move {
            while let Some(end) = incoming.recv().await {
                tokio::spawn(Arc::clone(&serving).serve(end));
            }
        });
        (broker, streams)
    }

    async fn serve(self: Arc<Self>, mut end: BrokerEnd) {
        let (mut changed, mut asks) = (self.changed.subscribe(), self.asks.subscribe());
        let number = {
            let mut state = self.state.lock();
            state.opened += 1;
            state.opened
        };
        loop {
            tokio::select! {
                biased;
                message = end.receiver.recv() => {
                    let Some(message) = message else { return };
                    let network = {
                        let state = self.state.lock();
                        if number <= state.dead { Network::Silent } else { state.network }
                    };
                    match network {
                        Network::Cut => return,
                        Network::Silent => continue,
                        Network::Whole => {}
                    }
                    for answer in self.answer(message) {
                        if end.sender.send(Ok(answer)).await.is_err() { return; }
                    }
                }
                Ok(asked) = asks.recv() => {
                    if end.sender.send(Ok(asked)).await.is_err() { return; }
                }
                _ = changed.changed() => {
                    let (network, sets) = {
                        let state = self.state.lock();
                        (state.network, state.desired.clone())
                    };
                    if network == Network::Cut { return; }
                    if network == Network::Silent { continue; }
                    for set in sets {
                        if end.sender.send(Ok(ToHost::Desired(set))).await.is_err() { return; }
                    }
                }
            }
        }
    }

    fn answer(&self, message: FromHost) -> Vec<ToHost> {
        let mut state = self.state.lock();
        match message {
            FromHost::Hello(hello) => {
                state.hello = Some(hello);
                let last = state.desired.last().cloned();
                let generation = state
                    .generation
                    .unwrap_or(last.as_ref().map(|set| set.generation).unwrap_or_default());
                let welcome = ToHost::Welcome {
                    lease_term_ms: TERM_MS,
                    renew_every_ms: RENEW_MS,
                    generation,
                };
                std::iter::once(welcome).chain(last.map(ToHost::Desired)).collect()
            }
            FromHost::Renew { sequence } => {
                vec![ToHost::Renewed { sequence, lease_term_ms: TERM_MS }]
            }
            FromHost::Observed { sequence, set } => {
                self.seen.send_replace(Some((sequence, set)));
                Vec::new()
            }
            FromHost::Metered(batch) => {
                let number = batch.number;
                let refused = state.refuses.clone();
                let answers = state.acknowledges;
                self.metered.lock().push(batch);
                if !answers {
                    return Vec::new();
                }
                vec![ToHost::MeteredThrough { batch: number, refused }]
            }
            FromHost::ConsoleRead(read) => {
                self.consoles.send_modify(|consoles| consoles.push(read));
                Vec::new()
            }
        }
    }

    /// Sends these sets, in this order; the last is the one of every later stream.
    pub fn desire_all(&self, sets: Vec<DesiredSet>) {
        self.state.lock().desired = sets;
        self.changed.send_modify(|n| *n += 1);
    }

    /// Asks the host for something beside the sets.
    pub fn ask(&self, asked: ToHost) {
        self.asks.send(asked).unwrap();
    }

    pub fn desire(&self, set: DesiredSet) {
        self.desire_all(vec![set]);
    }

    pub fn network(&self, network: Network) {
        self.state.lock().network = network;
        self.changed.send_modify(|n| *n += 1);
    }

    /// How many streams were opened.
    pub fn streams(&self) -> u64 {
        self.state.lock().opened
    }

    /// From now on nothing arrives on the streams that are open; others can be opened.
    pub fn loses_streams(&self) {
        let mut state = self.state.lock();
        state.dead = state.opened;
    }

    pub fn say_generation(&self, generation: Generation) {
        self.state.lock().generation = Some(generation);
    }

    /// Whether it answers to what was used, and what of it it refuses.
    pub fn takes_windows(&self, answers: bool, refused: Vec<RefusedWindow>) {
        let mut state = self.state.lock();
        (state.acknowledges, state.refuses) = (answers, refused);
    }

    /// What it was told of use.
    pub fn metered(&self) -> Vec<WindowBatch> {
        self.metered.lock().clone()
    }

    pub fn hello(&self) -> Option<Hello> {
        self.state.lock().hello.clone()
    }

    /// The last report.
    pub fn last_seen(&self) -> Option<ObservedSet> {
        self.seen.borrow().as_ref().map(|(_, set)| set.clone())
    }

    /// How many reports the agent has sent.
    pub fn reports(&self) -> u64 {
        self.seen.borrow().as_ref().map_or(0, |(sequence, _)| *sequence)
    }

    /// Waits for a report that fits.
    pub async fn sees(&self, fits: impl Fn(&ObservedSet) -> bool) -> ObservedSet {
        self.sees_within(Duration::from_secs(3_600), fits).await
    }

    /// Waits so long for a report that fits.
    pub async fn sees_within(
        &self,
        time: Duration,
        fits: impl Fn(&ObservedSet) -> bool,
    ) -> ObservedSet {
        let mut seen = self.seen.subscribe();
        let wait = seen.wait_for(|seen| seen.as_ref().is_some_and(|(_, set)| fits(set)));
        match tokio::time::timeout(time, wait).await {
            Ok(found) => found.unwrap().as_ref().unwrap().1.clone(),
            Err(_) => panic!("never reported; the last report: {:#?}", *self.seen.borrow()),
        }
    }
}

/// One simulated host with its agent.
pub struct Subject {
    pub world: Arc<World>,
    pub host: SimHost,
    pub clock: SimClock,
    pub state: Arc<dyn StateStore>,
    pub broker: Arc<Broker>,
    pub streams: mpsc::Sender<BrokerEnd>,
    pub secret: Arc<HostSecret>,
    /// Which host it is.
    pub id: HostId,
    /// Its way to others, and whom it believes.
    pub peers: Option<Arc<dyn Peers>>,
    pub authorities: String,
    pub metering: Option<Metering>,
    pub standard: Option<Standard>,
    /// Its way to the broker, where that is another than for streams alone.
    pub transport: Option<Arc<dyn Transport>>,
    starts: u64,
    agent: Option<(CancellationToken, JoinHandle<Result<(), HostError>>)>,
}

pub fn host_id() -> HostId {
    HostId::from_parts(1, 1)
}

impl Subject {
    /// A host with a running agent; call it under a paused clock.
    pub fn start() -> Self {
        let mut subject = Self::idle(Arc::new(MemoryState::default()));
        subject.start_agent();
        subject
    }

    /// A host without an agent.
    pub fn idle(state: Arc<dyn StateStore>) -> Self {
        let clock = SimClock::new();
        let world_clock = clock.clone();
        let world = World::new(Arc::new(move || world_clock.now_ms()));
        Self::in_world(world, clock, host_id(), state)
    }

    /// Another host of the same world, without an agent.
    pub fn beside(&self, id: HostId) -> Self {
        let state = Arc::new(MemoryState::default());
        Self::in_world(Arc::clone(&self.world), self.clock.clone(), id, state)
    }

    fn in_world(
        world: Arc<World>,
        clock: SimClock,
        id: HostId,
        state: Arc<dyn StateStore>,
    ) -> Self {
        let storage = [(CLASS.to_owned(), Gib(10_000))].into();
        let capacity = Capacity { vcpus: Vcpus(64), memory: Mib(1_000_000), storage };
        let host = world.add_host(id, capacity);
        let (broker, streams) = Broker::start();
        let secret = Arc::new(HostSecret::generate());
        let (peers, authorities) = (None, String::new());
        let (starts, agent) = (0, None);
        let (metering, standard, transport) = (None, None, None);
        Self {
            world,
            host,
            clock,
            state,
            broker,
            streams,
            secret,
            id,
            peers,
            authorities,
            metering,
            standard,
            transport,
            starts,
            agent,
        }
    }

    pub fn start_agent(&mut self) {
        self.starts += 1;
        let config = Config {
            secret: Some(Arc::clone(&self.secret)),
            peers: self.peers.clone(),
            authorities: self.authorities.clone(),
            metering: self.metering.clone(),
            standard: self.standard.clone(),
            ..Config::new(self.id, self.starts, Arc::clone(&self.state))
        };
        let shutdown = CancellationToken::new();
        let streams = || Arc::new(self.streams.clone()) as Arc<dyn Transport>;
        let agent = run(
            config,
            Arc::new(self.host.clone()),
            self.transport.clone().unwrap_or_else(streams),
            Arc::new(self.clock.clone()),
            shutdown.clone(),
        );
        self.agent = Some((shutdown, tokio::spawn(agent)));
    }

    /// Ends the agent as a crash would: wherever it is.
    pub async fn crash_agent(&mut self) {
        if let Some((_, task)) = self.agent.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Ends the agent as an operator would.
    pub async fn stop_agent(&mut self) {
        if let Some((shutdown, task)) = self.agent.take() {
            shutdown.cancel();
            task.await.unwrap().unwrap();
        }
    }
}

/// The desired set with these machines and each one's boot volume.
pub fn set(generation: u64, machines: Vec<MachineSpec>) -> DesiredSet {
    let volumes = machines.iter().map(boot_of).collect();
    let machines = machines.into_iter().map(Arc::new).collect();
    DesiredSet { generation: Generation(generation), machines, volumes }
}

pub fn boot_of(machine: &MachineSpec) -> HostVolume {
    HostVolume { volume: machine.boot.volume, image: Some(machine.image.clone()), ..wish(0) }
}

pub fn machine(number: u128) -> MachineSpec {
    spec(number)
}

pub fn of(set: &ObservedSet, instance: InstanceId) -> Option<&MachineSeen> {
    set.machines.iter().find(|seen| seen.instance == instance)
}

pub fn has_volume(set: &ObservedSet, volume: VolumeId) -> bool {
    set.volumes.iter().any(|seen| seen.volume == volume)
}

/// Whether the set says that this spec runs.
pub fn runs(set: &ObservedSet, machine: &MachineSpec) -> bool {
    of(set, machine.instance).is_some_and(|seen| {
        seen.state == ObservedState::Running
            && seen.epoch == machine.epoch
            && seen.spec_version == machine.spec_version
    })
}
