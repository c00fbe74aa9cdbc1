//! The wire's provider service, answered by an author's [`Provider`].
//!
//! Owns what lives as long as the process: the catalogue of what is offered, the data of the
//! configured provider, and what a stop cancels. Each family of calls has a file of its own;
//! this one only hands on.

mod action;
mod call;
mod catalogue;
mod config;
mod data_source;
mod ephemeral;
mod function;
mod generate;
mod list;
mod plan;
mod provider;
mod resource;
mod settle;
mod state_store;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
};

use futures::{FutureExt as _, Stream};
use parking_lot::RwLock;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Provider,
    context::Stop,
    proto::tfplugin6::{self as pb, provider_server::Provider as Wire},
};
use catalogue::Catalogue;

/// Serves a provider over the wire. Cheap to clone: all clones are one server.
pub(crate) struct Server<P: Provider> {
    inner: Arc<Inner<P>>,
}

impl<P: Provider> Clone for Server<P> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<P: Provider> {
    provider: P,
    catalogue: Catalogue<P::Data>,
    configured: RwLock<Configured<P::Data>>,
    stop: Arc<Stop>,
    calls: AtomicU64,
    /// Whether every answer is checked against the client's rules before it is given.
    check: bool,
}

/// What the client said when it configured the provider.
struct Configured<D> {
    data: Option<Arc<D>>,
    terraform_version: Arc<str>,
}

impl<D> Default for Configured<D> {
    fn default() -> Self {
        Self { data: None, terraform_version: "".into() }
    }
}

impl<P: Provider> Server<P> {
    /// A server that checks its own answers in debug builds and when `TFPLUGIN_CHECK` is 1.
    pub(crate) fn new(provider: P) -> Self {
        let asked = std::env::var("TFPLUGIN_CHECK").is_ok_and(|value| value == "1");
        Self::with_check(provider, asked || cfg!(debug_assertions))
    }

    /// A server that checks its own answers or does not.
    pub(crate) fn with_check(provider: P, check: bool) -> Self {
        let catalogue = Catalogue::of(&provider);
        let inner = Inner {
            provider,
            catalogue,
            configured: RwLock::default(),
            stop: Arc::default(),
            calls: AtomicU64::new(0),
            check,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Cancels everything under way and lets the provider send what is still to be sent.
    pub(crate) async fn close(&self) {
        self.inner.stop.stop();
        let data = self.inner.configured.read().data.clone();
        if let Some(data) = data {
            let closing = AssertUnwindSafe(self.inner.provider.close(&data)).catch_unwind();
            if closing.await.is_err() {
                tracing::error!("the provider panicked while it was closed");
            }
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Hands each call to the method of the same name that stands in its family's file.
macro_rules! hand_on {
    ($($call:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl<P: Provider> Wire for Server<P> {
            type ListResourceStream = Events<pb::list_resource::Event>;
            type ReadStateBytesStream = Events<pb::read_state_bytes::Response>;
            type InvokeActionStream = Events<pb::invoke_action::Event>;

            $(async fn $call(&self, request: Request<$request>) -> Answer<$response> {
                Ok(Response::new(self.$call(request.into_inner()).await))
            })*
        }
    };
}

hand_on! {
    get_metadata(pb::get_metadata::Request) -> pb::get_metadata::Response;
    get_provider_schema(pb::get_provider_schema::Request) -> pb::get_provider_schema::Response;
    validate_provider_config(pb::validate_provider_config::Request) -> pb::validate_provider_config::Response;
    configure_provider(pb::configure_provider::Request) -> pb::configure_provider::Response;
    stop_provider(pb::stop_provider::Request) -> pb::stop_provider::Response;
    validate_resource_config(pb::validate_resource_config::Request) -> pb::validate_resource_config::Response;
    read_resource(pb::read_resource::Request) -> pb::read_resource::Response;
    plan_resource_change(pb::plan_resource_change::Request) -> pb::plan_resource_change::Response;
    apply_resource_change(pb::apply_resource_change::Request) -> pb::apply_resource_change::Response;
    upgrade_resource_state(pb::upgrade_resource_state::Request) -> pb::upgrade_resource_state::Response;
    get_resource_identity_schemas(pb::get_resource_identity_schemas::Request) -> pb::get_resource_identity_schemas::Response;
    upgrade_resource_identity(pb::upgrade_resource_identity::Request) -> pb::upgrade_resource_identity::Response;
    import_resource_state(pb::import_resource_state::Request) -> pb::import_resource_state::Response;
    move_resource_state(pb::move_resource_state::Request) -> pb::move_resource_state::Response;
    generate_resource_config(pb::generate_resource_config::Request) -> pb::generate_resource_config::Response;
    validate_data_resource_config(pb::validate_data_resource_config::Request) -> pb::validate_data_resource_config::Response;
    read_data_source(pb::read_data_source::Request) -> pb::read_data_source::Response;
    validate_ephemeral_resource_config(pb::validate_ephemeral_resource_config::Request) -> pb::validate_ephemeral_resource_config::Response;
    open_ephemeral_resource(pb::open_ephemeral_resource::Request) -> pb::open_ephemeral_resource::Response;
    renew_ephemeral_resource(pb::renew_ephemeral_resource::Request) -> pb::renew_ephemeral_resource::Response;
    close_ephemeral_resource(pb::close_ephemeral_resource::Request) -> pb::close_ephemeral_resource::Response;
    list_resource(pb::list_resource::Request) -> Events<pb::list_resource::Event>;
    validate_list_resource_config(pb::validate_list_resource_config::Request) -> pb::validate_list_resource_config::Response;
    get_functions(pb::get_functions::Request) -> pb::get_functions::Response;
    call_function(pb::call_function::Request) -> pb::call_function::Response;
    plan_action(pb::plan_action::Request) -> pb::plan_action::Response;
    invoke_action(pb::invoke_action::Request) -> Events<pb::invoke_action::Event>;
    validate_action_config(pb::validate_action_config::Request) -> pb::validate_action_config::Response;
    validate_state_store_config(pb::validate_state_store::Request) -> pb::validate_state_store::Response;
    configure_state_store(pb::configure_state_store::Request) -> pb::configure_state_store::Response;
    read_state_bytes(pb::read_state_bytes::Request) -> Events<pb::read_state_bytes::Response>;
    write_state_bytes(Streaming<pb::write_state_bytes::RequestChunk>) -> pb::write_state_bytes::Response;
    lock_state(pb::lock_state::Request) -> pb::lock_state::Response;
    unlock_state(pb::unlock_state::Request) -> pb::unlock_state::Response;
    get_states(pb::get_states::Request) -> pb::get_states::Response;
    delete_state(pb::delete_state::Request) -> pb::delete_state::Response;
}
