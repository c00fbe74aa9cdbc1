//! Calls on data sources.

use super::{Server, catalogue::find, config, resource::faults, settle, wire};
use crate::{Provider, proto::tfplugin6 as pb, rules};

impl<P: Provider> Server<P> {
    pub(super) async fn validate_data_resource_config(
        &self,
        request: pb::validate_data_resource_config::Request,
    ) -> pb::validate_data_resource_config::Response {
        let mut call = self.call("ValidateDataResourceConfig", &request.type_name, None);
        let done = async {
            let entry =
                find(&self.inner.catalogue.data_sources, &request.type_name, "data source")?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            config::check(&call, &entry.schema, &value)?;
            call.look(entry.handler.validate(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::validate_data_resource_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn read_data_source(
        &self,
        request: pb::read_data_source::Request,
    ) -> pb::read_data_source::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("ReadDataSource", &request.type_name, client);
        let done = async {
            self.read_meta(&mut call, request.provider_meta.as_ref())?;
            let entry =
                find(&self.inner.catalogue.data_sources, &request.type_name, "data source")?;
            let schema = &entry.schema;
            let value = config::decode(&mut call, schema, request.config.as_ref())?;
            let found = entry.handler.read(&call.cx, &value, schema.object_type());
            let found = call.look(found).await?;
            call.hide(&schema.sensitive_strings(&found));
            settle::refuse_unknown("ReadDataSource", &request.type_name, &found).into_result()?;
            if self.inner.check {
                faults("ReadDataSource", rules::data(schema, &value, &found))?;
            }
            wire::encode(&found, schema.object_type())
        };
        let (state, failed) = wire::split(done.await);
        pb::read_data_source::Response {
            state,
            diagnostics: call.finish_wire(failed),
            deferred: None,
        }
    }
}
