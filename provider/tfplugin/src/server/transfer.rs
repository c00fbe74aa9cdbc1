//! States that come from elsewhere: upgrades, identities, imports, moves; and configurations
//! written for existing states.

use serde_json::Value as Json;

use super::{
    Server,
    call::Call,
    catalogue::{ResourceEntry, find},
    config,
    resource::{KIND, faults},
    settle, wire,
};
use crate::{
    Diagnostics, Explain as _, IdentitySchema, Private, Provider, Type, Value, codec, plan,
    proto::tfplugin6 as pb,
    resource::{ImportTarget, MoveSource, Upgraded, upgrade},
    rules,
};

impl<P: Provider> Server<P> {
    pub(super) async fn upgrade_resource_state(
        &self,
        request: pb::upgrade_resource_state::Request,
    ) -> pb::upgrade_resource_state::Response {
        let call = self.call("UpgradeResourceState", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
            let state = call.guard(async { upgraded(entry, &request) }).await?;
            let state = plan::null_write_only(&entry.schema, state);
            call.hide(&entry.schema.sensitive_strings(&state));
            settle::refuse_unknown("UpgradeResourceState", &request.type_name, &state)
                .into_result()?;
            if self.inner.check {
                faults("UpgradeResourceState", rules::upgrade(&entry.schema, &state))?;
            }
            wire::encode(&state, entry.schema.object_type())
        };
        let (upgraded_state, failed) = wire::split(done.await);
        let diagnostics = call.finish_wire(failed);
        pb::upgrade_resource_state::Response { upgraded_state, diagnostics }
    }

    pub(super) async fn get_resource_identity_schemas(
        &self,
        _: pb::get_resource_identity_schemas::Request,
    ) -> pb::get_resource_identity_schemas::Response {
        let resources = self.inner.catalogue.resources.iter();
        let identity_schemas = resources
            .filter_map(|(name, entry)| {
                Some(((*name).to_owned(), entry.identity.as_ref()?.to_wire()))
            })
            .collect();
        pb::get_resource_identity_schemas::Response { identity_schemas, diagnostics: Vec::new() }
    }

    pub(super) async fn upgrade_resource_identity(
        &self,
        request: pb::upgrade_resource_identity::Request,
    ) -> pb::upgrade_resource_identity::Response {
        let call = self.call("UpgradeResourceIdentity", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
            let schema = entry.identity.as_ref().ok_or_else(|| no_identity(&request.type_name))?;
            let identity = call.guard(async { upgraded_identity(entry, schema, &request) }).await?;
            let identity_data = Some(wire::encode(&identity, &schema.ty())?);
            Ok(pb::ResourceIdentityData { identity_data })
        };
        let (upgraded_identity, failed) = wire::split(done.await);
        let diagnostics = call.finish_wire(failed);
        pb::upgrade_resource_identity::Response { upgraded_identity, diagnostics }
    }

    pub(super) async fn import_resource_state(
        &self,
        request: pb::import_resource_state::Request,
    ) -> pb::import_resource_state::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("ImportResourceState", &request.type_name, client);
        let done = self.import(&mut call, &request).await;
        let (imported, failed) = wire::split(done);
        pb::import_resource_state::Response {
            imported_resources: imported.into_iter().collect(),
            diagnostics: call.finish_wire(failed),
            deferred: None,
        }
    }

    async fn import(
        &self,
        call: &mut Call<P::Data>,
        request: &pb::import_resource_state::Request,
    ) -> Result<pb::import_resource_state::ImportedResource, Diagnostics> {
        let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
        let target = match entry.identity_from_wire(request.identity.as_ref())? {
            Some(identity) if !identity.is_null() => ImportTarget::Identity(identity),
            _ => ImportTarget::Id(request.id.clone()),
        };
        let mut slot = entry.slot(Value::Null, Private::default());
        call.look(entry.handler.import(&call.cx, target, &mut slot)).await?;
        if slot.value.is_null() {
            return Err(Diagnostics::error(
                "Unable to import",
                format!("There is no such {}.", request.type_name),
            ));
        }
        let identity = slot.identity();
        let state = plan::null_write_only(&entry.schema, std::mem::take(&mut slot.value));
        call.hide(&entry.schema.sensitive_strings(&state));
        settle::refuse_unknown("ImportResourceState", &request.type_name, &state).into_result()?;
        if self.inner.check {
            faults("ImportResourceState", rules::upgrade(&entry.schema, &state))?;
        }
        Ok(pb::import_resource_state::ImportedResource {
            type_name: request.type_name.clone(),
            state: Some(wire::encode(&state, entry.schema.object_type())?),
            private: slot.private.encode(),
            identity: match identity {
                Some(identity) => entry.identity_to_wire(&identity)?,
                None => None,
            },
        })
    }

    pub(super) async fn move_resource_state(
        &self,
        request: pb::move_resource_state::Request,
    ) -> pb::move_resource_state::Response {
        let mut call = self.call("MoveResourceState", &request.target_type_name, None);
        let done = self.take_over(&mut call, &request).await;
        let (done, failed) = wire::split(done);
        let diagnostics = call.finish_wire(failed);
        pb::move_resource_state::Response { diagnostics, ..done.unwrap_or_default() }
    }

    async fn take_over(
        &self,
        call: &mut Call<P::Data>,
        request: &pb::move_resource_state::Request,
    ) -> Result<pb::move_resource_state::Response, Diagnostics> {
        let entry = find(&self.inner.catalogue.resources, &request.target_type_name, KIND)?;
        let source = MoveSource {
            provider_address: request.source_provider_address.clone(),
            type_name: request.source_type_name.clone(),
            schema_version: request.source_schema_version,
            state: raw_json(request.source_state.as_ref())?,
        };
        let mut slot = entry.slot(Value::Null, Private::default());
        call.guard(entry.handler.move_state(&call.cx, source, &mut slot)).await?;
        if slot.value.is_null() {
            return Err(not_saved(&request.target_type_name, &request.source_type_name));
        }
        let identity = slot.identity();
        let state = plan::null_write_only(&entry.schema, std::mem::take(&mut slot.value));
        call.hide(&entry.schema.sensitive_strings(&state));
        settle::refuse_unknown("MoveResourceState", &request.target_type_name, &state)
            .into_result()?;
        if self.inner.check {
            faults("MoveResourceState", rules::upgrade(&entry.schema, &state))?;
        }
        Ok(pb::move_resource_state::Response {
            target_state: Some(wire::encode(&state, entry.schema.object_type())?),
            target_private: slot.private.encode(),
            target_identity: match identity {
                Some(identity) => entry.identity_to_wire(&identity)?,
                None => None,
            },
            diagnostics: Vec::new(),
        })
    }

    pub(super) async fn generate_resource_config(
        &self,
        request: pb::generate_resource_config::Request,
    ) -> pb::generate_resource_config::Response {
        let mut call = self.call("GenerateResourceConfig", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
            let state = config::decode(&mut call, &entry.schema, request.state.as_ref())?;
            let config = super::generate::config(&entry.schema, &state);
            wire::encode(&config, entry.schema.object_type())
        };
        let (config, failed) = wire::split(done.await);
        let diagnostics = call.finish_wire(failed);
        pb::generate_resource_config::Response { config, diagnostics }
    }
}

/// A stored state, brought to the present version.
fn upgraded<D>(
    entry: &ResourceEntry<D>,
    request: &pb::upgrade_resource_state::Request,
) -> Result<Value, Diagnostics> {
    let to = entry.schema.version();
    if request.version > to {
        return Err(too_new(Upgraded::State, request.version, to));
    }
    let ty = entry.schema.object_type();
    if request.version == to {
        return stored(request.raw_state.as_ref(), ty);
    }
    let state = raw_json(request.raw_state.as_ref())?;
    let state = upgrade(Upgraded::State, &entry.upgraders, state, request.version, to)?;
    codec::json::decode_lenient(state.to_string().as_bytes(), ty)
        .explain("Unable to read the upgraded state")
}

/// A stored identity, brought to the present version.
fn upgraded_identity<D>(
    entry: &ResourceEntry<D>,
    schema: &IdentitySchema,
    request: &pb::upgrade_resource_identity::Request,
) -> Result<Value, Diagnostics> {
    let (from, to) = (request.version, schema.schema_version());
    if from > to {
        return Err(too_new(Upgraded::Identity, from, to));
    }
    let ty = schema.ty();
    if from == to {
        return stored(request.raw_identity.as_ref(), &ty);
    }
    let identity = raw_json(request.raw_identity.as_ref())?;
    let identity = upgrade(Upgraded::Identity, &entry.identity_upgraders, identity, from, to)?;
    let identity = codec::json::decode_lenient(identity.to_string().as_bytes(), &ty)
        .explain("Unable to read the upgraded identity")?;
    // The client would store what tells no object from others.
    schema.of_state(&identity).ok_or_else(|| {
        Diagnostics::error(
            "Unable to upgrade the identity",
            format!(
                "UpgradeResourceIdentity of {} went from version {from} to {to}, but a part that \
                 every identity has is missing. This is a mistake in the provider: please report \
                 it.",
                request.type_name
            ),
        )
    })
}

/// A stored object of the present version. Attributes that the schema no longer has are left
/// out, new ones are null.
fn stored(raw: Option<&pb::RawState>, ty: &Type) -> Result<Value, Diagnostics> {
    let json = raw_bytes(raw)?;
    codec::json::decode_lenient(json, ty).explain("Unable to read the stored state")
}

fn raw_json(raw: Option<&pb::RawState>) -> Result<Json, Diagnostics> {
    serde_json::from_slice(raw_bytes(raw)?).explain("Unable to read the stored state")
}

fn raw_bytes(raw: Option<&pb::RawState>) -> Result<&[u8], Diagnostics> {
    let json = raw.map(|raw| &*raw.json).filter(|json| !json.is_empty());
    json.ok_or_else(|| {
        Diagnostics::error(
            "Unable to read the stored state",
            "It is in the form that clients before 0.12 wrote. Apply it once with a version in \
             between.",
        )
    })
}

fn too_new(what: Upgraded, stored: i64, ours: i64) -> Diagnostics {
    Diagnostics::error(
        format!("The {} was written by a newer provider", what.noun()),
        format!(
            "It is of schema version {stored}, and this version of the provider knows {ours}. \
             Please upgrade the provider."
        ),
    )
}

fn not_saved(to: &str, from: &str) -> Diagnostics {
    Diagnostics::error(
        "The provider did not save the object",
        format!(
            "MoveResourceState of {to} took over the state of a {from}, but no state came of it. \
             This is a mistake in the provider: please report it."
        ),
    )
}

fn no_identity(type_name: &str) -> Diagnostics {
    Diagnostics::error("No identity", format!("The resource {type_name} has no identity."))
}
