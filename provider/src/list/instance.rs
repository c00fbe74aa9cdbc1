//! The list of `fairmazon_instance`.

use tfplugin::{Context, Diagnostics, ListResource, ListSink, Schema, async_trait};

use super::{ListConfig, display_name, schema};
use crate::{
    client::Pages,
    diagnostics::Attempt,
    platform::Platform,
    resources::instance::{InstanceModel, of_row},
};

/// The list resource.
pub struct InstanceList;

#[async_trait]
impl ListResource for InstanceList {
    type Data = Platform;
    type Config = ListConfig;
    type Model = InstanceModel;

    fn name(&self) -> &'static str {
        "fairmazon_instance"
    }

    fn schema(&self) -> Schema {
        schema("machines")
    }

    async fn list(
        &self,
        cx: &Context<Platform>,
        config: ListConfig,
        found: &mut ListSink<InstanceModel>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let labels = config.labels.unwrap_or_default();
        let client = platform.client()?;
        let mut pages = Pages::new(|token| client.instances_page(token, labels.clone()));
        let attempt = Attempt::new("list", "instances");
        while let Some(rows) =
            cx.unless_cancelled(pages.next()).await?.map_err(|error| attempt.failed(&error))?
        {
            for row in rows {
                let model = of_row(&InstanceModel::default(), &row, platform.default_labels())
                    .map_err(|error| Attempt::on("read", "instance", &row.id).refused(&error))?;
                let name = row.spec.as_ref().map_or_else(String::new, |spec| spec.name.clone());
                if !found.put(display_name(name, row.unconfirmed), &model).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
