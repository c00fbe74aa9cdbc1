//! A small platform in one process: the engine on SQLite, simulated hosts with real agents,
//! and streams between them that a test can cut. Everything is seeded or injected.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use fairmazon_broker::{
    api::readings,
    core::{Caller, Clock, CoreConfig, Engine, OperationWatch, PageRequest, Parts, Randomness},
    session::{BrokerSays, Hello, HostSays},
};
use fairmazon_host::{
    Config,
    clock::{Clock as _, SimClock},
    metering::Metering,
    state::{MemoryState, StateStore},
    transport::{BrokerEnd, FromHost, ToHost, TransportError},
};
use fairmazon_hypervisor::sim::{SimHost, World};
use fairmazon_keys::HostSecret;
use fairmazon_model::{
    access::Role,
    catalogue::Catalogue,
    conformity::UnprovenHosts,
    geo::Coordinates,
    host::{Capacity, HostSpec},
    id::{HostId, InstanceId, OperationId},
    instance::{BootVolumeSpec, Instance, InstanceSpec, Power},
    key::{Blob, VolumeHostKey},
    operation::{Operation, OperationState},
    placement::Placement,
    site::Site,
    units::{Gib, Mib, UnixMs, Vcpus},
    volume::VolumeSpec,
};
use fairmazon_store::{
    AuditEntry, Store,
    sqlite::{SqliteOptions, SqliteStore},
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for an event before a test gives up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// A wall clock that a test moves.
pub struct TestClock(AtomicI64, AtomicBool);

impl TestClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_790_000_000_000), AtomicBool::new(false)))
    }

    pub fn forward(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// Whoever reads it next panics.
    pub fn break_once(&self) {
        self.1.store(true, Ordering::SeqCst);
    }

    pub fn is_broken(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMs {
        assert!(!self.1.swap(false, Ordering::SeqCst), "a fault was asked for");
        UnixMs(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// The settings of most tests: everything quick but the lease, which holds however slow the
/// machine is.
pub fn quick() -> CoreConfig {
    CoreConfig {
        lease_term: Duration::from_secs(600),
        lease_margin: Duration::from_millis(500),
        publish_delay: Duration::from_millis(5),
        tick: Duration::from_millis(50),
        // What hosts prove is for the tests of that.
        unproven_hosts: UnprovenHosts::AsOffered,
        ..CoreConfig::default()
    }
}

/// The settings of tests in which hosts die.
pub fn mortal() -> CoreConfig {
    CoreConfig {
        lease_term: Duration::from_secs(3),
        lease_margin: Duration::from_millis(100),
        ..quick()
    }
}

/// An engine with one customer.
pub struct Kit {
    pub engine: Engine,
    pub store: Arc<dyn Store>,
    pub clock: Arc<TestClock>,
    pub customer: Caller,
    keys: AtomicU64,
    reconciler: Mutex<Option<(CancellationToken, JoinHandle<()>)>>,
}

impl Kit {
    /// An engine on the store in this folder, its reconciler not yet started.
    pub async fn open(folder: &Path, config: CoreConfig) -> Self {
        let store = SqliteStore::open(&SqliteOptions::new(folder.join("store.db"))).unwrap();
        Self::on(Arc::new(store), config, 1).await
    }

    pub async fn on(store: Arc<dyn Store>, config: CoreConfig, seed: u64) -> Self {
        Self::with(store, config, seed, Catalogue::default_catalogue()).await
    }

    /// As [`Kit::open`], with another catalogue.
    pub async fn selling(folder: &Path, config: CoreConfig, catalogue: Catalogue) -> Self {
        let store = SqliteStore::open(&SqliteOptions::new(folder.join("store.db"))).unwrap();
        Self::with(Arc::new(store), config, 1, catalogue).await
    }

    async fn with(
        store: Arc<dyn Store>,
        config: CoreConfig,
        seed: u64,
        catalogue: Catalogue,
    ) -> Self {
        let clock = TestClock::new();
        let engine = Engine::open(Parts {
            store: store.clone(),
            clock: clock.clone(),
            random: Randomness::from_seed(seed),
            catalogue,
            config,
        })
        .await
        .unwrap();
        let account = match engine.account_named("customer") {
            Some(account) => account,
            None => engine.create_account(&Caller::platform(), "customer", "k").await.unwrap().0,
        };
        let customer = Caller {
            credential: None,
            account: Some(account.id),
            role: Role::Customer,
            host: None,
        };
        let reconciler = Mutex::new(None);
        Self { engine, store, clock, customer, keys: AtomicU64::new(0), reconciler }
    }

    /// Starts the reconciler.
    pub fn start(&self) {
        let shutdown = CancellationToken::new();
        let task = self.engine.start(shutdown.clone());
        *self.reconciler.lock() = Some((shutdown, task));
    }

    /// Ends the reconciler wherever it is.
    pub async fn die(&self) {
        let running = self.reconciler.lock().take();
        if let Some((_, task)) = running {
            task.abort();
            let _ = task.await;
        }
    }

    /// Ends the reconciler and gives the store back.
    pub async fn stop(&self) {
        let running = self.reconciler.lock().take();
        if let Some((shutdown, task)) = running {
            shutdown.cancel();
            task.await.unwrap();
        }
        self.store.close().await.unwrap();
    }

    /// A key that no other call has.
    pub fn key(&self) -> String {
        format!("key-{}", self.keys.fetch_add(1, Ordering::SeqCst))
    }

    /// The wall clock in ms since the Unix epoch.
    pub fn clock_ms(&self) -> i64 {
        self.clock.now().0
    }

    /// Waits for the end of an operation.
    pub async fn ended(&self, id: OperationId) -> Arc<Operation> {
        let watch = self.engine.watch_operation(&self.customer, id).unwrap();
        match tokio::time::timeout(GIVE_UP, last(watch)).await {
            Ok(operation) => operation,
            Err(_) => panic!("it never ended: {:#?}", self.engine.operation(&self.customer, id)),
        }
    }

    /// Waits for an operation to be done.
    pub async fn done(&self, id: OperationId) {
        let operation = self.ended(id).await;
        assert_eq!(operation.state, OperationState::Done, "{operation:?}");
    }

    /// Waits until `fits`, looking whenever a moment has passed.
    pub async fn until(&self, what: &str, mut fits: impl FnMut() -> bool) {
        let wait = async {
            while !fits() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(GIVE_UP, wait).await.is_ok(), "never: {what}");
    }

    /// What the audit log says that the platform did with it by itself, in order.
    pub async fn own_changes(&self, target: impl ToString) -> Vec<AuditEntry> {
        let records = self.store.audit(0, 10_000).await.unwrap();
        let (entries, target) =
            (records.into_iter().map(|record| record.entry), target.to_string());
        entries.filter(|it| it.target == target && it.verb.starts_with("broker.")).collect()
    }

    /// The verbs of these changes.
    pub async fn own_verbs(&self, target: impl ToString) -> Vec<String> {
        self.own_changes(target).await.into_iter().map(|entry| entry.verb).collect()
    }

    /// Whether the operation waits for keys.
    pub fn waits_for_keys(&self, id: OperationId) -> bool {
        let operation = self.engine.operation(&self.customer, id).unwrap();
        matches!(operation.state, OperationState::Running { waits_for_keys: true, .. })
    }

    /// What the metrics page says of this.
    pub fn reading(&self, what: &str) -> u64 {
        let all = readings(&self.engine);
        let found = all.iter().find(|(name, _)| *name == what);
        found.unwrap_or_else(|| panic!("{what} is not in {all:?}")).1
    }

    /// Waits until the metrics page says so of this.
    pub async fn reads(&self, what: &str, value: u64) {
        self.until(&format!("{what} {value}"), || self.reading(what) == value).await;
    }

    /// Every instance that the customer has.
    pub fn instances(&self) -> Vec<fairmazon_broker::core::InstanceView> {
        let page = PageRequest { after: None, limit: 0 };
        self.engine.instances(&self.customer, page, &BTreeMap::new()).items
    }
}

async fn last(mut watch: OperationWatch) -> Arc<Operation> {
    let mut last = None;
    while let Some(operation) = watch.next().await {
        last = Some(operation);
    }
    last.unwrap()
}

pub fn spec(name: &str) -> InstanceSpec {
    InstanceSpec {
        name: name.into(),
        flavor: "small".into(),
        flavor_fallback: Vec::new(),
        image: "debian-13".into(),
        placement: Placement::default(),
        preferences: Default::default(),
        boot_volume: BootVolumeSpec {
            size: Gib(10),
            class: "standard".into(),
            delete_with_instance: true,
        },
        volumes: BTreeMap::new(),
        user_data: String::new(),
        on_user_data_change: Default::default(),
        ssh_keys: Default::default(),
        power: Power::Running,
        schedule: None,
        spot: None,
        restart_policy: Default::default(),
        stop_timeout_ms: 60_000,
        deletion_protection: false,
        labels: BTreeMap::new(),
    }
}

/// An instance of the customer's as it is kept.
pub fn row(kit: &Kit, id: InstanceId) -> Instance {
    Instance::clone(&kit.engine.instance(&kit.customer, id).unwrap().row)
}

/// A key that opens nothing.
pub fn fake_key(version: u32, print: &str) -> VolumeHostKey {
    VolumeHostKey {
        version,
        made_for: 1,
        fingerprint: format!("SHA256:{}", print.repeat(43)),
        sealed: Blob(vec![1]),
        wrapped: Blob(vec![2]),
    }
}

pub fn volume_spec(name: &str) -> VolumeSpec {
    VolumeSpec {
        name: name.into(),
        size: Gib(10),
        class: "standard".into(),
        source: None,
        image: None,
        import: None,
        read_only: false,
        key_version: 1,
        placement: Placement::default(),
        deletion_protection: false,
        labels: BTreeMap::new(),
    }
}

pub fn host_spec(number: usize, country: &str) -> HostSpec {
    HostSpec {
        name: format!("host-{number}"),
        site: Site {
            name: format!("site-{}", country.to_lowercase()),
            town: "Town".into(),
            country: country.into(),
            region: "eu-central".into(),
            coordinates: Coordinates::new(50.0, 8.0).unwrap(),
        },
        capacity: Capacity {
            vcpus: Vcpus(64),
            memory: Mib(512 * 1_024),
            storage: [("standard".to_owned(), Gib(10_000)), ("fast".to_owned(), Gib(1_000))].into(),
        },
        cpu_overcommit_percent: 400,
        memory_overcommit_percent: 100,
        conformity: 1,
        features: Default::default(),
        price_percent: 100,
        schedulable: true,
    }
}

/// Hosts with simulated hypervisors and real agents.
pub struct Hosts {
    pub world: Arc<World>,
    clock: SimClock,
    pub hosts: Vec<Host>,
}

/// One of them.
pub struct Host {
    pub id: HostId,
    pub sim: SimHost,
    state: Arc<dyn StateStore>,
    /// What its agent opens seals with.
    pub secret: Arc<HostSecret>,
    /// How it meters, from its next start on.
    pub metering: Option<Metering>,
    starts: u64,
    agent: Option<JoinHandle<()>>,
    network: CancellationToken,
}

impl Hosts {
    pub fn none() -> Self {
        let clock = SimClock::new();
        let world_clock = clock.clone();
        let world = World::new(Arc::new(move || world_clock.now_ms()));
        Self { world, clock, hosts: Vec::new() }
    }

    /// Registers a host; its agent is not yet started.
    pub async fn add(&mut self, kit: &Kit, spec: HostSpec) -> HostId {
        let capacity = spec.capacity.clone();
        let registered = kit.engine.register_host(&kit.customer, spec, &kit.key()).await;
        let id = registered.unwrap().0.row.id;
        let sim = self.world.add_host(id, capacity);
        self.hosts.push(Host {
            id,
            sim,
            state: Arc::new(MemoryState::default()),
            secret: Arc::new(HostSecret::generate()),
            metering: None,
            starts: 0,
            agent: None,
            network: CancellationToken::new(),
        });
        id
    }

    /// Registers and connects that many hosts.
    pub async fn start(kit: &Kit, count: usize) -> Self {
        let mut hosts = Self::none();
        for number in 0..count {
            hosts.add(kit, host_spec(number, "DE")).await;
            hosts.connect(number, &kit.engine);
        }
        hosts
    }

    /// Starts the agent of a host, with a stream to this engine.
    pub fn connect(&mut self, index: usize, engine: &Engine) {
        let clock = self.clock.clone();
        let host = &mut self.hosts[index];
        host.starts += 1;
        host.network = CancellationToken::new();
        let streams = serve(engine, host.id, host.network.clone());
        let mut config = Config::new(host.id, host.starts, host.state.clone());
        config.metering = host.metering.clone();
        config.secret = Some(host.secret.clone());
        config.first_pause = Duration::from_millis(10);
        config.longest_pause = Duration::from_millis(200);
        config.report_every = Duration::from_millis(5);
        config.memory_every = Duration::from_millis(20);
        let agent = fairmazon_host::run(
            config,
            Arc::new(host.sim.clone()),
            Arc::new(streams),
            Arc::new(clock),
            CancellationToken::new(),
        );
        host.agent = Some(tokio::spawn(async move {
            agent.await.unwrap();
        }));
    }

    /// Cuts the host's network: no stream is open, and none opens. The agent goes on.
    pub fn cut(&self, index: usize) {
        self.hosts[index].network.cancel();
    }

    /// Kills the agent; its machines go on.
    pub async fn kill_agent(&mut self, index: usize) {
        self.hosts[index].network.cancel();
        if let Some(agent) = self.hosts[index].agent.take() {
            agent.abort();
            let _ = agent.await;
        }
    }

    /// Nothing ran twice, no volume had two writers.
    pub fn check(&self) {
        let violations = self.world.ledger().violations();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// Serves the streams of a host until its network is cut.
fn serve(engine: &Engine, host: HostId, network: CancellationToken) -> mpsc::Sender<BrokerEnd> {
    let (streams, mut incoming) = mpsc::channel::<BrokerEnd>(1);
    let engine = engine.clone();
    tokio::spawn(async move {
        loop {
            let end = tokio::select! {
                () = network.cancelled() => return,
                end = incoming.recv() => end,
            };
            let Some(end) = end else { return };
            let (engine, network) = (engine.clone(), network.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = network.cancelled() => {}
                    () = carry(&engine, host, end) => {}
                }
            });
        }
    });
    streams
}

/// Carries the messages of one stream both ways until it ends.
async fn carry(engine: &Engine, host: HostId, end: BrokerEnd) {
    let inbound = ReceiverStream::new(end.receiver).map(host_says);
    let (outbound, mut says) = mpsc::channel(8);
    let to_host = end.sender.clone();
    let forward = async {
        while let Some(message) = says.recv().await {
            if to_host.send(Ok(to_host_message(message))).await.is_err() {
                return;
            }
        }
    };
    let (result, ()) = tokio::join!(engine.host_stream(host, inbound, outbound), forward);
    if let Err(error) = result {
        let _ = end.sender.send(Err(TransportError::Ended { reason: error.to_string() })).await;
    }
}

fn host_says(message: FromHost) -> HostSays {
    match message {
        FromHost::Hello(hello) => HostSays::Hello(Hello {
            host: hello.host,
            agent_version: hello.agent_version,
            hypervisor: hello.hypervisor,
            session: hello.session,
            generation: hello.generation,
            migration_address: hello.migration_address,
            accelerator: hello.accelerator,
            reads_consoles: hello.reads_consoles,
            conformity: hello.conformity,
        }),
        FromHost::Renew { sequence } => HostSays::Renew { sequence },
        FromHost::Observed { sequence, set } => HostSays::Observed { sequence, set },
        FromHost::Metered(batch) => HostSays::Metered(batch),
        FromHost::ConsoleRead(read) => HostSays::ConsoleRead(read),
    }
}

fn to_host_message(says: BrokerSays) -> ToHost {
    match says {
        BrokerSays::Welcome { lease_term_ms, renew_every_ms, generation } => {
            ToHost::Welcome { lease_term_ms, renew_every_ms, generation }
        }
        BrokerSays::Renewed { sequence, lease_term_ms } => {
            ToHost::Renewed { sequence, lease_term_ms }
        }
        BrokerSays::Desired(set) => ToHost::Desired(set),
        BrokerSays::MeteredThrough { batch, refused } => ToHost::MeteredThrough { batch, refused },
        BrokerSays::Receive(asked) => ToHost::Receive(asked),
        BrokerSays::Send(asked) => ToHost::Send(asked),
        BrokerSays::ReadConsole(asked) => ToHost::ReadConsole(asked),
    }
}
