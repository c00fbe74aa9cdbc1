//! What the agent keeps across restarts: the last desired set, the counted wishes that are done,
//! and the lease. Behind a trait, so that simulated agents keep it in memory.

mod file;
mod memory;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use fairmazon_hypervisor::Counters;
use fairmazon_model::{
    id::InstanceId,
    machine::{HostVolume, MachineSpec},
    units::Generation,
};
use serde::{Deserialize, Serialize};

pub use file::FileState;
pub use memory::MemoryState;

use crate::lease::LeaseRecord;

/// The desired set as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SavedState {
    /// Its generation.
    pub generation: Generation,
    /// Its machines.
    pub machines: Vec<Arc<MachineSpec>>,
    /// Its volumes.
    pub volumes: Vec<Arc<HostVolume>>,
    /// Volumes that it does not name, whose data and keys are here, as they were named last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed: Vec<Arc<HostVolume>>,
    /// Counted wishes that are done, for when a machine's own marks are lost.
    #[serde(default)]
    pub done: BTreeMap<InstanceId, Counters>,
}

/// What was found at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The last set that was saved; none at the first start, or when it could not be read.
    pub state: Option<SavedState>,
    /// The last lease that was noted.
    pub lease: Option<LeaseRecord>,
    /// What could not be read, where it was put aside, and why.
    pub put_aside: Option<String>,
}

/// Keeps the agent's state.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// What was saved last. A damaged state is put aside, never deleted and never a failure.
    ///
    /// # Errors
    /// When the place itself can't be used.
    async fn load(&self) -> Result<Loaded, StateError>;

    /// Saves the state; when this returns it outlives a crash of the machine.
    ///
    /// # Errors
    /// When it could not be made durable; what was saved before is still there.
    async fn save(&self, state: SavedState) -> Result<(), StateError>;

    /// Notes the lease. It needs to outlive the agent, not the machine.
    ///
    /// # Errors
    /// When it could not be written.
    async fn save_lease(&self, record: LeaseRecord) -> Result<(), StateError>;
}

/// Why the agent's state could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent has the folder.
    #[error(
        "another host agent uses the state folder {}: end it, or give this one a folder of its own",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A newer version of the agent wrote it.
    #[error(
        "{} has the format version {found}, this agent knows up to {known}: start the version \
         that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this agent reads.
        known: u32,
    },
    /// The host has another driver.
    #[error(
        "{} says that this host's machines run with the driver `{noted}`, which was to be \
         `{asked}` now, and that one knows nothing of them: start the agent with `--hypervisor \
         {noted}`; to have `{asked}`, empty and remove the host and register it anew, with a state \
         folder of its own",
        path.display()
    )]
    OtherDriver {
        /// The file that names it.
        path: PathBuf,
        /// The driver that the host has.
        noted: String,
        /// The one that was asked for.
        asked: String,
    },
    /// Reading or writing failed.
    #[error("could not {attempted} {}: check the disk's room and the folder's rights", path.display())]
    Io {
        /// What was tried, as a verb.
        attempted: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
