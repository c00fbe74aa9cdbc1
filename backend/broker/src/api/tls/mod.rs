//! TLS of the broker: which certificate it shows, which versions it speaks, and what it asks
//! of clients' certificates.
//!
//! There is no way to serve without TLS. TLS 1.3 is preferred, 1.2 is accepted. Certificates
//! are read again on request, without ending connections.

mod authority;
mod client_certificates;
mod current;
mod hosts;

use std::{io, path::PathBuf, sync::Arc};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

pub use authority::Authority;
pub(crate) use client_certificates::validity_of;
pub use current::CurrentCertificate;
pub use hosts::HostAuthority;

use crate::files;

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("unable to {verb} {path}: check that the file and its folder are there and may be used by this user", path = path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no usable {what} in PEM form: {reason}; {advice}", path = path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// The authority's key is gone, and its certificate is not.
    #[error("{path} is gone, though there is a certificate for it; {AUTHORITY_ADVICE}", path = path.display())]
    KeyGone {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate has ended, or has not begun.
    #[error("the certificate in {path} is not valid now: replace it with a current one", path = path.display())]
    NotValidNow {
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together, or the algorithm is unknown.
    #[error(
        "{certificate} and {key} can't be used together; {SERVER_ADVICE}",
        certificate = files.certificate.display(), key = files.key.display()
    )]
    Pair {
        /// Which files.
        files: CertificateFiles,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// TLS can't be spoken as it is configured.
    #[error("the versions of TLS can't be set up")]
    Rustls(#[source] rustls::Error),
    /// A certificate can't be made.
    #[error("unable to make a certificate")]
    Make(#[source] rcgen::Error),
}

/// What to do about a damaged authority.
const AUTHORITY_ADVICE: &str = "put the right file back from a copy; where there is none, delete \
    `ca.key` and `ca.pem` to have a new authority made: clients are then to be given its \
    certificate, and hosts to join anew";
/// What to do about the broker's own certificate.
const SERVER_ADVICE: &str = "put the right files back; where the broker has made them itself, \
    delete `server.key` and `server.pem` to have others made";

/// Where the broker's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM form, the broker's own certificate first.
    pub certificate: PathBuf,
    /// The private key in PEM form.
    pub key: PathBuf,
}

/// The broker's certificate and how to speak TLS with it.
#[derive(Debug)]
pub struct ServerTls {
    files: CertificateFiles,
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files. `now_ms` is the wall clock, in ms since the Unix epoch.
    ///
    /// # Errors
    /// When a file can't be used, or the certificate is not valid now.
    pub fn load(files: CertificateFiles, now_ms: i64) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let shown =
            Arc::new(Shown { current: RwLock::new(Arc::new(read(&files, &provider, now_ms)?)) });
        let config = server_config(provider, shown.clone()).map_err(TlsError::Rustls)?;
        Ok(Self { files, shown, config: Arc::new(config) })
    }

    /// Reads the files again; connections made from now on see the new certificate.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; the certificate shown stays what it was.
    pub fn reload(&self, now_ms: i64) -> Result<(), TlsError> {
        let fresh = read(&self.files, self.config.crypto_provider(), now_ms)?;
        *self.shown.current.write() = Arc::new(fresh);
        Ok(())
    }

    /// For the acceptor.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

/// The certificate shown to new connections.
#[derive(Debug)]
struct Shown {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

fn server_config(
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
) -> Result<ServerConfig, rustls::Error> {
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let clients = client_certificates::AnyValid::new(provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn read(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now_ms: i64,
) -> Result<CertifiedKey, TlsError> {
    let pem = files::read(&files.certificate).map_err(|source| TlsError::File {
        verb: "read",
        path: files.certificate.clone(),
        source,
    })?;
    let content = |path: &PathBuf, what, reason: String| TlsError::Content {
        path: path.clone(),
        what,
        reason,
        advice: SERVER_ADVICE,
    };
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(&files.certificate, "certificate", error.to_string()))?;
    let Some(own) = chain.first() else {
        return Err(content(&files.certificate, "certificate", "there is none".to_owned()));
    };
    let validity = validity_of(own)
        .map_err(|reason| content(&files.certificate, "certificate", reason.to_owned()))?;
    if !validity.holds_at(now_ms) {
        return Err(TlsError::NotValidNow { path: files.certificate.clone() });
    }
    let pem = files::read(&files.key).map_err(|source| TlsError::File {
        verb: "read",
        path: files.key.clone(),
        source,
    })?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| content(&files.key, "private key", error.to_string()))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| TlsError::Pair { files: files.clone(), source })
}
