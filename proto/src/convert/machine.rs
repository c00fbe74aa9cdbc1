//! What a host is told and what it tells.

use std::sync::Arc;

use fairmazon_model::{
    DomainError,
    catalogue::ImageVersions,
    instance::{ObservedState, Power, RestartPolicy},
    key::{Blob, SealedVolumeKey},
    limits,
    machine::{
        CloudInit, DesiredSet, Disk, GuestSeen, HostVolume, MachineSeen, MachineSpec, ObservedSet,
        VolumeCopy, VolumeSeen, VolumeWish,
    },
    transfer::Sha256,
    units::{Epoch, Generation, Gib, Mib, Vcpus},
    volume::{Import, VolumeObserved},
};

use super::{id, known, migration::handover, optional_id, required};
use crate::host::v1;

impl From<&DesiredSet> for v1::Desired {
    fn from(set: &DesiredSet) -> Self {
        Self {
            generation: set.generation.0,
            machines: set.machines.iter().map(|machine| machine.as_ref().into()).collect(),
            volumes: set.volumes.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Desired> for DesiredSet {
    type Error = DomainError;

    fn try_from(message: v1::Desired) -> Result<Self, DomainError> {
        Ok(Self {
            generation: Generation(message.generation),
            machines: message
                .machines
                .into_iter()
                .map(|machine| machine.try_into().map(Arc::new))
                .collect::<Result<_, _>>()?,
            volumes: message
                .volumes
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<&MachineSpec> for v1::Machine {
    fn from(machine: &MachineSpec) -> Self {
        Self {
            instance_id: machine.instance.to_string(),
            epoch: machine.epoch.0,
            spec_version: machine.spec_version,
            name: machine.name.clone(),
            vcpus: machine.vcpus.0,
            memory_mib: machine.memory.0,
            spot: machine.spot,
            image_id: machine.image.clone(),
            running: machine.power == Power::Running,
            held: machine.held,
            restart: v1::Restart::from(machine.restart).into(),
            boot: Some((&machine.boot).into()),
            disks: machine.disks.iter().map(Into::into).collect(),
            user_data: machine.user_data.clone(),
            ssh_keys: machine.ssh_keys.clone(),
            stop_timeout_ms: machine.stop_timeout_ms,
            reboots: machine.reboots,
            rebuilds: machine.rebuilds,
            first_boots: machine.first_boots,
            departure: machine.departure.as_ref().map(Into::into),
            arrival: machine.arrival.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Machine> for MachineSpec {
    type Error = DomainError;

    fn try_from(message: v1::Machine) -> Result<Self, DomainError> {
        Ok(Self {
            instance: id("instance_id", &message.instance_id)?,
            epoch: Epoch(message.epoch),
            spec_version: message.spec_version,
            name: message.name,
            vcpus: Vcpus(message.vcpus),
            memory: Mib(message.memory_mib),
            spot: message.spot,
            image: message.image_id,
            power: if message.running { Power::Running } else { Power::Stopped },
            held: message.held,
            restart: restart(message.restart)?,
            boot: required("boot", message.boot)?.try_into()?,
            disks: message.disks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            user_data: message.user_data,
            ssh_keys: message.ssh_keys,
            stop_timeout_ms: message.stop_timeout_ms,
            reboots: message.reboots,
            rebuilds: message.rebuilds,
            first_boots: message.first_boots,
            departure: message.departure.map(TryInto::try_into).transpose()?,
            arrival: message.arrival.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<RestartPolicy> for v1::Restart {
    fn from(policy: RestartPolicy) -> Self {
        match policy {
            RestartPolicy::Always => Self::Always,
            RestartPolicy::OnHostFailure => Self::OnHostFailure,
            RestartPolicy::Never => Self::Never,
        }
    }
}

fn restart(value: i32) -> Result<RestartPolicy, DomainError> {
    Ok(match known("restart", v1::Restart::try_from(value))? {
        v1::Restart::Unspecified => {
            return Err(DomainError::invalid("restart", "it is missing, and has to be given"));
        }
        v1::Restart::Always => RestartPolicy::Always,
        v1::Restart::OnHostFailure => RestartPolicy::OnHostFailure,
        v1::Restart::Never => RestartPolicy::Never,
    })
}

impl From<&Disk> for v1::Disk {
    fn from(disk: &Disk) -> Self {
        Self {
            name: disk.name.clone(),
            volume_id: disk.volume.to_string(),
            read_only: disk.read_only,
        }
    }
}

impl TryFrom<v1::Disk> for Disk {
    type Error = DomainError;

    fn try_from(message: v1::Disk) -> Result<Self, DomainError> {
        Ok(Self {
            volume: id("volume_id", &message.volume_id)?,
            name: message.name,
            read_only: message.read_only,
        })
    }
}

impl From<&HostVolume> for v1::Volume {
    fn from(volume: &HostVolume) -> Self {
        Self {
            volume_id: volume.volume.to_string(),
            size_gib: volume.size.0,
            class: volume.class.clone(),
            image_id: volume.image.clone().unwrap_or_default(),
            delete: volume.wish == VolumeWish::Delete,
            copy_of: match volume.copy {
                Some(VolumeCopy::Of(source)) => source.to_string(),
                Some(VolumeCopy::Import(_) | VolumeCopy::Made) | None => String::new(),
            },
            import: match volume.copy {
                Some(VolumeCopy::Import(Import { bytes, sha256 })) => {
                    Some(v1::Import { bytes, sha256: sha256.0.to_vec() })
                }
                _ => None,
            },
            // An agent that does not know of imports then says that it is lost, and makes no empty
            // volume in its place.
            copied: matches!(volume.copy, Some(VolumeCopy::Made | VolumeCopy::Import(_))),
            key: volume.key.as_ref().map(Into::into),
            next_key: volume.next_key.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Volume> for HostVolume {
    type Error = DomainError;

    fn try_from(message: v1::Volume) -> Result<Self, DomainError> {
        Ok(Self {
            volume: id("volume_id", &message.volume_id)?,
            size: Gib(message.size_gib),
            class: message.class,
            image: (!message.image_id.is_empty()).then_some(message.image_id),
            copy: match (optional_id("copy_of", &message.copy_of)?, message.import) {
                (Some(source), _) => Some(VolumeCopy::Of(source)),
                (None, Some(file)) => Some(VolumeCopy::Import(import(&file)?)),
                (None, None) => message.copied.then_some(VolumeCopy::Made),
            },
            key: message.key.map(Into::into),
            next_key: message.next_key.map(Into::into),
            wish: if message.delete { VolumeWish::Delete } else { VolumeWish::Keep },
        })
    }
}

fn import(message: &v1::Import) -> Result<Import, DomainError> {
    let wrong = |_| DomainError::invalid("import.sha256", "it has to be 32 bytes");
    let sha256 = Sha256(message.sha256.as_slice().try_into().map_err(wrong)?);
    Ok(Import { bytes: message.bytes, sha256 })
}

impl From<&SealedVolumeKey> for v1::SealedKey {
    fn from(key: &SealedVolumeKey) -> Self {
        Self { version: key.version, sealed: key.sealed.0.clone() }
    }
}

impl From<v1::SealedKey> for SealedVolumeKey {
    fn from(message: v1::SealedKey) -> Self {
        Self { version: message.version, sealed: Blob(message.sealed) }
    }
}

/// The observed set as a message; its sequence is the stream's to fill in.
impl From<&ObservedSet> for v1::Observed {
    fn from(set: &ObservedSet) -> Self {
        Self {
            sequence: 0,
            generation: set.generation.0,
            machines: set.machines.iter().map(Into::into).collect(),
            volumes: set.volumes.iter().map(Into::into).collect(),
            keys: set.keys.iter().map(Into::into).collect(),
            conformity: set.conformity.as_ref().map(Into::into),
            reclaims_memory: set.reclaims_memory,
            images: set.images.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Observed> for ObservedSet {
    type Error = DomainError;

    fn try_from(message: v1::Observed) -> Result<Self, DomainError> {
        Ok(Self {
            generation: Generation(message.generation),
            machines: message
                .machines
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            volumes: message
                .volumes
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            keys: message.keys.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            conformity: message.conformity.map(TryInto::try_into).transpose()?,
            reclaims_memory: message.reclaims_memory,
            images: message.images.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&ImageVersions> for v1::ImageSet {
    fn from(images: &ImageVersions) -> Self {
        let bytes = |sha256: &Option<Sha256>| sha256.map_or_else(Vec::new, |it| it.0.to_vec());
        Self {
            ids: images.keys().cloned().collect(),
            manifest_sha256: images.values().map(bytes).collect(),
        }
    }
}

impl TryFrom<v1::ImageSet> for ImageVersions {
    type Error = DomainError;

    fn try_from(message: v1::ImageSet) -> Result<Self, DomainError> {
        let wrong = |_| DomainError::invalid("images.manifest_sha256", "it has to be 32 bytes");
        let known = |bytes: Vec<u8>| match bytes.as_slice() {
            [] => Ok(None),
            bytes => bytes.try_into().map(|bytes| Some(Sha256(bytes))).map_err(wrong),
        };
        let versions = message.manifest_sha256.into_iter().chain(std::iter::repeat(Vec::new()));
        let images = message.ids.into_iter().zip(versions).take(limits::HOST_IMAGES_MAX);
        images.map(|(id, bytes)| Ok((id, known(bytes)?))).collect()
    }
}

impl From<&MachineSeen> for v1::MachineSeen {
    fn from(seen: &MachineSeen) -> Self {
        let (state, reason) = match &seen.state {
            ObservedState::Unknown => (v1::SeenState::Unspecified, ""),
            ObservedState::Absent => (v1::SeenState::Absent, ""),
            ObservedState::Starting => (v1::SeenState::Starting, ""),
            ObservedState::Running => (v1::SeenState::Running, ""),
            ObservedState::Stopping => (v1::SeenState::Stopping, ""),
            ObservedState::Stopped => (v1::SeenState::Stopped, ""),
            ObservedState::Failed { reason } => (v1::SeenState::Failed, reason.as_str()),
        };
        let reason = seen.failure.as_deref().unwrap_or(reason);
        Self {
            instance_id: seen.instance.to_string(),
            epoch: seen.epoch.0,
            spec_version: seen.spec_version,
            state: state.into(),
            reason: reason.to_owned(),
            addresses: seen.addresses.clone(),
            handover: seen.handover.map_or(v1::Handover::Unspecified, Into::into).into(),
            guest_agent: seen.guest.agent,
            cloud_init: match seen.guest.cloud_init {
                CloudInit::Unknown => v1::CloudInit::Unspecified,
                CloudInit::Done => v1::CloudInit::Done,
                CloudInit::Failed => v1::CloudInit::Failed,
            }
            .into(),
            lacks_memory: seen.lacks_memory,
        }
    }
}

impl TryFrom<v1::MachineSeen> for MachineSeen {
    type Error = DomainError;

    fn try_from(message: v1::MachineSeen) -> Result<Self, DomainError> {
        let reason = text_of_host(&message.reason);
        let mut failure = (!reason.is_empty()).then(|| reason.clone());
        let state = match known("state", v1::SeenState::try_from(message.state))? {
            v1::SeenState::Unspecified => ObservedState::Unknown,
            v1::SeenState::Absent => ObservedState::Absent,
            v1::SeenState::Starting => ObservedState::Starting,
            v1::SeenState::Running => ObservedState::Running,
            v1::SeenState::Stopping => ObservedState::Stopping,
            v1::SeenState::Stopped => ObservedState::Stopped,
            v1::SeenState::Failed => {
                failure = None;
                ObservedState::Failed { reason }
            }
        };
        let cloud_init = match known("cloud_init", v1::CloudInit::try_from(message.cloud_init))? {
            v1::CloudInit::Unspecified => CloudInit::Unknown,
            v1::CloudInit::Done => CloudInit::Done,
            v1::CloudInit::Failed => CloudInit::Failed,
        };
        Ok(Self {
            instance: id("instance_id", &message.instance_id)?,
            epoch: Epoch(message.epoch),
            spec_version: message.spec_version,
            state,
            failure,
            addresses: addresses(message.addresses),
            guest: GuestSeen { agent: message.guest_agent, cloud_init },
            handover: handover(message.handover)?,
            lacks_memory: message.lacks_memory,
        })
    }
}

impl From<&VolumeSeen> for v1::VolumeSeen {
    fn from(seen: &VolumeSeen) -> Self {
        let (present, size_gib, failure) = match &seen.state {
            VolumeObserved::Unknown | VolumeObserved::Absent => (false, 0, ""),
            VolumeObserved::Present { size, failure } => {
                (true, size.0, failure.as_deref().unwrap_or_default())
            }
            VolumeObserved::Failed { reason, .. } => (false, 0, reason.as_str()),
        };
        Self {
            volume_id: seen.volume.to_string(),
            present,
            size_gib,
            failure: failure.to_owned(),
            unsure: seen.state == VolumeObserved::Unknown,
            lasting: matches!(seen.state, VolumeObserved::Failed { lasting: true, .. }),
            changed_key: seen.changed_key.clone().unwrap_or_default(),
            refused_key: seen.refused_key.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::VolumeSeen> for VolumeSeen {
    type Error = DomainError;

    fn try_from(message: v1::VolumeSeen) -> Result<Self, DomainError> {
        let reason = text_of_host(&message.failure);
        let state = match (message.present, reason.is_empty()) {
            (true, is_well) => VolumeObserved::Present {
                size: Gib(message.size_gib),
                failure: (!is_well).then_some(reason),
            },
            (false, true) if message.unsure => VolumeObserved::Unknown,
            (false, true) => VolumeObserved::Absent,
            (false, false) => VolumeObserved::Failed { reason, lasting: message.lasting },
        };
        let changed_key = text_of_host(&message.changed_key);
        let changed_key = (!changed_key.is_empty()).then_some(changed_key);
        let refused_key = message.refused_key.map(Into::into);
        Ok(Self { volume: id("volume_id", &message.volume_id)?, state, changed_key, refused_key })
    }
}

/// A text of a host as rows may keep it: bounded, on one line, nothing that moves a cursor.
pub(super) fn text_of_host(text: &str) -> String {
    let mut kept: String = text
        .chars()
        .take(limits::HOST_TEXT_MAX)
        .map(|c| if c.is_control() || is_format(c) { ' ' } else { c })
        .collect();
    if kept.len() > limits::HOST_TEXT_MAX {
        let end = (0..=limits::HOST_TEXT_MAX).rev().find(|end| kept.is_char_boundary(*end));
        kept.truncate(end.unwrap_or(0));
    }
    kept.trim().to_owned()
}

/// Marks that turn the direction of a text around, or separate its lines.
const fn is_format(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The addresses among what a host calls so, as many as a machine may have.
fn addresses(said: Vec<String>) -> Vec<String> {
    let is_address = |text: &String| text.parse::<std::net::IpAddr>().is_ok();
    said.into_iter().filter(is_address).take(limits::ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use fairmazon_model::id::{InstanceId, VolumeId};

    use super::*;

    #[test]
    fn what_hosts_say_is_bounded_and_clean() {
        let mut message = v1::MachineSeen {
            instance_id: InstanceId::from_parts(1, 1).to_string(),
            state: v1::SeenState::Failed.into(),
            reason: format!("\u{1b}[31mno\nroom\u{202e} {}", "ü".repeat(1_000_000)),
            addresses: (0..100).map(|n| format!("10.0.0.{n}")).collect(),
            ..Default::default()
        };
        message.addresses[0] = "not an address".into();
        message.addresses[1] = "fd00::1".into();
        let seen = MachineSeen::try_from(message).unwrap();
        let ObservedState::Failed { reason } = &seen.state else { panic!("{seen:?}") };
        assert!(reason.len() <= limits::HOST_TEXT_MAX && reason.starts_with("[31mno room"));
        assert!(!reason.chars().any(|c| c.is_control() || is_format(c)));
        assert_eq!((seen.addresses.len(), seen.addresses[0].as_str()), (16, "fd00::1"));
        let message = v1::VolumeSeen {
            volume_id: VolumeId::from_parts(1, 1).to_string(),
            failure: "x".repeat(1_000_000),
            ..Default::default()
        };
        let seen = VolumeSeen::try_from(message).unwrap();
        assert_eq!(seen.state.failure().unwrap().len(), limits::HOST_TEXT_MAX);
    }

    #[test]
    fn what_a_volume_is_made_from_arrives_and_an_import_is_no_empty_volume_to_anybody() {
        let import = Import { bytes: 1 << 20, sha256: Sha256::of(b"a file") };
        let source = VolumeId::from_parts(1, 2);
        for copy in [
            None,
            Some(VolumeCopy::Made),
            Some(VolumeCopy::Of(source)),
            Some(VolumeCopy::Import(import)),
        ] {
            let wish = HostVolume {
                volume: VolumeId::from_parts(1, 1),
                size: Gib(3),
                class: "standard".into(),
                image: None,
                copy,
                key: None,
                next_key: None,
                wish: VolumeWish::Keep,
            };
            let message = v1::Volume::from(&wish);
            assert_eq!(HostVolume::try_from(message.clone()).unwrap(), wish);
            // As an agent reads it that knows no imports.
            let old = HostVolume::try_from(v1::Volume { import: None, ..message }).unwrap();
            assert_eq!(old.copy.is_some(), copy.is_some());
        }
    }

    #[test]
    fn images_arrive_with_their_versions_also_from_agents_that_know_none() {
        let version = |byte| Some(Sha256([byte; 32]));
        let images = ImageVersions::from([
            ("img-1".into(), version(1)),
            ("img-2".into(), None),
            ("img-3".into(), version(3)),
        ]);
        let message = v1::ImageSet::from(&images);
        assert_eq!(ImageVersions::try_from(message.clone()).unwrap(), images);
        let old = v1::ImageSet { manifest_sha256: Vec::new(), ..message.clone() };
        let known = ImageVersions::try_from(old).unwrap();
        assert!(known.keys().eq(images.keys()) && known.values().all(Option::is_none), "{known:?}");
        let wrong = v1::ImageSet { manifest_sha256: vec![vec![1; 31]], ..message };
        ImageVersions::try_from(wrong).unwrap_err();
        let many = v1::ImageSet {
            ids: (0..=limits::HOST_IMAGES_MAX).map(|number| format!("img-{number}")).collect(),
            manifest_sha256: Vec::new(),
        };
        assert_eq!(ImageVersions::try_from(many).unwrap().len(), limits::HOST_IMAGES_MAX);
    }

    #[test]
    fn a_failure_beside_a_state_arrives() {
        let seen = MachineSeen {
            instance: InstanceId::from_parts(1, 1),
            epoch: Epoch(3),
            spec_version: 2,
            state: ObservedState::Running,
            failure: Some("no room".into()),
            addresses: Vec::new(),
            guest: GuestSeen { agent: true, cloud_init: CloudInit::Failed },
            handover: Some(fairmazon_model::migration::Handover::Left),
            lacks_memory: true,
        };
        assert_eq!(MachineSeen::try_from(v1::MachineSeen::from(&seen)).unwrap(), seen);
        let volume = VolumeId::from_parts(1, 1);
        for state in [
            VolumeObserved::Present { size: Gib(3), failure: Some("no room".into()) },
            VolumeObserved::Failed { reason: "no room".into(), lasting: false },
            VolumeObserved::Failed { reason: "no file of a volume".into(), lasting: true },
        ] {
            let refused_key = Some(SealedVolumeKey { version: 2, sealed: Blob(vec![1]) });
            let changed_key = Some("SHA256:x".into());
            let seen = VolumeSeen { volume, state, changed_key, refused_key };
            assert_eq!(VolumeSeen::try_from(v1::VolumeSeen::from(&seen)).unwrap(), seen);
        }
    }
}
