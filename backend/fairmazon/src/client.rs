//! A client of the broker for the commands: where it is, whom to trust, what to show.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::ErrorDetail;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::error::CommandError;

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How often a connection is tried while something is awaited on it.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How to reach a broker.
#[derive(Debug, Args)]
pub(crate) struct ClientOptions {
    /// The broker, as `https://HOST:PORT`.
    #[arg(long, env = "FAIRMAZON_ENDPOINT")]
    endpoint: String,
    /// The token to show.
    #[arg(long, env = "FAIRMAZON_TOKEN", hide_env_values = true)]
    token: String,
    /// The certificate of the authority that signs the broker's [default: those that this system
    /// trusts].
    #[arg(long, env = "FAIRMAZON_CA_CERTIFICATE", value_name = "FILE")]
    ca_certificate: Option<PathBuf>,
}

/// A channel that shows the token with each call.
pub(crate) type Client = InterceptedService<Channel, ShowToken>;

/// Shows a token.
#[derive(Debug, Clone)]
pub(crate) struct ShowToken(MetadataValue<Ascii>);

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl ClientOptions {
    /// How to reach a broker whose details are known.
    pub(crate) const fn new(endpoint: String, token: String, ca_certificate: PathBuf) -> Self {
        Self { endpoint, token, ca_certificate: Some(ca_certificate) }
    }

    /// The authority that is trusted, where it is not the system's.
    pub(crate) const fn ca_certificate(&self) -> Option<&PathBuf> {
        self.ca_certificate.as_ref()
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client, CommandError> {
        let tls = match &self.ca_certificate {
            Some(path) => {
                let pem = fs::read_to_string(path).map_err(CommandError::file("read", path))?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let failed = |source| CommandError::Connect { endpoint: self.endpoint.clone(), source };
        let channel = Endpoint::from_shared(self.endpoint.clone())
            .and_then(|endpoint| endpoint.connect_timeout(CONNECT_TIME).tls_config(tls))
            // What is followed for long is not waited for on a connection that is dead.
            .map(|endpoint| {
                endpoint.http2_keep_alive_interval(PING_EVERY).keep_alive_timeout(CONNECT_TIME)
            })
            .map_err(failed)?
            .connect()
            .await
            .map_err(failed)?;
        let mut token: MetadataValue<Ascii> =
            format!("Bearer {}", self.token).parse().map_err(|_| {
                CommandError::Usage("the token has characters that no token has".into())
            })?;
        token.set_sensitive(true);
        Ok(InterceptedService::new(channel, ShowToken(token)))
    }
}

/// A status as the error of what was attempted.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(Status) -> CommandError {
    let what = what.into();
    move |status| {
        let detail = ErrorDetail::from_status_details(status.details());
        let source = match detail {
            Some(detail) => DomainError::from(detail),
            None => DomainError::new(
                ErrorKind::Unavailable,
                format!("{:?}: {}", status.code(), status.message()),
            ),
        };
        CommandError::Refused { what, source: Box::new(source) }
    }
}
