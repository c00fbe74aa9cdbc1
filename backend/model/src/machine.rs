//! What a host is told and what it tells: whole sets, never commands.
//!
//! A machine that is missing from the desired set is stopped and undefined. A volume is never
//! deleted by being missing: its data goes only when the set says so ([`VolumeWish::Delete`]),
//! so no lost or old message can destroy a customer's data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    catalogue::ImageVersions,
    conformity::Proof,
    id::{InstanceId, VolumeId},
    instance::{ObservedState, Power, RestartPolicy},
    key::{GivenKey, SealedVolumeKey},
    migration::{Arrival, Departure, Handover},
    units::{Epoch, Generation, Gib, Mib, Vcpus},
    volume::{Import, VolumeObserved},
};

/// A machine as its host shall bring it about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Which instance it is.
    pub instance: InstanceId,
    /// The run that the lease is for.
    pub epoch: Epoch,
    /// Version of this spec; reported back once it is brought about.
    pub spec_version: u64,
    /// Host name in the guest.
    pub name: String,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Memory.
    pub memory: Mib,
    /// Whether it is a spot machine: its host may take memory back from it while it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
    /// Image id.
    pub image: String,
    /// Whether it shall run now (working hours are the broker's to apply).
    pub power: Power,
    /// Whether it is made and not started yet: its host reports it off first, and the broker writes
    /// that down before it says more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What to do when it stops by itself.
    pub restart: RestartPolicy,
    /// The volume that it boots from.
    pub boot: Disk,
    /// Attached data volumes, by name.
    pub disks: Vec<Disk>,
    /// First-boot data.
    pub user_data: String,
    /// Public keys that may log in.
    pub ssh_keys: Vec<String>,
    /// How long a graceful stop may take, in ms.
    pub stop_timeout_ms: u64,
    /// When this is above what the host has done, it reboots the machine once.
    pub reboots: u64,
    /// When this is above what the host has done, it makes the boot volume anew once.
    pub rebuilds: u64,
    /// When this is above what the host has done, the next start is a first boot to the guest.
    pub first_boots: u64,
    /// It shall go on at another host, or be off there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<Departure>,
    /// It shall not be started here, but come from another host, where it runs or is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
}

impl MachineSpec {
    /// All of its disks: the one that it boots from, then the others.
    pub fn all_disks(&self) -> impl Iterator<Item = &Disk> {
        std::iter::once(&self.boot).chain(&self.disks)
    }
}

/// A volume as a machine sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Name of the attachment; `boot` for the boot volume.
    pub name: String,
    /// Which volume.
    pub volume: VolumeId,
    /// Without the right to write.
    pub read_only: bool,
}

/// A volume as its host shall bring it about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVolume {
    /// Which volume.
    pub volume: VolumeId,
    /// Its size; grows only.
    pub size: Gib,
    /// Storage class.
    pub class: String,
    /// Image id that it is filled from when it is made; none for an empty one.
    pub image: Option<String>,
    /// What it is made from; none for one that is made empty or from an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<VolumeCopy>,
    /// Its key, for the host alone; none until the customer has given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SealedVolumeKey>,
    /// The key that shall take the place of `key`; none while that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<SealedVolumeKey>,
    /// Whether it shall be there.
    pub wish: VolumeWish,
}

impl HostVolume {
    /// The file that it shall be made from, if from one.
    pub fn imports(&self) -> Option<Import> {
        match self.copy {
            Some(VolumeCopy::Import(import)) if self.wish == VolumeWish::Keep => Some(import),
            _ => None,
        }
    }
}

/// What a volume is made from that is not made empty or from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeCopy {
    /// Of this volume, as it is at one moment while it is made.
    Of(VolumeId),
    /// Of this file, which its customer sends.
    Import(Import),
    /// It was made: what is not there is lost, and not made from what the source is by now.
    Made,
}

/// Whether a volume's data shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeWish {
    /// Make it, keep it.
    Keep,
    /// Destroy its data; the only thing that ever does.
    Delete,
}

/// All that a host shall bring about, under a growing generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredSet {
    /// A host refuses a set with a lower generation than it has.
    pub generation: Generation,
    /// Every machine it shall have; shared with the set before, where nothing has changed.
    pub machines: Vec<Arc<MachineSpec>>,
    /// Every volume it shall keep or delete.
    pub volumes: Vec<HostVolume>,
}

/// What the agent in a guest has said since its machine began to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuestSeen {
    /// It has answered.
    pub agent: bool,
    /// How cloud-init went at this boot.
    pub cloud_init: CloudInit,
}

impl GuestSeen {
    /// Whether nothing is known of it.
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

/// How the run of cloud-init in a guest went, as far as its agent can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudInit {
    /// It goes on, is not there, or the agent may not say.
    #[default]
    Unknown,
    /// All of it is done.
    Done,
    /// It has ended, with errors.
    Failed,
}

/// One machine as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSeen {
    /// Which instance it is.
    pub instance: InstanceId,
    /// Which run.
    pub epoch: Epoch,
    /// The spec version that was brought about; 0 while none was.
    pub spec_version: u64,
    /// Its state.
    pub state: ObservedState,
    /// What its host can't bring about of it while it is in this state, for the customer.
    pub failure: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What the agent in its guest has said.
    #[serde(default, skip_serializing_if = "GuestSeen::is_silent")]
    pub guest: GuestSeen,
    /// How far its migration is; none when it is in none, and once it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// Its host has no memory left for it, a spot machine, and ends it or has ended it for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_memory: bool,
}

impl MachineSeen {
    /// Whether the host has let it go to another one.
    pub fn has_left(&self) -> bool {
        self.handover == Some(Handover::Left)
    }
}

/// One volume as its host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSeen {
    /// Which volume.
    pub volume: VolumeId,
    /// Its state.
    pub state: VolumeObserved,
    /// Fingerprint of the key that alone opens it, once it was exchanged for the next one; none
    /// where no other key is desired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_key: Option<String>,
    /// The next key of the set, as it came, where its seal does not open on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_key: Option<SealedVolumeKey>,
}

/// All that a host has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObservedSet {
    /// The generation of the desired set that this was seen under.
    pub generation: Generation,
    /// Every machine.
    pub machines: Vec<MachineSeen>,
    /// Every volume, also those that no set named.
    pub volumes: Vec<VolumeSeen>,
    /// The keys that it has made for other hosts, of machines that leave it; and, as keys for
    /// itself, those that open volumes here and that its set does not name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<GivenKey>,
    /// What it proves of the host standard; none before its first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformity: Option<Proof>,
    /// Its agent can take memory back from spot machines, and has enough left now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reclaims_memory: bool,
    /// The images that it can boot, without versions where its agent tells none; none where it has
    /// every one, as the catalogue wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageVersions>,
}
