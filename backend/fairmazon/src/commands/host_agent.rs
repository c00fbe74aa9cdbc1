//! The agent of one host as a command: its options, and what they open.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use fairmazon_host::{
    Config,
    clock::SystemClock,
    identity::HostIdentity,
    metering::Metering,
    peers::{Peers, TlsPeers},
    standard::{Looks, Standard},
    state::FileState,
    transport::JoinedTransport,
};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_hypervisor_libvirt::qemu::{Accelerator, MEMORY_INFO, MOVES, Network, QemuConfig};
use fairmazon_image::TrustedKey;
use fairmazon_model::{
    host::Capacity,
    id::HostId,
    units::{Gib, Mib, Vcpus},
};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{broker::read_token, host_drain::milliseconds, host_moves::Moves},
    dev::agents::seed,
    error::CommandError,
    hypervisors::{HostDriver, Hypervisors, open_qemu},
    memory::{self, Program},
    output,
    signals::{Asked, Signals},
    standard::{Folders, Machine, Offered, without_guests},
};

/// The agent. Everything is optional for the command line, so that the other commands need
/// none of it, and asked for when the agent runs.
#[derive(Debug, Args)]
pub(super) struct HostAgent {
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
    /// The certificate of the authority that signs for the platform's hosts [default: that of
    /// --ca].
    #[arg(long, env = "FAIRMAZON_HOST_AUTHORITY", value_name = "FILE")]
    host_authority: Option<PathBuf>,
    #[command(flatten)]
    moves: Moves,
    /// Where the agent keeps its state.
    #[arg(long, env = "FAIRMAZON_HOST_STATE", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// What runs the machines. A host keeps the one that it joined or first started with.
    #[arg(long, value_enum, default_value_t = HostDriver::Qemu)]
    hypervisor: HostDriver,
    #[command(flatten)]
    qemu: QemuOptions,
    #[command(flatten)]
    offered: Offered,
    /// With `--hypervisor qemu`: how often the host standard is looked at, as a number with `s`,
    /// `m`, `h` or `d`.
    #[arg(long, value_parser = milliseconds, value_name = "TIME", default_value = "5m")]
    prove_every: i64,
}

/// The folder in the agent's state of what a host keeps of its storage classes.
const STORAGE: &str = "storage";

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
    /// With `--hypervisor qemu`: a folder in memory (tmpfs) for consoles, user data and keys.
    #[arg(long, value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// With `--hypervisor qemu`: the bridge that guests are on [default: they have no network].
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
}

impl QemuOptions {
    /// Where the host standard is looked at.
    fn folders(&self) -> Folders {
        Folders {
            libvirt: Some(self.libvirt.clone()),
            storage_dir: self.storage_dir.clone(),
            runtime_dir: self.runtime_dir.clone(),
            root: "/".into(),
        }
    }

    /// `state` is the agent's state folder.
    async fn open(self, state: &Path) -> Result<(Arc<dyn Hypervisor>, Accelerator), CommandError> {
        let trusted_keys = self
            .image_key
            .iter()
            .map(|path| TrustedKey::read(path))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| CommandError::Image {
                attempted: "read the public key that --image-key names",
                source,
            })?;
        if trusted_keys.is_empty() {
            return Err(CommandError::Usage(
                "an agent with real guests needs --image-key: the public key of who signs its \
                 images (`fairmazon image key`)"
                    .into(),
            ));
        }
        let storage = given(self.storage_dir, "--storage-dir")?;
        let state = state.join(STORAGE);
        let images = given(self.images_dir, "--images-dir")?;
        let consoles = given(self.runtime_dir, "--runtime-dir")?;
        let network = self.bridge.map_or(Network::None, Network::Bridge);
        open_qemu(move |accelerator| QemuConfig {
            uri: self.libvirt,
            storage,
            state,
            images,
            trusted_keys,
            consoles,
            moves: MOVES.into(),
            network,
            accelerator,
            capacity: plenty(),
            memory_info: MEMORY_INFO.into(),
        })
        .await
    }
}

impl HostAgent {
    pub(super) async fn run(self) -> Result<(), CommandError> {
        memory::keep_off_disks();
        let program = Program::mapped();
        let mut signals = Signals::listen()?;
        let agent = |error: Box<dyn std::error::Error + Send + Sync>| CommandError::Agent(error);
        let ca = given(self.ca, "--ca")?;
        let host = given(self.host_id, "--host-id")?;
        let broker = given(self.broker, "--broker")?;
        let folder = given(self.state_dir, "--state-dir")?;
        if let Some(why) = self.moves.misleads() {
            return Err(CommandError::Usage(why));
        }
        if let Some(why) = self.moves.is_out_of_reach() {
            tracing::warn!(why, "no other host reaches this one");
        }
        // Locked first: of two agents that start at once over a new folder, one makes the keys.
        let state = FileState::open(&folder).map_err(|error| agent(error.into()))?;
        state.expect_driver(self.hypervisor.name()).map_err(|error| agent(error.into()))?;
        let identity = Arc::new(HostIdentity::open(&folder).map_err(|error| agent(error.into()))?);
        identity.certificate().map_err(|error| agent(error.into()))?;
        let read =
            |path: &PathBuf| fs::read_to_string(path).map_err(CommandError::file("read", path));
        let authorities = read(self.host_authority.as_ref().unwrap_or(&ca))?;
        let transport = Arc::new(JoinedTransport::new(
            broker.clone(),
            read(&ca)?,
            identity.clone(),
            self.token_file.as_deref().map(read_token).transpose()?,
        ));
        let (hypervisor, standard, runs_with) = match self.hypervisor {
            HostDriver::Qemu => {
                let folders = self.qemu.folders();
                let (hypervisor, accelerator) = self.qemu.open(&folder).await?;
                warn_of_software(accelerator);
                let machine =
                    Machine::new(folders, self.offered, Some(folder.clone()), Some(broker))
                        .driven_with(accelerator);
                let every = Duration::from_millis(self.prove_every.unsigned_abs());
                let looks = Looks { every, ..Looks::with(Arc::new(machine)) };
                (hypervisor, Standard::Proven(looks), Some(accelerator))
            }
            driver => {
                let hypervisors = Hypervisors::choose(driver.kind()).await?;
                let hypervisor = hypervisors.of(host, &host.to_string(), &plenty()).await?;
                let standard = without_guests(hypervisor.kind());
                (hypervisor, standard, None)
            }
        };
        let kind = hypervisor.kind();
        // Not before it works: a start that fails for want of an option decides nothing.
        state.note_driver(kind).map_err(|error| agent(error.into()))?;
        let peers: Option<Arc<dyn Peers>> = match &self.moves.migration_listen {
            None => None,
            Some(bind) => {
                let address = self.moves.migration_address.clone();
                let listen = TlsPeers::listen(bind, address, identity.clone(), authorities.clone());
                Some(Arc::new(listen.await.map_err(|error| agent(error.into()))?))
            }
        };
        let secret = Some(identity.secret());
        let metering = Some(Metering::in_folder(&folder, host, identity));
        let config = Config::new(host, seed()?, Arc::new(state));
        let standard = Some(standard);
        let config = Config { secret, peers, authorities, metering, standard, ..config };
        let clock = Arc::new(SystemClock::new().map_err(CommandError::System)?);
        let stop = CancellationToken::new();
        let run = fairmazon_host::run(config, hypervisor, transport, clock, stop.clone());
        tokio::pin!(run);
        let rests = program.let_go_of_what_rests();
        tokio::pin!(rests);
        let runs_with = runs_with.map(|it| format!(", {it}")).unwrap_or_default();
        output::line(&format!("the agent of {host} runs ({kind}{runs_with})"));
        loop {
            tokio::select! {
                outcome = &mut run => return outcome.map_err(|error| agent(error.into())),
                never = &mut rests => match never {},
                asked = signals.next() => if let Asked::End = asked { stop.cancel() },
            }
        }
    }
}

/// Guests are slow then, and the host proves no level above 0, for as long as this agent runs.
fn warn_of_software(accelerator: Accelerator) {
    if accelerator == Accelerator::Tcg && Accelerator::kvm_is_offered() {
        tracing::warn!(
            "/dev/kvm is there and no guest booted with it: guests run in software until \
             the agent is started again; do that when the host is quiet, and see `fairmazon host \
             check` if it stays so"
        );
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
