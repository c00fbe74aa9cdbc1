//! The images of a host, for its driver: each file is verified when this process uses it for the
//! first time, and again when it is not the file that was verified.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::{
    ImageError, Manifest, Part, Result, Signed, TrustedKey,
    add::{HALF_MADE, refuse_other},
    manifest::is_plain,
    pack::measure,
};

/// The images of a host.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
    trusted: Vec<TrustedKey>,
    /// Which state of a file has which content.
    verified: Mutex<HashMap<PathBuf, (Stamp, Part)>>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    // Unlike the time of modification nobody can set this one back.
    changed: (i64, i64),
}

impl Images {
    /// The images in this folder that one of these keys has signed.
    pub fn new(folder: PathBuf, trusted: Vec<TrustedKey>) -> Self {
        Self { folder, trusted, verified: Mutex::default() }
    }

    /// The images that can be used, as far as their manifests say, by id with the SHA-256 of the
    /// manifest: their files are verified when they are used. Why one can't be is handed to
    /// `tell`.
    pub fn versions(&self, mut tell: impl FnMut(ImageError)) -> BTreeMap<String, [u8; 32]> {
        let entries = fs::read_dir(&self.folder).map_err(ImageError::file("list", &self.folder));
        let entries = entries.map_err(&mut tell).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let usable = |id: String| match self.signed(&id) {
            Ok(signed) => Some((id, signed?.sha256)),
            Err(error) => {
                tell(error);
                None
            }
        };
        names.filter(|name| !name.starts_with(HALF_MADE)).filter_map(usable).collect()
    }

    /// The image's manifest; none when there is no such image here.
    ///
    /// # Errors
    /// When it is not signed by a trusted key, or can't be used.
    pub fn manifest(&self, id: &str) -> Result<Option<Manifest>> {
        Ok(self.signed(id)?.map(|signed| signed.manifest))
    }

    fn signed(&self, id: &str) -> Result<Option<Signed>> {
        let folder = self.folder.join(id);
        if !is_plain(id) || !folder.is_dir() {
            return Ok(None);
        }
        let signed = Signed::read(&folder, &self.trusted)?;
        let found = &signed.manifest.about.id;
        if found != id {
            // Signed, but for another name: somebody has put one image in the place of another.
            let reason = format!("it is the image {found}");
            return Err(ImageError::Damaged { path: folder, reason });
        }
        Ok(Some(signed))
    }

    /// One file of an image, verified. Reads all of it the first time, which takes seconds for a
    /// large one.
    ///
    /// # Errors
    /// When it is not what was signed.
    pub fn file(&self, manifest: &Manifest, part: &Part) -> Result<PathBuf> {
        let path = self.folder.join(&manifest.about.id).join(&part.name);
        let before = stamp(&path)?;
        let known = |(stamp, known): &(Stamp, Part)| *stamp == before && known == part;
        if self.verified.lock().get(&path).is_some_and(known) {
            return Ok(path);
        }
        refuse_other(&path, part, &measure(&path, &part.name)?)?;
        if stamp(&path)? != before {
            let reason = "it changes while it is read".into();
            return Err(ImageError::Damaged { path, reason });
        }
        self.verified.lock().insert(path.clone(), (before, part.clone()));
        Ok(path)
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let data = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::Damaged { path: path.into(), reason: "it is missing".into() });
        }
        other => other.map_err(ImageError::file("look at", path))?,
    };
    if !data.is_file() {
        let reason = "it is not a file of its own".into();
        return Err(ImageError::Damaged { path: path.into(), reason });
    }
    Ok(Stamp {
        device: data.dev(),
        inode: data.ino(),
        bytes: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}
