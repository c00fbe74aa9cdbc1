//! How a machine of the platform looks as a resource.
//!
//! The user's own spelling stays where it means the same; what only the configuration knows
//! (timeouts, what to wait for) stays as it was.

use std::collections::BTreeMap;

use fairmazon_model::{
    DomainError,
    instance::{InstanceSpec, Spot},
    price::NanoEur,
    schedule::{Schedule, format_time},
};
use fairmazon_proto::v1;
use sha2::{Digest as _, Sha256};
use tfplugin::Attr;

use super::{
    model::{
        AttachmentModel, BootVolumeModel, DAYS, InstanceModel, ON_IMAGE_CHANGE, ON_INTERRUPT,
        ON_USER_DATA_CHANGE, POWER, RESTART, SpotModel, WindowModel,
    },
    placement,
    wait::WAIT_FOR,
};
use crate::resources::shared::{
    labels::{self, KnownLabels},
    reader::word_for,
    rfc3339, settle, text,
};

/// The resource for a machine of the platform, knowing how it looked before.
///
/// # Errors
/// When the broker's answer is not a machine.
pub(crate) fn of_row(
    before: &InstanceModel,
    row: &v1::Instance,
    defaults: Option<&KnownLabels>,
) -> Result<InstanceModel, DomainError> {
    let spec: InstanceSpec = row.spec.clone().unwrap_or_default().try_into()?;
    let old = before.read(None).ok();
    let same = |test: &dyn Fn(&InstanceSpec) -> bool| old.as_ref().is_some_and(test);
    Ok(InstanceModel {
        flavor_fallback: keep(
            &before.flavor_fallback,
            same(&|old| old.flavor_fallback == spec.flavor_fallback),
            || strings(&spec.flavor_fallback),
        ),
        on_image_change: before_or(&before.on_image_change, ON_IMAGE_CHANGE[0].0),
        placement: placement::attr(&before.placement, &spec.placement, &spec.preferences),
        boot_volume: Attr::Value(BootVolumeModel {
            size_gib: Attr::Value(spec.boot_volume.size.0),
            class: Attr::Value(spec.boot_volume.class.clone()),
            delete_with_instance: Attr::Value(spec.boot_volume.delete_with_instance),
        }),
        volumes: keep(&before.volumes, same(&|old| old.volumes == spec.volumes), || {
            attachments(&spec)
        }),
        user_data: keep(&before.user_data, same(&|old| old.user_data == spec.user_data), || {
            text(&spec.user_data)
        }),
        user_data_sha256: keep(
            &user_data_hash(&before.user_data),
            same(&|old| old.user_data == spec.user_data),
            || user_data_hash(&text(&spec.user_data)),
        ),
        on_user_data_change: keep_set(
            &before.on_user_data_change,
            same(&|old| old.on_user_data_change == spec.on_user_data_change),
            || word_for(&ON_USER_DATA_CHANGE, &spec.on_user_data_change).to_owned(),
        ),
        ssh_keys: keep(&before.ssh_keys, same(&|old| old.ssh_keys == spec.ssh_keys), || {
            strings(spec.ssh_keys.iter())
        }),
        power_state: Attr::Value(word_for(&POWER, &spec.power).to_owned()),
        stop_timeout: keep_set(
            &before.stop_timeout,
            same(&|old| old.stop_timeout_ms == spec.stop_timeout_ms),
            || format!("{}s", spec.stop_timeout_ms / 1_000),
        ),
        schedule: keep(&before.schedule, same(&|old| old.schedule == spec.schedule), || {
            schedule(spec.schedule.as_ref())
        }),
        spot: match (&before.spot, same(&|old| old.spot == spec.spot)) {
            (Attr::Value(model), true) if !model.notice_seconds.is_null() => before.spot.clone(),
            _ => spot(spec.spot.as_ref()),
        },
        restart_policy: Attr::Value(word_for(&RESTART, &spec.restart_policy).to_owned()),
        deletion_protection: Attr::Value(spec.deletion_protection),
        reboot_trigger: before.reboot_trigger.clone(),
        wait_for: match &before.wait_for {
            Attr::Value(words) => Attr::Value(words.clone()),
            _ => Attr::Value(vec![Attr::Value(WAIT_FOR[0].0.to_owned())]),
        },
        labels: labels::own(&before.labels, &before.effective_labels, &spec.labels, defaults),
        effective_labels: labels::attr(&spec.labels),
        timeouts: before.timeouts.clone(),
        name: Attr::Value(spec.name),
        flavor: Attr::Value(spec.flavor),
        image: Attr::Value(spec.image),
        ..observed(row)
    })
}

/// What the platform alone knows.
fn observed(row: &v1::Instance) -> InstanceModel {
    let eur = |nano| Attr::Value(NanoEur(nano).to_string());
    InstanceModel {
        id: Attr::Value(row.id.clone()),
        created_at: Attr::Value(rfc3339(row.created_at_ms)),
        actual_flavor: text(&row.actual_flavor),
        boot_volume_id: text(&row.boot_volume_id),
        state: Attr::Value(state(row.state()).to_owned()),
        interruption_at: match row.interruption_at_ms {
            0 => Attr::Null,
            at_ms => Attr::Value(rfc3339(at_ms)),
        },
        site: text(&row.site),
        country: text(&row.country),
        placement_reason: text(&row.placement_reason),
        addresses: Attr::Value(row.addresses.clone()),
        lease_epoch: Attr::Value(row.lease_epoch),
        price_per_hour: eur(row.price_per_hour_nano_eur),
        price_per_month: eur(row.price_per_month_nano_eur),
        monthly_saving: eur(row.monthly_saving_nano_eur),
        ..InstanceModel::default()
    }
}

/// The state after an apply: what was planned, filled up with what the platform says.
pub(super) fn after_apply(planned: &InstanceModel, row: &v1::Instance) -> InstanceModel {
    let now = observed(row);
    InstanceModel {
        id: settle(&planned.id, now.id),
        created_at: settle(&planned.created_at, now.created_at),
        actual_flavor: settle(&planned.actual_flavor, now.actual_flavor),
        boot_volume: boot_volume_after(planned, row),
        boot_volume_id: settle(&planned.boot_volume_id, now.boot_volume_id),
        effective_labels: match (&planned.effective_labels, &row.spec) {
            (Attr::Value(labels), Some(spec)) if labels.values().any(Attr::is_unknown) => {
                labels::attr(&spec.labels)
            }
            (Attr::Unknown, Some(spec)) => labels::attr(&spec.labels),
            (planned, _) => planned.clone(),
        },
        user_data_sha256: settle(&planned.user_data_sha256, user_data_hash(&planned.user_data)),
        state: settle(&planned.state, now.state),
        interruption_at: settle(&planned.interruption_at, now.interruption_at),
        site: settle(&planned.site, now.site),
        country: settle(&planned.country, now.country),
        placement_reason: settle(&planned.placement_reason, now.placement_reason),
        addresses: settle(&planned.addresses, now.addresses),
        lease_epoch: settle(&planned.lease_epoch, now.lease_epoch),
        price_per_hour: settle(&planned.price_per_hour, now.price_per_hour),
        price_per_month: settle(&planned.price_per_month, now.price_per_month),
        monthly_saving: settle(&planned.monthly_saving, now.monthly_saving),
        ..planned.clone()
    }
}

fn boot_volume_after(planned: &InstanceModel, row: &v1::Instance) -> Attr<BootVolumeModel> {
    let now = row.spec.as_ref().and_then(|spec| spec.boot_volume.as_ref());
    let Some(now) = now else { return planned.boot_volume.clone() };
    let unknown = BootVolumeModel {
        size_gib: Attr::Unknown,
        class: Attr::Unknown,
        delete_with_instance: Attr::Unknown,
    };
    let model = match &planned.boot_volume {
        Attr::Value(model) => model.clone(),
        Attr::Unknown => unknown,
        Attr::Null => return Attr::Null,
    };
    Attr::Value(BootVolumeModel {
        size_gib: settle(&model.size_gib, Attr::Value(now.size_gib)),
        class: settle(&model.class, Attr::Value(now.class.clone())),
        delete_with_instance: settle(
            &model.delete_with_instance,
            Attr::Value(now.delete_with_instance),
        ),
    })
}

/// The hash that stands beside the user data.
pub(super) fn user_data_hash(user_data: &Attr<String>) -> Attr<String> {
    user_data.as_ref().map(|text| hex::encode(Sha256::digest(text.as_bytes())))
}

/// The state as a word.
pub(crate) const fn state(state: v1::InstanceState) -> &'static str {
    match state {
        v1::InstanceState::Unspecified | v1::InstanceState::Unknown => "unknown",
        v1::InstanceState::Pending => "pending",
        v1::InstanceState::Starting => "starting",
        v1::InstanceState::Running => "running",
        v1::InstanceState::Stopping => "stopping",
        v1::InstanceState::Stopped => "stopped",
        v1::InstanceState::Failed => "failed",
        v1::InstanceState::Deleting => "deleting",
    }
}

/// As it was while it means the same, null included.
fn keep<T: Clone>(before: &Attr<T>, same: bool, now: impl FnOnce() -> Attr<T>) -> Attr<T> {
    if same { before.clone() } else { now() }
}

/// As it was while it means the same; null has no meaning of its own.
fn keep_set(before: &Attr<String>, same: bool, now: impl FnOnce() -> String) -> Attr<String> {
    match before {
        Attr::Value(_) if same => before.clone(),
        _ => Attr::Value(now()),
    }
}

fn before_or(before: &Attr<String>, default: &str) -> Attr<String> {
    match before {
        Attr::Value(_) => before.clone(),
        _ => Attr::Value(default.to_owned()),
    }
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a String>) -> Attr<Vec<Attr<String>>> {
    let texts: Vec<_> = texts.into_iter().cloned().map(Attr::Value).collect();
    if texts.is_empty() { Attr::Null } else { Attr::Value(texts) }
}

fn attachments(spec: &InstanceSpec) -> Attr<BTreeMap<String, Attr<AttachmentModel>>> {
    if spec.volumes.is_empty() {
        return Attr::Null;
    }
    let one = |(name, attachment): (&String, &fairmazon_model::instance::Attachment)| {
        let model = AttachmentModel {
            volume_id: Attr::Value(attachment.volume_id.to_string()),
            read_only: Attr::Value(attachment.read_only),
        };
        (name.clone(), Attr::Value(model))
    };
    Attr::Value(spec.volumes.iter().map(one).collect())
}

fn schedule(schedule: Option<&Schedule>) -> Attr<Vec<Attr<WindowModel>>> {
    let Some(schedule) = schedule else { return Attr::Null };
    let windows = schedule.windows.iter().map(|window| {
        let days = window.days.iter().map(|day| word_for(&DAYS, day).to_owned());
        Attr::Value(WindowModel {
            timezone: Attr::Value(window.timezone.clone()),
            start: Attr::Value(format_time(window.start_minute)),
            stop: Attr::Value(format_time(window.stop_minute)),
            days: Attr::Value(days.map(Attr::Value).collect()),
        })
    });
    Attr::Value(windows.collect())
}

fn spot(spot: Option<&Spot>) -> Attr<SpotModel> {
    let Some(spot) = spot else { return Attr::Null };
    Attr::Value(SpotModel {
        max_price_per_hour: Attr::Value(spot.max_price.to_string()),
        notice_seconds: Attr::Value(spot.notice_seconds),
        on_interrupt: Attr::Value(word_for(&ON_INTERRUPT, &spot.on_interrupt).to_owned()),
    })
}
