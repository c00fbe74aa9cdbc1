//! One schedule: builds the world of a seed, lets customers work while faults happen, heals
//! everything, and checks what is left.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use fairmazon_broker::core::{Caller, CoreConfig, Engine, Parts, Randomness};
use fairmazon_host::{Config, metering::Metering, peers::Town};
use fairmazon_hypervisor::sim::{Load, Manner, SeededFaults, SimHost, World};
use fairmazon_model::{
    access::Role,
    geo::Coordinates,
    host::{Capacity, HostSpec},
    id::{HostId, VolumeId},
    site::Site,
    units::{Gib, Mib, Vcpus},
};
use fairmazon_store::memory::{Fault, MemoryDisk};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    check,
    client::{Acknowledged, Client},
    clock::{HostClock, WallClock},
    faults::{self, Act},
    gate::Gate,
    images,
    keys::Keys,
    lost::Fate,
    meter,
    net::{Path, PathTransport, Up},
    peers::{BadPeers, Roads},
    restore,
    standard::Keeps,
    state::HostDisk,
};

/// How long a healed world may take to come right.
const SETTLES_WITHIN: Duration = Duration::from_secs(900);
/// How long what came right must stay so.
const STAYS_FOR: Duration = Duration::from_secs(70);
/// Faults happen that long, in ms.
const TROUBLE_MS: u64 = 60_000;
/// Hosts that do not conform are emptied after this time, for this time at most, in ms.
const GRACE_MS: i64 = 6_000;
const DRAIN_MS: i64 = 120_000;
/// A machine stays that long where it was placed before it may move to a better host, in ms.
const REST_MS: i64 = 20_000;

/// What happened, for people.
#[derive(Clone)]
pub struct Log {
    begun: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    pub fn say(&self, text: impl std::fmt::Display) {
        let at = self.begun.elapsed().as_millis();
        self.lines.lock().push(format!("{at:>8} ms  {text}"));
    }
}

/// Runs the schedule of a seed.
pub fn schedule(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let (log, wrong) = runtime.unwrap().block_on(async {
        let log = Log { begun: Instant::now(), lines: Arc::default() };
        let wrong = Platform::build(seed, log.clone()).await.live().await;
        (log, wrong)
    });
    let lines = log.lines.lock().join("\n");
    assert!(
        wrong.is_empty(),
        "seed {seed} went wrong (WORLD_SEED={seed} runs it alone).\n{lines}\n\n{}",
        wrong.join("\n")
    );
    if std::env::var_os("WORLD_SEED").is_some() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{lines}");
    }
}

/// A broker that is up.
pub struct Broker {
    pub engine: Engine,
    reconciler: JoinHandle<()>,
}

/// A host of the world.
pub struct Host {
    pub id: HostId,
    pub sim: SimHost,
    disk: Arc<HostDisk>,
    metering: Metering,
    keeps: Arc<Keeps>,
    pub path: Arc<Path>,
    clock: Arc<HostClock>,
    clock_percent: u64,
    frozen: Arc<Gate>,
    agent: Option<JoinHandle<()>>,
    pub has_power: bool,
    starts: u64,
    pub fate: Fate,
}

/// What the store's hook looks at.
#[derive(Default)]
struct StoreFaults {
    slow_ms: u64,
    refuses: bool,
    lose_answer: bool,
}

/// All of it.
pub struct Platform {
    pub seed: u64,
    pub random: StdRng,
    pub log: Log,
    pub disk: MemoryDisk,
    store_faults: Arc<Mutex<StoreFaults>>,
    answer_lost: Arc<Notify>,
    wall: Arc<WallClock>,
    pub broker: Option<Broker>,
    up: watch::Sender<Up>,
    pub customer: Caller,
    pub world: Arc<World>,
    pub hosts: Vec<Host>,
    /// Hosts reach each other here.
    town: Arc<Town>,
    roads: Arc<Roads>,
    keys: Arc<Keys>,
    /// Volumes are made with their keys and opened with nothing else.
    encrypts: bool,
    quiet: bool,
    /// No host loses its lease.
    pub gentle: bool,
    /// Hosts are small, so that room is short.
    tight: bool,
    /// Volumes that were seen with no key of their customer's.
    locked: Vec<String>,
    /// How often had been written to volumes when the store was restored to before some moves; none
    /// while it was not.
    pub restored: Option<BTreeMap<VolumeId, u64>>,
}

impl Platform {
    /// The world's clock, in ms.
    pub fn world_ms(&self) -> u128 {
        self.log.begun.elapsed().as_millis()
    }

    /// A platform with its hosts registered and everything started.
    async fn build(seed: u64, log: Log) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let begun = log.begun;
        let millis = move || u64::try_from(begun.elapsed().as_millis()).unwrap();
        let nobody = Caller { credential: None, account: None, role: Role::Customer, host: None };
        let mut platform = Self {
            seed,
            log,
            disk: MemoryDisk::new(),
            store_faults: Arc::default(),
            answer_lost: Arc::default(),
            wall: Arc::new(WallClock::new()),
            broker: None,
            up: watch::Sender::new(Up::default()),
            customer: nobody,
            world: World::new(Arc::new(millis)),
            hosts: Vec::new(),
            town: Arc::default(),
            roads: Arc::default(),
            keys: Keys::new(),
            encrypts: random.random_range(0..2) == 0,
            quiet: random.random_range(0..20) == 0,
            gentle: random.random_range(0..3) == 0,
            tight: random.random_range(0..2) == 0,
            locked: Vec::new(),
            restored: None,
            random,
        };
        platform.start_broker().await;
        let engine = platform.engine();
        let made = engine.create_account(&Caller::platform(), "customer", "account").await;
        platform.customer.account = Some(made.unwrap().0.id);
        let count = platform.random.random_range(1..=4);
        for number in 0..count {
            platform.add_host(number).await;
        }
        platform.hook_store();
        platform
    }

    async fn add_host(&mut self, number: usize) {
        let spec = host_spec(number, self.tight, &mut self.random);
        let capacity = spec.capacity.clone();
        let engine = self.engine();
        let made = engine.register_host(&self.customer, spec, &format!("host-{number}")).await;
        let id = made.unwrap().0.row.id;
        let sim = self.world.add_host(id, capacity);
        let metering =
            meter::metering(&engine, self.customer, id, self.wall.clone(), &self.keys).await;
        let stop_ms = self.random.random_range(0..4_000);
        // Some guests never hear that they are asked, most where notices are looked at.
        let hears = self.random.random_range(0..6) >= if self.gentle { 4 } else { 1 };
        sim.set_stop_takes(hears.then(|| Duration::from_millis(stop_ms)));
        if self.encrypts {
            sim.set_encrypts();
        }
        // Some hosts' guests grow while they run, others' restart for it.
        sim.set_growth(number.is_multiple_of(2));
        images::tell(&sim, number);
        let clock_percent = self.random.random_range(91..=110);
        self.hosts.push(Host {
            id,
            sim,
            disk: Arc::default(),
            metering,
            keeps: Keeps::all(),
            path: Path::new(id, self.up.subscribe(), self.random.random(), self.log.clone()),
            clock: Arc::new(HostClock::new(clock_percent, 0)),
            clock_percent,
            frozen: Arc::default(),
            agent: None,
            has_power: true,
            starts: 0,
            fate: Fate::Lives,
        });
        self.start_agent(number);
    }

    fn hook_store(&self) {
        let (faults, lost) = (self.store_faults.clone(), self.answer_lost.clone());
        let up = self.up.clone();
        self.disk.on_commit(move |_| {
            let mut faults = faults.lock();
            if std::mem::take(&mut faults.lose_answer) {
                // Nobody hears of it any more: it is dead from here on.
                up.send_modify(|up| up.engine = None);
                lost.notify_one();
                return Fault::AnswerLost;
            }
            match (faults.refuses, faults.slow_ms) {
                (true, _) => Fault::Refused,
                (_, 0) => Fault::None,
                (_, ms) => Fault::Slow(Duration::from_millis(ms)),
            }
        });
    }

    /// The engine of the broker that is up.
    pub fn engine(&self) -> Engine {
        self.broker.as_ref().expect("the broker is up").engine.clone()
    }

    /// Lets customers work and faults happen; answers what is wrong in the end.
    async fn live(mut self) -> Vec<String> {
        let acknowledged = RefCell::new(Acknowledged::default());
        let clients: Vec<_> = (0..self.random.random_range(1..=4))
            .map(|number| {
                let random = StdRng::seed_from_u64(self.random.random());
                let (up, log) = (self.up.subscribe(), self.log.clone());
                Client::new(number, self.customer, random, up, log, &acknowledged)
            })
            .collect();
        let give = self.keys.clone().give(self.customer, self.up.subscribe());
        let giver = tokio::spawn(give);
        let commands = self.random.random_range(3..=8);
        let work = futures::future::join_all(clients.into_iter().map(|c| c.work(commands)));
        let mut acts = if self.quiet {
            Vec::new()
        } else {
            faults::schedule(&mut self.random, self.hosts.len(), TROUBLE_MS)
        };
        if self.gentle {
            acts.retain(|(_, act)| !faults::ends_leases(act));
        }
        let trouble = async {
            self.trouble(acts).await;
            self.heal().await;
            self
        };
        let done = async { tokio::join!(work, trouble).1 };
        let mut platform = match tokio::time::timeout(SETTLES_WITHIN, done).await {
            Ok(platform) => platform,
            Err(_) => return vec!["a customer never got an answer".into()],
        };
        let mut acknowledged = acknowledged.into_inner();
        let mut wrong = platform.comes_right(&acknowledged).await;
        if wrong.is_empty() {
            platform.replace(&mut acknowledged).await;
            wrong = platform.settle(&acknowledged).await;
        }
        if wrong.is_empty() && restore::is_due(&platform) {
            restore::before_moves(&mut platform).await;
            wrong = platform.settle(&acknowledged).await;
        }
        wrong.extend(acknowledged.wrong);
        wrong.append(&mut platform.locked);
        giver.abort();
        platform.end().await;
        wrong
    }

    async fn trouble(&mut self, acts: Vec<(u64, Act)>) {
        let begun = Instant::now();
        for (at_ms, act) in acts {
            let until = begun + Duration::from_millis(at_ms);
            let lost = self.answer_lost.clone();
            while tokio::time::timeout_at(until, lost.notified()).await.is_ok() {
                self.log.say("fault: an answer of the store is lost, and the broker dies");
                self.stop_broker();
                self.start_broker().await;
            }
            if self.broker.is_some() {
                let locked = check::customer_has_keys(self);
                self.locked.extend(locked);
            }
            self.log.say(format!("fault: {act:?}"));
            self.act(act).await;
        }
    }

    pub async fn act(&mut self, act: Act) {
        // What has ended for good is not back before it was given up.
        if act.host().is_some_and(|host| self.hosts[host].fate == Fate::Dead) {
            return;
        }
        match act {
            Act::Dies(host, death) => self.dies(host, death).await,
            Act::GivesUp => self.give_up_the_dead().await,
            Act::BrokerDies => self.stop_broker(),
            Act::BrokerStarts => self.start_broker().await,
            Act::AgentDies(host) => self.stop_agent(host).await,
            Act::AgentStarts(host) => self.start_agent(host),
            Act::AgentFreezes(host) => self.hosts[host].frozen.close(),
            Act::AgentThaws(host) => self.hosts[host].frozen.open(),
            Act::PowerFails(host) => {
                self.stop_agent(host).await;
                self.hosts[host].has_power = false;
                self.world.host_loses_power(self.hosts[host].id);
            }
            Act::PowerIsBack(host) => self.power_on(host),
            Act::CutToBroker(host, cut) => self.hosts[host].path.set(|w| w.to_broker.cut = cut),
            Act::CutToHost(host, cut) => self.hosts[host].path.set(|w| w.to_host.cut = cut),
            Act::Lossy(host, percent) => self.hosts[host].path.set(|wire| {
                wire.to_broker.lossy_percent = percent;
                wire.to_host.lossy_percent = percent;
            }),
            Act::RoadsLossy(percent) => self.roads.lossy(percent),
            Act::HypervisorFails(host, 0) => self.hosts[host].sim.clear_faults(),
            Act::HypervisorFails(host, percent) => {
                let faults =
                    SeededFaults::new(self.random.random(), percent, 200, Duration::from_secs(1));
                self.hosts[host].sim.set_faults(faults);
            }
            Act::HostDiskSlow(host, ms) => self.hosts[host].disk.slow(ms),
            Act::HostDiskRefuses(host, saves) => self.hosts[host].disk.refuse(saves),
            Act::StoreSlow(ms) => self.store_faults.lock().slow_ms = ms,
            Act::StoreRefuses(refuses) => self.store_faults.lock().refuses = refuses,
            Act::AnswerLost => self.store_faults.lock().lose_answer = true,
            Act::WallClockJumps(ms) => self.wall.jump(ms),
            Act::MemoryFills(host, percent) => self.fill_memory(host, percent),
            Act::Drains(host, begins) => self.drain(host, begins).await,
            Act::Proves(host, level) => self.hosts[host].keeps.set(level),
            Act::GuestCrashes(host) => {
                let host = self.hosts[host].id;
                let runs = self.world.ledger().runs();
                let run = runs.iter().find(|run| run.host == host && run.until_ms.is_none());
                if let Some(run) = run {
                    self.world.guest_crashes(host, run.instance);
                }
            }
        }
    }

    /// Has the guests of a host touch a part of their memory. Some give nothing of it back.
    fn fill_memory(&mut self, host: usize, percent: u64) {
        let random = &mut self.random;
        self.hosts[host].sim.set_loads(|definition| {
            let part = |percent: u64| Mib(definition.memory.0 * percent / 100);
            let manner = [Manner::Gives, Manner::Gives, Manner::Keeps, Manner::Silent];
            let manner =
                if percent == 0 { Manner::Gives } else { manner[random.random_range(0..4)] };
            let needs = part(random.random_range(0..=percent));
            Load { needs, touches: part(percent), manner }
        });
    }

    /// Begins or ends to empty a host, if the broker does it by now.
    async fn drain(&mut self, host: usize, begins: bool) {
        let Some(broker) = &self.broker else { return };
        let (engine, customer) = (broker.engine.clone(), self.customer);
        let (id, key) = (self.hosts[host].id, self.random.random::<u64>().to_string());
        let drain = async {
            if begins {
                engine.drain_host(&customer, id, DRAIN_MS, &key).await
            } else {
                engine.cancel_drain(&customer, id, &key).await
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(10), drain).await;
        self.log.say(format!("{id} is emptied: {begins}: {}", matches!(said, Ok(Ok(_)))));
    }

    /// Ends every fault.
    pub async fn heal(&mut self) {
        self.log.say("everything is healed");
        *self.store_faults.lock() = StoreFaults::default();
        self.disk.heal();
        self.roads.lossy(0);
        for host in 0..self.hosts.len() {
            self.hosts[host].sim.clear_faults();
            self.hosts[host].disk.heal();
            self.hosts[host].keeps.set(Some(3));
            self.fill_memory(host, 0);
            self.hosts[host].frozen.open();
            if self.hosts[host].fate == Fate::Lives {
                self.bring_back(host);
            }
        }
        if self.up.borrow().engine.is_none() {
            // Also one that has died of an answer that was lost in the last fault.
            self.stop_broker();
        }
        self.start_broker().await;
        for host in 0..self.hosts.len() {
            self.drain(host, false).await;
        }
        self.bury().await;
    }

    /// Waits until nothing is wrong, and stays so; answers what is wrong to the last.
    async fn settle(&mut self, acknowledged: &Acknowledged) -> Vec<String> {
        let wrong = self.comes_right(acknowledged).await;
        if !wrong.is_empty() {
            return wrong;
        }
        self.log.say("everything is right");
        tokio::time::sleep(STAYS_FOR).await;
        check::all(self, acknowledged, self.quiet).await
    }

    /// Waits until nothing is wrong; answers what is wrong to the last.
    async fn comes_right(&mut self, acknowledged: &Acknowledged) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let wrong = check::all(self, acknowledged, self.quiet).await;
            if wrong.is_empty() || begun.elapsed() > SETTLES_WITHIN {
                return wrong;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    pub async fn start_broker(&mut self) {
        if self.broker.is_some() {
            return;
        }
        let number = self.up.borrow().number + 1;
        let engine = Engine::open(Parts {
            store: Arc::new(self.disk.open().unwrap()),
            clock: self.wall.clone(),
            random: Randomness::from_seed(self.seed.wrapping_mul(1_000_003).wrapping_add(number)),
            catalogue: images::catalogue(),
            config: CoreConfig {
                conformity_grace_ms: GRACE_MS,
                conformity_drain_ms: DRAIN_MS,
                rebalance_rest_ms: REST_MS,
                rebalance_every_ms: REST_MS / 4,
                ..CoreConfig::default()
            },
        });
        let engine = engine.await.unwrap();
        let reconciler = engine.start(CancellationToken::new());
        self.broker = Some(Broker { engine: engine.clone(), reconciler });
        self.up.send_replace(Up { engine: Some(engine), number });
    }

    /// Ends the broker as a crash would: wherever it is.
    pub fn stop_broker(&mut self) {
        let Some(broker) = self.broker.take() else { return };
        self.disk.crash();
        broker.reconciler.abort();
        self.hosts.iter().for_each(|host| host.path.broker_died());
        self.up.send_modify(|up| up.engine = None);
    }

    fn start_agent(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.agent.is_some() || !host.has_power {
            return;
        }
        host.starts += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(host.starts);
        let peers = BadPeers::new(host.id, &self.town, &self.roads, seed);
        let config = Config {
            peers: Some(Arc::new(peers)),
            secret: Some(self.keys.secret(host.id)),
            authorities: self.keys.authorities(),
            metering: Some(host.metering.clone()),
            standard: Some(host.keeps.standard()),
            ..Config::new(host.id, seed, host.disk.clone())
        };
        let agent = fairmazon_host::run(
            config,
            Arc::new(host.sim.clone()),
            Arc::new(PathTransport(host.path.clone())),
            host.clock.clone(),
            CancellationToken::new(),
        );
        let agent = async move { agent.await.expect("the state can be loaded") };
        host.agent = Some(tokio::spawn(host.frozen.hold(agent)));
    }

    pub async fn stop_agent(&mut self, index: usize) {
        if let Some(agent) = self.hosts[index].agent.take() {
            agent.abort();
            let ended = agent.await;
            assert!(!ended.is_err_and(|error| error.is_panic()), "an agent panicked");
        }
    }

    /// Ends what keeps a host from the broker.
    pub fn bring_back(&mut self, index: usize) {
        self.hosts[index].path.set(|wire| *wire = Default::default());
        self.power_on(index);
        self.start_agent(index);
    }

    pub fn power_on(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if !host.has_power {
            host.has_power = true;
            host.clock = Arc::new(HostClock::new(host.clock_percent, host.starts));
            self.start_agent(index);
        }
    }

    /// Whether something that must never end has ended.
    pub fn ended(&self) -> bool {
        self.broker.as_ref().is_none_or(|broker| broker.reconciler.is_finished())
            || self.hosts.iter().any(|host| match &host.agent {
                Some(agent) => agent.is_finished(),
                None => host.fate == Fate::Lives,
            })
    }

    async fn end(&mut self) {
        for host in 0..self.hosts.len() {
            self.stop_agent(host).await;
        }
        self.stop_broker();
    }
}

fn host_spec(number: usize, tight: bool, random: &mut StdRng) -> HostSpec {
    let vcpus = random.random_range(1..=if tight { 2 } else { 16 });
    HostSpec {
        name: format!("host-{number}"),
        site: Site {
            name: format!("site-{}", number % 2),
            town: "Town".into(),
            country: ["DE", "FR"][number % 2].into(),
            region: "eu-central".into(),
            coordinates: Coordinates::new(50.0, 8.0).unwrap(),
        },
        capacity: Capacity {
            vcpus: Vcpus(vcpus),
            memory: Mib(u64::from(vcpus) * 4_096),
            storage: [("standard".to_owned(), Gib(random.random_range(25..=500)))].into(),
        },
        cpu_overcommit_percent: 200,
        memory_overcommit_percent: [100, 150, 200][random.random_range(0..3)],
        conformity: 1,
        features: Default::default(),
        price_percent: [80, 100, 120][random.random_range(0..3)],
        schedulable: true,
    }
}
