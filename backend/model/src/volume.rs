//! Volumes: data and boot. A volume binds to a host when it is first attached and leaves it with its
//! machine only, so a volume that nothing uses yet never stands in the way of placing one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    id::{AccountId, HostId, InstanceId, OperationId, VolumeId},
    instance::Instance,
    key::{FIRST_KEY_VERSION, REFUSED_KEYS_MAX, VolumeHostKey, first_key_version},
    limits,
    placement::Placement,
    transfer::Sha256,
    units::{Gib, Revision, UnixMs},
};

/// What the customer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Name for people; not unique.
    pub name: String,
    /// Grows only.
    pub size: Gib,
    /// Storage class; fixed.
    pub class: String,
    /// The volume that it is made as a copy of, as that was at one moment; fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VolumeId>,
    /// The image of the catalogue that it is filled from when it is made; fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The file that it is made from, which its customer sends; fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Import>,
    /// Nobody writes to it, so that it stays what it was copied or imported as: a snapshot. Fixed.
    #[serde(default)]
    pub read_only: bool,
    /// Raised to have the key of the volume exchanged for a new one; from 1, and never lowered.
    #[serde(default = "first_key_version")]
    pub key_version: u32,
    /// Constraints, added to those of the machine that it is attached to.
    #[serde(default)]
    pub placement: Placement,
    /// Refuses deletion while set.
    #[serde(default)]
    pub deletion_protection: bool,
    /// The customer's own marks.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A file that a volume is made from: qcow2 with LUKS, as an export writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// What it has.
    pub bytes: u64,
    /// Its hash: what came is not taken for it otherwise.
    pub sha256: Sha256,
}

impl Import {
    /// # Errors
    /// `Invalid` for a file that none of a volume of this size can be.
    fn check(&self, size: Gib) -> Result<(), DomainError> {
        let most = limits::import_bytes_max(size.0);
        if (limits::IMPORT_BYTES_MIN..=most).contains(&self.bytes) {
            return Ok(());
        }
        Err(DomainError::invalid(
            "import.bytes",
            format!(
                "the file of a volume of {size} has {} to {most} bytes, not {}",
                limits::IMPORT_BYTES_MIN,
                self.bytes
            ),
        ))
    }
}

impl VolumeSpec {
    /// Checks all that needs no catalogue and no other resource.
    ///
    /// # Errors
    /// `Invalid` with the path of the field.
    pub fn check(&self) -> Result<(), DomainError> {
        limits::check_name(&self.name)?;
        limits::check_labels(&self.labels)?;
        limits::check_volume_size(self.size.0)?;
        if self.key_version < FIRST_KEY_VERSION {
            return Err(DomainError::invalid("key_version", "it must be at least 1"));
        }
        if self.read_only && self.key_version > FIRST_KEY_VERSION {
            return Err(DomainError::invalid("key_version", "a snapshot keeps its key")
                .advise("make a volume of the snapshot: that gets a key of its own"));
        }
        if self.image.is_some() && (self.source.is_some() || self.import.is_some()) {
            let both = "a volume is made of an image or of something else: name one of them";
            return Err(DomainError::invalid("source", both));
        }
        if let Some(import) = &self.import {
            import.check(self.size)?;
            if self.source.is_some() {
                let both = "what is imported is no copy: name a source or a file, not both";
                return Err(DomainError::invalid("source", both));
            }
            if !self.read_only {
                let text = "what is imported is a snapshot: make a volume of that to write to";
                return Err(DomainError::invalid("read_only", text));
            }
        } else if self.read_only && self.source.is_none() {
            return Err(DomainError::invalid("source", "a snapshot is one of a volume: name it"));
        }
        self.placement.check().map_err(|error| error.below("placement"))
    }
}

/// What was last seen of a volume on its host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeObserved {
    /// Not yet seen, or its host is silent.
    #[default]
    Unknown,
    /// The host has no such volume.
    Absent,
    /// It is there with this size.
    Present {
        /// The size that the host has brought about.
        size: Gib,
        /// Why the host could not bring about what else is desired of it, for the customer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The host could not bring it about.
    Failed {
        /// Why, for the customer.
        reason: String,
        /// Repeating does not help: a file that came for it is not used.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lasting: bool,
    },
}

impl VolumeObserved {
    /// Whether its host has it.
    pub const fn is_present(&self) -> bool {
        matches!(self, Self::Present { .. })
    }

    /// What its host could not bring about; none when nothing failed.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Unknown | Self::Absent => None,
            Self::Present { failure, .. } => failure.as_deref(),
            Self::Failed { reason, .. } => Some(reason),
        }
    }
}

const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A volume as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Whose it is.
    pub account: AccountId,
    /// Desired.
    pub spec: VolumeSpec,
    /// The instance that boots from it, for a boot volume.
    #[serde(default)]
    pub boot_of: Option<InstanceId>,
    /// The instance that it is attached to.
    #[serde(default)]
    pub attached_to: Option<InstanceId>,
    /// Decided: the host that holds the data, from the first attachment on.
    #[serde(default)]
    pub host: Option<HostId>,
    /// Hosts that it was decided on in vain. Each may have made it all the same, so it is not
    /// forgotten before they have shown that they do not have it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub may_be_on: BTreeSet<HostId>,
    /// Its keys, by the host that each is for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<HostId, VolumeHostKey>,
    /// The keys that take the place of those in `keys`, by host, from when their customer has given
    /// them until the host has said that they alone open the volume: until then either may.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub next_keys: BTreeMap<HostId, VolumeHostKey>,
    /// How many next keys in a row its host could not open.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused_keys: u32,
    /// Its host has shown that it is there: it is not made a second time, neither empty nor from
    /// what it is a copy of by now. What is not there any more is lost, or its disk is not
    /// mounted. A boot volume has it from when its machine was seen as specified until the next
    /// rebuild is asked for, which makes it anew.
    #[serde(default, alias = "copied")]
    pub made: bool,
    /// Observed.
    #[serde(default)]
    pub observed: VolumeObserved,
    /// The operation that deletes it, once that was asked for.
    #[serde(default)]
    pub deleting: Option<OperationId>,
    /// Set while the creating client has not yet shown that it keeps the id.
    #[serde(default)]
    pub unconfirmed: bool,
    /// When it was asked for.
    pub created_at: UnixMs,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

impl Volume {
    /// Its key on the host that holds its data; none before it has one.
    pub fn key(&self) -> Option<&VolumeHostKey> {
        self.keys.get(&self.host?)
    }

    /// The file that its customer is still to send.
    pub fn imports(&self) -> Option<Import> {
        self.spec.import.filter(|_| !self.made && self.deleting.is_none())
    }

    /// Whether there may be data in it: its host has shown that it is there, now or earlier.
    pub fn is_made(&self) -> bool {
        self.made || self.observed.is_present()
    }

    /// Whether its host has shown that it is there, now or earlier, and it is not to be made anew
    /// with the machine that boots from it, which is given for a boot volume: what [`Self::made`]
    /// keeps, also of rows from before they said so.
    pub fn was_shown(&self, boots: Option<&Instance>) -> bool {
        let is_whole = self.boot_of.is_none() || boots.is_some_and(Instance::is_as_specified);
        self.made || is_whole && self.observed.is_present()
    }

    /// Whether its host says that it is not there, although it is to be kept.
    pub fn is_missing(&self) -> bool {
        self.deleting.is_none()
            && self.observed != VolumeObserved::Unknown
            && !self.observed.is_present()
    }

    /// Whether its host holds data of it that an earlier key opens than its spec wants.
    pub fn has_old_key(&self) -> bool {
        self.deleting.is_none()
            && self.observed.is_present()
            && self.key().is_some_and(|key| key.made_for < self.spec.key_version)
    }

    /// Whether its host could open none of so many next keys in a row that no other one is asked
    /// for, before its customer changes it again.
    pub const fn refuses_keys(&self) -> bool {
        self.refused_keys >= REFUSED_KEYS_MAX
    }

    /// The key that takes the place of the one that it has on this host; none while none was given.
    pub fn next_key(&self, host: HostId) -> Option<&VolumeHostKey> {
        self.next_keys.get(&host)
    }

    /// The volume that it is still to be made as a copy of.
    pub fn copies(&self) -> Option<VolumeId> {
        self.spec.source.filter(|_| !self.made && self.deleting.is_none())
    }
}
