//! The volumes that instances boot from, which come and go with them.

use std::collections::BTreeMap;

use fairmazon_model::{
    DomainError,
    instance::{Instance, InstanceSpec},
    key::FIRST_KEY_VERSION,
    units::Revision,
    volume::{Volume, VolumeObserved, VolumeSpec},
};

use super::{rules::Effect, state::State, volumes::check_not_copied};

/// No copy of what the instance boots from is being made.
pub(crate) fn check_boot_not_copied(state: &State, row: &Instance) -> Result<(), DomainError> {
    let boot = state.world.volumes.get(row.boot_volume_id);
    boot.map_or(Ok(()), |boot| check_not_copied(state, boot))
}

/// The volume that a new instance boots from, before it is anywhere.
pub(super) fn boot_volume(instance: &Instance) -> Volume {
    let boot = &instance.spec.boot_volume;
    Volume {
        id: instance.boot_volume_id,
        account: instance.account,
        spec: VolumeSpec {
            name: boot_volume_name(&instance.spec.name),
            size: boot.size,
            class: boot.class.clone(),
            source: None,
            image: None,
            import: None,
            read_only: false,
            key_version: FIRST_KEY_VERSION,
            placement: Default::default(),
            deletion_protection: false,
            labels: BTreeMap::new(),
        },
        boot_of: Some(instance.id),
        attached_to: Some(instance.id),
        host: None,
        may_be_on: Default::default(),
        keys: BTreeMap::new(),
        next_keys: BTreeMap::new(),
        refused_keys: 0,
        made: false,
        observed: VolumeObserved::Unknown,
        deleting: None,
        unconfirmed: false,
        created_at: instance.created_at,
        revision: Revision(0),
    }
}

/// `NAME boot`, within the length of a name.
fn boot_volume_name(instance: &str) -> String {
    let room = fairmazon_model::limits::NAME_MAX - " boot".len();
    let name: String = instance.chars().take(room).collect();
    format!("{} boot", name.trim_end_matches([' ', '.', '_', '-']))
}

/// The boot volume as the new spec wants it; none when it stays as it is. One that is rebuilt is
/// to be made anew.
pub(super) fn changed_boot_volume(
    state: &State,
    old: &Instance,
    spec: &InstanceSpec,
    effect: &Effect,
) -> Result<Option<Volume>, DomainError> {
    if old.spec.boot_volume.size == spec.boot_volume.size && !effect.rebuild {
        return Ok(None);
    }
    let row = state.world.volumes.get(old.boot_volume_id);
    let row = row.ok_or_else(|| DomainError::internal(format!("{} has no boot volume", old.id)))?;
    let mut changed = Volume::clone(row);
    changed.spec.size = spec.boot_volume.size;
    changed.made &= !effect.rebuild;
    Ok(Some(changed))
}
