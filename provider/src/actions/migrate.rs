//! `fairmazon_migrate`: moves a machine to another host.

use std::time::Duration;

use serde::Deserialize;
use tfplugin::{Action, Context, Diagnostics, Progress, Schema, async_trait};

use super::{instance_id, waiting};
use crate::{diagnostics::Attempt, platform::Platform};

/// The action.
pub struct Migrate;

/// What it is told.
#[derive(Debug, Deserialize)]
pub struct MigrateConfig {
    instance_id: String,
}

/// How long a move is waited for. The platform gives up earlier by itself, and says why.
const LIMIT: Duration = Duration::from_secs(60 * 60);

#[async_trait]
impl Action for Migrate {
    type Data = Platform;
    type Config = MigrateConfig;

    fn name(&self) -> &'static str {
        "fairmazon_migrate"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe(
                "Moves a machine to another host, while it runs or as it is while it is off, with \
                 its volumes, which are encrypted there with keys of that host. The platform \
                 chooses the host, within the machine's `placement`. Where no other host can take \
                 it the machine stays, and the action fails with the reason.",
            )
            .attribute(instance_id())
            .build()
    }

    async fn invoke(
        &self,
        cx: &Context<Platform>,
        config: MigrateConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = &config.instance_id;
        let work = async {
            let operation = client.migrate_instance(id).await?;
            progress.say(format!("{id} is moving to another host."));
            client.wait(&operation, waiting(progress)).await?;
            client.instance_now(id).await
        };
        let done = cx.within(LIMIT, &format!("the instance {id} to move"), work).await?;
        let row = done.map_err(|error| Attempt::on("migrate", "instance", id).failed(&error))?;
        progress.say(format!("{id} is in {}, {}.", row.site, row.country));
        Ok(())
    }
}
