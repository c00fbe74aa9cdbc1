//! `fairmazon host`: the agent of one host, and the operator's commands for hosts.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use fairmazon_host::{
    Config, clock::SystemClock, identity::HostIdentity, metering::Metering, state::FileState,
    transport::JoinedTransport,
};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_hypervisor_libvirt::qemu::{Network, QemuConfig};
use fairmazon_image::TrustedKey;
use fairmazon_model::{
    host::Capacity,
    id::HostId,
    units::{Gib, Mib, Vcpus},
};
use fairmazon_proto::v1::{
    HostSpec, ListHostsRequest, Page, RegisterHostRequest, RemoveHostRequest,
    RotateHostTokenRequest, hosts_service_client::HostsServiceClient,
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{ClientOptions, refused},
    commands::{broker::read_token, host_check::HostCheck},
    dev::agents::seed,
    error::CommandError,
    hypervisors::{HypervisorKind, Hypervisors, open_qemu},
    keys, output,
    signals::{Asked, Signals},
};

/// Runs the agent of a host, or registers, lists and removes hosts.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Host {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Register a host; its id and its token are shown, the token once.
    Register {
        #[command(flatten)]
        client: ClientOptions,
        #[command(flatten)]
        offer: Box<Offer>,
    },
    /// Prove that this machine keeps the host standard, and say what to do where it does not.
    Check(Box<HostCheck>),
    /// Join a host to its platform: makes its keys, and has the platform sign for them. The token
    /// that its registration answered is of no use afterwards.
    Join(Join),
    /// List the account's hosts.
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Give a host another token, shown once; the one that it had is revoked at once.
    RotateToken {
        #[command(flatten)]
        client: ClientOptions,
        /// Its id.
        id: String,
    },
    /// Remove a host that nothing is on.
    Remove {
        #[command(flatten)]
        client: ClientOptions,
        /// Its id.
        id: String,
    },
}

/// The agent. Everything is optional for the command line, so that the other commands need
/// none of it, and asked for when the agent runs.
#[derive(Debug, Args)]
struct Run {
    /// The broker, as `https://HOST:PORT`.
    #[arg(long, env = "FAIRMAZON_BROKER", value_name = "URL")]
    broker: Option<String>,
    /// Which host this is, as it was registered.
    #[arg(long, env = "FAIRMAZON_HOST_ID", value_name = "ID")]
    host_id: Option<HostId>,
    /// The file with the token that the host joins with; not needed once it has joined.
    #[arg(long, env = "FAIRMAZON_HOST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The certificate of the authority that signs the broker's.
    #[arg(long, env = "FAIRMAZON_CA_CERTIFICATE", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Where the agent keeps its state.
    #[arg(long, env = "FAIRMAZON_HOST_STATE", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// What runs the machines.
    #[arg(long, value_enum, default_value_t = HypervisorKind::Auto)]
    hypervisor: HypervisorKind,
    #[command(flatten)]
    qemu: QemuOptions,
}

/// What an agent with real guests needs to know.
#[derive(Debug, Args)]
struct QemuOptions {
    /// With `--hypervisor qemu`: libvirt's daemon on this machine.
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    libvirt: String,
    /// With `--hypervisor qemu`: where volumes are kept, a folder for each storage class in it.
    #[arg(long, value_name = "FOLDER")]
    storage_dir: Option<PathBuf>,
    /// With `--hypervisor qemu`: where images are, as `fairmazon image add` puts them there.
    #[arg(long, value_name = "FOLDER")]
    images_dir: Option<PathBuf>,
    /// With `--hypervisor qemu`: whose images are used, as a file with a public key. May be given
    /// several times.
    #[arg(long, value_name = "FILE")]
    image_key: Vec<PathBuf>,
    /// With `--hypervisor qemu`: a folder in memory (tmpfs) for consoles and user data.
    #[arg(long, value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// With `--hypervisor qemu`: the bridge that guests are on [default: they have no network].
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
}

impl QemuOptions {
    async fn open(self) -> Result<Arc<dyn Hypervisor>, CommandError> {
        let trusted_keys = self
            .image_key
            .iter()
            .map(|path| TrustedKey::read(path))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CommandError::Hypervisor { kind: "qemu", source: error.into() })?;
        if trusted_keys.is_empty() {
            return Err(CommandError::Usage(
                "an agent with real guests needs --image-key: the public key of who signs its \
                 images (`fairmazon image key`)"
                    .into(),
            ));
        }
        let storage = given(self.storage_dir, "--storage-dir")?;
        let images = given(self.images_dir, "--images-dir")?;
        let consoles = given(self.runtime_dir, "--runtime-dir")?;
        let network = self.bridge.map_or(Network::None, Network::Bridge);
        open_qemu(move |accelerator| QemuConfig {
            uri: self.libvirt,
            storage,
            images,
            trusted_keys,
            consoles,
            network,
            accelerator,
            capacity: plenty(),
        })
        .await
    }
}

/// What a host offers.
#[derive(Debug, Args)]
struct Offer {
    /// Its name, unique in the account.
    #[arg(long)]
    name: String,
    /// The site it stands at.
    #[arg(long)]
    site: String,
    /// The town of the site.
    #[arg(long)]
    town: String,
    /// The country, as two capital letters.
    #[arg(long)]
    country: String,
    /// The region of the platform.
    #[arg(long)]
    region: String,
    /// Degrees north.
    #[arg(long, allow_negative_numbers = true)]
    latitude: f64,
    /// Degrees east.
    #[arg(long, allow_negative_numbers = true)]
    longitude: f64,
    /// Hardware threads.
    #[arg(long)]
    vcpus: u32,
    /// Memory for guests, in MiB.
    #[arg(long)]
    memory_mib: u64,
    /// Disk for guests, as CLASS=GIB. May be given several times.
    #[arg(long, value_parser = storage, value_name = "CLASS=GIB", required = true)]
    storage: Vec<(String, u64)>,
    /// vCPU sold for each hardware thread, in percent.
    #[arg(long, default_value_t = 200)]
    cpu_overcommit_percent: u32,
    /// Host standard level, 0 to 3.
    #[arg(long, default_value_t = 0)]
    conformity: u32,
    /// Price against the catalogue's, in percent.
    #[arg(long, default_value_t = 100)]
    price_percent: u32,
    /// What it can do (`confidential`). May be given several times.
    #[arg(long = "feature")]
    features: Vec<String>,
}

impl Host {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Some(Action::Register { client, offer }) => register(&client, *offer).await,
            Some(Action::Check(check)) => check.run().await,
            Some(Action::Join(join)) => join.run().await,
            Some(Action::List { client }) => list(&client).await,
            Some(Action::RotateToken { client, id }) => rotate_token(&client, id).await,
            Some(Action::Remove { client, id }) => remove(&client, id).await,
            None => self.run.run().await,
        }
    }
}

impl Run {
    async fn run(self) -> Result<(), CommandError> {
        let mut signals = Signals::listen()?;
        let agent = |error: Box<dyn std::error::Error + Send + Sync>| CommandError::Agent(error);
        let ca = given(self.ca, "--ca")?;
        let host = given(self.host_id, "--host-id")?;
        let folder = given(self.state_dir, "--state-dir")?;
        // Locked first: of two agents that start at once over a new folder, one makes the keys.
        let state = FileState::open(&folder).map_err(|error| agent(error.into()))?;
        let identity = Arc::new(HostIdentity::open(&folder).map_err(|error| agent(error.into()))?);
        let transport = Arc::new(JoinedTransport::new(
            given(self.broker, "--broker")?,
            fs::read_to_string(&ca).map_err(CommandError::file("read", &ca))?,
            identity.clone(),
            self.token_file.as_deref().map(read_token).transpose()?,
        ));
        let hypervisor = match self.hypervisor {
            HypervisorKind::Qemu => self.qemu.open().await?,
            kind => {
                let hypervisors = Hypervisors::choose(kind).await?;
                hypervisors.of(host, &host.to_string(), &plenty()).await?
            }
        };
        let kind = hypervisor.kind();
        let secret = Some(identity.secret());
        let metering = Some(Metering::in_folder(&folder, host, identity));
        let config = Config { secret, metering, ..Config::new(host, seed()?, Arc::new(state)) };
        let clock = Arc::new(SystemClock::new().map_err(CommandError::System)?);
        let stop = CancellationToken::new();
        let (tended, renewals) = (transport.clone(), stop.clone());
        tokio::spawn(async move { tended.tend(renewals).await });
        let run = fairmazon_host::run(config, hypervisor, transport, clock, stop.clone());
        tokio::pin!(run);
        output::line(&format!("the agent of {host} runs ({kind})"));
        loop {
            tokio::select! {
                outcome = &mut run => return outcome.map_err(|error| agent(error.into())),
                asked = signals.next() => if let Asked::End = asked { stop.cancel() },
            }
        }
    }
}

/// A host that joins.
#[derive(Debug, Args)]
struct Join {
    /// The broker, as `https://HOST:PORT`.
    #[arg(long, env = "FAIRMAZON_BROKER", value_name = "URL")]
    broker: String,
    /// The file with the token that the host's registration answered.
    #[arg(long, env = "FAIRMAZON_HOST_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// The certificate of the authority that signs the broker's.
    #[arg(long, env = "FAIRMAZON_CA_CERTIFICATE", value_name = "FILE")]
    ca: PathBuf,
    /// Where the agent keeps its state; its keys are made there.
    #[arg(long, env = "FAIRMAZON_HOST_STATE", value_name = "FOLDER")]
    state_dir: PathBuf,
}

impl Join {
    async fn run(self) -> Result<(), CommandError> {
        let agent = |error: Box<dyn std::error::Error + Send + Sync>| CommandError::Agent(error);
        let ca_pem = fs::read_to_string(&self.ca).map_err(CommandError::file("read", &self.ca))?;
        let token = read_token(&self.token_file)?;
        // Locked against an agent that runs already.
        let _state = FileState::open(&self.state_dir).map_err(|error| agent(error.into()))?;
        let identity = HostIdentity::open(&self.state_dir).map_err(|error| agent(error.into()))?;
        let identity = Arc::new(identity);
        let transport = JoinedTransport::new(self.broker, ca_pem, identity.clone(), Some(token));
        transport.join_anew().await.map_err(|error| agent(error.into()))?;
        output::line("the host has joined; its customers see this fingerprint:");
        output::line(&identity.secret().sealing_key().fingerprint());
        Ok(())
    }
}

fn given<T>(value: Option<T>, option: &str) -> Result<T, CommandError> {
    value.ok_or_else(|| {
        CommandError::Usage(format!(
            "the agent of a host needs {option}; `fairmazon host --help` shows all of it"
        ))
    })
}

/// What a simulated host has: the broker keeps the books by what the operator offers.
fn plenty() -> Capacity {
    Capacity {
        vcpus: Vcpus(1_024),
        memory: Mib(16 * 1_024 * 1_024),
        storage: BTreeMap::from([
            ("fast".to_owned(), Gib(1_048_576)),
            ("standard".to_owned(), Gib(1_048_576)),
        ]),
    }
}

pub(super) fn storage(text: &str) -> Result<(String, u64), String> {
    let (class, size) = text.split_once('=').ok_or("it must be CLASS=GIB, as in fast=500")?;
    let size = size.parse().map_err(|_| format!("`{size}` is not a number of GiB"))?;
    Ok((class.to_owned(), size))
}

async fn register(client: &ClientOptions, offer: Offer) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let what = format!("unable to register the host {}", offer.name);
    let spec = HostSpec {
        name: offer.name,
        site: offer.site,
        town: offer.town,
        country: offer.country,
        region: offer.region,
        latitude: offer.latitude,
        longitude: offer.longitude,
        vcpus: offer.vcpus,
        memory_mib: offer.memory_mib,
        storage_gib: offer.storage.into_iter().collect(),
        cpu_overcommit_percent: offer.cpu_overcommit_percent,
        conformity: offer.conformity,
        features: offer.features,
        price_percent: offer.price_percent,
        schedulable: true,
    };
    let request = RegisterHostRequest { spec: Some(spec), idempotency_key: keys::idempotency()? };
    let made = hosts.register_host(request).await.map_err(refused(what))?.into_inner();
    output::line(&format!("id: {}", made.host.unwrap_or_default().id));
    output::line(&format!("token: {}", made.token));
    Ok(())
}

async fn list(client: &ClientOptions) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let mut token = String::new();
    loop {
        let request = ListHostsRequest { page: Some(Page { size: 0, token }) };
        let page = hosts.list_hosts(request).await.map_err(refused("unable to list the hosts"))?;
        let page = page.into_inner();
        for row in &page.hosts {
            let spec = row.spec.clone().unwrap_or_default();
            let state = if row.connected { "connected" } else { "silent" };
            output::line(&format!(
                "{}\t{}\t{}\t{}\t{state}\t{} machines\t{} vCPU and {} MiB used",
                row.id,
                spec.name,
                spec.site,
                spec.country,
                row.machines,
                row.vcpus_used,
                row.memory_mib_used
            ));
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        token = page.next_page_token;
    }
}

async fn rotate_token(client: &ClientOptions, id: String) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let what = format!("unable to replace the token of the host {id}");
    let request = RotateHostTokenRequest { id, idempotency_key: keys::idempotency()? };
    let made = hosts.rotate_host_token(request).await.map_err(refused(what))?.into_inner();
    output::line(&format!("token: {}", made.token));
    Ok(())
}

async fn remove(client: &ClientOptions, id: String) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let what = format!("unable to remove the host {id}");
    let request = RemoveHostRequest { id: id.clone(), idempotency_key: keys::idempotency()? };
    hosts.remove_host(request).await.map_err(refused(what))?;
    output::line(&format!("{id} is removed"));
    Ok(())
}
