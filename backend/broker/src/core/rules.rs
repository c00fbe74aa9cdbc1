//! Rules that need nothing but their arguments: what may be made, changed, attached, deleted.

use std::sync::Arc;

use fairmazon_model::{
    DomainError, ErrorKind,
    catalogue::Catalogue,
    id::{AccountId, HostId, InstanceId, VolumeId},
    instance::{Attachment, Instance, InstanceSpec, OnUserDataChange},
    placement::Placement,
    volume::{Volume, VolumeSpec},
};

/// How many names of the catalogue are shown to who asks for one that it has not.
const NAMES_SHOWN: usize = 16;

pub(crate) fn precondition(message: impl Into<String>) -> DomainError {
    DomainError::new(ErrorKind::Precondition, message)
}

/// One more of a noun fits under the limit.
pub(crate) fn check_count(noun: &str, there: u64, limit: u64) -> Result<(), DomainError> {
    if there < limit {
        return Ok(());
    }
    Err(DomainError::new(
        ErrorKind::LimitExceeded,
        format!("the account has {there} {noun}, which is the most it may have"),
    )
    .advise("delete some that are no longer needed, or ask the platform's operator for more"))
}

/// Everything that the spec names is in the catalogue and fits together.
pub(crate) fn check_catalogue(
    catalogue: &Catalogue,
    spec: &InstanceSpec,
) -> Result<(), DomainError> {
    let image = catalogue
        .image(&spec.image)
        .ok_or_else(|| unknown("image", &spec.image, image_names(catalogue)))?;
    check_class(catalogue, &spec.boot_volume.class).map_err(|error| error.below("boot_volume"))?;
    image.check_fits(spec.boot_volume.size, "boot_volume.size_gib")?;
    let fallback = spec.flavor_fallback.iter().map(|name| ("flavor_fallback", name));
    for (field, name) in std::iter::once(("flavor", &spec.flavor)).chain(fallback) {
        let names = catalogue.flavors.iter().map(|flavor| &flavor.name);
        let flavor = catalogue.flavor(name).ok_or_else(|| unknown(field, name, names))?;
        if flavor.memory < image.min_memory {
            return Err(DomainError::invalid(
                field,
                format!(
                    "the image {} needs at least {} of memory, {} has {}",
                    image.name, image.min_memory, flavor.name, flavor.memory
                ),
            ));
        }
    }
    Ok(())
}

/// The image that a volume is filled from is there, and fits into it.
pub(crate) fn check_volume_image(
    catalogue: &Catalogue,
    spec: &VolumeSpec,
) -> Result<(), DomainError> {
    let Some(name) = &spec.image else { return Ok(()) };
    let image = catalogue
        .image(name)
        .ok_or_else(|| unknown("source.image", name, image_names(catalogue)))?;
    image.check_fits(spec.size, "size_gib")
}

pub(crate) fn check_class(catalogue: &Catalogue, class: &str) -> Result<(), DomainError> {
    let names = catalogue.storage_classes.iter().map(|class| &class.name);
    catalogue.storage_class(class).map(|_| ()).ok_or_else(|| unknown("class", class, names))
}

fn image_names(catalogue: &Catalogue) -> impl Iterator<Item = &String> {
    catalogue.images.iter().map(|image| &image.name)
}

fn unknown<'a>(
    field: &str,
    value: &str,
    names: impl IntoIterator<Item = &'a String>,
) -> DomainError {
    let shown: String = value.chars().take(64).collect();
    let names: Vec<_> = names.into_iter().take(NAMES_SHOWN).map(String::as_str).collect();
    DomainError::invalid(field, format!("the catalogue has no `{}`", shown.escape_debug()))
        .advise(format!("choose one that it has, as {}", names.join(", ")))
}

/// The volume may be attached to the instance: it is the account's own, a data volume, there
/// to stay, and nobody else's. A volume has one user at a time, reader or writer.
pub(crate) fn check_attachable(
    volume: Option<&Arc<Volume>>,
    attachment: Attachment,
    account: AccountId,
    instance: InstanceId,
) -> Result<Arc<Volume>, DomainError> {
    let id = attachment.volume_id;
    let volume = volume
        .filter(|volume| volume.account == account)
        .ok_or_else(|| DomainError::not_found("volume", id))?;
    if volume.deleting.is_some() {
        return Err(precondition(format!("{id} is being deleted")).advise("attach another volume"));
    }
    if let Some(other) = volume.boot_of {
        return Err(precondition(format!("{id} is the boot volume of {other}"))
            .advise(format!("make a volume with {id} as its source, and attach that")));
    }
    if let Some(other) = volume.attached_to.filter(|other| *other != instance) {
        return Err(precondition(format!("{id} is attached to {other}"))
            .advise(format!("detach it from {other} first")));
    }
    if volume.spec.read_only && !attachment.read_only {
        return Err(precondition(format!("{id} is a snapshot, and nobody writes to it"))
            .advise("set read_only for it, or make a volume of it to write to"));
    }
    Ok(volume.clone())
}

/// The one host that holds data of these volumes; none when none of them is bound yet.
pub(crate) fn common_host<'a>(
    volumes: impl IntoIterator<Item = &'a Volume>,
) -> Result<Option<HostId>, DomainError> {
    let mut found: Option<(HostId, VolumeId)> = None;
    for volume in volumes {
        let Some(host) = volume.host else { continue };
        match found {
            Some((first, other)) if first != host => {
                return Err(precondition(format!(
                    "the data of {other} and of {} is on different hosts",
                    volume.id
                ))
                .advise("attach them to different instances, or copy the data"));
            }
            Some(_) => {}
            None => found = Some((host, volume.id)),
        }
    }
    Ok(found.map(|(host, _)| host))
}

/// The constraints of an instance and of its data volumes, which are among these, together. To a
/// carrier all of its volumes are data.
pub(crate) fn placement_of(
    instance: &Instance,
    volumes: &[Arc<Volume>],
) -> Result<Placement, DomainError> {
    let is_data = |row: &&Arc<Volume>| instance.carrier || row.id != instance.boot_volume_id;
    let data = volumes.iter().filter(is_data);
    join_placements(&instance.spec.placement, data.map(AsRef::as_ref))
}

/// Constraints of an instance and those of these volumes together.
pub(crate) fn join_placements<'a>(
    own: &Placement,
    others: impl IntoIterator<Item = &'a Volume>,
) -> Result<Placement, DomainError> {
    let mut joined = own.clone();
    for volume in others {
        let more = &volume.spec.placement;
        let clash = |what: &str| {
            precondition(format!(
                "no place is within the {what} of both the instance and {}",
                volume.id
            ))
            .advise("change the placement of one of them")
        };
        narrow(&mut joined.countries, &more.countries).map_err(|()| clash("countries"))?;
        narrow(&mut joined.regions, &more.regions).map_err(|()| clash("regions"))?;
        joined.with.extend(&more.with);
        joined.not_with.extend(&more.not_with);
        if !joined.with.is_disjoint(&joined.not_with) {
            return Err(clash("placement groups"));
        }
        joined.min_conformity = joined.min_conformity.max(more.min_conformity);
        joined.confidential |= more.confidential;
    }
    Ok(joined)
}

/// Empty means any: the narrower of the two; an error when nothing is in both.
fn narrow(
    set: &mut std::collections::BTreeSet<String>,
    with: &std::collections::BTreeSet<String>,
) -> Result<(), ()> {
    if with.is_empty() {
        return Ok(());
    }
    if set.is_empty() {
        set.clone_from(with);
        return Ok(());
    }
    set.retain(|item| with.contains(item));
    if set.is_empty() { Err(()) } else { Ok(()) }
}

/// What an allowed change of an instance's spec does beside replacing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Effect {
    /// The host must bring something about.
    pub(crate) on_host: bool,
    /// The boot volume is made anew.
    pub(crate) rebuild: bool,
    /// The next start is a first boot to the guest.
    pub(crate) first_boot: bool,
}

/// What a change does. Whether it is allowed was checked before.
pub(crate) fn effect(old: &InstanceSpec, new: &InstanceSpec) -> Effect {
    let quiet = InstanceSpec {
        labels: old.labels.clone(),
        deletion_protection: old.deletion_protection,
        placement: old.placement.clone(),
        preferences: old.preferences.clone(),
        on_user_data_change: old.on_user_data_change,
        flavor_fallback: old.flavor_fallback.clone(),
        ..new.clone()
    };
    let data_changed = old.user_data != new.user_data;
    let by = new.on_user_data_change;
    Effect {
        on_host: quiet != *old,
        rebuild: old.image != new.image || (data_changed && by == OnUserDataChange::Rebuild),
        first_boot: data_changed && by == OnUserDataChange::NextBoot,
    }
}

/// A changed image destroys what is on the boot volume: only when that was said.
pub(crate) fn check_rebuild(
    old: &InstanceSpec,
    new: &InstanceSpec,
    allowed: bool,
) -> Result<(), DomainError> {
    if allowed || old.image == new.image {
        return Ok(());
    }
    Err(DomainError {
        field: Some("image".into()),
        ..precondition("another image means making the boot volume anew, and its data is lost")
    }
    .advise("allow the rebuild, or replace the instance"))
}

/// The instance may be deleted.
pub(crate) fn check_deletable(instance: &Instance) -> Result<(), DomainError> {
    if instance.spec.deletion_protection {
        return Err(protected("instance", &instance.id));
    }
    Ok(())
}

/// The volume may be deleted.
pub(crate) fn check_volume_deletable(volume: &Volume) -> Result<(), DomainError> {
    if let Some(instance) = volume.boot_of {
        return Err(precondition(format!("{} is the boot volume of {instance}", volume.id))
            .advise(format!("delete {instance}; its boot volume goes with it")));
    }
    if let Some(instance) = volume.attached_to {
        return Err(precondition(format!("{} is attached to {instance}", volume.id))
            .advise(format!("detach it from {instance} first")));
    }
    if volume.spec.deletion_protection {
        return Err(protected("volume", &volume.id));
    }
    Ok(())
}

fn protected(noun: &str, id: &impl std::fmt::Display) -> DomainError {
    DomainError {
        field: Some("deletion_protection".into()),
        ..precondition(format!("the {noun} {id} is protected against deletion"))
    }
    .advise("set deletion_protection to false in a change of its own, then delete it")
}

/// The row is not on its way out.
pub(crate) fn check_not_deleting(
    noun: &str,
    id: &impl std::fmt::Display,
    deleting: bool,
) -> Result<(), DomainError> {
    if deleting {
        return Err(precondition(format!("the {noun} {id} is being deleted"))
            .advise(format!("wait until it is gone, and make another {noun} if one is needed")));
    }
    Ok(())
}

/// Nobody changed the row since the caller read it; 0 means that the caller does not mind.
pub(crate) fn check_revision(expected: u64, found: u64) -> Result<(), DomainError> {
    if expected == 0 || expected == found {
        return Ok(());
    }
    Err(DomainError::new(
        ErrorKind::Conflict,
        format!(
            "it was changed by somebody else: revision {expected} was expected, {found} is there"
        ),
    )
    .advise("read it again and repeat"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn the_narrower_of_two_sets_of_places_holds() {
        for (own, more, joined) in [
            (vec![], vec!["DE"], Some(vec!["DE"])),
            (vec!["DE", "FR"], vec![], Some(vec!["DE", "FR"])),
            (vec!["DE", "FR"], vec!["FR", "NL"], Some(vec!["FR"])),
            (vec!["DE"], vec!["NL"], None),
        ] {
            let mut found = set(&own);
            let result = narrow(&mut found, &set(&more));
            assert_eq!(result.ok().map(|()| found), joined.map(|joined| set(&joined)));
        }
    }

    #[test]
    fn counts_stop_at_their_limit() {
        check_count("instances", 9, 10).unwrap();
        assert_eq!(check_count("instances", 10, 10).unwrap_err().kind, ErrorKind::LimitExceeded);
    }

    #[test]
    fn an_expected_revision_must_be_the_one_that_is_there() {
        check_revision(0, 7).unwrap();
        check_revision(7, 7).unwrap();
        assert_eq!(check_revision(6, 7).unwrap_err().kind, ErrorKind::Conflict);
    }
}
