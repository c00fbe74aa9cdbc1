//! What a host is told and what it tells.

use fairmazon_model::{
    DomainError,
    instance::{ObservedState, Power, RestartPolicy},
    machine::{
        DesiredSet, Disk, HostVolume, MachineSeen, MachineSpec, ObservedSet, VolumeSeen, VolumeWish,
    },
    units::{Epoch, Generation, Gib, Mib, Vcpus},
    volume::VolumeObserved,
};

use super::{id, known, required};
use crate::host::v1;

impl From<&DesiredSet> for v1::Desired {
    fn from(set: &DesiredSet) -> Self {
        Self {
            generation: set.generation.0,
            machines: set.machines.iter().map(Into::into).collect(),
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
                .map(TryInto::try_into)
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
            image_id: machine.image.clone(),
            running: machine.power == Power::Running,
            restart: v1::Restart::from(machine.restart).into(),
            boot: Some((&machine.boot).into()),
            disks: machine.disks.iter().map(Into::into).collect(),
            user_data: machine.user_data.clone(),
            ssh_keys: machine.ssh_keys.clone(),
            stop_timeout_ms: machine.stop_timeout_ms,
            reboots: machine.reboots,
            rebuilds: machine.rebuilds,
            first_boots: machine.first_boots,
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
            image: message.image_id,
            power: if message.running { Power::Running } else { Power::Stopped },
            restart: restart(message.restart)?,
            boot: required("boot", message.boot)?.try_into()?,
            disks: message.disks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            user_data: message.user_data,
            ssh_keys: message.ssh_keys,
            stop_timeout_ms: message.stop_timeout_ms,
            reboots: message.reboots,
            rebuilds: message.rebuilds,
            first_boots: message.first_boots,
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
        v1::Restart::Unspecified => return Err(DomainError::invalid("restart", "it is missing")),
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
            wish: if message.delete { VolumeWish::Delete } else { VolumeWish::Keep },
        })
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
        })
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
        Self {
            instance_id: seen.instance.to_string(),
            epoch: seen.epoch.0,
            spec_version: seen.spec_version,
            state: state.into(),
            reason: reason.to_owned(),
            addresses: seen.addresses.clone(),
        }
    }
}

impl TryFrom<v1::MachineSeen> for MachineSeen {
    type Error = DomainError;

    fn try_from(message: v1::MachineSeen) -> Result<Self, DomainError> {
        let state = match known("state", v1::SeenState::try_from(message.state))? {
            v1::SeenState::Unspecified => ObservedState::Unknown,
            v1::SeenState::Absent => ObservedState::Absent,
            v1::SeenState::Starting => ObservedState::Starting,
            v1::SeenState::Running => ObservedState::Running,
            v1::SeenState::Stopping => ObservedState::Stopping,
            v1::SeenState::Stopped => ObservedState::Stopped,
            v1::SeenState::Failed => ObservedState::Failed { reason: message.reason },
        };
        Ok(Self {
            instance: id("instance_id", &message.instance_id)?,
            epoch: Epoch(message.epoch),
            spec_version: message.spec_version,
            state,
            addresses: message.addresses,
        })
    }
}

impl From<&VolumeSeen> for v1::VolumeSeen {
    fn from(seen: &VolumeSeen) -> Self {
        let (present, size_gib, failure) = match &seen.state {
            VolumeObserved::Unknown | VolumeObserved::Absent => (false, 0, ""),
            VolumeObserved::Present { size } => (true, size.0, ""),
            VolumeObserved::Failed { reason } => (false, 0, reason.as_str()),
        };
        Self {
            volume_id: seen.volume.to_string(),
            present,
            size_gib,
            failure: failure.to_owned(),
            unsure: seen.state == VolumeObserved::Unknown,
        }
    }
}

impl TryFrom<v1::VolumeSeen> for VolumeSeen {
    type Error = DomainError;

    fn try_from(message: v1::VolumeSeen) -> Result<Self, DomainError> {
        let state = match (message.present, message.failure.is_empty()) {
            (true, _) => VolumeObserved::Present { size: Gib(message.size_gib) },
            (false, true) if message.unsure => VolumeObserved::Unknown,
            (false, true) => VolumeObserved::Absent,
            (false, false) => VolumeObserved::Failed { reason: message.failure },
        };
        Ok(Self { volume: id("volume_id", &message.volume_id)?, state })
    }
}
