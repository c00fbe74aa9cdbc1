//! A running broker: store, core, reconcilers and server, started and ended in order.

use std::{net::SocketAddr, sync::Arc};

use fairmazon_broker::{
    ApiConfig, Server,
    api::{Authority, CurrentCertificate, ServerTls},
    core::{Clock, CoreConfig, Engine, Parts, Randomness, SystemClock},
};
use fairmazon_model::catalogue::Catalogue;
use fairmazon_store::{
    Store,
    sqlite::{SqliteOptions, SqliteStore},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    error::CommandError,
    folder::Folder,
    open_files,
    signals::{Asked, Signals},
};

/// A running broker.
pub(crate) struct Platform {
    pub(crate) engine: Engine,
    store: Arc<dyn Store>,
    reconciler: JoinHandle<()>,
    stop: CancellationToken,
    server: Server,
}

impl Platform {
    /// Opens the store of the folder and begins to sell what the catalogue has; the folder's
    /// authority signs for hosts.
    pub(crate) async fn start(
        folder: &Folder,
        tls: &ServerTls,
        api: &ApiConfig,
        core: CoreConfig,
        catalogue: Catalogue,
    ) -> Result<Self, CommandError> {
        let authority = Authority::in_folder(folder.tls());
        authority.ensure_itself(now_ms()).map_err(CommandError::Tls)?;
        let host_authority = Some(Arc::new(authority.for_hosts().map_err(CommandError::Tls)?));
        let connections = open_files::connections(open_files::raise(), api.connections);
        // Strangers of one address, and clients of one account, are a part of them, whatever there
        // is.
        let part = connections.div_ceil(4);
        let api = ApiConfig {
            host_authority,
            connections,
            strangers_per_address: api.strangers_per_address.min(part),
            connections_per_account: api.connections_per_account.min(part),
            ..api.clone()
        };
        let store = open_store(folder).await?;
        let parts = Parts {
            store: store.clone(),
            clock: Arc::new(SystemClock),
            random: Randomness::from_system(),
            catalogue,
            config: core,
        };
        let engine = Engine::open(parts).await.map_err(|error| CommandError::Load {
            path: folder.database(),
            // Whoever starts the broker is who the rest is for.
            reason: if error.operator.is_empty() { error.to_string() } else { error.operator },
        })?;
        let started = match engine.check_images() {
            Ok(()) => Server::start(engine.clone(), tls, &api).await.map_err(CommandError::Server),
            Err(error) => {
                Err(CommandError::refused("unable to sell what the catalogue has")(error))
            }
        };
        let server = match started {
            Ok(server) => server,
            Err(error) => {
                close(&store).await;
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        let reconciler = engine.start(stop.clone());
        Ok(Self { engine, store, reconciler, stop, server })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where its metrics are.
    pub(crate) const fn metrics_address(&self) -> Option<SocketAddr> {
        self.server.metrics_address()
    }

    /// Ends it: what was acknowledged is durable before and after.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
        self.stop.cancel();
        if let Err(error) = self.reconciler.await {
            tracing::error!(%error, "the reconciler has panicked");
        }
        close(&self.store).await;
    }
}

/// Runs on until a signal asks for the end. The certificate is kept current meanwhile, and read
/// again when a signal asks for it, with what `reload` reads.
pub(crate) async fn until_ended(
    signals: &mut Signals,
    certificate: &CurrentCertificate,
    reload: impl Fn(),
) {
    let asked = async {
        while let Asked::Reload = signals.next().await {
            match certificate.look() {
                Ok(()) => tracing::info!("the certificate was read again"),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the certificate stays what it was");
                }
            }
            reload();
        }
    };
    tokio::select! {
        () = asked => {}
        never = certificate.keep() => match never {},
    }
}

/// Opens the store of the folder; its work is done beside the runtime's threads.
pub(crate) async fn open_store(folder: &Folder) -> Result<Arc<dyn Store>, CommandError> {
    let path = folder.database();
    let options = SqliteOptions::new(&path);
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&options)).await;
    match opened {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(source)) => Err(CommandError::Store { path, source }),
        Err(error) => Err(CommandError::System(error.into())),
    }
}

async fn close(store: &Arc<dyn Store>) {
    if let Err(error) = store.close().await {
        tracing::error!(%error, "the store was not tidied up; nothing is lost");
    }
}

/// The wall clock in ms since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    SystemClock.now().0
}
