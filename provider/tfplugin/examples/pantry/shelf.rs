//! The service behind the provider: files in a folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tfplugin::{Diagnostics, Explain as _};

use crate::jar::Model;

/// A folder with a file for each jar.
pub(crate) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(crate) fn new(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_path_buf() }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id).with_extension("json")
    }

    /// Puts a jar on the shelf, in place of one of the same id, and returns it.
    pub(crate) fn put(&self, id: &str, jar: Model) -> Result<Model, Diagnostics> {
        let text = serde_json::to_vec(&jar).explain("Unable to describe the jar")?;
        fs::create_dir_all(&self.folder).explain("Unable to build the shelf")?;
        fs::write(self.path(id), text).explain("Unable to put the jar on the shelf")?;
        Ok(jar)
    }

    /// The jar, when it is there.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Model>, Diagnostics> {
        match fs::read(self.path(id)) {
            Ok(text) => serde_json::from_slice(&text).explain("Unable to read the jar"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).explain("Unable to find the jar"),
        }
    }

    /// Takes the jar away, if it is there.
    pub(crate) fn take(&self, id: &str) -> Result<(), Diagnostics> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).explain("Unable to take the jar away")
            }
            _ => Ok(()),
        }
    }

    /// All jars, in order of their ids.
    pub(crate) fn all(&self) -> Result<Vec<Model>, Diagnostics> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.explain("Unable to look at the shelf")?,
        };
        let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
        let mut ids: Vec<String> = entries.filter_map(|entry| stem(entry.ok()?.path())).collect();
        ids.sort();
        let found = ids.iter().map(|id| self.find(id));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}
