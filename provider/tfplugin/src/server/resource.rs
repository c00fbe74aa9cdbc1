//! The life of a managed resource: validate, read, apply. Planning has a file of its own.

use super::{
    Server,
    call::Call,
    catalogue::{ResourceEntry, find},
    config, settle, wire,
};
use crate::{
    Diagnostic, Diagnostics, Private, Provider, Value,
    bridge::keep_types,
    plan,
    proto::tfplugin6 as pb,
    resource::Slot,
    rules::{self, Violation},
};

pub(super) const KIND: &str = "resource";

/// The values of an apply request.
struct Asked {
    prior: Value,
    planned: Value,
    config: Value,
}

impl<P: Provider> Server<P> {
    pub(super) async fn validate_resource_config(
        &self,
        request: pb::validate_resource_config::Request,
    ) -> pb::validate_resource_config::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("ValidateResourceConfig", &request.type_name, client);
        let done = async {
            let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            refuse_write_only(&call, entry, &value)?;
            config::check(&call, &entry.schema, &value)?;
            call.look(entry.handler.validate(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::validate_resource_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn read_resource(
        &self,
        request: pb::read_resource::Request,
    ) -> pb::read_resource::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("ReadResource", &request.type_name, client);
        let done = self.read(&mut call, &request).await;
        let (done, failed) = wire::split(done);
        let diagnostics = call.finish_wire(failed);
        match done {
            Some(response) => pb::read_resource::Response { diagnostics, ..response },
            // What was known stays.
            None => pb::read_resource::Response {
                diagnostics,
                new_state: request.current_state,
                private: request.private,
                deferred: None,
                new_identity: request.current_identity,
            },
        }
    }

    async fn read(
        &self,
        call: &mut Call<P::Data>,
        request: &pb::read_resource::Request,
    ) -> Result<pb::read_resource::Response, Diagnostics> {
        let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
        self.read_meta(call, request.provider_meta.as_ref())?;
        let current = config::decode(call, &entry.schema, request.current_state.as_ref())?;
        let mut slot = entry.slot(current.clone(), Private::decode(&request.private));
        if !current.is_null() {
            call.look(entry.handler.read(&call.cx, &mut slot)).await?;
        }
        let identity = slot.identity();
        slot.value = keep_types(std::mem::take(&mut slot.value), &current, &slot.ty);
        slot.value = plan::null_write_only(&entry.schema, std::mem::take(&mut slot.value));
        call.hide(&entry.schema.sensitive_strings(&slot.value));
        settle::refuse_unknown("ReadResource", &request.type_name, &slot.value).into_result()?;
        if self.inner.check {
            faults("ReadResource", rules::read(&entry.schema, &slot.value))?;
        }
        Ok(pb::read_resource::Response {
            new_state: Some(wire::encode(&slot.value, entry.schema.object_type())?),
            private: slot.private.encode(),
            new_identity: match identity {
                Some(identity) => entry.identity_to_wire(&identity)?,
                None => request.current_identity.clone(),
            },
            deferred: None,
            diagnostics: Vec::new(),
        })
    }

    pub(super) async fn apply_resource_change(
        &self,
        request: pb::apply_resource_change::Request,
    ) -> pb::apply_resource_change::Response {
        let mut call = self.call("ApplyResourceChange", &request.type_name, None);
        let opened = self.open_apply(&mut call, &request);
        let (entry, asked) = match opened {
            Ok(opened) => opened,
            // Nothing was tried: what was there is still there.
            Err(told) => {
                return pb::apply_resource_change::Response {
                    new_state: request.prior_state,
                    private: request.planned_private,
                    diagnostics: call.finish_wire(Some(told)),
                    legacy_type_system: false,
                    new_identity: request.planned_identity,
                };
            }
        };
        let mut slot = entry.slot(asked.prior.clone(), Private::decode(&request.planned_private));
        let done = apply(&call, entry, &asked, &mut slot).await;
        let mut failed = done.err();
        self.settle(&mut call, entry, &asked, &mut slot, &mut failed);
        let identity = slot.identity();
        let answer = wire::encode(&slot.value, entry.schema.object_type()).and_then(|state| {
            let identity =
                identity.map(|identity| entry.identity_to_wire(&identity)).transpose()?;
            Ok((state, identity.flatten()))
        });
        let (answer, unwritten) = wire::split(answer);
        if let Some(told) = unwritten {
            failed.get_or_insert_default().extend(told);
        }
        let (state, identity) = answer.unzip();
        pb::apply_resource_change::Response {
            new_state: state,
            private: slot.private.encode(),
            diagnostics: call.finish_wire(failed),
            legacy_type_system: false,
            new_identity: identity.flatten().or(request.planned_identity),
        }
    }

    fn open_apply(
        &self,
        call: &mut Call<P::Data>,
        request: &pb::apply_resource_change::Request,
    ) -> Result<(&ResourceEntry<P::Data>, Asked), Diagnostics> {
        let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
        self.read_meta(call, request.provider_meta.as_ref())?;
        let mut read = |value| config::decode(call, &entry.schema, value);
        let asked = Asked {
            prior: read(request.prior_state.as_ref())?,
            planned: read(request.planned_state.as_ref())?,
            config: read(request.config.as_ref())?,
        };
        Ok((entry, asked))
    }

    /// Makes what the handler left behind fit to be stored, and says what was wrong with it.
    fn settle(
        &self,
        call: &mut Call<P::Data>,
        entry: &ResourceEntry<P::Data>,
        asked: &Asked,
        slot: &mut Slot,
        failed: &mut Option<Diagnostics>,
    ) {
        slot.value = keep_types(std::mem::take(&mut slot.value), &asked.planned, &slot.ty);
        slot.value = plan::null_write_only(&entry.schema, std::mem::take(&mut slot.value));
        call.hide(&entry.schema.sensitive_strings(&slot.value));
        if failed.is_none() {
            let name = entry.handler.name();
            let left = settle::refuse_unknown("ApplyResourceChange", name, &slot.value);
            *failed = left.into_result().err();
        }
        if failed.is_none() && self.inner.check {
            let violations = rules::apply(&entry.schema, &asked.planned, &slot.value);
            *failed = faults("ApplyResourceChange", violations).err();
        }
        slot.value = settle::known(std::mem::take(&mut slot.value));
    }
}

/// Creates, updates or deletes.
async fn apply<D>(
    call: &Call<D>,
    entry: &ResourceEntry<D>,
    asked: &Asked,
    slot: &mut Slot,
) -> Result<(), Diagnostics> {
    let Asked { prior, planned, config } = asked;
    if planned.is_null() {
        if !prior.is_null() {
            call.guard(entry.handler.delete(&call.cx, slot)).await?;
        }
        slot.value = Value::Null;
        return Ok(());
    }
    if prior.is_null() {
        call.guard(entry.handler.create(&call.cx, planned, config, slot)).await?;
    } else {
        call.guard(entry.handler.update(&call.cx, planned, config, slot)).await?;
    }
    if slot.touched && !slot.value.is_null() {
        return Ok(());
    }
    Err(Diagnostics::error(
        "The provider did not save the object",
        format!(
            "Applying the {} succeeded, but no state came of it. This is a mistake in the \
             provider: please report it.",
            entry.handler.name()
        ),
    ))
}

impl<D> ResourceEntry<D> {
    /// A slot that holds what was known so far.
    pub(super) fn slot(&self, value: Value, private: Private) -> Slot {
        let ty = self.schema.object_type().clone();
        Slot::new(ty, value, self.identity.clone(), private)
    }

    pub(super) fn identity_to_wire(
        &self,
        identity: &Value,
    ) -> Result<Option<pb::ResourceIdentityData>, Diagnostics> {
        let Some(schema) = &self.identity else { return Ok(None) };
        let identity_data = Some(wire::encode(identity, &schema.ty())?);
        Ok(Some(pb::ResourceIdentityData { identity_data }))
    }

    pub(super) fn identity_from_wire(
        &self,
        identity: Option<&pb::ResourceIdentityData>,
    ) -> Result<Option<Value>, Diagnostics> {
        match (&self.identity, identity.and_then(|identity| identity.identity_data.as_ref())) {
            (Some(schema), Some(data)) => wire::decode(Some(data), &schema.ty()).map(Some),
            _ => Ok(None),
        }
    }
}

/// Turns breaches of the client's rules into errors that name the attribute.
pub(super) fn faults(rpc: &str, violations: Vec<Violation>) -> Result<(), Diagnostics> {
    let faults = violations.into_iter().map(|violation| {
        Diagnostic::error("The provider broke a rule of the client")
            .detail(format!("In the answer to {rpc}: {violation}. Please report this."))
            .at(violation.path)
    });
    faults.collect::<Diagnostics>().into_result()
}

/// A client that does not know write-only attributes would store them.
fn refuse_write_only<D>(
    call: &Call<D>,
    entry: &ResourceEntry<D>,
    config: &Value,
) -> Result<(), Diagnostics> {
    if call.cx.client().write_only_attributes_allowed {
        return Ok(());
    }
    let given = plan::write_only_paths(&entry.schema, config).into_iter().map(|path| {
        Diagnostic::error("The client is too old for a write-only attribute")
            .detail(format!(
                "{path} is never stored, which takes Terraform 1.11 or OpenTofu 1.11 or newer."
            ))
            .at(path)
    });
    given.collect::<Diagnostics>().into_result()
}
