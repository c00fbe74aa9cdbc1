//! Settings of the broker's API, with the values that a platform starts with.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fairmazon_model::limits;

use crate::api::{HostAuthority, Rate};

/// How the API is served.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the metrics page listens, in plain HTTP; none means nowhere.
    pub metrics: Option<SocketAddr>,
    /// Most connections at once.
    pub connections: usize,
    /// Most connections of one address, or of one network with IPv6, that have shown no valid
    /// credential yet. Those above it are closed at once.
    pub strangers_per_address: usize,
    /// Most connections that have shown a credential of one account, but for those of its hosts. A
    /// call on another one is refused, and that connection is closed as if it had shown none.
    pub connections_per_account: usize,
    /// The same of one host.
    pub connections_per_host: usize,
    /// How long a connection may take to show one with a call before it is closed.
    pub stranger_time: Duration,
    /// How long a TLS handshake may take.
    pub handshake_time: Duration,
    /// How long a call may take until it is answered, or its stream of answers opened. A volume
    /// that a host sends is answered at its end, and takes as long as something moves.
    pub call_time: Duration,
    /// Requests of one credential.
    pub credential_rate: Rate,
    /// Requests of one address that need no credential, or have no valid one.
    pub address_rate: Rate,
    /// Most streams that one credential holds open.
    pub streams_per_credential: usize,
    /// How long calls under way may take to end when the broker ends.
    pub stop_time: Duration,
    /// Signs for hosts that join; without it none can.
    pub host_authority: Option<Arc<HostAuthority>>,
}

impl ApiConfig {
    /// The usual settings on this address.
    pub fn on(listen: SocketAddr) -> Self {
        let sustained = f64::from(limits::REQUESTS_PER_SECOND);
        Self {
            listen,
            metrics: None,
            connections: limits::CONNECTIONS,
            strangers_per_address: limits::STRANGERS_PER_ADDRESS,
            connections_per_account: limits::CONNECTIONS_PER_ACCOUNT,
            connections_per_host: limits::CONNECTIONS_PER_HOST,
            stranger_time: Duration::from_secs(30),
            handshake_time: Duration::from_secs(10),
            call_time: Duration::from_secs(60),
            credential_rate: Rate { per_second: sustained, burst: 2.0 * sustained },
            address_rate: Rate {
                per_second: limits::STRANGERS_REQUESTS_PER_SECOND.into(),
                burst: limits::STRANGERS_REQUESTS_AT_ONCE.into(),
            },
            streams_per_credential: limits::STREAMS_PER_TOKEN,
            stop_time: Duration::from_secs(3),
            host_authority: None,
        }
    }
}
