//! Calls on ephemeral resources.

use std::time::SystemTime;

use prost_types::Timestamp;

use super::{Server, catalogue::find, config, resource::faults, settle, wire};
use crate::{Private, Provider, proto::tfplugin6 as pb, rules};

const KIND: &str = "ephemeral resource";

impl<P: Provider> Server<P> {
    pub(super) async fn validate_ephemeral_resource_config(
        &self,
        request: pb::validate_ephemeral_resource_config::Request,
    ) -> pb::validate_ephemeral_resource_config::Response {
        let mut call = self.call("ValidateEphemeralResourceConfig", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.ephemerals, &request.type_name, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            config::check(&call, &entry.schema, &value)?;
            call.look(entry.handler.validate(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::validate_ephemeral_resource_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn open_ephemeral_resource(
        &self,
        request: pb::open_ephemeral_resource::Request,
    ) -> pb::open_ephemeral_resource::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("OpenEphemeralResource", &request.type_name, client);
        let done = async {
            let entry = find(&self.inner.catalogue.ephemerals, &request.type_name, KIND)?;
            let schema = &entry.schema;
            let value = config::decode(&mut call, schema, request.config.as_ref())?;
            let opened = entry.handler.open(&call.cx, &value, schema.object_type());
            let opened = call.guard(opened).await?;
            call.hide(&schema.sensitive_strings(&opened.model));
            settle::refuse_unknown("OpenEphemeralResource", &request.type_name, &opened.model)
                .into_result()?;
            if self.inner.check {
                faults("OpenEphemeralResource", rules::data(schema, &value, &opened.model))?;
            }
            let result = wire::encode(&opened.model, schema.object_type())?;
            Ok((result, opened.renew_at, opened.private))
        };
        let (opened, failed) = wire::split(done.await);
        let diagnostics = call.finish_wire(failed);
        let Some((result, renew_at, private)) = opened else {
            return pb::open_ephemeral_resource::Response { diagnostics, ..Default::default() };
        };
        pb::open_ephemeral_resource::Response {
            diagnostics,
            renew_at: renew_at.map(timestamp),
            result: Some(result),
            private: Some(private.encode()),
            deferred: None,
        }
    }

    pub(super) async fn renew_ephemeral_resource(
        &self,
        request: pb::renew_ephemeral_resource::Request,
    ) -> pb::renew_ephemeral_resource::Response {
        let call = self.call("RenewEphemeralResource", &request.type_name, None);
        let mut private = Private::decode(request.private.as_deref().unwrap_or_default());
        let done = async {
            let entry = find(&self.inner.catalogue.ephemerals, &request.type_name, KIND)?;
            call.guard(entry.handler.renew(&call.cx, &mut private)).await
        };
        let (renew_at, failed) = wire::split(done.await);
        pb::renew_ephemeral_resource::Response {
            diagnostics: call.finish_wire(failed),
            renew_at: renew_at.flatten().map(timestamp),
            private: Some(private.encode()),
        }
    }

    pub(super) async fn close_ephemeral_resource(
        &self,
        request: pb::close_ephemeral_resource::Request,
    ) -> pb::close_ephemeral_resource::Response {
        let call = self.call("CloseEphemeralResource", &request.type_name, None);
        let private = Private::decode(request.private.as_deref().unwrap_or_default());
        let done = async {
            let entry = find(&self.inner.catalogue.ephemerals, &request.type_name, KIND)?;
            call.guard(entry.handler.close(&call.cx, &private)).await
        };
        let failed = done.await.err();
        pb::close_ephemeral_resource::Response { diagnostics: call.finish_wire(failed) }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}
