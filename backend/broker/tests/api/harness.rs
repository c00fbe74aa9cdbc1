//! A broker on a free port with one credential of each role, and clients of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use fairmazon_broker::{
    ApiConfig, Server,
    api::{Authority, ServerTls},
    core::{Caller, Clock, CoreConfig, Engine, Parts, Randomness, SystemClock},
};
use fairmazon_model::{
    access::Role,
    catalogue::Catalogue,
    conformity::UnprovenHosts,
    geo::Coordinates,
    host::{Capacity, HostSpec},
    id::{AccountId, HostId},
    site::Site,
    transfer::Sha256,
    units::{Gib, Mib, UnixMs, Vcpus},
};
use fairmazon_proto::v1::{self, instances_service_client::InstancesServiceClient};
use fairmazon_store::{
    AuditRecord, Store,
    sqlite::{SqliteOptions, SqliteStore},
};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use crate::advice::Advised;

/// The system's clock, moved by the test.
#[derive(Default)]
pub(crate) struct TestClock(AtomicI64, AtomicI64);

impl TestClock {
    pub(crate) fn forward(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Whoever reads it as the one of this number from now on panics; 0 makes it whole again.
    pub(crate) fn break_at(&self, number: i64) {
        self.1.store(number, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMs {
        assert!(self.1.fetch_sub(1, Ordering::SeqCst) != 1, "a fault was asked for");
        UnixMs(SystemClock.now().0 + self.0.load(Ordering::Relaxed))
    }
}

/// A running broker.
pub(crate) struct Broker {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) tokens: BTreeMap<Role, String>,
    pub(crate) customer: AccountId,
    pub(crate) host: HostId,
    pub(crate) ca_pem: String,
    pub(crate) engine: Engine,
    server: Option<Server>,
    store: Arc<dyn Store>,
    _folder: TempDir,
}

/// Shows a token, or nothing.
#[derive(Clone)]
pub(crate) struct Show(Option<String>);

impl Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) type Client = InterceptedService<Advised, Show>;

/// What the broker of the tests sells: of its images one is known by its manifest.
pub(crate) fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default_catalogue();
    let image = &mut catalogue.images[0];
    image.sha256 = Some(Sha256::of(b"the manifest"));
    image.signed_by = Some("E7620F1842B4E81F".into());
    catalogue
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(configure: impl FnOnce(&mut ApiConfig)) -> Self {
        Self::start_on(CoreConfig::default(), configure).await
    }

    /// On a core with this configuration, which believes hosts what they offer.
    pub(crate) async fn start_on(
        config: CoreConfig,
        configure: impl FnOnce(&mut ApiConfig),
    ) -> Self {
        Self::start_shown(SystemClock.now(), config, configure).await
    }

    /// The same, with a certificate that was made then.
    pub(crate) async fn start_shown(
        made_at: UnixMs,
        config: CoreConfig,
        configure: impl FnOnce(&mut ApiConfig),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("broker.db"));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&options).unwrap());
        let clock = Arc::new(TestClock::default());
        let parts = Parts {
            store: store.clone(),
            clock: clock.clone(),
            random: Randomness::from_seed(1),
            catalogue: catalogue(),
            config: CoreConfig { unproven_hosts: UnprovenHosts::AsOffered, ..config },
        };
        let engine = Engine::open(parts).await.unwrap();
        let authority = Authority::in_folder(folder.path().join("tls"));
        authority.ensure(&["localhost".into(), "127.0.0.1".into()], made_at.0).unwrap();
        let tls = ServerTls::load(authority.server_files(), made_at.0).unwrap();
        let mut config = ApiConfig::on(([127, 0, 0, 1], 0).into());
        config.host_authority = Some(Arc::new(authority.for_hosts().unwrap()));
        configure(&mut config);
        let server = Server::start(engine.clone(), &tls, &config).await.unwrap();
        let ca_pem = std::fs::read_to_string(authority.certificate()).unwrap();
        let (tokens, customer, host) = people(&engine).await;
        let (server, _folder) = (Some(server), folder);
        Self { clock, tokens, customer, host, ca_pem, engine, server, store, _folder }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn endpoint(&self, identity: Option<Identity>) -> Endpoint {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca_pem));
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let address = format!("https://{}", self.server().address());
        Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap()
    }

    /// A client with this token.
    pub(crate) async fn with_token(&self, token: Option<&str>) -> Client {
        let channel = self.endpoint(None).connect().await.unwrap();
        InterceptedService::new(Advised(channel), Show(token.map(str::to_owned)))
    }

    /// A client of another account.
    pub(crate) async fn stranger(&self) -> Client {
        let operator = self.as_role(Role::PlatformOperator).await;
        let mut accounts = v1::accounts_service_client::AccountsServiceClient::new(operator);
        let request =
            v1::CreateAccountRequest { name: "other".into(), idempotency_key: "other".into() };
        let other = accounts.create_account(request).await.unwrap().into_inner();
        self.with_token(Some(&other.token)).await
    }

    /// A client with the credential of this role.
    pub(crate) async fn as_role(&self, role: Role) -> Client {
        self.with_token(Some(&self.tokens[&role])).await
    }

    /// A client with a certificate and no token; the connection may be refused.
    pub(crate) async fn with_certificate(
        &self,
        certificate: &str,
        key: &str,
    ) -> Result<Client, tonic::transport::Error> {
        let identity = Identity::from_pem(certificate, key);
        let channel = self.endpoint(Some(identity)).connect().await?;
        Ok(InterceptedService::new(Advised(channel), Show(None)))
    }

    /// The entries of the audit log after this one.
    pub(crate) async fn audit_records(&self, after: u64) -> Vec<AuditRecord> {
        self.store.audit(after, 1_000).await.unwrap()
    }

    /// The verbs in the audit log after this entry, and the last entry.
    pub(crate) async fn audited(&self, after: u64) -> (Vec<String>, u64) {
        let records = self.audit_records(after).await;
        let last = records.last().map_or(after, |record| record.sequence);
        (records.into_iter().map(|record| record.entry.verb).collect(), last)
    }

    /// All that the audit log says of what rows were and became.
    pub(crate) async fn audit_text(&self) -> String {
        let records = self.audit_records(0).await;
        let rows = records.into_iter().flat_map(|record| [record.entry.before, record.entry.after]);
        rows.flatten().map(|row| row.to_string()).collect()
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        self.server.take().unwrap().stop().await;
        self.store.close().await.unwrap();
    }
}

async fn people(engine: &Engine) -> (BTreeMap<Role, String>, AccountId, HostId) {
    let platform = Caller::platform();
    let mut tokens = BTreeMap::new();
    let mut accounts = BTreeMap::new();
    for role in [Role::Customer, Role::HostOperator, Role::PlatformOperator, Role::Auditor] {
        let name = format!("{role:?}");
        let (account, _) = engine.create_account(&platform, &name, &name).await.unwrap();
        let secret = format!("fmz_{:064x}", role as u8 + 1);
        engine.ensure_token(account.id, role, &name, &secret).await.unwrap();
        tokens.insert(role, secret);
        accounts.insert(role, account.id);
    }
    let operator = Caller {
        credential: None,
        account: Some(accounts[&Role::HostOperator]),
        role: Role::HostOperator,
        host: None,
    };
    let (host, token) = engine.register_host(&operator, host_spec("first"), "host").await.unwrap();
    tokens.insert(Role::Host, token.secret);
    (tokens, accounts[&Role::Customer], host.row.id)
}

pub(crate) fn host_spec(name: &str) -> HostSpec {
    HostSpec {
        name: name.into(),
        site: Site {
            name: "fra1".into(),
            town: "Frankfurt".into(),
            country: "DE".into(),
            region: "eu-central".into(),
            coordinates: Coordinates { latitude: 50.1, longitude: 8.7 },
        },
        capacity: Capacity {
            vcpus: Vcpus(16),
            memory: Mib(65_536),
            storage: BTreeMap::from([("standard".into(), Gib(1_000))]),
        },
        cpu_overcommit_percent: 200,
        memory_overcommit_percent: 100,
        conformity: 1,
        features: Default::default(),
        price_percent: 100,
        schedulable: true,
    }
}

pub(crate) fn instance_spec(name: &str) -> v1::InstanceSpec {
    v1::InstanceSpec {
        name: name.into(),
        flavor: "tiny".into(),
        image: "alpine-3.22".into(),
        boot_volume: Some(v1::BootVolume {
            size_gib: 5,
            class: "standard".into(),
            delete_with_instance: true,
        }),
        on_user_data_change: v1::OnUserDataChange::NextBoot.into(),
        power_state: v1::PowerState::Running.into(),
        restart_policy: v1::RestartPolicy::Always.into(),
        labels: BTreeMap::from([("name".into(), name.into())]),
        placement: Some(v1::Placement::default()),
        stop_timeout_ms: 60_000,
        ..v1::InstanceSpec::default()
    }
}

/// What the status tells of the error.
pub(crate) fn detail(status: &Status) -> v1::ErrorDetail {
    v1::ErrorDetail::from_status_details(status.details()).unwrap_or_else(|| {
        panic!("{:?} {} has no details", status.code(), status.message());
    })
}

/// The id of an operation that does not end, as there is no host that is connected.
pub(crate) async fn endless(client: &Client) -> String {
    let request = v1::CreateInstanceRequest {
        spec: Some(instance_spec("one")),
        idempotency_key: "one".into(),
    };
    let mut instances = InstancesServiceClient::new(client.clone());
    let created = instances.create_instance(request).await.unwrap().into_inner();
    created.operation.unwrap().id
}
