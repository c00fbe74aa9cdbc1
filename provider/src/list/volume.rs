//! The list of `fairmazon_volume`.

use tfplugin::{Context, Diagnostics, ListResource, ListSink, Schema, async_trait};

use super::{ListConfig, schema};
use crate::{
    client::Pages,
    diagnostics::Attempt,
    platform::Platform,
    resources::volume::{VolumeModel, of_row},
};

/// The list resource.
pub struct VolumeList;

#[async_trait]
impl ListResource for VolumeList {
    type Data = Platform;
    type Config = ListConfig;
    type Model = VolumeModel;

    fn name(&self) -> &'static str {
        "fairmazon_volume"
    }

    fn schema(&self) -> Schema {
        schema("volumes")
    }

    async fn list(
        &self,
        cx: &Context<Platform>,
        config: ListConfig,
        found: &mut ListSink<VolumeModel>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let labels = config.labels.unwrap_or_default();
        let client = platform.client()?;
        let mut pages = Pages::new(|token| client.volumes_page(token, labels.clone()));
        let attempt = Attempt::new("list", "volumes");
        while let Some(rows) =
            cx.unless_cancelled(pages.next()).await?.map_err(|error| attempt.failed(&error))?
        {
            for row in rows {
                let model = of_row(&VolumeModel::default(), &row, platform.default_labels())
                    .map_err(|error| Attempt::on("read", "volume", &row.id).refused(&error))?;
                let name = row.spec.as_ref().map_or_else(String::new, |spec| spec.name.clone());
                if !found.put(name, &model).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
