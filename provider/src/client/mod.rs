//! The one way to the broker: one lazily opened TLS connection, one place that repeats calls.
//!
//! Repeating is safe for changes too: each carries an idempotency key that stays the same.
//! A call is repeated while the broker is away, for a short while when it was never seen and
//! for longer once it was, so that an apply outlives a restart of the broker.

mod catalogue;
mod claims;
mod clock;
mod confirm;
mod error;
mod groups;
mod instances;
mod keys;
mod operations;
mod pages;
mod table;
mod tls;
mod tokens;
mod volume_keys;
mod volumes;

use std::{future::Future, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

pub use claims::Claims;
pub use error::{Address, ClientError, Origin, Unreachable, Untrusted};
pub use keys::{Keys, Scope, data_folder};
pub use pages::{Page, Pages};
pub use table::Row;
pub use tls::TlsSettings;

use catalogue::CatalogueCache;
use clock::Beginning;
use confirm::Confirmations;
use fairmazon_model::units::UnixMs;
use fairmazon_proto::v1;
use table::Table;

use crate::keyring::Keyring;

/// Bytes of the largest answer that is taken: a full page of instances with full user data.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// How long one call may take, streams excepted.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long calls are repeated while the broker has never answered.
const PATIENCE_BEFORE: Duration = Duration::from_secs(5);
/// How long calls are repeated once it has.
const PATIENCE_AFTER: Duration = Duration::from_secs(60);
/// The first pause between two attempts; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How the client shows who it is.
#[derive(Clone)]
pub enum Credential {
    /// A bearer token.
    Token(String),
    /// A certificate and its key, both PEM.
    Certificate {
        /// The certificate, leaf first.
        certificate_pem: String,
        /// Its private key.
        key_pem: String,
    },
}

impl Credential {
    /// Keeps what is secret in it out of the log.
    pub fn keep_secret(&self) {
        match self {
            Self::Token(secret) | Self::Certificate { key_pem: secret, .. } => {
                tfplugin::keep_secret(secret);
            }
        }
    }
}

/// What a client is made of.
pub struct Connection {
    /// Where the broker is.
    pub endpoint: Address,
    /// Who the client is.
    pub credential: Credential,
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
    /// Makes idempotency keys.
    pub keys: Keys,
    /// Makes the keys of volumes; none where no identity is set.
    pub keyring: Option<Keyring>,
}

/// A client of the broker, shared by all that one configured provider does.
pub struct Client {
    endpoint: Address,
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
    health: Mutex<Health>,
    began: Beginning,
    keys: Keys,
    keyring: Option<Keyring>,
    catalogue: CatalogueCache,
    instances: Table<v1::Instance>,
    volumes: Table<v1::Volume>,
    groups: Table<v1::PlacementGroup>,
    confirmations: Confirmations,
}

/// What is known of the broker's whereabouts.
#[derive(Default)]
struct Health {
    seen: bool,
    /// When a call last gave up; those after it do not wait again.
    gave_up: Option<Instant>,
}

impl Client {
    /// A client. Connects when the first call is made.
    ///
    /// # Errors
    /// When the endpoint, the certificates or the token have not the form they must have.
    pub fn new(connection: Connection) -> Result<Self, tls::SettingError> {
        let tls = TlsSettings {
            ca_pem: connection.ca_pem.as_deref(),
            credential: &connection.credential,
        };
        let endpoint = Endpoint::from_shared(connection.endpoint.url.clone())
            .map_err(|source| tls::SettingError::Endpoint { source })?
            .tls_config(tls.into_config())
            .map_err(|source| tls::SettingError::Certificates { source })?
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        let bearer = match &connection.credential {
            Credential::Token(token) => Some(bearer(token)?),
            Credential::Certificate { .. } => None,
        };
        Ok(Self {
            endpoint: connection.endpoint,
            channel: endpoint.connect_lazy(),
            bearer,
            health: Mutex::default(),
            began: Beginning::now(),
            keys: connection.keys,
            keyring: connection.keyring,
            catalogue: CatalogueCache::default(),
            instances: Table::default(),
            volumes: Table::default(),
            groups: Table::default(),
            confirmations: Confirmations::default(),
        })
    }

    /// Whether it can give the keys of volumes to hosts.
    pub const fn has_identity(&self) -> bool {
        self.keyring.is_some()
    }

    /// Whether it began after a moment of the broker's clock.
    pub fn began_after(&self, moment: UnixMs) -> bool {
        self.began.is_after(moment)
    }

    /// Where the broker is sought.
    pub fn endpoint(&self) -> &str {
        &self.endpoint.url
    }

    /// Sends a request until it is answered or patience ends.
    async fn call<Q, A, F>(
        &self,
        message: Q,
        send: impl Fn(Request<Q>) -> F + Send,
    ) -> Result<A, ClientError>
    where
        Q: Clone + Send,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let what = type_name::<Q>();
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let request = self.request(message.clone(), Some(CALL_LIMIT));
            let error = match tokio::time::timeout(CALL_LIMIT, send(request)).await {
                Ok(Ok(answer)) => {
                    let request_id = request_id(answer.metadata());
                    tracing::debug!(call = what, request_id, "the broker answered");
                    self.began.hear(answer.metadata());
                    self.seen();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => {
                    let request_id = request_id(status.metadata());
                    tracing::debug!(call = what, request_id, code = ?status.code(), "no success");
                    ClientError::of_status(&status, &self.endpoint, CALL_LIMIT)
                }
                Err(_) => ClientError::Late { limit: CALL_LIMIT },
            };
            if !error.is_transient() {
                return Err(error);
            }
            if started.elapsed() + pause > self.patience() {
                self.health.lock().gave_up = Some(Instant::now());
                return Err(error);
            }
            tracing::debug!(call = what, ?pause, error = ?error, "the broker is away");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// As [`Client::call`], for a stream of answers that lives as long as what it follows: only its
    /// opening has a limit.
    async fn open<Q, A, F>(
        &self,
        message: Q,
        send: impl Fn(Request<Q>) -> F + Send + Sync,
    ) -> Result<Streaming<A>, ClientError>
    where
        Q: Clone + Send,
        F: Future<Output = Result<Response<Streaming<A>>, Status>> + Send,
    {
        self.call(message, |mut request| {
            request.metadata_mut().remove("grpc-timeout");
            send(request)
        })
        .await
    }

    /// How a stream broke off: opening it again is what waits for a broker that is away.
    ///
    /// # Errors
    /// When that does not help.
    fn breaks_off(&self, status: &Status) -> Result<(), ClientError> {
        let error = ClientError::of_status(status, &self.endpoint, CALL_LIMIT);
        if error.is_transient() { Ok(()) } else { Err(error) }
    }

    /// Makes a `noun` of the spec with these bytes, under the first key whose thing is in no
    /// state yet.
    async fn create<A, F>(
        &self,
        noun: &str,
        spec: &[u8],
        make: impl Fn(String) -> F + Send,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<A, ClientError>> + Send,
    {
        loop {
            match make(self.keys.for_create(noun, spec)).await {
                Err(error) if error.is_key_taken() => {}
                answer => return answer,
            }
        }
    }

    fn request<Q>(&self, message: Q, limit: Option<Duration>) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        request
    }

    fn seen(&self) {
        let mut health = self.health.lock();
        health.seen = true;
        health.gave_up = None;
    }

    /// How long calls are repeated now.
    fn patience(&self) -> Duration {
        let health = self.health.lock();
        match health.gave_up {
            Some(at) if at.elapsed() < PATIENCE_AFTER => Duration::ZERO,
            _ if health.seen => PATIENCE_AFTER,
            _ => PATIENCE_BEFORE,
        }
    }
}

/// The broker's id of a request, found again in its log.
fn request_id(metadata: &MetadataMap) -> &str {
    metadata.get("request-id").and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// The last part of a message's type: `CreateInstanceRequest`.
fn type_name<Q>() -> &'static str {
    let name = std::any::type_name::<Q>();
    name.rsplit("::").next().unwrap_or(name)
}

fn bearer(token: &str) -> Result<MetadataValue<Ascii>, tls::SettingError> {
    let mut value =
        MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| tls::SettingError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}
