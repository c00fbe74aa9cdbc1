//! Secrets of `fairmazon dev`, kept in its data folder so that a second start has the same.
//!
//! A secret is written before it is used, so a crash never leaves one that nobody knows.

use std::collections::BTreeMap;

use fairmazon_model::id::HostId;
use serde::{Deserialize, Serialize};

use crate::{error::CommandError, folder::Folder, keys};

const FILE: &str = "secrets.json";

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Token of the platform's operator.
    pub(crate) platform: String,
    /// Token of the hosts' operator.
    pub(crate) operator: String,
    /// Token of the customer.
    pub(crate) customer: String,
    /// Tokens of the hosts.
    #[serde(default)]
    pub(crate) hosts: BTreeMap<HostId, String>,
    /// The port of the last start.
    #[serde(default)]
    pub(crate) port: u16,
}

impl Secrets {
    /// Those of the folder; new ones at the first start.
    pub(crate) fn of(folder: &Folder) -> Result<Self, CommandError> {
        if let Some(kept) = folder.read_json(FILE)? {
            return Ok(kept);
        }
        let secrets = Self {
            platform: keys::token()?,
            operator: keys::token()?,
            customer: keys::token()?,
            hosts: BTreeMap::new(),
            port: 0,
        };
        secrets.keep(folder)?;
        Ok(secrets)
    }

    /// Writes them.
    pub(crate) fn keep(&self, folder: &Folder) -> Result<(), CommandError> {
        folder.write_json(FILE, self)
    }
}
