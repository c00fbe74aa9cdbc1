//! Making an image: its files are measured, and what they are is signed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::{
    About, ImageError, Manifest, PARTS, Part, Result, SigningKey,
    manifest::{MANIFEST, SIGNATURE},
};

/// What is read in one go.
const PIECE: usize = 64 * 1024;

/// Makes an image of the folder: writes the manifest of the [`PARTS`] that are in it, and its
/// signature.
///
/// # Errors
/// When the folder holds no image, or something can't be read or written.
pub fn pack(folder: &Path, about: &About, key: &SigningKey) -> Result<Manifest> {
    let mut parts = Vec::new();
    for name in PARTS {
        let path = folder.join(name);
        if path.exists() {
            parts.push(measure(&path, name)?);
        }
    }
    sign(folder, about, parts, key)
}

/// Writes the manifest and its signature.
pub(crate) fn sign(
    folder: &Path,
    about: &About,
    parts: Vec<Part>,
    key: &SigningKey,
) -> Result<Manifest> {
    let refused = |reason| ImageError::Parts { path: folder.into(), reason };
    let manifest = Manifest::new(about, parts).map_err(refused)?;
    let mut json =
        serde_json::to_string_pretty(&manifest).map_err(|error| refused(error.to_string()))?;
    json.push('\n');
    let signature = key.sign(json.as_bytes(), &about.id).map_err(refused)?;
    // An image is never between two: without its signature it is none.
    let path = folder.join(SIGNATURE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(ImageError::file("remove", &path))?,
    }
    write(&folder.join(MANIFEST), json.as_bytes())?;
    write(&path, signature.as_bytes())?;
    Ok(manifest)
}

pub(crate) fn measure(path: &Path, name: &str) -> Result<Part> {
    let measured = File::open(path).and_then(|mut file| take_all(&mut file, |_, _| Ok(())));
    let (bytes, sha256) = measured.map_err(ImageError::file("read", path))?;
    Ok(Part { name: name.into(), bytes, sha256 })
}

/// Copies a file, holes as holes, and makes sure that it is on the disk; what was copied.
pub(crate) fn copy(from: &Path, to: &Path, name: &str) -> Result<Part> {
    let mut source = File::open(from).map_err(ImageError::file("read", from))?;
    let target = File::create_new(to).map_err(ImageError::file("write", to))?;
    let put = |at: u64, piece: &[u8]| {
        if piece.iter().all(|&byte| byte == 0) { Ok(()) } else { target.write_all_at(piece, at) }
    };
    let copied = take_all(&mut source, put);
    let (bytes, sha256) = copied.map_err(ImageError::file("copy", from))?;
    target
        .set_len(bytes)
        .and_then(|()| target.sync_all())
        .map_err(ImageError::file("write", to))?;
    Ok(Part { name: name.into(), bytes, sha256 })
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(ImageError::file("write", path))
}

/// Reads to the end; the length and the SHA-256.
fn take_all(
    source: &mut File,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let (mut hash, mut at, mut piece) = (Sha256::new(), 0_u64, vec![0; PIECE]);
    loop {
        let length = match source.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 {
            return Ok((at, hex::encode(hash.finalize())));
        }
        hash.update(&piece[..length]);
        each(at, &piece[..length])?;
        at += length as u64;
    }
}
