//! The images of a host: what boot volumes are filled from, and how guests of them boot.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fairmazon_hypervisor::{HypervisorError, Result};

use super::files::Header;

/// An image.
#[derive(Debug, Default)]
pub(super) struct Image {
    /// What a boot volume is filled from; none leaves it empty.
    pub(super) disk: Option<ImageDisk>,
    /// How guests boot; none: by their disk.
    pub(super) kernel: Option<Kernel>,
}

/// The file of an image's disk.
#[derive(Debug)]
pub(super) struct ImageDisk {
    pub(super) path: PathBuf,
    /// As QEMU calls it.
    pub(super) format: &'static str,
    pub(super) bytes: u64,
}

/// A kernel that QEMU boots by itself.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) cmdline: String,
}

impl Image {
    /// The image of that id; none when it is not here.
    pub(super) fn find(images: &Path, id: &str) -> Result<Option<Self>> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if id.is_empty() || id.starts_with('.') || !id.chars().all(plain) {
            return Ok(None);
        }
        let folder = images.join(id);
        if !folder.is_dir() {
            return Ok(None);
        }
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| HypervisorError::Driver {
            attempted: format!("read the image {id}"),
            source,
        };
        let kernel = there("kernel").map(|kernel| Kernel {
            kernel,
            initrd: there("initrd"),
            cmdline: fs::read_to_string(folder.join("cmdline")).unwrap_or_default().trim().into(),
        });
        let disk = if let Some(path) = there("disk.qcow2") {
            let header = Header::read(&path).map_err(|error| failed(error.into()))?;
            let header =
                header.ok_or_else(|| failed("disk.qcow2 is not in format qcow2".into()))?;
            if header.refers_to_others {
                // Such a file could make the host read any file of its own into a guest.
                return Err(failed("disk.qcow2 refers to another file, which is refused".into()));
            }
            Some(ImageDisk { path, format: "qcow2", bytes: header.bytes })
        } else if let Some(path) = there("disk.raw") {
            let bytes = fs::metadata(&path).map_err(|error| failed(error.into()))?.len();
            Some(ImageDisk { path, format: "raw", bytes })
        } else {
            None
        };
        Ok(Some(Self { disk, kernel }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        fs::create_dir(folder.path().join("img-other")).unwrap();
        let images = folder.path().join("images");
        for id in ["", ".", "..", "../img-other", "img-'\"&", "img\0"] {
            assert!(Image::find(&images, id).unwrap().is_none(), "{id:?}");
        }
    }

    #[test]
    fn an_image_that_refers_to_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("img")).unwrap();
        let mut header = vec![0_u8; 104];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        fs::write(folder.path().join("img/disk.qcow2"), &header).unwrap();
        assert!(Image::find(folder.path(), "img").unwrap().unwrap().disk.is_some());
        header[15] = 200;
        fs::write(folder.path().join("img/disk.qcow2"), &header).unwrap();
        Image::find(folder.path(), "img").unwrap_err();
        (header[15], header[79]) = (0, 4);
        fs::write(folder.path().join("img/disk.qcow2"), &header).unwrap();
        Image::find(folder.path(), "img").unwrap_err();
    }
}
