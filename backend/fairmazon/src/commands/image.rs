//! `fairmazon image`: make a maker's keys, make images, take images into a host's folder.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fairmazon_image::{About, ImageError, Manifest, Part, SigningKey, TrustedKey};

use crate::{error::CommandError, output};

/// Makes images of machines, signs them, and takes them into a host's folder.
#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key pair to sign images with; pairs of the tool minisign do as well.
    Key {
        /// The file of the secret key; the public key gets the same name with `.pub` added.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Make an image of a folder that holds `disk.qcow2` or `disk.raw`, or `kernel` with `initrd`
    /// and `cmdline`: describe its files in `image.json` and sign that.
    Pack {
        /// The folder.
        folder: PathBuf,
        /// The maker's secret key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Its id in the catalogue, as `img-debian-13`.
        #[arg(long)]
        id: String,
        /// Its name in the catalogue, as `debian-13`; without, its id.
        #[arg(long)]
        name: Option<String>,
        /// The processors that it is for.
        #[arg(long, default_value = "x86_64")]
        architecture: String,
        /// The smallest boot volume that it fits on.
        #[arg(long, value_name = "GIB", default_value_t = 1)]
        min_disk_gib: u64,
        /// The smallest memory that it starts in.
        #[arg(long, value_name = "MIB")]
        min_memory_mib: Option<u64>,
        /// One line about it, for people.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Take an image into a host's folder of images, when a trusted key has signed it and it is
    /// what was signed; whole, or not at all.
    Add {
        /// The folder that it is in.
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
        /// The host's folder of images.
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// A public key whose images are trusted; can be given more than once.
        #[arg(long, value_name = "FILE", required = true)]
        trust: Vec<PathBuf>,
    },
}

impl Image {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Key { to } => {
                SigningKey::make(&to).map_err(failed("make the keys"))?;
                output::line(&format!("secret: {}", to.display()));
                output::line(&format!("public: {}.pub", to.display()));
            }
            Action::Pack {
                folder,
                key,
                id,
                name,
                architecture,
                min_disk_gib,
                min_memory_mib,
                description,
            } => {
                let name = name.unwrap_or_else(|| id.clone());
                let about =
                    About { id, name, architecture, min_disk_gib, min_memory_mib, description };
                let pack = || fairmazon_image::pack(&folder, &about, &SigningKey::read(&key)?);
                show(&pack().map_err(failed("make the image"))?);
            }
            Action::Add { from, to, trust } => {
                let add = || {
                    let trusted = trust.iter().map(|path| TrustedKey::read(path));
                    let trusted = trusted.collect::<Result<Vec<_>, _>>()?;
                    fairmazon_image::add(&from, &to, &trusted)
                };
                show(&add().map_err(failed("take the image"))?);
            }
        }
        Ok(())
    }
}

fn show(manifest: &Manifest) {
    for part in &manifest.files {
        let (id, Part { name, bytes, sha256 }) = (&manifest.about.id, part);
        output::line(&format!("{id}\t{name}\t{bytes}\t{sha256}"));
    }
}

fn failed(attempted: &'static str) -> impl FnOnce(ImageError) -> CommandError {
    move |source| CommandError::Image { attempted, source }
}
