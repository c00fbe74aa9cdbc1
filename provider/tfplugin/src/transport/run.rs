//! One run of the plugin, from the environment it finds to the last connection.
//!
//! States: agreeing (nothing listens yet, a failure is told on stderr and exits 1), serving,
//! ending (no new connection, what is under way is cancelled, two seconds at most).

use std::{
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::{signal::unix, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{
    MESSAGE_LIMIT,
    connection::Connection,
    handshake::{self, HandshakeError, Wishes},
    listen::{ListenError, Listener},
    services::{Broker, Controller, Stdio},
    tls::{self, TlsError},
};
use crate::proto::{
    plugin::{
        grpc_broker_server::GrpcBrokerServer, grpc_controller_server::GrpcControllerServer,
        grpc_stdio_server::GrpcStdioServer,
    },
    tfplugin6::provider_server::{Provider, ProviderServer},
};

/// How long after it asked for the end a client kills.
const KILLED_AFTER: Duration = Duration::from_secs(2);
/// How long the end may take.
const GRACE: Duration = Duration::from_millis(1500);
// A loaded machine needs time to end the process too.
const _: () = assert!(GRACE.as_millis() + 500 <= KILLED_AFTER.as_millis());
/// How long a client may take to finish its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How often a plugin without a connection looks whether its client is still there.
const ORPHAN_CHECK: Duration = Duration::from_secs(1);
/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What may be under way on a stream before the other side has to wait: schemas fit.
const WINDOW: u32 = 1 << 20;

/// Why a run did not come about, or ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("could not listen for signals")]
    Signals(#[source] io::Error),
    #[error("could not tell the client where to connect")]
    NotTold(#[source] io::Error),
    #[error("the connection to the client broke")]
    Broken(#[from] tonic::transport::Error),
}

/// Who starts the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Terraform or OpenTofu.
    Client,
    /// A person, who then points the client at it. The text is the provider's address.
    Debug(String),
}

/// What a run serves, and how it is told to stop.
pub(crate) struct Running<S> {
    pub(crate) provider: S,
    /// Called once when the end begins: cancels what is under way and sends what is still to be
    /// sent.
    pub(crate) on_end: Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>,
}

/// Runs until the client or a signal ends it.
pub(crate) async fn run<S: Provider>(
    mode: &Mode,
    env: impl Fn(&str) -> Option<String>,
    running: Running<S>,
) -> Result<(), RunError> {
    let shutdown = CancellationToken::new();
    let prepared = match mode {
        Mode::Client => prepare(&Wishes::read(env)?).await?,
        Mode::Debug(address) => prepare_debug(address)?,
    };
    watch_signals(mode, &shutdown)?;
    announce(&prepared.line).map_err(RunError::NotTold)?;
    let connections = accept(prepared, shutdown.clone());
    serve(connections, shutdown, running).await
}

struct Prepared {
    listener: Listener,
    tls: Option<TlsAcceptor>,
    line: String,
    /// The process to go down with.
    client: Option<rustix::process::Pid>,
}

async fn prepare(wishes: &Wishes) -> Result<Prepared, RunError> {
    let identity = wishes.client_certificate.as_deref().map(tls::identity_for).transpose()?;
    let folder = handshake::socket_dir(wishes.socket_dir.as_deref());
    let listener = match (Listener::unix(&folder, std::process::id()), &identity, wishes.ports) {
        (Ok(listener), ..) => listener,
        // A port is open to everyone on the machine, so it takes certificates to use one.
        (Err(_), Some(_), Some((low, high))) => Listener::tcp(low, high).await?,
        (Err(error), ..) => return Err(error.into()),
    };
    let certificate = identity.as_ref().map(|identity| identity.certificate.as_ref());
    let line = handshake::line(listener.address(), certificate, wishes);
    let tls = identity.map(|identity| TlsAcceptor::from(identity.config));
    Ok(Prepared { listener, tls, line, client: rustix::process::getppid() })
}

fn prepare_debug(provider: &str) -> Result<Prepared, RunError> {
    let process = std::process::id();
    let listener = Listener::unix(&handshake::socket_dir(None), process)?;
    let variable = handshake::reattach(provider, listener.address(), process);
    let line = format!(
        "The provider is waiting. In another shell, set this variable and run the client:\n\n\
         \t{variable}\n\nCtrl-C ends it."
    );
    Ok(Prepared { listener, tls: None, line, client: None })
}

/// The one time that the plugin writes to stdout.
fn announce(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// SIGTERM ends the plugin. Ctrl-C reaches it together with the client, which then says itself
/// what shall stop, so it is taken and ignored; only a plugin started by hand ends with it.
fn watch_signals(mode: &Mode, shutdown: &CancellationToken) -> Result<(), RunError> {
    let listen = |kind| unix::signal(kind).map_err(RunError::Signals);
    let mut terminate = listen(unix::SignalKind::terminate())?;
    let mut interrupt = listen(unix::SignalKind::interrupt())?;
    let by_hand = *mode != Mode::Client;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => {
                    if by_hand {
                        break;
                    }
                }
                () = shutdown.cancelled() => return,
            }
        }
        tracing::debug!("a signal asks the plugin to end");
        shutdown.cancel();
    });
    Ok(())
}

/// Accepts connections; a handshake that fails or takes long holds up no other.
fn accept(
    prepared: Prepared,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(4);
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let Prepared { listener, tls, client, .. } = prepared;
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = abandoned(client, &open) => break shutdown.cancel(),
                () = shutdown.cancelled() => break,
            };
            match stream {
                Ok(stream) => {
                    open.fetch_add(1, Ordering::SeqCst);
                    let open = Arc::clone(&open);
                    let stream = stream.with_end(move || {
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                    tokio::spawn(secure(stream, tls.clone(), sender.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    // What is short, such as open files, is not there again at once.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Returns when nobody is connected and the client that started the plugin is gone: a killed
/// client says no goodbye.
async fn abandoned(client: Option<rustix::process::Pid>, open: &AtomicUsize) {
    loop {
        tokio::time::sleep(ORPHAN_CHECK).await;
        let gone = client.is_some() && rustix::process::getppid() != client;
        if gone && open.load(Ordering::SeqCst) == 0 {
            return;
        }
    }
}

async fn secure(
    stream: Connection,
    tls: Option<TlsAcceptor>,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let connection = match tls {
        None => stream,
        Some(tls) => match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
            Ok(Ok(stream)) => Connection::new(stream),
            Ok(Err(error)) => {
                return tracing::warn!(%error, "refused a connection: not the client's certificate");
            }
            Err(_) => return tracing::warn!("refused a connection: no TLS handshake in time"),
        },
    };
    // A closed channel means that the plugin is ending: the connection is dropped.
    let _ = ready.send(Ok(connection)).await;
}

async fn serve<S: Provider>(
    connections: ReceiverStream<io::Result<Connection>>,
    shutdown: CancellationToken,
    running: Running<S>,
) -> Result<(), RunError> {
    let provider = ProviderServer::new(running.provider)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
    let serving = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .add_service(provider)
        .add_service(health_service)
        .add_service(GrpcControllerServer::new(Controller { shutdown: shutdown.clone() }))
        .add_service(GrpcStdioServer::new(Stdio { shutdown: shutdown.clone() }))
        .add_service(GrpcBrokerServer::new(Broker { shutdown: shutdown.clone() }))
        .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let closing = async {
        shutdown.cancelled().await;
        (running.on_end)().await;
        Ok(())
    };
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let done = async { tokio::try_join!(serving, closing) };
    futures::select! {
        done = Box::pin(done).fuse() => Ok(done.map(|_| ())?),
        () = Box::pin(deadline).fuse() => {
            tracing::warn!("something did not end in time and is abandoned");
            Ok(())
        }
    }
}
