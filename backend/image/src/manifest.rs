//! The manifest of an image, and which manifests are believed.

use std::{fs, io, path::Path};

use minisign_verify::Signature;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ImageError, Result, TrustedKey};

/// The file of the manifest.
pub(crate) const MANIFEST: &str = "image.json";
/// The file of its signature.
pub(crate) const SIGNATURE: &str = "image.json.minisig";
/// The version of the manifest's form.
const FORMAT: u32 = 1;
/// A manifest has no more than this.
const LONGEST: u64 = 64 * 1024;
/// Characters of a description.
const DESCRIPTION_MAX: usize = 200;

/// The files that an image may have: a disk that boot volumes are filled from, and a kernel where
/// guests are not booted by their disk.
pub const PARTS: [&str; 5] = ["kernel", "initrd", "cmdline", "disk.raw", "disk.qcow2"];

/// What an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its id in the catalogue (`img-debian-13`).
    pub id: String,
    /// Its name in the catalogue (`debian-13`).
    pub name: String,
    /// The processors that it is for (`x86_64`).
    pub architecture: String,
    /// The smallest boot volume that it fits on.
    pub min_disk_gib: u64,
    /// The smallest memory that it starts in; none where its maker does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory_mib: Option<u64>,
    /// One line for people; none where its maker gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// What it is.
    #[serde(flatten)]
    pub about: About,
    /// Its files, in the order of [`PARTS`].
    pub files: Vec<Part>,
}

/// A manifest with what tells it from every other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub manifest: Manifest,
    /// The SHA-256 of the manifest's file. As that names each file with its own, it stands for the
    /// whole image.
    pub sha256: [u8; 32],
    /// The id of the key that has signed it, as minisign writes it: 16 hexadecimal digits.
    pub key_id: String,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// One of [`PARTS`].
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    pub(crate) fn new(about: &About, files: Vec<Part>) -> std::result::Result<Self, String> {
        let manifest = Self { format: FORMAT, about: about.clone(), files };
        manifest.check()?;
        Ok(manifest)
    }

    /// The file of that name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.files.iter().find(|part| part.name == name)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("its format is {}, and {FORMAT} is known here", self.format));
        }
        if !is_plain(&self.about.id) {
            let id = &self.about.id;
            return Err(format!("`{id}` is no id: letters, digits, `-`, `_` and `.` make one"));
        }
        let is_line = |text: &String| {
            text.chars().count() <= DESCRIPTION_MAX && !text.chars().any(char::is_control)
        };
        if !self.about.description.as_ref().is_none_or(is_line) {
            return Err(format!("its description is not one line of {DESCRIPTION_MAX} characters"));
        }
        for (index, part) in self.files.iter().enumerate() {
            if !PARTS.contains(&part.name.as_str()) {
                return Err(format!("an image has no file `{}`", part.name));
            }
            if self.files[..index].iter().any(|before| before.name == part.name) {
                return Err(format!("it names `{}` twice", part.name));
            }
            let digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if part.sha256.len() != 64 || !part.sha256.bytes().all(digit) {
                return Err(format!("the SHA-256 of `{}` is none", part.name));
            }
        }
        let has = |name| self.part(name).is_some();
        if has("disk.raw") && has("disk.qcow2") {
            return Err("it has two disks: leave `disk.raw` or `disk.qcow2` away".into());
        }
        if !has("kernel") && (has("initrd") || has("cmdline")) {
            return Err("it has an `initrd` or a `cmdline`, and no `kernel`".into());
        }
        if !has("kernel") && !has("disk.raw") && !has("disk.qcow2") {
            return Err("it has neither a `kernel` nor a `disk.raw` or `disk.qcow2`".into());
        }
        Ok(())
    }
}

impl Signed {
    /// Reads the manifest in the folder, which one of these keys has signed.
    pub(crate) fn read(folder: &Path, trusted: &[TrustedKey]) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let bytes = read_short(&path)?;
        let signature = match read_short(&folder.join(SIGNATURE)) {
            Err(ImageError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::Unsigned { path });
            }
            other => other?,
        };
        let untrusted = || ImageError::Untrusted { path: path.clone() };
        let signature = String::from_utf8(signature).map_err(|_| untrusted())?;
        let signature = Signature::decode(&signature).map_err(|_| untrusted())?;
        let key = trusted.iter().find(|key| key.has_signed(&bytes, &signature));
        let key_id = key.ok_or_else(untrusted)?.id().to_owned();
        let unusable = |reason: String| ImageError::Manifest { path: path.clone(), reason };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        manifest.check().map_err(unusable)?;
        Ok(Self { manifest, sha256: Sha256::digest(&bytes).into(), key_id })
    }
}

/// Whether this is an id of an image, which is a name of a folder and never leads out of one.
pub(crate) fn is_plain(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.chars().all(plain)
}

fn read_short(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        if fs::metadata(path)?.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is far too long"));
        }
        fs::read(path)
    };
    read().map_err(ImageError::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(id: &str) -> About {
        About { id: id.into(), name: "n".into(), min_disk_gib: 1, ..About::default() }
    }

    fn part(name: &str) -> Part {
        Part { name: name.into(), bytes: 1, sha256: "0".repeat(64) }
    }

    #[test]
    fn manifests_that_make_no_sense_are_refused() {
        let made = |id: &str, names: &[&str]| {
            Manifest::new(&about(id), names.iter().map(|name| part(name)).collect())
        };
        for names in [&["kernel"][..], &["disk.raw"], &["disk.qcow2", "kernel", "initrd"]] {
            made("img-debian-13", names).unwrap();
        }
        for names in
            [&[][..], &["initrd"], &["disk.raw", "disk.qcow2"], &["kernel", "kernel"], &["../x"]]
        {
            made("img", names).unwrap_err();
        }
        for id in ["", ".", "..", "a/b", "a'b", "\0"] {
            made(id, &["kernel"]).unwrap_err();
        }
        let mut other = made("img", &["kernel"]).unwrap();
        other.format = 2;
        other.check().unwrap_err();
        for (text, is_line) in [("Debian 13 (trixie)", true), ("two\nlines", false)] {
            let mut described = made("img", &["kernel"]).unwrap();
            described.about.description = Some(text.into());
            assert_eq!(described.check().is_ok(), is_line, "{text}");
        }
        let short = Part { sha256: "0".into(), ..part("kernel") };
        Manifest::new(&about("img"), vec![short]).unwrap_err();
    }
}
