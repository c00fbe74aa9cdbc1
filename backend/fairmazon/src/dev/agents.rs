//! The host agents of `fairmazon dev`: in this process, but connected as any other host is,
//! over TLS and each with keys and a certificate of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fairmazon_broker::core::{Caller, Engine, Standing};
use fairmazon_host::{
    Config, clock::SystemClock, metering::Metering, peers::TlsPeers, standard::Standard,
    state::FileState, transport::JoinedTransport,
};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::id::HostId;
use rand::{TryRngCore, rngs::OsRng};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{dev::people::DevHost, error::CommandError, folder::Folder};

/// How long the hosts may take to connect.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// Where they take machines from each other.
const ANYWHERE: &str = "127.0.0.1:0";
/// How often they look at what runs, and how long their windows of use are: whoever tries the
/// platform sees soon what was used.
const METER_LOOK: Duration = Duration::from_secs(2);
const METER_WINDOW: Duration = Duration::from_secs(60);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// Running agents.
pub(crate) struct Agents {
    tasks: JoinSet<Result<(), CommandError>>,
    stop: CancellationToken,
    hosts: Vec<HostId>,
}

impl Agents {
    /// Starts an agent for each host.
    pub(crate) async fn start(
        hosts: Vec<(DevHost, Arc<dyn Hypervisor>)>,
        address: SocketAddr,
        ca_pem: &str,
        folder: &Folder,
    ) -> Result<Self, CommandError> {
        let clock = Arc::new(SystemClock::new().map_err(CommandError::System)?);
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let ids = hosts.iter().map(|(host, _)| host.id).collect();
        for (host, hypervisor) in hosts {
            let name = host.spec.name;
            let state = FileState::open(folder.host(&name))
                .map(Arc::new)
                .map_err(|error| CommandError::Agent(error.into()))?;
            let (id, identity) = (host.id, Arc::new(host.identity));
            let authorities = ca_pem.to_owned();
            let peers = TlsPeers::listen(ANYWHERE, None, identity.clone(), authorities.clone());
            let peers = peers.await.map_err(|error| CommandError::Agent(error.into()))?;
            let metering = Metering {
                look_every: METER_LOOK,
                window: METER_WINDOW,
                ..Metering::in_folder(&folder.host(&name), id, identity.clone())
            };
            // It shares its machine with all others, whatever that keeps.
            let kind = hypervisor.kind();
            let standard = Standard::Unproven(format!(
                "it is a host of `fairmazon dev`, with the driver `{kind}`"
            ));
            let config = Config {
                secret: Some(identity.secret()),
                peers: Some(Arc::new(peers)),
                authorities,
                metering: Some(metering),
                standard: Some(standard),
                ..Config::new(id, seed()?, state)
            };
            let transport = Arc::new(JoinedTransport::new(
                format!("https://{address}"),
                ca_pem.to_owned(),
                identity,
                Some(host.token),
            ));
            let run =
                fairmazon_host::run(config, hypervisor, transport, clock.clone(), stop.clone());
            tasks.spawn(async move {
                run.await.map_err(|error| {
                    let cause: &dyn std::error::Error = &error;
                    tracing::error!(host = name, error = cause, "the host agent can't run");
                    CommandError::Agent(error.into())
                })
            });
        }
        Ok(Self { tasks, stop, hosts: ids })
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Waits until all of them are connected, or one of them can't run.
    pub(crate) async fn connected(
        &mut self,
        engine: &Engine,
        address: SocketAddr,
    ) -> Result<(), CommandError> {
        let until = Instant::now() + CONNECT_TIME;
        loop {
            let connected = self.hosts.iter().filter(|id| is_connected(engine, **id)).count();
            if connected == self.hosts.len() {
                return Ok(());
            }
            while let Some(ended) = self.tasks.try_join_next() {
                ended.map_err(|error| CommandError::System(error.into()))??;
            }
            if Instant::now() >= until {
                return Err(CommandError::Hosts { connected, all: self.hosts.len(), address });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the agents; their machines would go on.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn is_connected(engine: &Engine, id: HostId) -> bool {
    let view = engine.host(&Caller::platform(), id);
    view.is_ok_and(|view| view.standing == Standing::Connected && view.last_seen.is_some())
}

/// Another one at each start.
pub(crate) fn seed() -> Result<u64, CommandError> {
    OsRng.try_next_u64().map_err(|error| CommandError::System(std::io::Error::other(error)))
}
