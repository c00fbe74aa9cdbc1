//! The data volumes of instances: which ones may be attached, and which ones are given free.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::{
    DomainError,
    id::{AccountId, InstanceId, VolumeId},
    instance::{Attachment, Instance, InstanceSpec},
    volume::Volume,
};

use super::{carriers::check_together, migrations::check_is_settled, rules, state::State};

/// The volumes of these attachments, all of which the instance may have together.
///
/// # Errors
/// `NotFound` for one that is not the account's; `Precondition` and `Conflict` for one that can't be
/// attached, or not now.
pub(super) fn attachable(
    state: &State,
    account: AccountId,
    instance: InstanceId,
    attachments: &BTreeMap<String, Attachment>,
) -> Result<Vec<Arc<Volume>>, DomainError> {
    let check = |attachment: &Attachment| {
        let volume = state.world.volumes.get(attachment.volume_id);
        let row = rules::check_attachable(volume, *attachment, account, instance)?;
        if row.attached_to != Some(instance) {
            state.check_volume_not_lost(&row)?;
        }
        check_is_settled(state, row, instance)
    };
    let volumes = attachments.values().map(|it| check(it).map_err(|error| error.below("volumes")));
    let volumes: Vec<_> = volumes.collect::<Result<_, _>>()?;
    check_together(state, &volumes).map_err(|error| error.below("volumes"))?;
    Ok(volumes)
}

/// The volumes that the instance has and has no more by its new spec.
pub(super) fn detached(state: &State, old: &Instance, spec: &InstanceSpec) -> Vec<Arc<Volume>> {
    let stays = |id: &VolumeId| spec.volumes.values().any(|there| there.volume_id == *id);
    let gone = old.spec.volumes.values().map(|there| there.volume_id).filter(|id| !stays(id));
    gone.filter_map(|id| state.world.volumes.get(id).cloned()).collect()
}
