//! `fairmazon_images`: the operating systems that machines can boot.

use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, Context, DataSource, Diagnostics, Schema, async_trait};

use crate::{diagnostics::Attempt, platform::Platform};

/// The data source.
pub struct Images;

/// What it holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ImagesModel {
    images: Attr<Vec<Image>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Image {
    id: String,
    name: String,
    description: String,
    architecture: String,
    min_boot_gib: u64,
    min_memory_mib: u64,
}

#[async_trait]
impl DataSource for Images {
    type Data = Platform;
    type Model = ImagesModel;

    fn name(&self) -> &'static str {
        "fairmazon_images"
    }

    fn schema(&self) -> Schema {
        let text = |name: &str, about: &str| Attribute::string(name).computed().describe(about);
        let number = |name: &str, about: &str| Attribute::integer(name).computed().describe(about);
        Schema::builder()
            .describe("The operating systems that machines can boot.")
            .attribute(
                Attribute::nested_list(
                    "images",
                    [
                        text("id", "Id of the image."),
                        text("name", "Name, for `image` of a machine."),
                        text("description", "What it is."),
                        text("architecture", "Processor architecture."),
                        number("min_boot_gib", "Smallest boot volume it fits on, in GiB."),
                        number("min_memory_mib", "Smallest memory it starts in, in MiB."),
                    ],
                )
                .computed()
                .describe("The images."),
            )
            .build()
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        _: ImagesModel,
    ) -> Result<ImagesModel, Diagnostics> {
        let asked = cx.data()?.client()?.catalogue().await;
        let catalogue = asked.map_err(|error| Attempt::new("read", "catalogue").failed(&error))?;
        let images = catalogue.images.iter().map(|image| Image {
            id: image.id.clone(),
            name: image.name.clone(),
            description: image.description.clone(),
            architecture: image.architecture.clone(),
            min_boot_gib: image.min_boot.0,
            min_memory_mib: image.min_memory.0,
        });
        Ok(ImagesModel { images: Attr::Value(images.collect()) })
    }
}
