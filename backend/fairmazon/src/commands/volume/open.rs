//! `fairmazon volume open`: decrypts an exported volume without the platform.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use fairmazon_hypervisor_libvirt::qemu::{self, open_exported};
use fairmazon_keys::{VolumeKey, WrappedKey};
use fairmazon_model::id::VolumeId;

use crate::{
    commands::{key::read_identity, with_ending},
    error::CommandError,
    output,
    signals::Signals,
};

/// Which file, with what, to where.
#[derive(Debug, Args)]
pub(crate) struct Open {
    /// The exported volume.
    file: PathBuf,
    /// Its wrapped key [default: FILE.key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The file with your identity.
    #[arg(long, env = "FAIRMAZON_KEY_FILE", value_name = "FILE")]
    identity: PathBuf,
    /// Where to, in plain text: a file that is not there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// How it is written.
    #[arg(long, value_enum, default_value = "raw")]
    format: Format,
    /// Refuse any other volume than this one.
    #[arg(long, value_name = "ID")]
    volume: Option<VolumeId>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The bytes of the disk.
    Raw,
    /// A qcow2 file without encryption.
    Qcow2,
}

impl Open {
    pub(crate) async fn run(self) -> Result<(), CommandError> {
        let mut signals = Signals::listen()?;
        let path = self.key.unwrap_or_else(|| key_beside(&self.file));
        let (volume, key) = open_key(&path, &self.identity)?;
        if let Some(wanted) = self.volume.filter(|wanted| *wanted != volume) {
            let path = path.display();
            let text = format!("{path}: it is the key of {volume}, not of {wanted}");
            return Err(CommandError::Usage(text));
        }
        let format = match self.format {
            Format::Raw => qemu::Format::Raw,
            Format::Qcow2 => qemu::Format::Qcow2,
        };
        let opening = open_exported(&self.file, (volume, &key), &self.to, format);
        tokio::select! {
            () = signals.end() => return Err(CommandError::Interrupted),
            opened = opening => opened.map_err(CommandError::Open)?,
        }
        output::line(&format!("{}: {volume}, in plain text", self.to.display()));
        Ok(())
    }
}

/// The key that lies wrapped in a file, and the volume that it is of.
pub(super) fn open_key(
    path: &Path,
    identity: &Path,
) -> Result<(VolumeId, VolumeKey), CommandError> {
    let bytes = fs::read(path).map_err(CommandError::file("read", path))?;
    let opened = WrappedKey::from_bytes(bytes).open_any(&read_identity(identity)?);
    opened.map_err(|error| CommandError::Usage(format!("{}: {error}", path.display())))
}

/// Where the wrapped key of an exported volume lies.
pub(super) fn key_beside(file: &Path) -> PathBuf {
    with_ending(file, ".key")
}
