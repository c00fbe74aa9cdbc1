//! Instance specs.

use std::collections::BTreeMap;

use fairmazon_model::{
    DomainError,
    instance::{
        Attachment, BootVolumeSpec, InstanceSpec, OnInterrupt, OnUserDataChange, Power,
        RestartPolicy, Spot,
    },
    placement::Preferences,
    price::NanoEur,
    schedule::{Schedule, Weekday, Window},
    units::Gib,
};

use super::{id, known, required};
use crate::v1;

/// What `stop_timeout_ms` is when a message leaves it at 0.
const DEFAULT_STOP_TIMEOUT_MS: u64 = 60_000;

impl From<&InstanceSpec> for v1::InstanceSpec {
    fn from(spec: &InstanceSpec) -> Self {
        Self {
            name: spec.name.clone(),
            flavor: spec.flavor.clone(),
            flavor_fallback: spec.flavor_fallback.clone(),
            image: spec.image.clone(),
            placement: Some((&spec.placement).into()),
            boot_volume: Some(v1::BootVolume {
                size_gib: spec.boot_volume.size.0,
                class: spec.boot_volume.class.clone(),
                delete_with_instance: spec.boot_volume.delete_with_instance,
            }),
            volumes: spec
                .volumes
                .iter()
                .map(|(name, attachment)| (name.clone(), attachment.into()))
                .collect(),
            user_data: spec.user_data.clone(),
            on_user_data_change: v1::OnUserDataChange::from(spec.on_user_data_change).into(),
            ssh_keys: spec.ssh_keys.iter().cloned().collect(),
            power_state: v1::PowerState::from(spec.power).into(),
            schedule: spec
                .schedule
                .iter()
                .flat_map(|schedule| &schedule.windows)
                .map(Into::into)
                .collect(),
            spot: spec.spot.as_ref().map(Into::into),
            restart_policy: v1::RestartPolicy::from(spec.restart_policy).into(),
            stop_timeout_ms: spec.stop_timeout_ms,
            deletion_protection: spec.deletion_protection,
            labels: spec.labels.clone(),
            preferences: (spec.preferences != Preferences::default())
                .then(|| (&spec.preferences).into()),
        }
    }
}

impl TryFrom<v1::InstanceSpec> for InstanceSpec {
    type Error = DomainError;

    fn try_from(message: v1::InstanceSpec) -> Result<Self, DomainError> {
        let boot = required("boot_volume", message.boot_volume)?;
        Ok(Self {
            flavor: message.flavor,
            flavor_fallback: message.flavor_fallback,
            image: message.image,
            placement: message
                .placement
                .unwrap_or_default()
                .try_into()
                .map_err(|error: DomainError| error.below("placement"))?,
            preferences: message
                .preferences
                .unwrap_or_default()
                .try_into()
                .map_err(|error: DomainError| error.below("placement"))?,
            boot_volume: BootVolumeSpec {
                size: Gib(boot.size_gib),
                class: boot.class,
                delete_with_instance: boot.delete_with_instance,
            },
            volumes: attachments(&message.volumes)?,
            user_data: message.user_data,
            on_user_data_change: user_data_change(message.on_user_data_change)?,
            ssh_keys: message.ssh_keys.into_iter().collect(),
            power: power(message.power_state)?,
            schedule: schedule(message.schedule)?,
            spot: message.spot.map(TryInto::try_into).transpose()?,
            restart_policy: restart_policy(message.restart_policy)?,
            stop_timeout_ms: match message.stop_timeout_ms {
                0 => DEFAULT_STOP_TIMEOUT_MS,
                given => given,
            },
            deletion_protection: message.deletion_protection,
            labels: message.labels,
            name: message.name,
        })
    }
}

fn attachments(
    message: &BTreeMap<String, v1::VolumeAttachment>,
) -> Result<BTreeMap<String, Attachment>, DomainError> {
    message
        .iter()
        .map(|(name, attachment)| {
            let path = format!("volumes[{name:?}].volume_id");
            let volume_id = id(&path, &attachment.volume_id)?;
            Ok((name.clone(), Attachment { volume_id, read_only: attachment.read_only }))
        })
        .collect()
}

impl From<&Attachment> for v1::VolumeAttachment {
    fn from(attachment: &Attachment) -> Self {
        Self { volume_id: attachment.volume_id.to_string(), read_only: attachment.read_only }
    }
}

fn schedule(windows: Vec<v1::ScheduleWindow>) -> Result<Option<Schedule>, DomainError> {
    if windows.is_empty() {
        return Ok(None);
    }
    let windows = windows
        .into_iter()
        .enumerate()
        .map(|(index, window)| {
            Window::try_from(window).map_err(|error| error.below(&format!("schedule[{index}]")))
        })
        .collect::<Result<_, _>>()?;
    Ok(Some(Schedule { windows }))
}

impl From<&Window> for v1::ScheduleWindow {
    fn from(window: &Window) -> Self {
        Self {
            timezone: window.timezone.clone(),
            start_minute: u32::from(window.start_minute),
            stop_minute: u32::from(window.stop_minute),
            days: window.days.iter().map(|day| v1::Weekday::from(*day).into()).collect(),
        }
    }
}

impl TryFrom<v1::ScheduleWindow> for Window {
    type Error = DomainError;

    fn try_from(message: v1::ScheduleWindow) -> Result<Self, DomainError> {
        let minute = |field: &str, value: u32| {
            u16::try_from(value)
                .map_err(|_| DomainError::invalid(field, "a time is 00:00 to 23:59"))
        };
        Ok(Self {
            start_minute: minute("start", message.start_minute)?,
            stop_minute: minute("stop", message.stop_minute)?,
            days: message.days.iter().map(|day| weekday(*day)).collect::<Result<_, _>>()?,
            timezone: message.timezone,
        })
    }
}

fn weekday(value: i32) -> Result<Weekday, DomainError> {
    Ok(match known("days", v1::Weekday::try_from(value))? {
        v1::Weekday::Unspecified => {
            return Err(DomainError::invalid("days", "a day is missing, and has to be given"));
        }
        v1::Weekday::Mon => Weekday::Mon,
        v1::Weekday::Tue => Weekday::Tue,
        v1::Weekday::Wed => Weekday::Wed,
        v1::Weekday::Thu => Weekday::Thu,
        v1::Weekday::Fri => Weekday::Fri,
        v1::Weekday::Sat => Weekday::Sat,
        v1::Weekday::Sun => Weekday::Sun,
    })
}

impl From<Weekday> for v1::Weekday {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Mon => Self::Mon,
            Weekday::Tue => Self::Tue,
            Weekday::Wed => Self::Wed,
            Weekday::Thu => Self::Thu,
            Weekday::Fri => Self::Fri,
            Weekday::Sat => Self::Sat,
            Weekday::Sun => Self::Sun,
        }
    }
}

impl From<&Spot> for v1::Spot {
    fn from(spot: &Spot) -> Self {
        let on_interrupt = match spot.on_interrupt {
            OnInterrupt::Stop => v1::OnInterrupt::Stop,
            OnInterrupt::Delete => v1::OnInterrupt::Delete,
        };
        Self {
            max_price_nano_eur: spot.max_price.0,
            notice_seconds: spot.notice_seconds,
            on_interrupt: on_interrupt.into(),
        }
    }
}

impl TryFrom<v1::Spot> for Spot {
    type Error = DomainError;

    fn try_from(message: v1::Spot) -> Result<Self, DomainError> {
        let on_interrupt =
            match known("spot.on_interrupt", v1::OnInterrupt::try_from(message.on_interrupt))? {
                v1::OnInterrupt::Unspecified | v1::OnInterrupt::Stop => OnInterrupt::Stop,
                v1::OnInterrupt::Delete => OnInterrupt::Delete,
            };
        Ok(Self {
            max_price: NanoEur(message.max_price_nano_eur),
            notice_seconds: message.notice_seconds,
            on_interrupt,
        })
    }
}

impl From<OnUserDataChange> for v1::OnUserDataChange {
    fn from(change: OnUserDataChange) -> Self {
        match change {
            OnUserDataChange::Ignore => Self::Ignore,
            OnUserDataChange::NextBoot => Self::NextBoot,
            OnUserDataChange::Rebuild => Self::Rebuild,
        }
    }
}

fn user_data_change(value: i32) -> Result<OnUserDataChange, DomainError> {
    use v1::OnUserDataChange as Wire;
    Ok(match known("on_user_data_change", Wire::try_from(value))? {
        Wire::Ignore => OnUserDataChange::Ignore,
        Wire::Unspecified | Wire::NextBoot => OnUserDataChange::NextBoot,
        Wire::Rebuild => OnUserDataChange::Rebuild,
    })
}

impl From<Power> for v1::PowerState {
    fn from(power: Power) -> Self {
        match power {
            Power::Running => Self::Running,
            Power::Stopped => Self::Stopped,
        }
    }
}

fn power(value: i32) -> Result<Power, DomainError> {
    Ok(match known("power_state", v1::PowerState::try_from(value))? {
        v1::PowerState::Unspecified | v1::PowerState::Running => Power::Running,
        v1::PowerState::Stopped => Power::Stopped,
    })
}

impl From<RestartPolicy> for v1::RestartPolicy {
    fn from(policy: RestartPolicy) -> Self {
        match policy {
            RestartPolicy::Always => Self::Always,
            RestartPolicy::OnHostFailure => Self::OnHostFailure,
            RestartPolicy::Never => Self::Never,
        }
    }
}

fn restart_policy(value: i32) -> Result<RestartPolicy, DomainError> {
    use v1::RestartPolicy as Wire;
    Ok(match known("restart_policy", Wire::try_from(value))? {
        Wire::Unspecified | Wire::Always => RestartPolicy::Always,
        Wire::OnHostFailure => RestartPolicy::OnHostFailure,
        Wire::Never => RestartPolicy::Never,
    })
}
