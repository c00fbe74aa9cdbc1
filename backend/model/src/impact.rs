//! What a change does to a running machine: told in the plan, kept by the broker.

use std::fmt;

use crate::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    instance::{InstanceSpec, OnUserDataChange, Power},
    volume::VolumeSpec,
};

/// How much a change hurts, from nothing upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Impact {
    /// The guest sees nothing of it.
    None,
    /// Done while the machine runs.
    Hot,
    /// The machine moves to another host while it runs, if its own is not one that will do.
    Move,
    /// Done while the machine runs where its guest and its host can; else it restarts.
    HotOrReboot,
    /// The machine restarts.
    Reboot,
    /// The machine is stopped.
    Stop,
    /// The boot volume is made anew; its data is lost.
    Rebuild,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Hot => "hot",
            Self::Move => "move",
            Self::HotOrReboot => "hot, or reboot where its guest or its host can't",
            Self::Reboot => "reboot",
            Self::Stop => "stop",
            Self::Rebuild => "rebuild",
        })
    }
}

/// A change with its impact and its cause, for the plan's warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field that changes.
    pub field: &'static str,
    /// What the change does.
    pub impact: Impact,
}

/// What changing an instance from `old` to `new` does, field by field, the worst first. Without a
/// catalogue nothing is known of sizes but that they change.
pub fn of_instance_change(
    old: &InstanceSpec,
    new: &InstanceSpec,
    catalogue: Option<&Catalogue>,
) -> Vec<Change> {
    let flavor = if catalogue.is_some_and(|catalogue| grows(catalogue, &old.flavor, &new.flavor)) {
        Impact::HotOrReboot
    } else {
        Impact::Reboot
    };
    let user_data = match new.on_user_data_change {
        OnUserDataChange::Ignore | OnUserDataChange::NextBoot => Impact::None,
        OnUserDataChange::Rebuild => Impact::Rebuild,
    };
    let placement = if new.placement.loosens(&old.placement) { Impact::None } else { Impact::Move };
    let power = if new.power == Power::Stopped { Impact::Stop } else { Impact::Hot };
    let checks = [
        ("name", old.name != new.name, Impact::Hot),
        ("labels", old.labels != new.labels, Impact::None),
        ("flavor", old.flavor != new.flavor, flavor),
        ("image", old.image != new.image, Impact::Rebuild),
        ("placement", old.placement != new.placement, placement),
        ("placement", old.preferences != new.preferences, Impact::None),
        ("boot_volume", old.boot_volume.size != new.boot_volume.size, Impact::Hot),
        ("volumes", old.volumes != new.volumes, Impact::Hot),
        ("user_data", old.user_data != new.user_data, user_data),
        ("ssh_keys", old.ssh_keys != new.ssh_keys, Impact::Hot),
        ("power_state", old.power != new.power, power),
        ("schedule", old.schedule != new.schedule, Impact::Hot),
    ];
    let mut changes: Vec<_> = checks
        .into_iter()
        .filter(|(_, changed, _)| *changed)
        .map(|(field, _, impact)| Change { field, impact })
        .collect();
    changes.sort_by_key(|change| std::cmp::Reverse(change.impact));
    changes
}

/// Whether one flavor has nothing less than the other: only then it may be given to what runs.
fn grows(catalogue: &Catalogue, from: &str, to: &str) -> bool {
    match (catalogue.flavor(from), catalogue.flavor(to)) {
        (Some(from), Some(to)) => from.vcpus <= to.vcpus && from.memory <= to.memory,
        _ => false,
    }
}

/// Refuses changes of an instance that can't be made in place.
///
/// # Errors
/// `Invalid` with the field: a boot volume that shrinks or changes its class, spot terms that
/// appear or vanish.
pub fn check_instance_change(old: &InstanceSpec, new: &InstanceSpec) -> Result<(), DomainError> {
    if new.boot_volume.size < old.boot_volume.size {
        return Err(shrink("boot_volume.size_gib", old.boot_volume.size.0, new.boot_volume.size.0));
    }
    if new.boot_volume.class != old.boot_volume.class {
        return Err(fixed("boot_volume.class"));
    }
    if new.spot.is_some() != old.spot.is_some() {
        return Err(fixed("spot"));
    }
    Ok(())
}

/// Refuses changes of a volume that can't be made in place.
///
/// # Errors
/// `Invalid` with the field: a volume that shrinks, changes its class, source or file, or goes back
/// to an earlier key, a snapshot that changes its size.
pub fn check_volume_change(old: &VolumeSpec, new: &VolumeSpec) -> Result<(), DomainError> {
    if new.source != old.source || new.image != old.image {
        return Err(fixed("source"));
    }
    if new.import != old.import {
        return Err(fixed("import"));
    }
    if new.read_only != old.read_only {
        return Err(fixed("read_only"));
    }
    if new.read_only && new.size != old.size {
        return Err(fixed("size_gib"));
    }
    if new.size < old.size {
        return Err(shrink("size_gib", old.size.0, new.size.0));
    }
    if new.class != old.class {
        return Err(fixed("class"));
    }
    if new.key_version < old.key_version {
        let (had, wanted) = (old.key_version, new.key_version);
        let text = format!("a key that was exchanged does not come back: {had} to {wanted}");
        return Err(DomainError::invalid("key_version", text)
            .advise(format!("leave it at {had}, or raise it for another new key")));
    }
    Ok(())
}

fn shrink(field: &str, old: u64, new: u64) -> DomainError {
    DomainError::invalid(field, format!("a volume can't shrink from {old} to {new} GiB"))
        .advise("make a smaller volume beside it and copy the data")
}

fn fixed(field: &str) -> DomainError {
    DomainError {
        field: Some(field.to_owned()),
        ..DomainError::new(ErrorKind::Invalid, format!("`{field}` can't change in place"))
    }
    .advise("replace the resource")
}
