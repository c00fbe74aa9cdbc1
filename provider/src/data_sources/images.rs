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
    sha256: Option<String>,
    signed_by: Option<String>,
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
                        text(
                            "sha256",
                            "SHA-256 of the image's signed manifest, in hex: what `sha256sum \
                             image.json` says of the one that the image's maker publishes. The \
                             manifest names each file of the image with its own. Machines are made \
                             on hosts that have told this version and on no others. Null where the \
                             platform knows no version: what hosts have under the name is not known \
                             then.",
                        ),
                        text(
                            "signed_by",
                            "Id of the key that has signed the manifest, as minisign writes it into \
                             the comment of the public key. Null where the platform knows no \
                             version.",
                        ),
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
            sha256: image.sha256.map(|sha256| sha256.to_string()),
            signed_by: image.signed_by.clone(),
        });
        Ok(ImagesModel { images: Attr::Value(images.collect()) })
    }
}
