//! What the client asks of the provider as a whole: names, schemas, configuration, the end.

use std::sync::Arc;

use super::{Server, config, wire};
use crate::{
    Provider, View,
    proto::tfplugin6::{self as pb, get_metadata as names},
};

impl<P: Provider> Server<P> {
    fn capabilities(&self) -> pb::ServerCapabilities {
        let resources = &self.inner.catalogue.resources;
        pb::ServerCapabilities {
            plan_destroy: resources.values().any(|entry| entry.plans_destroy),
            get_provider_schema_optional: true,
            move_resource_state: resources.values().any(|entry| entry.moves_state),
            generate_resource_config: true,
        }
    }

    pub(super) async fn get_metadata(&self, _: names::Request) -> names::Response {
        let offered = &self.inner.catalogue;
        let type_names = |name: &&str| (*name).to_owned();
        names::Response {
            server_capabilities: Some(self.capabilities()),
            diagnostics: offered.faults.clone().into_wire(),
            data_sources: (offered.data_sources.keys().map(type_names))
                .map(|type_name| names::DataSourceMetadata { type_name })
                .collect(),
            resources: (offered.resources.keys().map(type_names))
                .map(|type_name| names::ResourceMetadata { type_name })
                .collect(),
            functions: (offered.functions.keys().map(type_names))
                .map(|name| names::FunctionMetadata { name })
                .collect(),
            ephemeral_resources: (offered.ephemerals.keys().map(type_names))
                .map(|type_name| names::EphemeralMetadata { type_name })
                .collect(),
            list_resources: (offered.lists.keys().map(type_names))
                .map(|type_name| names::ListResourceMetadata { type_name })
                .collect(),
            state_stores: Vec::new(),
            actions: (offered.actions.keys().map(type_names))
                .map(|type_name| names::ActionMetadata { type_name })
                .collect(),
        }
    }

    pub(super) async fn get_provider_schema(
        &self,
        _: pb::get_provider_schema::Request,
    ) -> pb::get_provider_schema::Response {
        let offered = &self.inner.catalogue;
        let named = |(name, schema): (&&str, _)| ((*name).to_owned(), wire::schema(schema));
        let action = |schema| pb::ActionSchema { schema: Some(wire::schema(schema)) };
        pb::get_provider_schema::Response {
            provider: Some(wire::schema(&offered.provider)),
            resource_schemas: (offered.resources.iter())
                .map(|(name, entry)| named((name, &entry.schema)))
                .collect(),
            data_source_schemas: (offered.data_sources.iter())
                .map(|(name, entry)| named((name, &entry.schema)))
                .collect(),
            functions: self.signatures(),
            ephemeral_resource_schemas: (offered.ephemerals.iter())
                .map(|(name, entry)| named((name, &entry.schema)))
                .collect(),
            list_resource_schemas: (offered.lists.iter())
                .map(|(name, entry)| named((name, &entry.schema)))
                .collect(),
            state_store_schemas: Default::default(),
            action_schemas: (offered.actions.iter())
                .map(|(name, entry)| ((*name).to_owned(), action(&entry.schema)))
                .collect(),
            diagnostics: offered.faults.clone().into_wire(),
            provider_meta: offered.meta.as_ref().map(wire::schema),
            server_capabilities: Some(self.capabilities()),
        }
    }

    pub(super) async fn validate_provider_config(
        &self,
        request: pb::validate_provider_config::Request,
    ) -> pb::validate_provider_config::Response {
        let mut call = self.early_call("ValidateProviderConfig", "", None);
        let done = async {
            let schema = &self.inner.catalogue.provider;
            let value = config::decode(&mut call, schema, request.config.as_ref())?;
            config::check(&call, schema, &value)?;
            call.look(self.inner.provider.validate(&call.cx, View::new(&value))).await
        };
        let failed = done.await.err();
        pb::validate_provider_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn configure_provider(
        &self,
        request: pb::configure_provider::Request,
    ) -> pb::configure_provider::Response {
        self.inner.configured.write().terraform_version = request.terraform_version.into();
        let client = request.client_capabilities.as_ref();
        let mut call = self.early_call("ConfigureProvider", "", client);
        let done = async {
            let schema = &self.inner.catalogue.provider;
            let value = config::decode(&mut call, schema, request.config.as_ref())?;
            call.guard(self.inner.provider.configure(&call.cx, View::new(&value))).await
        };
        let failed = match done.await {
            Ok(data) => {
                self.inner.configured.write().data = Some(Arc::new(data));
                None
            }
            Err(told) => Some(told),
        };
        pb::configure_provider::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn stop_provider(
        &self,
        _: pb::stop_provider::Request,
    ) -> pb::stop_provider::Response {
        tracing::debug!("the client asks to stop what is under way");
        self.inner.stop.stop();
        pb::stop_provider::Response { error: String::new() }
    }
}
