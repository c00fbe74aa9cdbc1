//! `fairmazon_reboot`: restarts a machine. Its declarative twin is `reboot_trigger`.

use std::time::Duration;

use serde::Deserialize;
use tfplugin::{Action, Context, Diagnostics, Progress, Schema, async_trait};

use super::{instance_id, waiting};
use crate::{diagnostics::Attempt, platform::Platform};

/// The action.
pub struct Reboot;

/// What it is told.
#[derive(Debug, Deserialize)]
pub struct RebootConfig {
    instance_id: String,
}

/// How long a restart may take.
const LIMIT: Duration = Duration::from_secs(10 * 60);

#[async_trait]
impl Action for Reboot {
    type Data = Platform;
    type Config = RebootConfig;

    fn name(&self) -> &'static str {
        "fairmazon_reboot"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe(
                "Restarts a machine: a graceful stop, forced after its `stop_timeout`, and a \
                 start. Its declarative twin, for OpenTofu too, is `reboot_trigger` of \
                 `fairmazon_instance`.",
            )
            .attribute(instance_id())
            .build()
    }

    async fn invoke(
        &self,
        cx: &Context<Platform>,
        config: RebootConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = &config.instance_id;
        let work = async {
            let operation = client.reboot_instance(id).await?;
            progress.say(format!("The platform restarts {id}."));
            client.wait(&operation, waiting(progress)).await
        };
        let done = cx.within(LIMIT, &format!("the instance {id} to restart"), work).await?;
        done.map_err(|error| Attempt::on("reboot", "instance", id).failed(&error))?;
        progress.say(format!("{id} has restarted."));
        Ok(())
    }
}
