//! Taking images into a host's folder of them: verified while copied, there as a whole or not at
//! all, and in one step where another version of the same image was.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::{
    About, ImageError, Manifest, PARTS, Part, Result, Signed, SigningKey, TrustedKey,
    manifest::{MANIFEST, SIGNATURE},
    pack::{self, measure},
};

/// How the name of a folder begins that is being made.
pub(crate) const HALF_MADE: &str = ".new-";
/// Who holds this file locked makes folders.
const LOCK: &str = ".lock";

/// Takes the image in `from` into the folder of images, as the folder of its id, when one of these
/// keys has signed it and each of its files is what was signed.
///
/// # Errors
/// When it is not, or something can't be read or written; the folder of images is then as before.
pub fn add(from: &Path, images: &Path, trusted: &[TrustedKey]) -> Result<Manifest> {
    let signed = Signed::read(from, trusted)?;
    let room = Room::make(images)?;
    for part in &signed.manifest.files {
        let path = from.join(&part.name);
        let copied = pack::copy(&path, &room.path().join(&part.name), &part.name)?;
        refuse_other(&path, part, &copied)?;
    }
    for name in [MANIFEST, SIGNATURE] {
        pack::copy(&from.join(name), &room.path().join(name), name)?;
    }
    // What was verified is what was copied, also when the source changed meanwhile.
    if Signed::read(room.path(), trusted)? != signed {
        return Err(ImageError::Untrusted { path: from.join(MANIFEST) });
    }
    room.finish(&signed.manifest.about.id)?;
    Ok(signed.manifest)
}

/// Makes an image of the [`PARTS`] in `from`, signs it, and takes it into the folder of images.
/// Nothing is written when the same image is there already.
///
/// # Errors
/// When `from` holds no image, or something can't be read or written.
pub fn publish(from: &Path, images: &Path, about: &About, key: &SigningKey) -> Result<Manifest> {
    let mut parts = Vec::new();
    for name in PARTS {
        if from.join(name).exists() {
            parts.push(measure(&from.join(name), name)?);
        }
    }
    let refused = |reason| ImageError::Parts { path: from.into(), reason };
    let manifest = Manifest::new(about, parts).map_err(refused)?;
    let there = images.join(&about.id);
    let signed = Signed::read(&there, &[key.trusted()?]);
    let same = |part: &Part| {
        measure(&there.join(&part.name), &part.name).is_ok_and(|found| found == *part)
    };
    if signed.is_ok_and(|signed| signed.manifest == manifest) && manifest.files.iter().all(same) {
        return Ok(manifest);
    }
    let room = Room::make(images)?;
    for part in &manifest.files {
        let path = from.join(&part.name);
        let copied = pack::copy(&path, &room.path().join(&part.name), &part.name)?;
        refuse_other(&path, part, &copied)?;
    }
    pack::sign(room.path(), about, manifest.files.clone(), key)?;
    room.finish(&about.id)?;
    Ok(manifest)
}

/// Refuses a file that is not what was signed.
pub(crate) fn refuse_other(path: &Path, signed: &Part, found: &Part) -> Result<()> {
    let reason = if signed.bytes != found.bytes {
        format!("it has {} bytes and not {}", found.bytes, signed.bytes)
    } else if signed.sha256 == found.sha256 {
        return Ok(());
    } else {
        format!("its SHA-256 is {} and not {}", found.sha256, signed.sha256)
    };
    Err(ImageError::Damaged { path: path.into(), reason })
}

/// A folder for an image that is being made, on the file system where it will be; gone when it is
/// dropped before it is finished.
struct Room {
    images: PathBuf,
    folder: TempDir,
    // After the folder: it is locked until that is gone.
    _lock: File,
}

impl Room {
    fn make(images: &Path) -> Result<Self> {
        let failed = |verb| ImageError::file(verb, images);
        fs::create_dir_all(images).map_err(failed("make the folder"))?;
        let lock = File::create(images.join(LOCK)).map_err(failed("lock"))?;
        lock.lock().map_err(failed("lock"))?;
        // Nobody else makes any now: what is there was left by a process that was killed.
        for entry in fs::read_dir(images).map_err(failed("list"))? {
            let entry = entry.map_err(failed("list"))?;
            if entry.file_name().to_string_lossy().starts_with(HALF_MADE) {
                fs::remove_dir_all(entry.path()).map_err(failed("clear"))?;
            }
        }
        let folder = tempfile::Builder::new().prefix(HALF_MADE).tempdir_in(images);
        let folder = folder.map_err(failed("make a folder in"))?;
        // What runs guests may be another user, and images are no secrets.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))
            .map_err(failed("make a folder in"))?;
        Ok(Self { images: images.into(), folder, _lock: lock })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the folder its name, in the place of one that has it.
    fn finish(self, id: &str) -> Result<()> {
        let (new, last) = (self.folder.path(), self.images.join(id));
        let sync = |path: &Path| File::open(path)?.sync_all();
        let rename = || {
            sync(new)?;
            match fs::symlink_metadata(&last) {
                // What was there has the other name then, and goes with it.
                Ok(_) => renameat_with(CWD, new, CWD, &last, RenameFlags::EXCHANGE)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(new, &last)?,
                Err(error) => return Err(error),
            }
            sync(&self.images)
        };
        rename().map_err(ImageError::file("rename the new image to", &last))
    }
}
