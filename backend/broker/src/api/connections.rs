//! Connections: accepted, secured, counted. A client that is slow or wrong in its handshake
//! holds up nobody else, and one that shows no valid credential, or that of somebody who has too many
//! connections, does not stay.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{
    metrics::{Connection, Metrics},
    peers::{Peer, Strangers},
};
use crate::places::Place;

/// How long to wait after the operating system had no room for another connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Secured connections that wait to be served.
const QUEUE: usize = 64;

/// Accepts connections.
pub(crate) struct Connections {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) most: usize,
    pub(crate) handshake_time: Duration,
    /// How many of one address may have shown no credential yet, and for how long.
    pub(crate) strangers: Strangers,
    pub(crate) stranger_time: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Secured connections, as the server takes them.
pub(crate) type Secured = ReceiverStream<Result<SecuredStream, Infallible>>;

impl Connections {
    /// Begins to accept; ends with `stop`.
    pub(crate) fn accept(self, stop: CancellationToken) -> Secured {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run(sender) => {}
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn run(self, sender: mpsc::Sender<Result<SecuredStream, Infallible>>) {
        let acceptor = TlsAcceptor::from(self.tls);
        let room = Arc::new(Semaphore::new(self.most));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_client(&error) => continue,
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted now");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.strangers.admit(address.ip()) else {
                tracing::debug!(%address, "refused: too many that have shown no credential yet");
                self.metrics.handshake("refused");
                continue;
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            let (metrics, limit) = (self.metrics.clone(), self.handshake_time);
            let known_until = Instant::now() + self.stranger_time;
            tokio::spawn(async move {
                let outcome = match timeout(limit, secure(&acceptor, stream)).await {
                    Ok(Ok(stream)) => {
                        let stream = SecuredStream {
                            peer: peer(&stream, place),
                            stream,
                            known_until: Some(Box::pin(sleep_until(known_until))),
                            _permit: permit,
                            _counted: metrics.connection(),
                        };
                        // Nobody takes it when the server has ended.
                        let _ = sender.send(Ok(stream)).await;
                        "done"
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a TLS handshake failed");
                        "failed"
                    }
                    Err(_) => "too slow",
                };
                metrics.handshake(outcome);
            });
        }
    }
}

async fn secure(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}

fn peer(stream: &TlsStream<TcpStream>, place: Place<IpAddr>) -> Peer {
    let chain = stream.get_ref().1.peer_certificates();
    let own = chain.and_then(|chain| chain.first());
    Peer::new(place, own.map(|own| own.clone().into_owned()))
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// A secured connection that counts until it ends. It ends by itself when its client has shown no
/// valid credential in time.
pub(crate) struct SecuredStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// None once it has.
    known_until: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _counted: Connection,
}

impl SecuredStream {
    /// Looked at whatever is done with the connection: one that only writes, or can't, ends too.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(known_until) = &mut self.known_until else { return Ok(()) };
        if self.peer.is_known() {
            self.known_until = None;
        } else if known_until.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no credential was shown"));
        }
        Ok(())
    }
}

impl Connected for SecuredStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for SecuredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SecuredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
