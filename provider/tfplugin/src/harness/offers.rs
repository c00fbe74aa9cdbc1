//! Everything else that a provider offers: data sources, functions, ephemeral resources, lists
//! and actions.

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value as Json;
use tonic::Request;

use super::{Harness, config, wire};
use crate::{
    Diagnostic, Diagnostics, Explain as _, Provider, Type, Value, codec,
    proto::tfplugin6::{
        self as pb, invoke_action::event::Type as Told, provider_server::Provider as Wire,
    },
    schema::Schema,
};

/// An object that a list found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// What tells it from all others.
    pub identity: Json,
    /// What people call it.
    pub display_name: String,
    /// The whole object, when it was asked for.
    pub object: Option<Json>,
}

/// An open ephemeral resource.
#[derive(Clone, Debug)]
pub struct OpenedEphemeral {
    /// The object.
    pub result: Json,
    /// Seconds since 1970 at which it wants to be renewed.
    pub renew_at: Option<i64>,
    type_name: String,
    private: Option<Bytes>,
}

fn schema_of(
    mut among: impl Iterator<Item = (&'static str, Schema)>,
    name: &str,
) -> Result<Schema, Diagnostics> {
    among.find(|(found, _)| *found == name).map(|(_, schema)| schema).ok_or_else(|| {
        Diagnostics::error("Unknown type", format!("The provider does not offer {name}."))
    })
}

/// Reads a configuration and writes it for the wire.
fn encoded(schema: &Schema, block: Json) -> Result<Option<pb::DynamicValue>, Diagnostics> {
    let value = config::read(schema, block)?;
    config::check(schema, &value)?;
    wire::encode(&value, schema.object_type()).map(Some)
}

fn to_json(value: &Value, ty: &Type) -> Result<Json, Diagnostics> {
    let bytes = codec::json::encode(value, ty).explain("The answer has no JSON form")?;
    serde_json::from_slice(&bytes).explain("The answer has no JSON form")
}

impl<P: Provider> Harness<P> {
    /// Validates and reads a data source.
    ///
    /// # Errors
    /// What the provider has to say.
    pub async fn data(&self, type_name: &str, block: Json) -> Result<Json, Diagnostics> {
        let schema = schema_of(self.offers.data_sources(), type_name)?;
        let config = encoded(&schema, block)?;
        let request = Request::new(pb::validate_data_resource_config::Request {
            type_name: type_name.to_owned(),
            config: config.clone(),
        });
        let answer =
            wire::answer(Wire::validate_data_resource_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let request = Request::new(pb::read_data_source::Request {
            type_name: type_name.to_owned(),
            config,
            provider_meta: None,
            client_capabilities: Some(wire::capabilities()),
        });
        let answer = wire::answer(Wire::read_data_source(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let ty = schema.object_type();
        to_json(&wire::decode(answer.state.as_ref(), ty)?, ty)
    }

    /// Calls a function.
    ///
    /// # Errors
    /// What the function has to say; the path's index names the argument.
    pub async fn call(&self, name: &str, arguments: Vec<Json>) -> Result<Json, Diagnostics> {
        let (_, signature) =
            self.offers.functions().find(|(found, _)| *found == name).ok_or_else(|| {
                Diagnostics::error("Unknown function", format!("There is no function {name}."))
            })?;
        let mut encoded = Vec::with_capacity(arguments.len());
        for (index, argument) in arguments.into_iter().enumerate() {
            let ty = signature.type_of(index).unwrap_or(&Type::Dynamic);
            let value = codec::json::decode(argument.to_string().as_bytes(), ty)
                .explain("The argument does not fit its parameter")?;
            encoded.push(wire::encode(&value, ty)?);
        }
        let request =
            Request::new(pb::call_function::Request { name: name.to_owned(), arguments: encoded });
        let answer = wire::answer(Wire::call_function(&self.server, request).await)?;
        if let Some(error) = answer.error {
            let told = Diagnostic::error("Error in function call").detail(error.text);
            let argument = error.function_argument.and_then(|index| usize::try_from(index).ok());
            return Err(match argument {
                Some(index) => told.at(crate::AttributePath::root().index(index)).into(),
                None => told.into(),
            });
        }
        let ty = signature.result_type();
        to_json(&wire::decode(answer.result.as_ref(), ty)?, ty)
    }

    /// Validates and opens an ephemeral resource.
    ///
    /// # Errors
    /// What the provider has to say.
    pub async fn open(&self, type_name: &str, block: Json) -> Result<OpenedEphemeral, Diagnostics> {
        let schema = schema_of(self.offers.ephemerals(), type_name)?;
        let config = encoded(&schema, block)?;
        let request = Request::new(pb::validate_ephemeral_resource_config::Request {
            type_name: type_name.to_owned(),
            config: config.clone(),
        });
        let answer =
            wire::answer(Wire::validate_ephemeral_resource_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let request = Request::new(pb::open_ephemeral_resource::Request {
            type_name: type_name.to_owned(),
            config,
            client_capabilities: Some(wire::capabilities()),
        });
        let answer = wire::answer(Wire::open_ephemeral_resource(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let ty = schema.object_type();
        Ok(OpenedEphemeral {
            result: to_json(&wire::decode(answer.result.as_ref(), ty)?, ty)?,
            renew_at: answer.renew_at.map(|time| time.seconds),
            type_name: type_name.to_owned(),
            private: answer.private,
        })
    }

    /// Prolongs an open ephemeral resource.
    ///
    /// # Errors
    /// Why it can't be prolonged.
    pub async fn renew(&self, opened: &mut OpenedEphemeral) -> Result<(), Diagnostics> {
        let request = Request::new(pb::renew_ephemeral_resource::Request {
            type_name: opened.type_name.clone(),
            private: opened.private.clone(),
        });
        let answer = wire::answer(Wire::renew_ephemeral_resource(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        opened.renew_at = answer.renew_at.map(|time| time.seconds);
        opened.private = answer.private;
        Ok(())
    }

    /// Ends an open ephemeral resource.
    ///
    /// # Errors
    /// Why it can't be ended.
    pub async fn close_ephemeral(&self, opened: OpenedEphemeral) -> Result<(), Diagnostics> {
        let request = Request::new(pb::close_ephemeral_resource::Request {
            type_name: opened.type_name,
            private: opened.private,
        });
        let answer = wire::answer(Wire::close_ephemeral_resource(&self.server, request).await)?;
        wire::warnings(answer.diagnostics).map(|_| ())
    }

    /// Validates a list block and finds the objects, `limit` at most.
    ///
    /// # Errors
    /// What the provider has to say.
    pub async fn list(
        &self,
        type_name: &str,
        block: Json,
        objects: Objects,
        limit: i64,
    ) -> Result<Vec<Listed>, Diagnostics> {
        let schema = schema_of(self.offers.lists(), type_name)?;
        let config = encoded(&schema, block)?;
        let request = Request::new(pb::validate_list_resource_config::Request {
            type_name: type_name.to_owned(),
            config: config.clone(),
            include_resource_object: None,
            limit: None,
        });
        let answer =
            wire::answer(Wire::validate_list_resource_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let request = Request::new(pb::list_resource::Request {
            type_name: type_name.to_owned(),
            config,
            include_resource_object: objects == Objects::Whole,
            limit,
        });
        let mut events = wire::answer(Wire::list_resource(&self.server, request).await)?;
        let mut found = Vec::new();
        while let Some(event) = events.next().await {
            let event = event.explain("The list broke off")?;
            wire::warnings(event.diagnostic.clone())?;
            if event.identity.is_some() {
                found.push(self.listed(type_name, event)?);
            }
        }
        Ok(found)
    }

    fn listed(
        &self,
        type_name: &str,
        event: pb::list_resource::Event,
    ) -> Result<Listed, Diagnostics> {
        let mut resources = self.offers.resources();
        let (_, schema, identity) =
            resources.find(|(name, ..)| *name == type_name).ok_or_else(|| {
                Diagnostics::error("Unknown type", format!("There is no resource {type_name}."))
            })?;
        let identity_type = identity.unwrap_or_default().ty();
        let data = event.identity.and_then(|identity| identity.identity_data);
        let object = event.resource_object.as_ref().map(|object| {
            let ty = schema.object_type();
            to_json(&wire::decode(Some(object), ty)?, ty)
        });
        Ok(Listed {
            identity: to_json(&wire::decode(data.as_ref(), &identity_type)?, &identity_type)?,
            display_name: event.display_name,
            object: object.transpose()?,
        })
    }

    /// Validates, plans and invokes an action. Returns what it said.
    ///
    /// # Errors
    /// Why it could not be done.
    pub async fn invoke(&self, type_name: &str, block: Json) -> Result<Vec<String>, Diagnostics> {
        let schema = schema_of(self.offers.actions(), type_name)?;
        let config = encoded(&schema, block)?;
        let request = Request::new(pb::validate_action_config::Request {
            type_name: type_name.to_owned(),
            config: config.clone(),
        });
        let answer = wire::answer(Wire::validate_action_config(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let request = Request::new(pb::plan_action::Request {
            action_type: type_name.to_owned(),
            config: config.clone(),
            client_capabilities: Some(wire::capabilities()),
        });
        let answer = wire::answer(Wire::plan_action(&self.server, request).await)?;
        wire::warnings(answer.diagnostics)?;
        let request = Request::new(pb::invoke_action::Request {
            action_type: type_name.to_owned(),
            config,
            client_capabilities: Some(wire::capabilities()),
        });
        let mut events = wire::answer(Wire::invoke_action(&self.server, request).await)?;
        let mut said = Vec::new();
        while let Some(event) = events.next().await {
            match event.explain("The action broke off")?.r#type {
                Some(Told::Progress(progress)) => said.push(progress.message),
                Some(Told::Completed(completed)) => {
                    wire::warnings(completed.diagnostics)?;
                    return Ok(said);
                }
                None => {}
            }
        }
        Err(Diagnostic::error("The action never said that it is complete").into())
    }
}

/// How much of each object a list shall give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objects {
    /// Its identity and name.
    Identities,
    /// All of it.
    Whole,
}
