//! A provider that logs everything it is told, to try that no secret gets into the log.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tfplugin::{
    Attribute, Context, Diagnostics, Offers, Planned, Provider, Resource, Schema, StateSink, View,
    async_trait, keep_secret,
};

struct Leaky;

#[async_trait]
impl Provider for Leaky {
    type Data = ();

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("pass").optional().sensitive()).build()
    }

    fn offers(&self) -> Offers<()> {
        Offers::new().resource(Thing)
    }

    async fn configure(&self, _: &Context<()>, config: View<'_>) -> Result<(), Diagnostics> {
        let key = std::env::var("LEAKY_KEY").unwrap_or_default();
        keep_secret(&key);
        say(&(config, key));
        Ok(())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Model {
    name: String,
    pass: Option<String>,
    pass_wo: Option<String>,
}

struct Thing;

#[async_trait]
impl Resource for Thing {
    type Data = ();
    type Model = Model;

    fn name(&self) -> &'static str {
        "leaky_thing"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("pass").optional().sensitive())
            .attribute(Attribute::string("pass_wo").optional().write_only())
            .build()
    }

    async fn create(
        &self,
        _: &Context<()>,
        plan: Planned<'_, Model>,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        say(&(&plan.model, plan.config));
        state.save(&plan.model)
    }

    async fn read(
        &self,
        _: &Context<()>,
        prior: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        say(&prior);
        Ok(())
    }

    async fn delete(
        &self,
        _: &Context<()>,
        prior: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        say(&prior);
        Ok(())
    }
}

/// Tells it at every level, as a field and in the message.
fn say(what: &dyn std::fmt::Debug) {
    tracing::error!(?what, "told: {what:?}");
    tracing::warn!(?what, "told: {what:?}");
    tracing::info!(?what, "told: {what:?}");
    tracing::debug!(?what, "told: {what:?}");
    tracing::trace!(?what, "told: {what:?}");
}

fn main() -> ExitCode {
    tfplugin::serve(Leaky, "registry.terraform.io/example/leaky")
}
