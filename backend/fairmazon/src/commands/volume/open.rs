//! `fairmazon volume open`: decrypts an exported volume without the platform.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use fairmazon_hypervisor_libvirt::qemu::{self, open_exported};
use fairmazon_keys::WrappedKey;
use fairmazon_model::id::VolumeId;

use crate::{commands::key, error::CommandError, output, signals::Signals};

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
        let bytes = fs::read(&path).map_err(CommandError::file("read", &path))?;
        let wrong = |why: String| CommandError::Usage(format!("{}: {why}", path.display()));
        let identity = key::read_identity(&self.identity)?;
        let opened = WrappedKey::from_bytes(bytes).open_any(&identity);
        let (volume, key) = opened.map_err(|error| wrong(error.to_string()))?;
        if let Some(wanted) = self.volume.filter(|wanted| *wanted != volume) {
            return Err(wrong(format!("it is the key of {volume}, not of {wanted}")));
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

/// Where the wrapped key of an exported volume lies.
pub(super) fn key_beside(file: &Path) -> PathBuf {
    with_ending(file, ".key")
}

/// The file whose name goes on so.
pub(super) fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}
