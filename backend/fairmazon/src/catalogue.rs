//! What a broker sells: sizes and prices are the model's, images those of signed manifests.

use std::path::{Path, PathBuf};

use clap::Args;
use fairmazon_broker::core::Engine;
use fairmazon_image::{About, ImageError, Signed, TrustedKey};
use fairmazon_model::{
    catalogue::{Catalogue, Image},
    limits,
    transfer::Sha256,
    units::{Gib, Mib},
};

use crate::error::CommandError;

/// Where the images of the catalogue are described, and by whom.
#[derive(Debug, Args)]
pub(crate) struct CatalogueOptions {
    /// The images that are sold: a folder with a folder for each in it, which has the `image.json`
    /// and `image.json.minisig` that `fairmazon image pack` makes; the disks are not needed. Hosts
    /// that have another version of an image get no machines of it. Without, the images are four
    /// names, and whatever hosts have under them; that is for trials.
    #[arg(long, env = "FAIRMAZON_IMAGES_DIR", value_name = "FOLDER", requires = "image_key")]
    images_dir: Option<PathBuf>,
    /// Whose images are sold, as a file with a public key. May be given several times.
    #[arg(long, env = "FAIRMAZON_IMAGE_KEY", value_name = "FILE", requires = "images_dir")]
    image_key: Vec<PathBuf>,
}

impl CatalogueOptions {
    /// The catalogue that was asked for.
    ///
    /// # Errors
    /// When an image is not signed by one of the keys, or can't be in a catalogue.
    pub(crate) fn read(&self) -> Result<Catalogue, CommandError> {
        let Some(folder) = &self.images_dir else {
            tracing::warn!(
                "the images are known by their names only, and hosts may have different ones under \
                 the same name: describe them with --images-dir and --image-key, unless this is a \
                 trial"
            );
            return Ok(Catalogue::default_catalogue());
        };
        self.described(folder)
    }

    /// Reads the images again, where they are described. What can't be sold is logged, and the
    /// catalogue then stays what it was.
    pub(crate) fn reload(&self, engine: &Engine) {
        let Some(folder) = &self.images_dir else { return };
        let sold = self.described(folder).and_then(|catalogue| {
            let sold = engine.sell_images(catalogue.images);
            sold.map_err(CommandError::refused("unable to sell other images"))
        });
        match sold {
            Ok(()) => tracing::info!("the images of the catalogue were read again"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the images of the catalogue stay what they were");
            }
        }
    }

    fn described(&self, folder: &Path) -> Result<Catalogue, CommandError> {
        let keys = self.image_key.iter().map(|path| TrustedKey::read(path));
        of_images(folder, &keys.collect::<Result<Vec<_>, _>>().map_err(unreadable)?)
    }
}

/// The usual sizes and prices, with the images that this folder describes.
///
/// # Errors
/// When an image is not signed by one of the keys, or can't be in a catalogue.
pub(crate) fn of_images(folder: &Path, trusted: &[TrustedKey]) -> Result<Catalogue, CommandError> {
    let signed = fairmazon_image::catalogue(folder, trusted).map_err(unreadable)?;
    let images = signed.into_iter().map(sold).collect::<Result<_, _>>()?;
    Ok(Catalogue { images, ..Catalogue::default_catalogue() })
}

fn sold(signed: Signed) -> Result<Image, CommandError> {
    let Signed { manifest, sha256, key_id } = signed;
    let About { id, name, architecture, min_disk_gib, min_memory_mib, description } =
        manifest.about;
    limits::check_name(&name)
        .map_err(CommandError::refused(format!("unable to sell the image {id}")))?;
    Ok(Image {
        description: description.unwrap_or_else(|| name.clone()),
        id,
        name,
        architecture,
        min_boot: Gib(min_disk_gib),
        min_memory: Mib(min_memory_mib.unwrap_or(0)),
        sha256: Some(Sha256(sha256)),
        signed_by: Some(key_id),
    })
}

fn unreadable(source: ImageError) -> CommandError {
    CommandError::Image { attempted: "read the images of the catalogue", source }
}
