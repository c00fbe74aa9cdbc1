//! What the two sides say of themselves: the server says what it can only where it can, and takes
//! the client at its word.

use async_trait::async_trait;

use super::{Server, wire};
use crate::{
    Attribute, Context, Diagnostics, Offers, Planned, Provider, Resource, Schema, StateSink, Value,
    View, proto::tfplugin6 as pb,
};

/// A resource that can more than others, or not.
#[derive(Clone, Copy)]
struct Thing {
    name: &'static str,
    plans_destroy: bool,
    moves_state: bool,
}

const PLAIN: Thing = Thing { name: "lab_plain", plans_destroy: false, moves_state: false };

#[derive(serde::Serialize, serde::Deserialize)]
struct Model {
    name: Option<String>,
    password_wo: Option<String>,
}

#[async_trait]
impl Resource for Thing {
    type Data = ();
    type Model = Model;

    fn name(&self) -> &'static str {
        self.name
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("name").optional())
            .attribute(Attribute::string("password_wo").optional().write_only())
            .build()
    }

    fn plans_destroy(&self) -> bool {
        self.plans_destroy
    }

    fn moves_state(&self) -> bool {
        self.moves_state
    }

    async fn create(
        &self,
        _: &Context<()>,
        plan: Planned<'_, Model>,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        state.save(&plan.model)
    }

    async fn read(
        &self,
        _: &Context<()>,
        _: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }

    async fn delete(
        &self,
        _: &Context<()>,
        _: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }
}

struct Lab(Vec<Thing>);

#[async_trait]
impl Provider for Lab {
    type Data = ();

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<()> {
        self.0.iter().fold(Offers::new(), |offers, thing| offers.resource(*thing))
    }

    async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }
}

#[tokio::test]
async fn a_server_says_what_one_of_its_resources_can() {
    let plans = Thing { name: "lab_plans", plans_destroy: true, ..PLAIN };
    let moves = Thing { name: "lab_moves", moves_state: true, ..PLAIN };
    for (things, plan_destroy, move_resource_state) in [
        (vec![], false, false),
        (vec![PLAIN], false, false),
        (vec![PLAIN, plans], true, false),
        (vec![moves, PLAIN], false, true),
        (vec![plans, moves], true, true),
    ] {
        let expected = pb::ServerCapabilities {
            plan_destroy,
            move_resource_state,
            // Every server of this crate can do these, whatever it offers.
            get_provider_schema_optional: true,
            generate_resource_config: true,
        };
        let server = Server::with_check(Lab(things), true);
        let names = server.get_metadata(pb::get_metadata::Request {}).await;
        assert_eq!(names.server_capabilities, Some(expected));
        let schema = server.get_provider_schema(pb::get_provider_schema::Request {}).await;
        assert_eq!(schema.server_capabilities, Some(expected));
    }
}

#[tokio::test]
async fn what_every_server_says_is_true() {
    // Nobody has asked this one for its schema.
    let server = Server::with_check(Lab(vec![PLAIN]), true);
    let request = pb::generate_resource_config::Request {
        type_name: PLAIN.name.to_owned(),
        state: Some(json(r#"{"name":"a","password_wo":null}"#)),
    };
    let written = server.generate_resource_config(request).await;
    assert!(written.diagnostics.is_empty(), "{:?}", written.diagnostics);
    let written = wire::decode(written.config.as_ref(), PLAIN.schema().object_type());
    assert_eq!(written.expect("it is a value").member("name"), &Value::from("a"));
}

#[tokio::test]
async fn a_write_only_value_needs_a_client_that_can() {
    let server = Server::with_check(Lab(vec![PLAIN]), true);
    let able = pb::ClientCapabilities { write_only_attributes_allowed: true, ..Default::default() };
    let unable = pb::ClientCapabilities { deferral_allowed: true, ..Default::default() };
    for (config, client_capabilities, well) in [
        (r#"{"name":"a","password_wo":"x"}"#, Some(able), true),
        (r#"{"name":"a","password_wo":"x"}"#, Some(unable), false),
        (r#"{"name":"a","password_wo":"x"}"#, None, false),
        (r#"{"name":"a","password_wo":null}"#, None, true),
    ] {
        let request = pb::validate_resource_config::Request {
            type_name: PLAIN.name.to_owned(),
            config: Some(json(config)),
            client_capabilities,
        };
        let told = server.validate_resource_config(request).await.diagnostics;
        assert_eq!(told.is_empty(), well, "{config}, {client_capabilities:?}: {told:?}");
        let names_it = told.iter().all(|one| one.summary.contains("write-only"));
        assert!(names_it, "{told:?}");
    }
}

fn json(text: &'static str) -> pb::DynamicValue {
    pb::DynamicValue { json: text.into(), ..Default::default() }
}
