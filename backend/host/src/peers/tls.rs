//! The real way between hosts: TLS 1.3 over TCP, both sides with the certificates that the
//! platform's authority has signed for hosts. Who a peer is says its certificate, never its address.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_hypervisor::Connection;
use fairmazon_keys::{HostCertificate, KeyError};
use fairmazon_model::{id::HostId, migration::ShownCertificates, units::UnixMs};
use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Incoming, Peers, Shown, WAIT_MOST};
use crate::identity::{HostIdentity, IdentityError};

/// How long a peer may take to connect and to show who it is.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Peers that may be showing who they are at once.
const HANDSHAKES_MOST: usize = 32;
/// Before another peer is waited for when one could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A host's way to others over TLS.
pub struct TlsPeers {
    trust: Arc<Trust>,
    address: String,
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
    _listens: DropGuard,
}

/// Why a host can't be reached by others.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The address can't be listened at.
    #[error(
        "could not listen at {address} for machines from other hosts: choose another address or port"
    )]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Who this host is, and whom it believes.
struct Trust {
    identity: Arc<HostIdentity>,
    authorities: String,
    provider: Arc<CryptoProvider>,
}

impl TlsPeers {
    /// Listens at `bind` (`ADDRESS:PORT`), which others reach as `address` (`NAME:PORT`; without
    /// one, as `bind`). Takes hosts that one of `authorities` (PEM) has signed for. Ends with the
    /// last handle.
    ///
    /// # Errors
    /// When the address can't be listened at.
    pub async fn listen(
        bind: &str,
        address: Option<String>,
        identity: Arc<HostIdentity>,
        authorities: String,
    ) -> Result<Self, PeersError> {
        let failed = |source| PeersError::Listen { address: bind.to_owned(), source };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = Arc::new(Trust { identity, authorities, provider });
        let (door, incoming) = mpsc::channel(WAIT_MOST);
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, trust.clone(), door)));
        let address = address.unwrap_or_else(|| bound.to_string());
        let incoming = Mutex::new(Some(incoming));
        Ok(Self { trust, address, incoming, _listens: stop.drop_guard() })
    }
}

#[async_trait]
impl Peers for TlsPeers {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn incoming(&self) -> mpsc::Receiver<Incoming> {
        let taken = || mpsc::channel(1).1;
        self.incoming.lock().take().unwrap_or_else(taken)
    }

    async fn dial(
        &self,
        host: HostId,
        address: &str,
        shows: &ShownCertificates,
    ) -> io::Result<Box<dyn Connection>> {
        let trust = Arc::clone(&self.trust);
        let dial = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let config = trust.client(host, shows)?;
            // No name is asked for: the certificate says which host it is.
            let name = ServerName::try_from("host.invalid").map_err(io::Error::other)?;
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await
        };
        Ok(Box::new(tokio::time::timeout(HANDSHAKE_WITHIN, dial).await??))
    }
}

async fn serve(listener: TcpListener, trust: Arc<Trust>, door: mpsc::Sender<Incoming>) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MOST));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection of another host could not be taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (trust, door) = (Arc::clone(&trust), door.clone());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE_WITHIN, take(tcp, &trust)).await {
                // Whoever would take it may have ended.
                Ok(Ok(incoming)) => drop(door.send(incoming).await),
                Ok(Err(error)) => tracing::debug!(%error, "somebody was not taken for a host"),
                Err(_) => tracing::debug!("somebody did not show which host it is in time"),
            }
        });
    }
}

async fn take(tcp: TcpStream, trust: &Arc<Trust>) -> io::Result<Incoming> {
    tcp.set_nodelay(true)?;
    let stream = TlsAcceptor::from(Arc::new(trust.server()?)).accept(tcp).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or(io::ErrorKind::PermissionDenied)?;
    let from = HostCertificate::claimed_host(leaf).map_err(io::Error::other)?;
    Ok(Incoming { from, shown: shown(leaf), connection: Box::new(stream) })
}

fn shown(leaf: &CertificateDer<'_>) -> Shown {
    Shown::Certificate(hex::encode(Sha256::digest(leaf)))
}

impl Trust {
    /// What this host shows: read each time, since certificates come and go.
    fn shown(&self) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let odd = |error: IdentityError| io::Error::other(error);
        let certificate = self.identity.certificate().map_err(odd)?;
        let certificate =
            certificate.ok_or_else(|| io::Error::other("this host has not joined"))?;
        let chain = CertificateDer::pem_slice_iter(certificate.pem.as_bytes());
        let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
        let key = self.identity.tls_key_pem();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
        Ok((chain, key))
    }

    fn server(self: &Arc<Self>) -> io::Result<ServerConfig> {
        let (chain, key) = self.shown()?;
        ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map(|builder| {
                let peers = Believed { trust: Arc::clone(self), only: None };
                builder.with_client_cert_verifier(Arc::new(peers))
            })
            .and_then(|builder| builder.with_single_cert(chain, key))
            .map_err(io::Error::other)
    }

    fn client(
        self: &Arc<Self>,
        host: HostId,
        shows: &ShownCertificates,
    ) -> io::Result<ClientConfig> {
        let (chain, key) = self.shown()?;
        ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map(|builder| {
                let peer = Believed { trust: Arc::clone(self), only: Some((host, shows.clone())) };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(peer))
            })
            .and_then(|builder| builder.with_client_auth_cert(chain, key))
            .map_err(io::Error::other)
    }
}

/// Believes certificates of hosts: these ones of this host, or any of any. Of the latter it is judged
/// which count when it is known what their host has come for.
struct Believed {
    trust: Arc<Trust>,
    only: Option<(HostId, ShownCertificates)>,
}

impl std::fmt::Debug for Believed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Believed").field("only", &self.only).finish_non_exhaustive()
    }
}

impl Believed {
    fn believe(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let refused = |error: KeyError| match error {
            // Who connects hears why by the alert alone, which says that much.
            KeyError::ExpiredCertificate { .. } if self.only.is_none() => {
                tracing::debug!(%error, "another host is refused");
                TlsError::InvalidCertificate(CertificateError::Expired)
            }
            error => TlsError::General(error.to_string()),
        };
        let host = match &self.only {
            Some((host, _)) => *host,
            None => HostCertificate::claimed_host(leaf).map_err(refused)?,
        };
        let now = i64::try_from(now.as_secs().saturating_mul(1_000)).unwrap_or(i64::MAX);
        HostCertificate::verify_der(leaf, between, &self.trust.authorities, host, UnixMs(now))
            .map_err(refused)?;
        match &self.only {
            Some((_, shows)) if !shown(leaf).counts(shows) => {
                Err(TlsError::General(Shown::NO_MORE.into()))
            }
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.trust.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.trust.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Never asked: only TLS 1.3 is spoken.
fn old_version() -> Result<HandshakeSignatureValid, TlsError> {
    Err(TlsError::General("hosts speak TLS 1.3 only".into()))
}

impl ServerCertVerifier for Believed {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.believe(leaf, between, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Believed {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.believe(leaf, between, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
