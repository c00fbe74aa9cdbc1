//! `fairmazon_snapshot`: makes a snapshot that no configuration keeps. Its declarative twin is the
//! resource of the same name.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use tfplugin::{Action, Attribute, Context, Diagnostics, Progress, Schema, Type, async_trait};

use super::{volume_id, waiting};
use crate::{
    diagnostics::Attempt,
    platform::Platform,
    resources::shared::{self, snapshots},
};

/// The action.
pub struct Snapshot;

/// What it is told.
#[derive(Debug, Deserialize)]
pub struct SnapshotConfig {
    volume_id: String,
    name: String,
    labels: Option<BTreeMap<String, String>>,
}

/// How long the copy is waited for. It goes on without anybody who waits.
const LIMIT: Duration = Duration::from_secs(60 * 60);

#[async_trait]
impl Action for Snapshot {
    type Data = Platform;
    type Config = SnapshotConfig;

    fn name(&self) -> &'static str {
        "fairmazon_snapshot"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe(
                "Makes a snapshot of a volume, in use or not, each time that it is asked for. No \
                 state holds the snapshot: it is there, and costs, until it is deleted, by \
                 `fairmazon volume delete` or after it was imported. The list resource \
                 `fairmazon_snapshot` finds it. Its declarative twin, for OpenTofu too, is the \
                 resource `fairmazon_snapshot`.",
            )
            .attribute(
                volume_id().describe("Id of the volume, which has to have been attached once."),
            )
            .attribute(shared::name("Name for people. Snapshots may have equal ones."))
            .attribute(
                Attribute::map("labels", Type::String)
                    .optional()
                    .describe("Labels of the snapshot, over the provider's `default_labels`."),
            )
            .build()
    }

    async fn invoke(
        &self,
        cx: &Context<Platform>,
        config: SnapshotConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let client = platform.client()?;
        let id = &config.volume_id;
        let attempt = Attempt::on("make a snapshot of", "volume", id);
        let volume = client.volume_now(id).await.map_err(|error| attempt.failed(&error))?;
        let mut labels = platform.default_labels().cloned().unwrap_or_default();
        labels.extend(config.labels.unwrap_or_default());
        let spec = snapshots::spec_of(&volume, config.name, labels)
            .map_err(|error| attempt.refused(&error))?;
        let told = |id: &str| progress.say(format!("The snapshot {id} is being made."));
        let work = client.make_snapshot((&spec).into(), told, waiting(progress));
        let done = cx.within(LIMIT, &format!("a snapshot of {id}"), Box::pin(work)).await?;
        let made = done.map_err(|error| attempt.failed(&error))?;
        progress.say(format!("The snapshot {made} is there."));
        Ok(())
    }
}
