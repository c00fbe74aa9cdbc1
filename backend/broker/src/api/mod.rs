//! The edge of the broker: TLS, who asks and what they may, limits, the services, metrics.
//!
//! Edges translate and decide nothing: what may be done to things is the core's.

mod access;
mod auth;
mod connections;
mod context;
mod gate;
mod health;
mod limits;
mod metrics;
mod metrics_page;
mod peers;
mod readings;
mod request_id;
mod services;
mod status;
mod tls;

pub use limits::Rate;
pub use readings::readings;
pub use tls::{
    Authority, CertificateFiles, CurrentCertificate, HostAuthority, ServerTls, TlsError,
};

pub(crate) use access::Rules;
pub(crate) use connections::Connections;
pub(crate) use context::Ending;
pub(crate) use gate::{Gate, GateLayer};
pub(crate) use health::Health;
pub(crate) use limits::{Buckets, Uses};
pub(crate) use metrics::Metrics;
pub(crate) use peers::{Owners, Strangers};

pub(crate) use services::routes;

pub(crate) mod page {
    //! The metrics page.
    pub(crate) use super::metrics_page::serve;
}
