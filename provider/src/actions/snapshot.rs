//! `fairmazon_snapshot`: makes a snapshot that no configuration keeps. Its declarative twin is the
//! resource of the same name.

use std::{collections::BTreeMap, time::Duration};

use fairmazon_model::{
    DomainError,
    id::{InvalidId, VolumeId},
    volume::VolumeSpec,
};
use serde::Deserialize;
use tfplugin::{Action, Attribute, Context, Diagnostics, Progress, Schema, Type, async_trait};

use super::{volume_id, waiting};
use crate::{diagnostics::Attempt, platform::Platform, resources::shared};

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
        let refused = |error: DomainError| attempt.refused(&error);
        let source: VolumeId = id.parse().map_err(|why: InvalidId| {
            refused(DomainError::invalid("volume_id", why.to_string()))
        })?;
        let volume = client.volume_now(id).await.map_err(|error| attempt.failed(&error))?;
        let volume: VolumeSpec = volume.spec.unwrap_or_default().try_into().map_err(refused)?;
        let mut labels = platform.default_labels().cloned().unwrap_or_default();
        labels.extend(config.labels.unwrap_or_default());
        let spec = VolumeSpec {
            name: config.name,
            source: Some(source),
            read_only: true,
            labels,
            placement: Default::default(),
            deletion_protection: false,
            ..volume
        };
        spec.check().map_err(refused)?;
        let work = async {
            let (row, operation) = client.create_volume((&spec).into()).await?;
            // Told to the user, it is found: the same call shall make another one from here on.
            progress.say(format!("The snapshot {} is being made.", row.id));
            client.confirm(&row.id).await?;
            client.wait(&operation, waiting(progress)).await?;
            Ok(row.id)
        };
        let done = cx.within(LIMIT, &format!("a snapshot of {id}"), work).await?;
        let made = done.map_err(|error| attempt.failed(&error))?;
        progress.say(format!("The snapshot {made} is there."));
        Ok(())
    }
}
