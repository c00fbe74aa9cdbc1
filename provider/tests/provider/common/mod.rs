//! A broker in this process, for what a real one does not do on command: it counts calls and
//! fails when told to. It keeps rows in memory, over real TLS; everything is done at once.

mod following;
mod offers;
mod services;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use fairmazon_model::{DomainError, catalogue::Catalogue, id::HostId};
use fairmazon_proto::v1;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value as Json, json};
use terraform_provider_fairmazon::{Fairmazon, Process};
use tfplugin::harness::Harness;
use tokio::{sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// The token that the broker takes.
pub(crate) const TOKEN: &str = "fmz_test";

/// Everything that the broker keeps.
pub(crate) struct State {
    pub(crate) catalogue: Catalogue,
    pub(crate) instances: BTreeMap<String, v1::Instance>,
    pub(crate) volumes: BTreeMap<String, v1::Volume>,
    pub(crate) groups: BTreeMap<String, v1::PlacementGroup>,
    pub(crate) tokens: BTreeMap<String, v1::Token>,
    /// What each idempotency key made.
    pub(crate) keys: HashMap<String, String>,
    /// How often each call was made.
    pub(crate) calls: BTreeMap<&'static str, usize>,
    /// How many rows a page has at most.
    pub(crate) page_rows: usize,
    /// Operations never end while this is set.
    pub(crate) hold: bool,
    /// The next operation ends in this failure.
    pub(crate) fail: Option<v1::ErrorDetail>,
    /// Calls that are refused, and with what.
    pub(crate) refused: BTreeMap<&'static str, DomainError>,
    /// No machine runs now.
    pub(crate) off_hours: bool,
    /// No host takes a machine.
    pub(crate) no_place: bool,
    /// What the agents of guests say of cloud-init; none while they have no agent.
    pub(crate) agent: Option<v1::CloudInit>,
    /// What guests have written to their serial consoles; none while no host answers.
    pub(crate) console: Option<String>,
    /// A host that asks for the keys of new machines, with its certificate.
    pub(crate) asks: Option<(HostId, String)>,
    /// The keys that were given.
    pub(crate) given: watch::Sender<Vec<v1::GivenKey>>,
    /// How far its clock is before that of this machine, in milliseconds.
    pub(crate) ahead_ms: i64,
    made: u64,
}

impl State {
    fn new() -> Self {
        Self {
            catalogue: Catalogue::default_catalogue(),
            instances: BTreeMap::new(),
            volumes: BTreeMap::new(),
            groups: BTreeMap::new(),
            tokens: BTreeMap::new(),
            keys: HashMap::new(),
            calls: BTreeMap::new(),
            page_rows: usize::MAX,
            hold: false,
            fail: None,
            refused: BTreeMap::new(),
            off_hours: false,
            no_place: false,
            agent: Some(v1::CloudInit::Done),
            console: Some(String::new()),
            asks: None,
            given: watch::Sender::new(Vec::new()),
            ahead_ms: 0,
            made: 0,
        }
    }

    /// The time by its clock, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        jiff::Timestamp::now().as_millisecond() + self.ahead_ms
    }

    /// A number that was not given before, for ids.
    pub(crate) fn next(&mut self) -> u128 {
        self.made += 1;
        u128::from(self.made)
    }
}

pub(crate) type Shared = Arc<Mutex<State>>;

/// A running broker; it ends when this is dropped.
pub(crate) struct Broker {
    pub(crate) state: Shared,
    pub(crate) endpoint: String,
    pub(crate) ca_pem: String,
    serving: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Broker {
    /// Starts one on a free port.
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerTlsConfig::new()).await
    }

    /// Starts one that asks for a certificate and takes those of this authority.
    pub(crate) async fn asking_for(authority_pem: &str) -> Self {
        let authority = Certificate::from_pem(authority_pem);
        Self::start_with(ServerTlsConfig::new().client_ca_root(authority)).await
    }

    async fn start_with(tls: ServerTlsConfig) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let identity_line = fairmazon_keys::Identity::generate().line();
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, identity_line.as_bytes()).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key_file, private).unwrap();
        let state: Shared = Arc::new(Mutex::new(State::new()));
        let services = services::all(&state);
        let mut server = Server::builder().tls_config(tls.identity(identity)).unwrap();
        let serving = tokio::spawn(async move {
            let router = services.add_to(&mut server);
            let _ = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Self {
            state,
            endpoint: format!("https://127.0.0.1:{}", address.port()),
            ca_pem: certificate.pem(),
            serving,
            folder,
        }
    }

    /// The provider block that leads here.
    pub(crate) fn block(&self) -> Json {
        json!({
            "endpoint": self.endpoint,
            "token": TOKEN,
            "ca_certificate": self.ca_pem,
            "key_file": self.folder.path().join("key"),
        })
    }

    /// A client in memory, its provider configured for this broker.
    pub(crate) async fn harness(&self) -> Harness<Fairmazon> {
        let harness = Harness::new(provider());
        harness.configure(self.block()).await.unwrap();
        harness
    }

    /// How often a call was made.
    pub(crate) fn calls(&self, name: &str) -> usize {
        self.state.lock().calls.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn instance(&self, id: &str) -> v1::Instance {
        self.state.lock().instances[id].clone()
    }
}

/// The provider, in a process with an empty environment.
pub(crate) fn provider() -> Fairmazon {
    provider_in(|_| None)
}

/// The provider, in a process with these variables.
pub(crate) fn provider_in(env: fn(&str) -> Option<String>) -> Fairmazon {
    let process = Process {
        env,
        working_directory: PathBuf::from("/project"),
        name: "test".to_owned(),
        session: None,
    };
    Fairmazon::new(process)
}

/// The smallest machine.
pub(crate) fn machine() -> Json {
    json!({ "name": "web", "flavor": "small", "image": "debian-13" })
}

/// The smallest machine with more attributes.
pub(crate) fn machine_with(more: Json) -> Json {
    let mut machine = machine();
    let (Json::Object(all), Json::Object(more)) = (&mut machine, more) else { return machine };
    all.extend(more);
    machine
}
