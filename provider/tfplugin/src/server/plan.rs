//! Planning a change: the schema's rules first, then what the author adds.

use super::{
    Server,
    call::Call,
    catalogue::{ResourceEntry, find},
    config,
    resource::{KIND, faults},
    wire,
};
use crate::{
    AttributePath, Diagnostics, Private, Provider, Value,
    diagnostics::path_to_wire,
    plan,
    proto::tfplugin6 as pb,
    resource::{Change, ChangeKind},
    rules,
};

/// The values of a plan request.
struct Asked {
    prior: Value,
    proposed: Value,
    config: Value,
}

/// A finished plan.
struct Planned {
    state: Value,
    requires_replace: Vec<AttributePath>,
    private: Private,
}

impl<P: Provider> Server<P> {
    pub(super) async fn plan_resource_change(
        &self,
        request: pb::plan_resource_change::Request,
    ) -> pb::plan_resource_change::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("PlanResourceChange", &request.type_name, client);
        let done = self.plan(&mut call, &request).await;
        let (done, failed) = wire::split(done);
        let diagnostics = call.finish_wire(failed);
        match done {
            Some(response) => pb::plan_resource_change::Response { diagnostics, ..response },
            None => pb::plan_resource_change::Response { diagnostics, ..Default::default() },
        }
    }

    async fn plan(
        &self,
        call: &mut Call<P::Data>,
        request: &pb::plan_resource_change::Request,
    ) -> Result<pb::plan_resource_change::Response, Diagnostics> {
        let entry = find(&self.inner.catalogue.resources, &request.type_name, KIND)?;
        self.read_meta(call, request.provider_meta.as_ref())?;
        let mut read = |value| config::decode(call, &entry.schema, value);
        let asked = Asked {
            prior: read(request.prior_state.as_ref())?,
            proposed: read(request.proposed_new_state.as_ref())?,
            config: read(request.config.as_ref())?,
        };
        let private = Private::decode(&request.prior_private);
        let planned = change(call, entry, &asked, private).await?;
        if self.inner.check && !planned.state.is_null() {
            let violations =
                rules::plan(&entry.schema, &asked.prior, &asked.config, &planned.state);
            faults("PlanResourceChange", violations)?;
            let paths = rules::requires_replace(&entry.schema, &planned.requires_replace);
            faults("PlanResourceChange", paths)?;
        }
        let created = asked.prior.is_null();
        Ok(pb::plan_resource_change::Response {
            planned_state: Some(wire::encode(&planned.state, entry.schema.object_type())?),
            requires_replace: planned.requires_replace.iter().filter_map(path_to_wire).collect(),
            planned_private: planned.private.encode(),
            legacy_type_system: false,
            deferred: None,
            // An identity is made by create and stays what it is.
            planned_identity: request.prior_identity.clone().filter(|_| !created),
            diagnostics: Vec::new(),
        })
    }
}

/// Applies the rules and lets the author refine the outcome.
async fn change<D>(
    call: &Call<D>,
    entry: &ResourceEntry<D>,
    asked: &Asked,
    private: Private,
) -> Result<Planned, Diagnostics> {
    let Asked { prior, proposed, config } = asked;
    let kind = match (prior.is_null(), proposed.is_null()) {
        (_, true) => ChangeKind::Delete,
        (true, false) => ChangeKind::Create,
        (false, false) => ChangeKind::Update,
    };
    if kind == ChangeKind::Delete && !entry.plans_destroy {
        return Ok(Planned { state: Value::Null, requires_replace: Vec::new(), private });
    }
    let (planned, requires_replace) = if kind == ChangeKind::Delete {
        (Value::Null, Vec::new())
    } else {
        let planned = call.guard_now(|| Ok(plan::plan(&entry.schema, prior, proposed, config)))?;
        (planned.state, planned.requires_replace)
    };
    let mut change =
        Change { kind, schema: &entry.schema, config, prior, planned, requires_replace, private };
    call.look(entry.handler.plan(&call.cx, &mut change)).await?;
    Ok(Planned {
        state: change.planned,
        requires_replace: change.requires_replace,
        private: change.private,
    })
}
