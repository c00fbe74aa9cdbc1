//! The life of a managed resource, as the client leads it: validate, refresh, plan, plan again,
//! apply; and import, upgrade, move.

use serde_json::Value as Json;
use tonic::Request;

use super::{Harness, Stored, config, proposed, wire};
use crate::{
    AttributePath, Diagnostic, Diagnostics, Explain as _, IdentitySchema, Provider, Value, codec,
    diagnostics::path_from_wire,
    proto::tfplugin6::{self as pb, provider_server::Provider as Wire},
    rules,
    schema::Schema,
};

/// What a plan would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeAction {
    /// Nothing.
    None,
    /// Make it.
    Create,
    /// Change it in place.
    Update,
    /// Remove it and make it anew.
    Replace,
    /// Remove it.
    Delete,
}

/// A plan, as the user sees it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What would be done.
    pub action: ChangeAction,
    /// The state afterwards; null when it would be removed.
    pub planned: Value,
    /// The attributes that force a replacement.
    pub requires_replace: Vec<AttributePath>,
    /// What the provider warned of.
    pub warnings: Diagnostics,
    private: bytes::Bytes,
    identity: Option<pb::ResourceIdentityData>,
}

/// What an apply did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What was done.
    pub action: ChangeAction,
    /// The state as it is stored; null when it was removed.
    pub state: Json,
    /// What the provider warned of.
    pub warnings: Diagnostics,
}

fn type_of(address: &str) -> &str {
    address.split_once('.').map_or(address, |(ty, _)| ty)
}

impl<P: Provider> Harness<P> {
    fn resource(&self, address: &str) -> Result<(Schema, Option<IdentitySchema>), Diagnostics> {
        let name = type_of(address);
        let mut all = self.offers.resources();
        all.find(|(found, ..)| *found == name)
            .map(|(_, schema, identity)| (schema, identity))
            .ok_or_else(|| {
                Diagnostics::error("Unknown resource", format!("There is no resource {name}."))
            })
    }

    /// The stored state; null when there is none.
    ///
    /// # Errors
    /// When there is no such resource type.
    pub fn state(&self, address: &str) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let null = Value::Null;
        to_json(&schema, self.stored.get(address).map_or(&null, |stored| &stored.state))
    }

    /// Whether the stored object is one whose create failed half-way.
    #[must_use]
    pub fn is_tainted(&self, address: &str) -> bool {
        self.stored.get(address).is_some_and(|stored| stored.tainted)
    }

    /// Checks a configuration. Returns the warnings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn validate(&self, address: &str, block: Json) -> Result<Diagnostics, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let value = config::read(&schema, block)?;
        config::check(&schema, &value)?;
        let request = Request::new(pb::validate_resource_config::Request {
            type_name: type_of(address).to_owned(),
            config: Some(wire::encode(&value, schema.object_type())?),
            client_capabilities: Some(wire::capabilities()),
        });
        let answer = wire::answer(Wire::validate_resource_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)
    }

    /// Looks at the object again, after its stored form went through an upgrade as it does in
    /// every run. Returns the state; null when the object is gone.
    ///
    /// # Errors
    /// What the provider has to say.
    pub async fn refresh(&mut self, address: &str) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let Some(stored) = self.stored.get(address).cloned() else { return Ok(Json::Null) };
        let json = to_json(&schema, &stored.state)?;
        let state = self.upgrade_value(address, schema.version(), &json).await?;
        let request = Request::new(pb::read_resource::Request {
            type_name: type_of(address).to_owned(),
            current_state: Some(wire::encode(&state, schema.object_type())?),
            private: stored.private,
            provider_meta: None,
            client_capabilities: Some(wire::capabilities()),
            current_identity: stored.identity,
        });
        let answer = wire::answer(Wire::read_resource(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let state = wire::decode(answer.new_state.as_ref(), schema.object_type())?;
        let json = to_json(&schema, &state)?;
        if state.is_null() {
            self.stored.remove(address);
        } else {
            let fresh = Stored {
                state,
                identity: answer.new_identity,
                private: answer.private,
                tainted: stored.tainted,
            };
            self.stored.insert(address.to_owned(), fresh);
        }
        Ok(json)
    }

    /// Validates, refreshes and plans.
    ///
    /// # Errors
    /// What the provider has to say, or what the client would refuse.
    pub async fn plan(&mut self, address: &str, block: Json) -> Result<Plan, Diagnostics> {
        let mut warnings = self.validate(address, block.clone()).await?;
        self.refresh(address).await?;
        let (schema, _) = self.resource(address)?;
        let config = config::read(&schema, block)?;
        let mut plan = self.plan_value(address, &schema, &config).await?;
        warnings.extend(std::mem::take(&mut plan.warnings));
        Ok(Plan { warnings, ..plan })
    }

    async fn plan_value(
        &self,
        address: &str,
        schema: &Schema,
        config: &Value,
    ) -> Result<Plan, Diagnostics> {
        let stored = self.stored.get(address);
        let null = (&Value::Null, bytes::Bytes::new());
        let prior = stored.map_or(null, |stored| (&stored.state, stored.private.clone()));
        let plan = self.plan_once(address, schema, config, prior).await?;
        let tainted = stored.is_some_and(|stored| stored.tainted);
        let replaces = tainted || !plan.requires_replace.is_empty();
        if stored.is_none() || !replaces {
            return Ok(plan);
        }
        // A replacement is planned anew, as if there were nothing but the first plan's private data.
        let anew = (&Value::Null, plan.private.clone());
        let anew = self.plan_once(address, schema, config, anew).await?;
        let mut warnings = plan.warnings;
        warnings.extend(anew.warnings);
        let requires_replace = plan.requires_replace;
        Ok(Plan { action: ChangeAction::Replace, requires_replace, warnings, ..anew })
    }

    async fn plan_once(
        &self,
        address: &str,
        schema: &Schema,
        config: &Value,
        (prior, private): (&Value, bytes::Bytes),
    ) -> Result<Plan, Diagnostics> {
        let new = proposed::state(schema, prior, config);
        let ty = schema.object_type();
        let request = Request::new(pb::plan_resource_change::Request {
            type_name: type_of(address).to_owned(),
            prior_state: Some(wire::encode(prior, ty)?),
            proposed_new_state: Some(wire::encode(&new, ty)?),
            config: Some(wire::encode(config, ty)?),
            prior_private: private,
            provider_meta: None,
            client_capabilities: Some(wire::capabilities()),
            prior_identity: self
                .stored
                .get(address)
                .filter(|_| !prior.is_null())
                .and_then(|stored| stored.identity.clone()),
        });
        let answer = wire::answer(Wire::plan_resource_change(&self.server, request).await)?;
        let warnings = wire::warnings(answer.diagnostics)?;
        let planned = wire::decode(answer.planned_state.as_ref(), ty)?;
        let action = match (prior.is_null(), planned.is_null()) {
            (true, true) => ChangeAction::None,
            (true, false) => ChangeAction::Create,
            (false, true) => ChangeAction::Delete,
            (false, false) if planned == *prior => ChangeAction::None,
            (false, false) => ChangeAction::Update,
        };
        let requires_replace = if action == ChangeAction::Update {
            answer.requires_replace.iter().map(path_from_wire).collect()
        } else {
            Vec::new()
        };
        Ok(Plan {
            action,
            planned,
            requires_replace,
            warnings,
            private: answer.planned_private,
            identity: answer.planned_identity,
        })
    }

    /// Plans, plans again, and applies. What the provider managed to do is stored even when it
    /// fails.
    ///
    /// # Errors
    /// What the provider has to say, or what the client would refuse.
    pub async fn apply(&mut self, address: &str, block: Json) -> Result<Applied, Diagnostics> {
        let first = self.plan(address, block.clone()).await?;
        let (schema, _) = self.resource(address)?;
        let config = config::read(&schema, block)?;
        let plan = self.plan_value(address, &schema, &config).await?;
        let differences = rules::replan(&schema, &first.planned, &plan.planned);
        if plan.action != first.action || !differences.is_empty() {
            let told = differences.into_iter().map(|difference| {
                Diagnostic::error("Provider produced inconsistent final plan")
                    .detail(difference.detail)
                    .at(difference.path)
            });
            let mut told: Diagnostics = told.collect();
            told.push(
                Diagnostic::error("Provider planned differently the second time")
                    .detail(format!("First {:?}, then {:?}.", first.action, plan.action)),
            );
            return Err(told);
        }
        let mut warnings = first.warnings;
        let action = plan.action;
        if action == ChangeAction::Replace {
            warnings.extend(self.remove(address, &schema).await?);
        }
        if action != ChangeAction::None {
            warnings.extend(self.apply_plan(address, &schema, &config, plan).await?);
        }
        Ok(Applied { action, state: self.state(address)?, warnings })
    }

    /// Removes the object. Returns the warnings.
    ///
    /// # Errors
    /// Why it still exists.
    pub async fn destroy(&mut self, address: &str) -> Result<Diagnostics, Diagnostics> {
        self.refresh(address).await?;
        let (schema, _) = self.resource(address)?;
        self.remove(address, &schema).await
    }

    async fn remove(&mut self, address: &str, schema: &Schema) -> Result<Diagnostics, Diagnostics> {
        let Some(stored) = self.stored.get(address) else { return Ok(Diagnostics::new()) };
        let prior = (&stored.state, stored.private.clone());
        let plan = self.plan_once(address, schema, &Value::Null, prior).await?;
        let mut warnings = plan.warnings.clone();
        warnings.extend(self.apply_plan(address, schema, &Value::Null, plan).await?);
        Ok(warnings)
    }

    async fn apply_plan(
        &mut self,
        address: &str,
        schema: &Schema,
        config: &Value,
        plan: Plan,
    ) -> Result<Diagnostics, Diagnostics> {
        let ty = schema.object_type();
        let null = Value::Null;
        let prior = self.stored.get(address).map_or(&null, |stored| &stored.state);
        let creates = prior.is_null();
        let request = Request::new(pb::apply_resource_change::Request {
            type_name: type_of(address).to_owned(),
            prior_state: Some(wire::encode(prior, ty)?),
            planned_state: Some(wire::encode(&plan.planned, ty)?),
            config: Some(wire::encode(config, ty)?),
            planned_private: plan.private,
            provider_meta: None,
            planned_identity: plan.identity,
        });
        let answer = wire::answer(Wire::apply_resource_change(&self.server, request).await)?;
        let told = wire::warnings(answer.diagnostics);
        let state = wire::decode(answer.new_state.as_ref(), ty)?;
        if !state.is_wholly_known() {
            return Err(Diagnostics::error(
                "Provider returned invalid result object after apply",
                format!("There are unknown values in {state}."),
            ));
        }
        if state.is_null() {
            self.stored.remove(address);
        } else {
            let stored = Stored {
                state,
                identity: answer.new_identity,
                private: answer.private,
                tainted: creates && told.is_err(),
            };
            self.stored.insert(address.to_owned(), stored);
        }
        told
    }

    /// Imports an object by its id and looks at it, as the client does.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn import(&mut self, address: &str, id: &str) -> Result<Json, Diagnostics> {
        self.import_by(address, id.to_owned(), None).await
    }

    /// Imports an object by its identity and looks at it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn import_identity(
        &mut self,
        address: &str,
        identity: Json,
    ) -> Result<Json, Diagnostics> {
        let (_, schema) = self.resource(address)?;
        let ty = schema.unwrap_or_default().ty();
        let identity = codec::json::decode_lenient(identity.to_string().as_bytes(), &ty)
            .explain("The identity does not fit its schema")?;
        let identity_data = Some(wire::encode(&identity, &ty)?);
        let identity = pb::ResourceIdentityData { identity_data };
        self.import_by(address, String::new(), Some(identity)).await
    }

    async fn import_by(
        &mut self,
        address: &str,
        id: String,
        identity: Option<pb::ResourceIdentityData>,
    ) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let request = Request::new(pb::import_resource_state::Request {
            type_name: type_of(address).to_owned(),
            id,
            client_capabilities: Some(wire::capabilities()),
            identity,
        });
        let answer = wire::answer(Wire::import_resource_state(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let [imported] = answer.imported_resources.as_slice() else {
            return Err(Diagnostic::error("The import gave no object").into());
        };
        let stored = Stored {
            state: wire::decode(imported.state.as_ref(), schema.object_type())?,
            identity: imported.identity.clone(),
            private: imported.private.clone(),
            tainted: false,
        };
        self.stored.insert(address.to_owned(), stored);
        self.refresh(address).await
    }

    /// Brings a state of an older schema version to the present one.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn upgrade(
        &self,
        address: &str,
        version: i64,
        state: Json,
    ) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let value = self.upgrade_value(address, version, &state).await?;
        to_json(&schema, &value)
    }

    async fn upgrade_value(
        &self,
        address: &str,
        version: i64,
        state: &Json,
    ) -> Result<Value, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let request = Request::new(pb::upgrade_resource_state::Request {
            type_name: type_of(address).to_owned(),
            version,
            raw_state: Some(raw(state)),
        });
        let answer = wire::answer(Wire::upgrade_resource_state(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        wire::decode(answer.upgraded_state.as_ref(), schema.object_type())
    }

    /// Brings an identity of an older version to the present one.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn upgrade_identity(
        &self,
        address: &str,
        version: i64,
        identity: Json,
    ) -> Result<Json, Diagnostics> {
        let (_, schema) = self.resource(address)?;
        let ty = schema.unwrap_or_default().ty();
        let request = Request::new(pb::upgrade_resource_identity::Request {
            type_name: type_of(address).to_owned(),
            version,
            raw_identity: Some(raw(&identity)),
        });
        let answer = wire::answer(Wire::upgrade_resource_identity(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let data = answer.upgraded_identity.and_then(|identity| identity.identity_data);
        let value = wire::decode(data.as_ref(), &ty)?;
        let bytes = codec::json::encode(&value, &ty).explain("The identity has no stored form")?;
        serde_json::from_slice(&bytes).explain("The identity has no stored form")
    }

    /// Takes over the state of a resource of another type, and stores it.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn move_state(
        &mut self,
        address: &str,
        from: (&str, &str),
        state: Json,
    ) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let request = Request::new(pb::move_resource_state::Request {
            source_provider_address: from.0.to_owned(),
            source_type_name: from.1.to_owned(),
            source_state: Some(raw(&state)),
            target_type_name: type_of(address).to_owned(),
            ..Default::default()
        });
        let answer = wire::answer(Wire::move_resource_state(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let stored = Stored {
            state: wire::decode(answer.target_state.as_ref(), schema.object_type())?,
            identity: answer.target_identity,
            private: answer.target_private,
            tainted: false,
        };
        self.stored.insert(address.to_owned(), stored);
        self.state(address)
    }

    /// Writes a configuration for the stored object.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn generate_config(&self, address: &str) -> Result<Json, Diagnostics> {
        let (schema, _) = self.resource(address)?;
        let null = Value::Null;
        let state = self.stored.get(address).map_or(&null, |stored| &stored.state);
        let request = Request::new(pb::generate_resource_config::Request {
            type_name: type_of(address).to_owned(),
            state: Some(wire::encode(state, schema.object_type())?),
        });
        let answer = wire::answer(Wire::generate_resource_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        to_json(&schema, &wire::decode(answer.config.as_ref(), schema.object_type())?)
    }
}

fn raw(state: &Json) -> pb::RawState {
    pb::RawState { json: state.to_string().into(), flatmap: Default::default() }
}

fn to_json(schema: &Schema, value: &Value) -> Result<Json, Diagnostics> {
    let bytes =
        codec::json::encode(value, schema.object_type()).explain("The state has no stored form")?;
    serde_json::from_slice(&bytes).explain("The state has no stored form")
}
