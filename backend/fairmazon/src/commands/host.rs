//! `fairmazon host`: the agent of one host, and the operator's commands for hosts.

use std::{fs, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use fairmazon_host::{identity::HostIdentity, state::FileState, transport::JoinedTransport};
use fairmazon_proto::v1::{
    HostSpec, RegisterHostRequest, RemoveHostRequest, RotateHostTokenRequest,
    hosts_service_client::HostsServiceClient,
};

use crate::{
    client::{ClientOptions, refused},
    commands::{
        broker::read_token,
        host_agent::HostAgent,
        host_check::HostCheck,
        host_drain::HostDrain,
        host_show::{HostShow, list},
        host_update::HostUpdate,
    },
    error::CommandError,
    hypervisors::HostDriver,
    keys, output,
    standard::{Folders, Machine, Offered, storage, table},
};

/// Runs the agent of a host, or registers, lists, changes, empties and removes hosts.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Host {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    agent: HostAgent,
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
    /// Join a host to its platform: proves that it may run machines, makes its keys, and has the
    /// platform sign for them. The token that its registration answered is of no use afterwards.
    Join(Box<Join>),
    /// List the account's hosts.
    List {
        #[command(flatten)]
        client: ClientOptions,
    },
    /// Show a host, with what keeps it from a higher level of the host standard and what to do.
    Show(HostShow),
    Update(Box<HostUpdate>),
    /// Give a host another token, shown once; the one that it had is revoked at once.
    RotateToken {
        #[command(flatten)]
        client: ClientOptions,
        /// Its id.
        id: String,
    },
    Drain(HostDrain),
    /// Remove a host that nothing is on, or that is lost for good.
    Remove {
        #[command(flatten)]
        client: ClientOptions,
        /// The host is lost for good, with all that is on it: nobody can speak for it any more, and
        /// what its customers delete of it is gone at once. Refused while it may run machines.
        #[arg(long)]
        lost: bool,
        /// Its id.
        id: String,
    },
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
    /// Memory sold for what there is, in percent, 100 to 200. What is above 100 is for spot machines,
    /// and counts while the agent can take memory back from them.
    #[arg(long, default_value_t = 100)]
    memory_overcommit_percent: u32,
    /// Host standard level to offer, 0 to 3; what counts is what the host proves, and no more than
    /// this.
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
    /// Whether it is the agent, and no command for hosts.
    pub(crate) fn is_agent(&self) -> bool {
        self.action.is_none()
    }

    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Some(Action::Register { client, offer }) => register(&client, *offer).await,
            Some(Action::Check(check)) => check.run().await,
            Some(Action::Join(join)) => join.run().await,
            Some(Action::List { client }) => list(&client).await,
            Some(Action::Show(show)) => show.run().await,
            Some(Action::Update(update)) => update.run().await,
            Some(Action::RotateToken { client, id }) => rotate_token(&client, id).await,
            Some(Action::Drain(drain)) => drain.run().await,
            Some(Action::Remove { client, lost, id }) => remove(&client, id, lost).await,
            None => self.agent.run().await,
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
    /// What will run the machines, and is noted for the agent. With `qemu` the host joins only when it reaches the lowest level
    /// of the host standard; the others run no guests, and only platforms for trials give them
    /// machines.
    #[arg(long, value_enum, default_value_t = HostDriver::Qemu)]
    hypervisor: HostDriver,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    offered: Offered,
}

impl Join {
    async fn run(self) -> Result<(), CommandError> {
        let agent = |error: Box<dyn std::error::Error + Send + Sync>| CommandError::Agent(error);
        let ca_pem = fs::read_to_string(&self.ca).map_err(CommandError::file("read", &self.ca))?;
        let token = read_token(&self.token_file)?;
        self.prove().await?;
        // Locked against an agent that runs already.
        let state = FileState::open(&self.state_dir).map_err(|error| agent(error.into()))?;
        let driver = self.hypervisor.name();
        state.expect_driver(driver).map_err(|error| agent(error.into()))?;
        let identity = HostIdentity::open_to_join(&self.state_dir);
        let identity = identity.map_err(|error| agent(error.into()))?;
        let identity = Arc::new(identity);
        let transport = JoinedTransport::new(self.broker, ca_pem, identity.clone(), Some(token));
        transport.join_anew().await.map_err(|error| agent(error.into()))?;
        output::line("the host has joined; its customers see this fingerprint:");
        output::line(&identity.secret().sealing_key().fingerprint());
        // Last: a note that fails takes nothing of this back, and the agent's first start makes it.
        state.note_driver(driver).map_err(|error| agent(error.into()))
    }

    /// Proves the lowest level, before anything is made.
    async fn prove(&self) -> Result<(), CommandError> {
        if self.hypervisor != HostDriver::Qemu {
            output::note(
                "nothing of the host standard is proven, as this driver runs no guests: only \
                 platforms for trials give the host machines",
            );
            return Ok(());
        }
        let (folders, offered) = (self.folders.clone(), self.offered.clone());
        let (state, broker) = (Some(self.state_dir.clone()), Some(self.broker.clone()));
        let report = Machine::new(folders, offered, state, broker).report(0).await?;
        if report.reached() {
            return Ok(());
        }
        table(&report).iter().for_each(|line| output::line(line));
        Err(CommandError::MayNotJoin)
    }
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
        memory_overcommit_percent: offer.memory_overcommit_percent,
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

async fn rotate_token(client: &ClientOptions, id: String) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let what = format!("unable to replace the token of the host {id}");
    let request = RotateHostTokenRequest { id, idempotency_key: keys::idempotency()? };
    let made = hosts.rotate_host_token(request).await.map_err(refused(what))?.into_inner();
    output::line(&format!("token: {}", made.token));
    Ok(())
}

async fn remove(client: &ClientOptions, id: String, lost: bool) -> Result<(), CommandError> {
    let mut hosts = HostsServiceClient::new(client.connect().await?);
    let what = format!("unable to remove the host {id}");
    let idempotency_key = keys::idempotency()?;
    let request = RemoveHostRequest { id: id.clone(), idempotency_key, lost };
    let removed = hosts.remove_host(request).await.map_err(refused(what))?;
    output::line(&if removed.into_inner().stays {
        format!(
            "{id} is lost; it is removed by the same command when its customers have deleted what was on it"
        )
    } else {
        format!("{id} is removed")
    });
    Ok(())
}
