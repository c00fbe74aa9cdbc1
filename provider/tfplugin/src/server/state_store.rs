//! State stores. None is offered: every call says so.

use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{Events, Server};
use crate::{Diagnostics, Provider, proto::tfplugin6 as pb};

fn not_offered(type_name: &str) -> Vec<pb::Diagnostic> {
    let detail = format!(
        "The provider offers no state store, so there is none of type {type_name:?}. Use another \
         backend for the state."
    );
    Diagnostics::error("State store not offered", detail).into_wire()
}

impl<P: Provider> Server<P> {
    pub(super) async fn validate_state_store_config(
        &self,
        request: pb::validate_state_store::Request,
    ) -> pb::validate_state_store::Response {
        let diagnostics = not_offered(&request.type_name);
        pb::validate_state_store::Response { diagnostics }
    }

    pub(super) async fn configure_state_store(
        &self,
        request: pb::configure_state_store::Request,
    ) -> pb::configure_state_store::Response {
        let diagnostics = not_offered(&request.type_name);
        pb::configure_state_store::Response { diagnostics, capabilities: None }
    }

    pub(super) async fn read_state_bytes(
        &self,
        request: pb::read_state_bytes::Request,
    ) -> Events<pb::read_state_bytes::Response> {
        let diagnostics = not_offered(&request.type_name);
        let answer = pb::read_state_bytes::Response { diagnostics, ..Default::default() };
        Box::pin(tokio_stream::once(Ok(answer)))
    }

    pub(super) async fn write_state_bytes(
        &self,
        mut request: Streaming<pb::write_state_bytes::RequestChunk>,
    ) -> pb::write_state_bytes::Response {
        let first = request.next().await;
        let meta = first.and_then(Result::ok).and_then(|chunk| chunk.meta);
        let type_name = meta.map(|meta| meta.type_name).unwrap_or_default();
        pb::write_state_bytes::Response { diagnostics: not_offered(&type_name) }
    }

    pub(super) async fn lock_state(
        &self,
        request: pb::lock_state::Request,
    ) -> pb::lock_state::Response {
        let diagnostics = not_offered(&request.type_name);
        pb::lock_state::Response { diagnostics, lock_id: String::new() }
    }

    pub(super) async fn unlock_state(
        &self,
        request: pb::unlock_state::Request,
    ) -> pb::unlock_state::Response {
        pb::unlock_state::Response { diagnostics: not_offered(&request.type_name) }
    }

    pub(super) async fn get_states(
        &self,
        request: pb::get_states::Request,
    ) -> pb::get_states::Response {
        let diagnostics = not_offered(&request.type_name);
        pb::get_states::Response { diagnostics, state_id: Vec::new() }
    }

    pub(super) async fn delete_state(
        &self,
        request: pb::delete_state::Request,
    ) -> pb::delete_state::Response {
        pb::delete_state::Response { diagnostics: not_offered(&request.type_name) }
    }
}
