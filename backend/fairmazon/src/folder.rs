//! The data folder of a broker: what lies where in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use fairmazon_broker::{make_private_folder, write_private};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::CommandError;

/// A data folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder and makes it when it is missing, for its owner only.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        make_private_folder(path).map_err(CommandError::file("make the data folder", path))?;
        let path = fs::canonicalize(path).map_err(CommandError::file("find", path))?;
        Ok(Self(path))
    }

    /// The usual folder of `fairmazon dev`: in the user's data folder.
    pub(crate) fn usual() -> PathBuf {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("XDG_DATA_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/share")))
            .unwrap_or_else(env::temp_dir)
            .join("fairmazon/dev")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The store.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("fairmazon.db")
    }

    /// The authority and the broker's certificate.
    pub(crate) fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// What a host agent keeps.
    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.0.join("hosts").join(name)
    }

    /// The images of its hosts.
    pub(crate) fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// The identity of the customer of `fairmazon dev`.
    pub(crate) fn customer_key(&self) -> PathBuf {
        self.0.join("customer.key")
    }

    /// A file of this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file for the owner only, all of it or nothing.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<(), CommandError> {
        let path = self.file(name);
        write_private(&path, content.as_bytes()).map_err(CommandError::file("write", path))
    }

    /// Reads a file of JSON; none when it is missing.
    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, CommandError> {
        let path = self.file(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(CommandError::file("read", &path))?;
        let read = serde_json::from_str(&text);
        read.map(Some).map_err(|error| CommandError::Content { path, reason: error.to_string() })
    }

    /// Writes a file of JSON.
    pub(crate) fn write_json<T: Serialize>(
        &self,
        name: &str,
        value: &T,
    ) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| CommandError::Content {
            path: self.file(name),
            reason: error.to_string(),
        })?;
        self.write(name, &text)
    }
}
