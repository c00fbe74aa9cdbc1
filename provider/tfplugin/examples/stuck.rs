//! A provider whose handlers never answer and do not listen when they are cancelled, to try how
//! a plugin ends all the same.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use tfplugin::{
    Attribute, Context, Diagnostics, Offers, Planned, Provider, Resource, Schema, StateSink, View,
    async_trait,
};

struct Stuck;

#[async_trait]
impl Provider for Stuck {
    type Data = ();

    fn schema(&self) -> Schema {
        Schema::builder().build()
    }

    fn offers(&self) -> Offers<()> {
        Offers::new().resource(Thing)
    }

    async fn configure(&self, _: &Context<()>, _: View<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }
}

/// How a thing hangs is its only attribute.
#[derive(Serialize, Deserialize)]
struct Model {
    how: String,
}

struct Thing;

#[async_trait]
impl Resource for Thing {
    type Data = ();
    type Model = Model;

    fn name(&self) -> &'static str {
        "stuck_thing"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("how").required().requires_replace()).build()
    }

    async fn create(
        &self,
        _: &Context<()>,
        plan: Planned<'_, Model>,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        hang(&plan.how).await
    }

    async fn read(
        &self,
        _: &Context<()>,
        prior: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        hang(&prior.how).await
    }

    async fn delete(
        &self,
        _: &Context<()>,
        prior: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        hang(&prior.how).await
    }
}

/// Waits for what never comes, or has a thread do it.
async fn hang(how: &str) -> Result<(), Diagnostics> {
    tracing::info!("it hangs from here on");
    if how == "blocks a thread" {
        let parked = tokio::task::spawn_blocking(|| {
            loop {
                std::thread::park();
            }
        });
        let _ = parked.await;
    }
    std::future::pending().await
}

fn main() -> ExitCode {
    tfplugin::serve(Stuck, "registry.terraform.io/example/stuck")
}
