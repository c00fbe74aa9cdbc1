//! The list of `fairmazon_placement_group`.

use tfplugin::{Context, Diagnostics, ListResource, ListSink, Schema, async_trait};

use super::{ListConfig, schema};
use crate::{
    client::Pages,
    diagnostics::Attempt,
    platform::Platform,
    resources::placement_group::{PlacementGroupModel, of_row},
};

/// The list resource.
pub struct PlacementGroupList;

#[async_trait]
impl ListResource for PlacementGroupList {
    type Data = Platform;
    type Config = ListConfig;
    type Model = PlacementGroupModel;

    fn name(&self) -> &'static str {
        "fairmazon_placement_group"
    }

    fn schema(&self) -> Schema {
        schema("placement groups")
    }

    async fn list(
        &self,
        cx: &Context<Platform>,
        config: ListConfig,
        found: &mut ListSink<PlacementGroupModel>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let labels = config.labels.unwrap_or_default();
        let client = platform.client()?;
        let mut pages = Pages::new(|token| client.placement_groups_page(token, labels.clone()));
        let attempt = Attempt::new("list", "placement groups");
        while let Some(rows) =
            cx.unless_cancelled(pages.next()).await?.map_err(|error| attempt.failed(&error))?
        {
            for row in rows {
                let model =
                    of_row(&PlacementGroupModel::default(), &row, platform.default_labels());
                if !found.put(row.name, &model).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
