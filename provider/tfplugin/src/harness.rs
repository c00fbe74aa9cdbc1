//! A client in memory: drives a provider as Terraform does, without a process or a socket, for
//! the tests of a provider.
//!
//! It talks to the same server as the real client, computes the proposed state in the same way,
//! keeps states between steps in their stored form, plans twice, and refuses what the real
//! client refuses. Resources are addressed as `type` or `type.name`; each address has a state
//! of its own.
//!
//! Unknown values are written as [`unknown()`] in a configuration.

mod config;
mod offers;
mod proposed;
mod resource;
mod wire;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value as Json;

pub use config::unknown;
pub use offers::{Listed, Objects, OpenedEphemeral};
pub use resource::{Applied, ChangeAction, Plan};

use crate::{
    Diagnostics, Offers, Provider, Value,
    proto::tfplugin6::{self as pb, provider_server::Provider as Wire},
    schema::Schema,
    secrets,
    server::Server,
};

/// The version that the harness says it is.
const VERSION: &str = "1.15.5";

/// The text as it would stand in the plugin's log now, to test that a secret does not.
#[must_use]
pub fn as_logged(text: &str) -> String {
    secrets::without(text).unwrap_or_else(|| text.to_owned())
}

/// What the client stores of an object.
#[derive(Clone, Debug)]
struct Stored {
    state: Value,
    identity: Option<pb::ResourceIdentityData>,
    private: Bytes,
    /// Its create failed half-way: the next plan replaces it.
    tainted: bool,
}

/// A client in memory with one provider.
pub struct Harness<P: Provider> {
    server: Server<P>,
    provider: Schema,
    offers: Offers<P::Data>,
    stored: BTreeMap<String, Stored>,
}

impl<P: Provider> Harness<P> {
    /// A client that has started the provider but not configured it. Every answer of the
    /// provider is checked.
    #[must_use]
    pub fn new(provider: P) -> Self {
        let (schema, offers) = (provider.schema(), provider.offers());
        let server = Server::with_check(provider, true);
        Self { server, provider: schema, offers, stored: BTreeMap::new() }
    }

    /// Asks for the schemas, as every client does first.
    ///
    /// # Errors
    /// What is not sound about them.
    pub async fn check_schemas(&self) -> Result<(), Diagnostics> {
        let request = tonic::Request::new(pb::get_provider_schema::Request {});
        let answer = wire::answer(Wire::get_provider_schema(&self.server, request).await)?;
        wire::warnings(answer.diagnostics).map(|_| ())
    }

    /// Checks and applies the `provider` block. Returns the warnings.
    ///
    /// # Errors
    /// What the provider has against it.
    pub async fn configure(&self, block: Json) -> Result<Diagnostics, Diagnostics> {
        let block = config::read(&self.provider, block)?;
        let config = Some(wire::encode(&block, self.provider.object_type())?);
        let request = pb::validate_provider_config::Request { config: config.clone() };
        let request = tonic::Request::new(request);
        let answer = wire::answer(Wire::validate_provider_config(&self.server, request).await)?;
        let mut told = wire::warnings(answer.diagnostics)?;
        let request = tonic::Request::new(pb::configure_provider::Request {
            terraform_version: VERSION.to_owned(),
            config,
            client_capabilities: Some(wire::capabilities()),
        });
        let answer = wire::answer(Wire::configure_provider(&self.server, request).await)?;
        told.extend(wire::warnings(answer.diagnostics)?);
        Ok(told)
    }

    /// What asks the provider to stop while another call is under way.
    #[must_use]
    pub fn stopper(&self) -> Stopper<P> {
        Stopper { server: self.server.clone() }
    }

    /// Ends the provider, as the client does at the end of a run.
    pub async fn close(&self) {
        self.server.close().await;
    }
}

/// Stops what is under way, as Ctrl-C does.
pub struct Stopper<P: Provider> {
    server: Server<P>,
}

impl<P: Provider> Stopper<P> {
    /// Stops it.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn stop(&self) -> Result<(), Diagnostics> {
        let request = tonic::Request::new(pb::stop_provider::Request {});
        wire::answer(Wire::stop_provider(&self.server, request).await).map(|_| ())
    }
}
