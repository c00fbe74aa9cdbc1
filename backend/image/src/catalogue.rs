//! The manifests of a catalogue: what images there are, for who has none of their files.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{ImageError, Result, Signed, TrustedKey};

/// The manifests in the folders of this folder, in the order of their images' names. Each has to
/// be signed by one of these keys; what else is in such a folder is not read, and folders whose
/// names begin with a dot are passed over.
///
/// # Errors
/// When one is not signed by a trusted key or can't be used, when two have the same id or name,
/// and when there is none.
pub fn catalogue(folder: &Path, trusted: &[TrustedKey]) -> Result<Vec<Signed>> {
    let mut folders = list(folder).map_err(ImageError::file("list", folder))?;
    // Which of two is refused is the same one each time.
    folders.sort();
    let mut all: Vec<Signed> = Vec::with_capacity(folders.len());
    let mut taken: HashMap<String, PathBuf> = HashMap::new();
    for path in folders {
        let signed = Signed::read(&path, trusted)?;
        let about = &signed.manifest.about;
        // Customers name an image by either, so no id is another one's name.
        let own = [&about.id, &about.name];
        if let Some((text, other)) = own.iter().find_map(|text| taken.get_key_value(*text)) {
            let (text, other) = (text.clone(), other.clone());
            return Err(ImageError::Twice { path, other, text });
        }
        taken.extend(own.map(|text| (text.clone(), path.clone())));
        all.push(signed);
    }
    if all.is_empty() {
        return Err(ImageError::Empty { path: folder.into() });
    }
    all.sort_by(|one, other| one.manifest.about.name.cmp(&other.manifest.about.name));
    Ok(all)
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with('.') && path.is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}
