//! Opens the file of an exported volume with its key alone: no host, no libvirt, no platform.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf, absolute},
};

use fairmazon_hypervisor::{HypervisorError, VolumeKey};
use fairmazon_model::id::VolumeId;

use super::{header::Header, tool};

/// How a volume is written when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk.
    Raw,
    /// A qcow2 file without encryption.
    Qcow2,
}

impl Format {
    /// As `qemu-img` calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Why an exported volume was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is none of a volume.
    #[error("{file} is not the file of an exported volume: {why}", file = file.display())]
    NotAVolume {
        /// Which.
        file: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A file can't be used.
    #[error("unable to {verb} {path}", path = path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The key is another volume's, or `qemu-img` does not do it.
    #[error(transparent)]
    Tool(#[from] HypervisorError),
}

/// Writes what is in the file of an exported volume to a new file, readable by its owner alone.
/// Nothing is left of that when it fails or nobody waits for it any more.
///
/// # Errors
/// When `file` is none of a volume, the key is another one, `to` is there already, or something
/// can't be read or written.
pub async fn open_exported(
    file: &Path,
    key: (VolumeId, &VolumeKey),
    to: &Path,
    format: Format,
) -> Result<(), OpenError> {
    let failed = |verb: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenError::File { verb, path, source }
    };
    // Absolute ones are names of files whatever is in them, and not addresses of QEMU's.
    let file = absolute(file).map_err(failed("find", file))?;
    let to = absolute(to).map_err(failed("find", to))?;
    let header = Header::read(&file).map_err(failed("read", &file))?;
    check(header).map_err(|why| OpenError::NotAVolume { file: file.clone(), why })?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&to)
        .map_err(failed("make", &to))?;
    let new = Unfinished(Some(to));
    let Some(to) = &new.0 else { return Ok(()) };
    let source = tool::image_options(&file);
    let arguments: [&OsStr; 5] =
        ["-O".as_ref(), format.name().as_ref(), "--image-opts".as_ref(), &source, to.as_os_str()];
    tool::run("qemu-img", Some("convert"), &arguments, key, "open").await?;
    let written = async { tokio::fs::File::open(to).await?.sync_all().await };
    written.await.map_err(failed("write", to))?;
    new.finish();
    Ok(())
}

/// Whether this is the header of a volume's file. One that refers to other files would have them
/// read as a part of it.
fn check(header: Option<Header>) -> Result<(), &'static str> {
    let Some(header) = header else { return Err("it is not in format qcow2") };
    if header.version < 3 {
        return Err("it is of an older version of qcow2 than volumes are");
    }
    if header.refers_to_others {
        return Err("it refers to other files, as no volume does");
    }
    if !header.encrypted {
        return Err("it is not encrypted, as every volume is");
    }
    Ok(())
}

/// A file that is being written; gone when it is dropped before it is whole.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Made by this call.
            let _ = fs::remove_file(path);
        }
    }
}
