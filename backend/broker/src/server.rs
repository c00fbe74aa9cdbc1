//! The broker's server: start and end of everything that listens.
//!
//! States: listening (from [`Server::start`] on), ending (calls under way may finish, streams
//! are told to come again), ended.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use fairmazon_model::limits;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{
        Buckets, Connections, Ending, Gate, GateLayer, Health, Metrics, Owners, Rules, ServerTls,
        Strangers, Uses, page, readings, routes,
    },
    config::ApiConfig,
    core::Engine,
};

/// Largest headers of a request, in bytes.
const HEADERS_MAX: u32 = 16 * 1024;
/// How often a silent connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How much one connection may send ahead, in bytes.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How much one call may send ahead, in bytes.
const CALL_WINDOW: u32 = 1024 * 1024;

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error(
        "unable to listen on {address}: another program may have the port; choose another address, or port 0 for a free one"
    )]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The descriptors that were compiled in can't be read.
    #[error("unable to set up reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// A listening broker.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    stop: CancellationToken,
    stop_time: Duration,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    others: TaskTracker,
}

impl Server {
    /// Begins to listen. When this returns, clients can connect.
    ///
    /// # Errors
    /// When an address can't be listened on.
    pub async fn start(
        engine: Engine,
        tls: &ServerTls,
        config: &ApiConfig,
    ) -> Result<Self, ServerError> {
        let (listener, address) = listen(config.listen).await?;
        let (stop, others) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Arc::new(Metrics::new());
        let mut metrics_address = None;
        if let Some(wanted) = config.metrics {
            let (listener, address) = listen(wanted).await?;
            metrics_address = Some(address);
            if !address.ip().to_canonical().is_loopback() {
                tracing::warn!(
                    %address,
                    "the metrics are in plain HTTP, for whoever reaches this address without a \
                     credential: listen at 127.0.0.1, or let nobody else reach it"
                );
            }
            let (metrics, engine) = (metrics.clone(), engine.clone());
            let text = Arc::new(move || metrics.text(readings(&engine)));
            others.spawn(page::serve(listener, text, stop.clone()));
        }
        let uses = Arc::new(Uses::new(config.credential_rate, config.streams_per_credential));
        others.spawn(end_revoked(engine.clone(), uses.clone(), stop.clone()));
        let (health, health_service) = Health::new().await;
        others.spawn(health.follow(engine.store().clone(), stop.clone()));
        let gate = Gate {
            engine: engine.clone(),
            rules: Rules::new(),
            uses,
            addresses: Buckets::new(config.address_rate),
            owners: Owners::new(config.connections_per_account, config.connections_per_host),
            metrics: metrics.clone(),
            ending: Ending(stop.clone()),
            call_time: config.call_time,
        };
        let connections = Connections {
            listener,
            tls: tls.config(),
            most: config.connections,
            handshake_time: config.handshake_time,
            strangers: Strangers::new(config.strangers_per_address),
            stranger_time: config.stranger_time,
            metrics,
        };
        let routes = routes(engine, config.host_authority.clone())
            .map_err(ServerError::Reflection)?
            .add_service(health_service);
        let streams = u32::try_from(2 * limits::STREAMS_PER_TOKEN).unwrap_or(u32::MAX);
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_max_header_list_size(HEADERS_MAX)
            .max_concurrent_streams(streams)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(CALL_WINDOW)
            .layer(GateLayer(Arc::new(gate)))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                connections.accept(stop.clone()),
                stop.clone().cancelled_owned(),
            );
        let serving = tokio::spawn(serving);
        others.close();
        let stop_time = config.stop_time;
        Ok(Self { address, metrics_address, stop, stop_time, serving, others })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the metrics page listens.
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Ends: nothing new is taken, calls under way may finish within the stop time.
    pub async fn stop(self) {
        self.stop.cancel();
        let mut serving = self.serving;
        match timeout(self.stop_time, &mut serving).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!(%error, "serving has ended with an error"),
            Ok(Err(error)) => tracing::error!(%error, "serving has panicked"),
            Err(_) => {
                tracing::warn!("calls under way were cut off: they took too long to end");
                serving.abort();
            }
        }
        self.others.wait().await;
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Ends what revoked credentials have open.
async fn end_revoked(engine: Engine, uses: Arc<Uses>, stop: CancellationToken) {
    use tokio::sync::broadcast::error::RecvError;
    let mut revocations = engine.revocations();
    loop {
        let revoked = tokio::select! {
            () = stop.cancelled() => return,
            revoked = revocations.recv() => revoked,
        };
        match revoked {
            Ok(credential) => uses.end(credential.id),
            // Some were missed: whoever is still valid only has to open the stream again.
            Err(RecvError::Lagged(_)) => uses.end_all(),
            Err(RecvError::Closed) => return,
        }
    }
}
