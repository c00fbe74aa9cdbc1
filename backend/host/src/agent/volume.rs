//! What the agent knows of one volume.

use std::sync::Arc;

use fairmazon_hypervisor::Volume;
use fairmazon_model::{
    id::VolumeId,
    machine::{HostVolume, VolumeCopy},
    volume::Import,
};

use super::{
    change::KeyChanging,
    keep::KeptKeys,
    receive::{Receiving, Writing},
};
use crate::{backoff::Backoff, plan::FileCase};

/// What is known of one volume.
#[derive(Debug, Default)]
pub(super) struct VolumeRecord {
    pub(super) desired: Option<Arc<HostVolume>>,
    /// The last set that named it, counted.
    pub(super) named_by: u64,
    pub(super) seen: Option<Volume>,
    /// The look after its last step failed: what was seen is older than the step.
    pub(super) unsure: bool,
    pub(super) busy: bool,
    pub(super) look: bool,
    pub(super) not_before_ms: u64,
    pub(super) backoff: Backoff,
    pub(super) error: Option<Box<str>>,
    /// The error is of a file that is not used.
    pub(super) lasting: bool,
    pub(super) touched: u64,
    /// The version of its key that the hypervisor was given by this process.
    pub(super) given: Option<u32>,
    /// How many bytes have come of the file that it is imported from.
    pub(super) incoming: Option<u64>,
    /// The transfer that writes more of that.
    pub(super) receiving: Option<Receiving>,
    pub(super) writing: Writing,
    /// How far this process is with the exchange of its key.
    pub(super) change: KeyChanging,
    /// How its keys differ from those of the last set.
    pub(super) keys: KeptKeys,
    /// As a set named it that was followed by one that does not, while its data is here.
    pub(super) unnamed: Option<Arc<HostVolume>>,
}

impl VolumeRecord {
    /// Something else is desired from now on: what went wrong with the wish before is over.
    pub(super) fn desire(&mut self, wish: Option<Arc<HostVolume>>) {
        self.desired = wish;
        if let Some(receiving) = self.receiving.as_ref().filter(|_| self.imports().is_none()) {
            receiving.end();
        }
        self.not_before_ms = 0;
        self.error = None;
    }

    /// The volume that it shall be made as a copy of, if of one.
    pub(super) fn copies(&self) -> Option<VolumeId> {
        match self.desired.as_ref()?.copy? {
            VolumeCopy::Of(source) => Some(source),
            VolumeCopy::Import(_) | VolumeCopy::Made => None,
        }
    }

    /// The file that it shall be made from, if from one.
    pub(super) fn imports(&self) -> Option<Import> {
        self.desired.as_ref()?.imports()
    }

    /// Whether a file of it is there that is to go.
    pub(super) fn has_unwanted_file(&self) -> bool {
        self.imports().is_none() && self.file_case() != FileCase::None
    }

    pub(super) fn file_case(&self) -> FileCase {
        match (&self.receiving, self.incoming) {
            (Some(_), _) => FileCase::Comes,
            (None, None) => FileCase::None,
            (None, Some(bytes)) if self.imports().is_some_and(|file| file.bytes == bytes) => {
                FileCase::Whole
            }
            (None, Some(_)) => FileCase::Part,
        }
    }

    /// Whether there is nothing left to know of it.
    pub(super) fn is_empty(&self) -> bool {
        let has_file = self.incoming.is_some() || self.receiving.is_some();
        let is_nowhere = self.seen.is_none() && self.unnamed.is_none() && !has_file;
        self.desired.is_none() && is_nowhere && !self.busy && !self.unsure
    }
}
