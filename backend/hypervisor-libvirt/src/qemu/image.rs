//! What QEMU takes from an image: the disk that boot volumes are filled from, and the kernel that
//! guests boot with. Each was signed and is as it was signed, or is refused.

use std::{fs, path::PathBuf};

use fairmazon_hypervisor::{HypervisorError, Result};
use fairmazon_image::{ImageError, Images, Manifest};
use fairmazon_model::machine::HostVolume;

use super::header::Header;

const GIB: u64 = 1 << 30;

/// The file of an image's disk.
#[derive(Debug)]
pub(super) struct ImageDisk {
    pub(super) path: PathBuf,
    /// As QEMU calls it.
    pub(super) format: &'static str,
    /// What a volume needs that is filled from it.
    pub(super) bytes: u64,
}

impl ImageDisk {
    /// Refuses a volume that is smaller than what the image needs.
    pub(super) fn require_fit(&self, wish: &HostVolume) -> Result<()> {
        if self.bytes <= wish.size.0.saturating_mul(GIB) {
            return Ok(());
        }
        Err(HypervisorError::Driver {
            attempted: format!("make {}", wish.volume),
            source: format!("its image needs {} GiB", self.bytes.div_ceil(GIB)).into(),
        })
    }
}

/// A kernel that QEMU boots by itself.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) cmdline: String,
}

/// The disk of an image that has to be here; none leaves boot volumes empty. Reads all of it the
/// first time.
pub(super) fn disk(images: &Images, id: &str) -> Result<Option<ImageDisk>> {
    let missing = || HypervisorError::NotFound { what: format!("the image {id}") };
    let manifest = images.manifest(id).map_err(refused(id))?.ok_or_else(missing)?;
    let min_bytes = manifest.about.min_disk_gib.saturating_mul(GIB);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| HypervisorError::Driver {
        attempted: format!("read the image {id}"),
        source,
    };
    if let Some(path) = file(images, &manifest, "disk.qcow2")? {
        let header = Header::read(&path).map_err(|error| failed(error.into()))?;
        let header = header.ok_or_else(|| failed("disk.qcow2 is not in format qcow2".into()))?;
        if header.refers_to_others {
            // Such a file could make the host read any file of its own into a guest.
            return Err(failed("disk.qcow2 refers to another file, which is refused".into()));
        }
        let bytes = header.bytes.max(min_bytes);
        return Ok(Some(ImageDisk { path, format: "qcow2", bytes }));
    }
    let Some(path) = file(images, &manifest, "disk.raw")? else { return Ok(None) };
    let bytes = fs::metadata(&path).map_err(|error| failed(error.into()))?.len().max(min_bytes);
    Ok(Some(ImageDisk { path, format: "raw", bytes }))
}

/// How guests of an image boot; none: by their disk, as do those whose image is not here any more.
pub(super) fn kernel(images: &Images, id: &str) -> Result<Option<Kernel>> {
    let Some(manifest) = images.manifest(id).map_err(refused(id))? else { return Ok(None) };
    let Some(kernel) = file(images, &manifest, "kernel")? else { return Ok(None) };
    let initrd = file(images, &manifest, "initrd")?;
    let cmdline = match file(images, &manifest, "cmdline")? {
        None => String::new(),
        Some(path) => fs::read_to_string(&path).map_err(|error| HypervisorError::Driver {
            attempted: format!("read the kernel's command line of the image {id}"),
            source: error.into(),
        })?,
    };
    Ok(Some(Kernel { kernel, initrd, cmdline: cmdline.trim().into() }))
}

fn file(images: &Images, manifest: &Manifest, name: &str) -> Result<Option<PathBuf>> {
    let Some(part) = manifest.part(name) else { return Ok(None) };
    images.file(manifest, part).map(Some).map_err(refused(&manifest.about.id))
}

fn refused(id: &str) -> impl FnOnce(ImageError) -> HypervisorError {
    let image = id.to_owned();
    move |error| HypervisorError::ImageDamaged { image, why: error.why(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use fairmazon_image::{About, SigningKey, pack};

    use super::*;

    #[test]
    fn an_image_that_refers_to_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::make(&folder.path().join("key")).unwrap();
        let images = Images::new(folder.path().into(), vec![key.trusted().unwrap()]);
        let image = folder.path().join("img");
        fs::create_dir(&image).unwrap();
        let about = About {
            id: "img".into(),
            name: String::new(),
            architecture: "x86_64".into(),
            min_disk_gib: 3,
            ..About::default()
        };
        let disk_with = |header: &[u8]| {
            fs::write(image.join("disk.qcow2"), header).unwrap();
            pack(&image, &about, &key).unwrap();
            disk(&images, "img")
        };
        let mut header = vec![0_u8; 104];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        let whole = disk_with(&header).unwrap().unwrap();
        assert_eq!((whole.format, whole.bytes), ("qcow2", 3 * GIB));
        header[15] = 200;
        disk_with(&header).unwrap_err();
        (header[15], header[79]) = (0, 4);
        disk_with(&header).unwrap_err();
    }
}
