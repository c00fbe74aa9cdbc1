//! The model of `fairmazon_instance`, and the spec that it means.

use std::collections::BTreeMap;

use fairmazon_model::{
    DomainError,
    instance::{
        Attachment, BootVolumeSpec, InstanceSpec, OnInterrupt, OnUserDataChange, Power,
        RestartPolicy, Spot,
    },
    price::NanoEur,
    schedule::{self, Schedule, Weekday, Window},
    units::Gib,
};
use serde::{Deserialize, Serialize};
use tfplugin::Attr;

use super::{
    placement::{self, MachinePlacementModel},
    schema,
};
use crate::resources::shared::{
    labels::{self, Labels},
    reader::{Reader, find_word},
    timeouts::TimeoutsModel,
};

/// What a changed image does; the first is the default. Whether the broker may rebuild.
pub(super) const ON_IMAGE_CHANGE: [(&str, bool); 2] = [("replace", false), ("rebuild", true)];
/// What changed user data does. A replaced machine has its user data from the start.
pub(super) const ON_USER_DATA_CHANGE: [(&str, OnUserDataChange); 4] = [
    ("next_boot", OnUserDataChange::NextBoot),
    ("ignore", OnUserDataChange::Ignore),
    ("rebuild", OnUserDataChange::Rebuild),
    ("replace", OnUserDataChange::NextBoot),
];
pub(super) const POWER: [(&str, Power); 2] =
    [("running", Power::Running), ("stopped", Power::Stopped)];
pub(super) const RESTART: [(&str, RestartPolicy); 3] = [
    ("always", RestartPolicy::Always),
    ("on_host_failure", RestartPolicy::OnHostFailure),
    ("never", RestartPolicy::Never),
];
pub(super) const ON_INTERRUPT: [(&str, OnInterrupt); 2] =
    [("stop", OnInterrupt::Stop), ("delete", OnInterrupt::Delete)];
pub(super) const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];
/// Seconds between notice and interruption where nothing is set.
const NOTICE_SECONDS: u32 = 120;
/// Milliseconds of a graceful stop where nothing is set.
const STOP_TIMEOUT_MS: u64 = 60_000;
/// Size of the boot volume where neither the user nor the image says more.
pub(super) const BOOT_GIB: u64 = 10;

/// The resource, one field an attribute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the schema describes each attribute")]
pub struct InstanceModel {
    pub id: Attr<String>,
    pub name: Attr<String>,
    pub created_at: Attr<String>,
    pub flavor: Attr<String>,
    pub flavor_fallback: Attr<Vec<Attr<String>>>,
    pub actual_flavor: Attr<String>,
    pub image: Attr<String>,
    pub on_image_change: Attr<String>,
    pub placement: Attr<MachinePlacementModel>,
    pub boot_volume: Attr<BootVolumeModel>,
    pub boot_volume_id: Attr<String>,
    pub volumes: Attr<BTreeMap<String, Attr<AttachmentModel>>>,
    pub user_data: Attr<String>,
    pub user_data_sha256: Attr<String>,
    pub on_user_data_change: Attr<String>,
    pub ssh_keys: Attr<Vec<Attr<String>>>,
    pub power_state: Attr<String>,
    pub stop_timeout: Attr<String>,
    pub schedule: Attr<Vec<Attr<WindowModel>>>,
    pub spot: Attr<SpotModel>,
    pub restart_policy: Attr<String>,
    pub deletion_protection: Attr<bool>,
    pub reboot_trigger: Attr<String>,
    pub wait_for: Attr<Vec<Attr<String>>>,
    pub labels: Labels,
    pub effective_labels: Labels,
    pub timeouts: Attr<TimeoutsModel>,
    pub state: Attr<String>,
    pub interruption_at: Attr<String>,
    pub site: Attr<String>,
    pub country: Attr<String>,
    pub placement_reason: Attr<String>,
    pub addresses: Attr<Vec<String>>,
    pub lease_epoch: Attr<u64>,
    pub price_per_hour: Attr<String>,
    pub price_per_month: Attr<String>,
    pub monthly_saving: Attr<String>,
}

/// The volume it boots from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BootVolumeModel {
    pub size_gib: Attr<u64>,
    pub class: Attr<String>,
    pub delete_with_instance: Attr<bool>,
}

/// One attached volume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AttachmentModel {
    pub volume_id: Attr<String>,
    pub read_only: Attr<bool>,
}

/// One stretch of working hours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WindowModel {
    pub timezone: Attr<String>,
    pub start: Attr<String>,
    pub stop: Attr<String>,
    pub days: Attr<Vec<Attr<String>>>,
}

/// Terms of spot capacity.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SpotModel {
    pub max_price_per_hour: Attr<String>,
    pub notice_seconds: Attr<u32>,
    pub on_interrupt: Attr<String>,
}

impl InstanceModel {
    /// The spec that the attributes mean. Where a value is not known yet that of `base` stands
    /// in, or one that no check objects to.
    ///
    /// # Errors
    /// When a value has not the form it must have, with its path.
    pub(super) fn read(&self, base: Option<&InstanceSpec>) -> Result<InstanceSpec, DomainError> {
        let mut reader = Reader::default();
        let r = &mut reader;
        let stand_in = |pick: fn(&InstanceSpec) -> &String| {
            base.map_or_else(|| "unknown".to_owned(), |base| pick(base).clone())
        };
        let on_change = r.word(
            "on_user_data_change",
            &self.on_user_data_change,
            &ON_USER_DATA_CHANGE,
            OnUserDataChange::NextBoot,
            base.map_or_else(OnUserDataChange::default, |base| base.on_user_data_change),
        )?;
        let mut labels_known = true;
        let own = labels::known(&self.labels, &mut labels_known)?;
        let all = labels::known(&self.effective_labels, &mut labels_known)?;
        let (placement, preferences) = placement::read(&self.placement, r)?;
        let mut spec = InstanceSpec {
            name: r.value(&self.name, String::new(), stand_in(|base| &base.name)),
            flavor: r.value(&self.flavor, String::new(), stand_in(|base| &base.flavor)),
            flavor_fallback: r.elements("flavor_fallback", &self.flavor_fallback)?,
            image: r.value(&self.image, String::new(), stand_in(|base| &base.image)),
            placement,
            preferences,
            boot_volume: self.boot_volume(base, r),
            volumes: self.attachments(r)?,
            user_data: r.value(
                &self.user_data,
                String::new(),
                base.map_or_else(String::new, |base| base.user_data.clone()),
            ),
            on_user_data_change: on_change,
            ssh_keys: r.elements("ssh_keys", &self.ssh_keys)?.into_iter().collect(),
            power: r.word(
                "power_state",
                &self.power_state,
                &POWER,
                Power::Running,
                base.map_or_else(Power::default, |base| base.power),
            )?,
            schedule: self.schedule(r)?,
            spot: self.spot(r)?,
            restart_policy: r.word(
                "restart_policy",
                &self.restart_policy,
                &RESTART,
                RestartPolicy::Always,
                RestartPolicy::Always,
            )?,
            stop_timeout_ms: self.stop_timeout(r)?,
            deletion_protection: r.value(&self.deletion_protection, false, false),
            labels: if all.is_empty() { own } else { all },
        };
        if let Some(base) = base {
            self.fill_unknown(&mut spec, base);
        }
        Ok(spec)
    }

    /// Whole collections that are not known yet are as they were, so that nothing seems to
    /// change.
    fn fill_unknown(&self, spec: &mut InstanceSpec, base: &InstanceSpec) {
        if self.effective_labels.is_unknown() {
            spec.labels.clone_from(&base.labels);
        }
        if self.volumes.is_unknown() {
            spec.volumes.clone_from(&base.volumes);
        }
        if self.ssh_keys.is_unknown() {
            spec.ssh_keys.clone_from(&base.ssh_keys);
        }
        if self.schedule.is_unknown() {
            spec.schedule.clone_from(&base.schedule);
        }
        if self.placement.is_unknown() {
            spec.placement.clone_from(&base.placement);
            spec.preferences.clone_from(&base.preferences);
        }
        if self.spot.is_unknown() {
            spec.spot = base.spot;
        }
    }

    fn boot_volume(&self, base: Option<&InstanceSpec>, r: &mut Reader) -> BootVolumeSpec {
        let stand_in = base.map(|base| base.boot_volume.clone()).unwrap_or(BootVolumeSpec {
            size: Gib(BOOT_GIB),
            class: "standard".to_owned(),
            delete_with_instance: true,
        });
        let Some(model) = r.object(&self.boot_volume) else { return stand_in };
        BootVolumeSpec {
            size: Gib(r.value(&model.size_gib, stand_in.size.0, stand_in.size.0)),
            class: r.value(&model.class, "standard".to_owned(), stand_in.class),
            delete_with_instance: r.value(
                &model.delete_with_instance,
                true,
                stand_in.delete_with_instance,
            ),
        }
    }

    fn attachments(&self, r: &mut Reader) -> Result<BTreeMap<String, Attachment>, DomainError> {
        let Some(models) = r.object(&self.volumes) else { return Ok(BTreeMap::new()) };
        let mut found = BTreeMap::new();
        for (name, model) in models {
            let path = format!("volumes[{name:?}]");
            let Some(model) = r.object(model) else { continue };
            let read_only = r.value(&model.read_only, false, false);
            let Some(id) = r.object(&model.volume_id) else { continue };
            let volume_id = id.parse().map_err(|error: fairmazon_model::id::InvalidId| {
                DomainError::invalid(format!("{path}.volume_id"), error.to_string())
            })?;
            found.insert(name.clone(), Attachment { volume_id, read_only });
        }
        Ok(found)
    }

    fn schedule(&self, r: &mut Reader) -> Result<Option<Schedule>, DomainError> {
        let Some(models) = r.object(&self.schedule) else { return Ok(None) };
        let mut windows = Vec::with_capacity(models.len());
        for (index, model) in models.iter().enumerate() {
            let Some(model) = r.object(model) else { continue };
            let place = format!("schedule[{index}]");
            if let Some(window) = model.read(r).map_err(|error| error.below(&place))? {
                windows.push(window);
            }
        }
        Ok((!windows.is_empty()).then_some(Schedule { windows }))
    }

    fn spot(&self, r: &mut Reader) -> Result<Option<Spot>, DomainError> {
        let Some(model) = r.object(&self.spot) else { return Ok(None) };
        let on_interrupt = r.word(
            "spot.on_interrupt",
            &model.on_interrupt,
            &ON_INTERRUPT,
            OnInterrupt::Stop,
            OnInterrupt::Stop,
        )?;
        let notice_seconds = r.value(&model.notice_seconds, NOTICE_SECONDS, NOTICE_SECONDS);
        let max_price = match r.object(&model.max_price_per_hour) {
            Some(text) => text.parse().map_err(|error: DomainError| DomainError {
                field: Some("spot.max_price_per_hour".to_owned()),
                ..error
            })?,
            None => NanoEur(1),
        };
        Ok(Some(Spot { max_price, notice_seconds, on_interrupt }))
    }

    fn stop_timeout(&self, r: &mut Reader) -> Result<u64, DomainError> {
        let Some(text) = r.object(&self.stop_timeout) else { return Ok(STOP_TIMEOUT_MS) };
        let duration = schema::stop_timeout(text).map_err(|reason| {
            let must = schema::STOP_TIMEOUT;
            DomainError::invalid("stop_timeout", format!("it must be {must}, but {reason}"))
        })?;
        Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether the machine is asked to be off.
    pub(super) fn shall_be_off(&self) -> bool {
        self.power_state.get().map(String::as_str) == Some("stopped")
    }

    /// Whether a changed image may be brought about in place.
    pub(super) fn rebuilds(&self) -> bool {
        let Attr::Value(word) = &self.on_image_change else { return false };
        find_word("on_image_change", word, &ON_IMAGE_CHANGE).unwrap_or(false)
    }
}

impl WindowModel {
    /// The window; nothing while a part of it is not known yet.
    fn read(&self, r: &mut Reader) -> Result<Option<Window>, DomainError> {
        let time = |field: &str, text: &str| {
            schedule::parse_time(text)
                .map_err(|error| DomainError { field: Some(field.to_owned()), ..error })
        };
        let mut days_reader = Reader::default();
        let days = days_reader
            .elements("days", &self.days)?
            .iter()
            .map(|day| find_word("days", day, &DAYS))
            .collect::<Result<_, _>>()?;
        let start = r.object(&self.start).map(|text| time("start", text)).transpose()?;
        let stop = r.object(&self.stop).map(|text| time("stop", text)).transpose()?;
        let timezone = r.object(&self.timezone).cloned();
        if !days_reader.is_complete() {
            r.note_unknown();
            return Ok(None);
        }
        Ok(match (timezone, start, stop) {
            (Some(timezone), Some(start_minute), Some(stop_minute)) => {
                Some(Window { timezone, start_minute, stop_minute, days })
            }
            _ => None,
        })
    }
}
