//! The lists of `fairmazon_volume` and `fairmazon_snapshot`.

use std::marker::PhantomData;

use tfplugin::{Context, Diagnostics, ListResource, ListSink, Schema, async_trait};

use super::{ListConfig, display_name, schema};
use crate::{
    client::Pages,
    diagnostics::Attempt,
    platform::Platform,
    resources::volume::{VolumeKind, Volumes},
};

/// The list of a kind of volumes.
#[derive(Debug, Default)]
pub struct VolumeList<K>(PhantomData<K>);

impl<K: VolumeKind> VolumeList<K> {
    /// The list resource.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

#[async_trait]
impl<K: VolumeKind> ListResource for VolumeList<K> {
    type Data = Platform;
    type Config = ListConfig;
    type Model = K;

    fn name(&self) -> &'static str {
        K::TYPE
    }

    fn schema(&self) -> Schema {
        schema(&format!("{}s", K::NOUN))
    }

    async fn list(
        &self,
        cx: &Context<Platform>,
        config: ListConfig,
        found: &mut ListSink<K>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let labels = config.labels.unwrap_or_default();
        let client = platform.client()?;
        let mut pages = Pages::new(|token| client.volumes_page(token, labels.clone()));
        let attempt = Attempt::new("list", K::NOUN);
        while let Some(rows) =
            cx.unless_cancelled(pages.next()).await?.map_err(|error| attempt.failed(&error))?
        {
            for row in rows.iter().filter(|row| K::is_of(row)) {
                let model = Volumes::<K>::of_row(&K::default(), row, platform.default_labels())
                    .map_err(|error| Attempt::on("read", K::NOUN, &row.id).refused(&error))?;
                let name = row.spec.as_ref().map_or_else(String::new, |spec| spec.name.clone());
                if !found.put(display_name(name, row.unconfirmed), &model).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
