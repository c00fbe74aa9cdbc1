//! Instances: what was asked ([`InstanceSpec`]), where it shall run ([`Decision`]), what was
//! last seen ([`InstanceObserved`]). Three types, never one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    id::{AccountId, HostId, InstanceId, OperationId, VolumeId},
    interruption::Interruption,
    limits,
    machine::GuestSeen,
    migration::{LaterRun, Migration},
    placement::{Placement, Preferences},
    price::NanoEur,
    schedule::Schedule,
    units::{Epoch, Gib, Revision, UnixMs},
};

/// What the customer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Name for people; not unique; changes while the machine runs.
    pub name: String,
    /// Flavor asked for first.
    pub flavor: String,
    /// Flavors to try in this order when the first has no capacity.
    #[serde(default)]
    pub flavor_fallback: Vec<String>,
    /// Image, by name or id.
    pub image: String,
    /// Constraints.
    #[serde(default)]
    pub placement: Placement,
    /// What is better among the hosts that obey the constraints.
    #[serde(default, skip_serializing_if = "Preferences::is_default")]
    pub preferences: Preferences,
    /// The volume it boots from.
    pub boot_volume: BootVolumeSpec,
    /// Attached data volumes by the customer's own name for each.
    #[serde(default)]
    pub volumes: BTreeMap<String, Attachment>,
    /// Given to the guest at first boot.
    #[serde(default)]
    pub user_data: String,
    /// What a change of the user data does.
    #[serde(default)]
    pub on_user_data_change: OnUserDataChange,
    /// Public keys that may log in.
    #[serde(default)]
    pub ssh_keys: BTreeSet<String>,
    /// Whether it shall run.
    #[serde(default)]
    pub power: Power,
    /// Working hours; outside them it is stopped.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// Cheaper capacity that may be taken back.
    #[serde(default)]
    pub spot: Option<Spot>,
    /// When it is started again by itself.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// How long a graceful stop may take before it is forced, in ms.
    pub stop_timeout_ms: u64,
    /// Refuses deletion while set.
    #[serde(default)]
    pub deletion_protection: bool,
    /// The customer's own marks.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The boot volume as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootVolumeSpec {
    /// Grows only.
    pub size: Gib,
    /// Storage class.
    pub class: String,
    /// Whether it goes with the instance, or stays as a data volume of the account.
    pub delete_with_instance: bool,
}

/// One attached volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which volume.
    pub volume_id: VolumeId,
    /// Attached without the right to write.
    #[serde(default)]
    pub read_only: bool,
}

/// Whether a machine shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It shall run (inside its working hours, where it has some).
    #[default]
    Running,
    /// It shall be off.
    Stopped,
}

/// What a change of the user data does to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUserDataChange {
    /// Nothing.
    Ignore,
    /// The guest sees it as a first boot at its next start (new cloud-init instance id).
    #[default]
    NextBoot,
    /// The boot volume is made anew; id, addresses and data volumes stay.
    Rebuild,
}

/// When a machine that stopped by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Whenever it should run and does not.
    #[default]
    Always,
    /// Only when its host restarted or lost its lease, not when the guest powered off.
    OnHostFailure,
    /// Never; the instance stays stopped until its power state is set again.
    Never,
}

/// Terms of spot capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    /// The most the customer pays for an hour of the flavor; the instance waits above it.
    pub max_price: NanoEur,
    /// Seconds between the notice and the stop (30 to 3600).
    pub notice_seconds: u32,
    /// What an interruption does.
    pub on_interrupt: OnInterrupt,
}

/// What an interruption of spot capacity does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInterrupt {
    /// The machine is stopped and started again when there is capacity.
    #[default]
    Stop,
    /// The instance is deleted.
    Delete,
}

impl InstanceSpec {
    /// Whether it is deleted when its spot capacity is taken back.
    pub fn ends_when_interrupted(&self) -> bool {
        self.spot.is_some_and(|spot| spot.on_interrupt == OnInterrupt::Delete)
            && !self.deletion_protection
    }

    /// Checks all that needs no catalogue and no other resource.
    ///
    /// # Errors
    /// `Invalid` with the path of the field.
    pub fn check(&self) -> Result<(), DomainError> {
        limits::check_name(&self.name)?;
        limits::check_labels(&self.labels)?;
        limits::check_volume_size(self.boot_volume.size.0)
            .map_err(|error| error.below("boot_volume"))?;
        self.placement.check().map_err(|error| error.below("placement"))?;
        self.preferences.check().map_err(|error| error.below("placement"))?;
        let too_many = |field: &str, most: usize| {
            DomainError::invalid(field, format!("at most {most} entries"))
        };
        if self.flavor_fallback.len() > limits::FLAVOR_FALLBACK_MAX {
            return Err(too_many("flavor_fallback", limits::FLAVOR_FALLBACK_MAX));
        }
        if self.volumes.len() > limits::ATTACHMENTS_MAX {
            return Err(too_many("volumes", limits::ATTACHMENTS_MAX));
        }
        self.check_attachments()?;
        if self.user_data.len() > limits::USER_DATA_MAX {
            return Err(DomainError::invalid(
                "user_data",
                format!(
                    "at most {} bytes, these are {}",
                    limits::USER_DATA_MAX,
                    self.user_data.len()
                ),
            ));
        }
        if self.ssh_keys.len() > limits::SSH_KEYS_MAX {
            return Err(too_many("ssh_keys", limits::SSH_KEYS_MAX));
        }
        self.ssh_keys.iter().try_for_each(|key| check_ssh_key(key))?;
        let bytes: usize = self.ssh_keys.iter().map(String::len).sum();
        if bytes > limits::SSH_KEYS_TOTAL_MAX {
            return Err(DomainError::invalid(
                "ssh_keys",
                format!(
                    "at most {} bytes in all keys together, these have {bytes}",
                    limits::SSH_KEYS_TOTAL_MAX
                ),
            )
            .advise("let a few keys in here and manage the others in the guest"));
        }
        if let Some(schedule) = &self.schedule {
            schedule.check().map_err(|error| {
                let field = error.field.clone().unwrap_or_default();
                DomainError {
                    field: Some(format!("schedule{}", field.trim_start_matches("schedule"))),
                    ..error
                }
            })?;
        }
        if let Some(spot) = &self.spot {
            if spot.max_price.0 <= 0 {
                return Err(DomainError::invalid(
                    "spot.max_price_per_hour",
                    "it has to be a price above zero",
                ));
            }
            let notice = limits::SPOT_NOTICE_SECONDS_MIN..=limits::SPOT_NOTICE_SECONDS_MAX;
            if !notice.contains(&spot.notice_seconds) {
                let (least, most) = notice.into_inner();
                return Err(DomainError::invalid(
                    "spot.notice_seconds",
                    format!("it has to be {least} to {most} seconds"),
                ));
            }
            if self.deletion_protection && spot.on_interrupt == OnInterrupt::Delete {
                return Err(DomainError::invalid(
                    "spot.on_interrupt",
                    "an instance that is protected against deletion can't be deleted when it is \
                     interrupted",
                )
                .advise("set on_interrupt to `stop`, or deletion_protection to false"));
            }
        }
        let stop_timeout = limits::STOP_TIMEOUT_MS_MIN..=limits::STOP_TIMEOUT_MS_MAX;
        if !stop_timeout.contains(&self.stop_timeout_ms) {
            let (least, most) = stop_timeout.into_inner();
            return Err(DomainError::invalid(
                "stop_timeout",
                format!("it has to be {least} to {most} ms (a second to an hour)"),
            ));
        }
        Ok(())
    }

    /// The most bytes that its host's desired set grows by with this machine, without volumes.
    pub fn specification_bytes(&self) -> u64 {
        // Ids, counters, sizes and what stands around each text.
        const REST: usize = 512;
        const REST_OF_DISK: usize = 64;
        let keys: usize = self.ssh_keys.iter().map(|key| key.len() + 8).sum();
        let disks: usize = self.volumes.keys().map(|name| name.len() + REST_OF_DISK).sum();
        (REST + self.name.len() + self.image.len() + self.user_data.len() + keys + disks) as u64
    }

    fn check_attachments(&self) -> Result<(), DomainError> {
        let mut seen = BTreeSet::new();
        for (name, attachment) in &self.volumes {
            let path = format!("volumes[{name:?}]");
            limits::check_name(name)
                .map_err(|error| DomainError { field: Some(path.clone()), ..error })?;
            if !seen.insert(attachment.volume_id) {
                return Err(DomainError::invalid(
                    path,
                    format!("{} is attached twice: name it once", attachment.volume_id),
                ));
            }
        }
        Ok(())
    }
}

/// An OpenSSH public key on one line: type, base64, optional comment.
fn check_ssh_key(key: &str) -> Result<(), DomainError> {
    let mut words = key.split_ascii_whitespace();
    let known_type = words.next().is_some_and(|kind| {
        kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-") || kind.starts_with("sk-")
    });
    let has_blob = words.next().is_some_and(|blob| {
        blob.len() >= 16 && blob.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    });
    if key.len() > limits::SSH_KEY_MAX {
        let text =
            format!("a key has at most {} bytes, one has {}", limits::SSH_KEY_MAX, key.len());
        return Err(DomainError::invalid("ssh_keys", text));
    }
    if known_type && has_blob && !key.contains(['\n', '\r']) {
        return Ok(());
    }
    Err(DomainError::invalid(
        "ssh_keys",
        "an entry has to be an OpenSSH public key on one line, as `ssh-ed25519 AAAA… name` is",
    ))
}

/// Where the instance shall run, decided by the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The host.
    pub host: HostId,
    /// Fences this run against every earlier one.
    pub epoch: Epoch,
    /// The flavor it got: its own or a fallback.
    pub flavor: String,
    /// Why this host, for the customer.
    pub reason: String,
    /// When it was decided.
    pub at: UnixMs,
    /// The spot machines whose room it gets there: its host is told of it when they are off.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<InstanceId>,
    /// Whether its host may have been told to start it: false until a machine of this run was seen
    /// there. Until then another host can be decided when this one falls silent, whatever became of
    /// its agent.
    #[serde(default = "may_run_by_default")]
    pub may_run: bool,
}

/// Decisions that were written without it had their machines started at once.
const fn may_run_by_default() -> bool {
    true
}

/// What was last seen of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceObserved {
    /// The state; `Unknown` is a value like any other.
    pub state: ObservedState,
    /// Which run was seen.
    pub epoch: Epoch,
    /// The version of the spec that the host has brought about ([`Instance::spec_version`]).
    pub spec_version: u64,
    /// What the host can't bring about of it while it is in this state, for the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The addresses that the machine has.
    pub addresses: Vec<String>,
    /// What the agent in its guest has said.
    #[serde(default, skip_serializing_if = "GuestSeen::is_silent")]
    pub guest: GuestSeen,
    /// When it was seen.
    pub at: UnixMs,
}

/// States of a machine as seen from its host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservedState {
    /// Nobody knows: not yet seen, or its host is silent.
    #[default]
    Unknown,
    /// The host has no such machine.
    Absent,
    /// It is being made or started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It is defined and off.
    Stopped,
    /// The host could not bring it about.
    Failed {
        /// Why, for the customer.
        reason: String,
    },
}

impl Default for InstanceObserved {
    fn default() -> Self {
        Self {
            state: ObservedState::Unknown,
            epoch: Epoch(0),
            spec_version: 0,
            failure: None,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
            at: UnixMs(0),
        }
    }
}

impl InstanceObserved {
    /// What its host can't bring about, whatever state it is in; none when nothing failed.
    pub fn failure(&self) -> Option<&str> {
        match &self.state {
            ObservedState::Failed { reason } => Some(reason),
            _ => self.failure.as_deref(),
        }
    }
}

/// An instance as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub account: AccountId,
    /// Desired.
    pub spec: InstanceSpec,
    /// Grows with each change of the spec that the host must bring about.
    pub spec_version: u64,
    /// Grows with each requested reboot.
    #[serde(default)]
    pub reboots: u64,
    /// Grows with each rebuild of the boot volume.
    #[serde(default)]
    pub rebuilds: u64,
    /// Grows when the guest shall take its next start for a first boot.
    #[serde(default)]
    pub first_boots: u64,
    /// The boot volume.
    pub boot_volume_id: VolumeId,
    /// It is the platform's own, and nobody's machine: its volumes, which no machine has on a host,
    /// move in it as they do with a machine that is off. It is there for one way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carrier: bool,
    /// Decided; none before the first placement.
    pub decision: Option<Decision>,
    /// Runs that were decided and never confirmed, so that other ones were decided in their place:
    /// the last of each host. One that a host has brought about all the same was confirmed by a
    /// store that was lost since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub in_vain: BTreeMap<HostId, Epoch>,
    /// A run that another host has shown, which a store has decided that was lost since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<LaterRun>,
    /// Its way to another host while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// The host that keeps room for it, as it goes there together with the machines that it has to be
    /// with; until it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<HostId>,
    /// That its spot capacity is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruption: Option<Interruption>,
    /// The operation that wants it on another host, as its own does not obey what its placement
    /// has become; until it is on one that does. An id of its own, where none waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub displaced: Option<OperationId>,
    /// The highest epoch ever decided, so that a next run always has a higher one.
    #[serde(default)]
    pub last_epoch: Epoch,
    /// Observed.
    pub observed: InstanceObserved,
    /// Why it is not placed, for the customer; empty when it is or was not tried.
    #[serde(default)]
    pub waiting_for: String,
    /// The operation that deletes it, once that was asked for.
    #[serde(default)]
    pub deleting: Option<OperationId>,
    /// Set while the creating client has not yet shown that it keeps the id.
    #[serde(default)]
    pub unconfirmed: bool,
    /// When it was asked for.
    pub created_at: UnixMs,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

impl Instance {
    /// The flavor it runs with: the decided one, or the one asked for.
    pub fn actual_flavor(&self) -> &str {
        self.decision.as_ref().map_or(&self.spec.flavor, |decision| &decision.flavor)
    }

    /// The run that another host has shown, while none was decided after it.
    pub fn later_run(&self) -> Option<LaterRun> {
        self.later.filter(|later| later.epoch > self.last_epoch)
    }

    /// The epoch of the run that is decided next: above all that are known of.
    pub fn next_epoch(&self) -> Epoch {
        self.later.map_or(self.last_epoch, |later| later.epoch.max(self.last_epoch)).next()
    }

    /// Whether the run that is decided was seen with all that its spec says.
    pub fn is_as_specified(&self) -> bool {
        let decided = self.decision.as_ref().map(|decision| decision.epoch);
        decided == Some(self.observed.epoch) && self.observed.spec_version >= self.spec_version
    }

    /// Whether it has vCPU and memory of the host that it is decided on.
    pub fn holds_room(&self) -> bool {
        self.interruption.as_ref().is_none_or(Interruption::holds_room)
    }

    /// Its interruption, as long as it has its room: its guest has time to shut down.
    pub fn notice(&self) -> Option<&Interruption> {
        self.interruption.as_ref().filter(|interruption| interruption.holds_room())
    }

    /// Whether it waits on its host until spot machines have given their room.
    pub fn waits_for_room(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| !decision.after.is_empty())
    }

    /// Its spot terms, while it may be interrupted.
    pub fn interruptible(&self) -> Option<Spot> {
        let free = self.interruption.is_none()
            && self.migration.is_none()
            && self.deleting.is_none()
            && self.decision.is_some();
        self.spec.spot.filter(|_| free)
    }

    /// Whether nothing of it is to be anywhere: it is being deleted, or it is a carrier whose way has
    /// ended.
    pub const fn goes(&self) -> bool {
        self.deleting.is_some() || self.carrier && self.migration.is_none()
    }

    /// The host beside its own that has room for it: it moves there, or will.
    pub fn comes_to(&self) -> Option<HostId> {
        self.migration.as_ref().map(|migration| migration.to).or(self.reserved)
    }

    /// Whether a volume of it is there after it.
    pub fn leaves_data(&self) -> bool {
        !self.spec.volumes.is_empty() || !self.spec.boot_volume.delete_with_instance
    }

    /// Its migration, while it may still leave the one host and come to the other.
    pub fn open_migration(&self) -> Option<&Migration> {
        self.migration.as_ref().filter(|to| !to.given_up && self.deleting.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Prefer;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            name: "web".into(),
            flavor: "small".into(),
            flavor_fallback: Vec::new(),
            image: "debian-13".into(),
            placement: Placement::default(),
            preferences: Preferences::default(),
            boot_volume: BootVolumeSpec {
                size: Gib(10),
                class: "standard".into(),
                delete_with_instance: true,
            },
            volumes: BTreeMap::new(),
            user_data: String::new(),
            on_user_data_change: OnUserDataChange::default(),
            ssh_keys: BTreeSet::new(),
            power: Power::Running,
            schedule: None,
            spot: None,
            restart_policy: RestartPolicy::default(),
            stop_timeout_ms: 60_000,
            deletion_protection: false,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn rows_without_preferences_are_read_and_written_as_they_were() {
        let old = serde_json::to_value(spec()).unwrap();
        assert!(old.get("preferences").is_none(), "{old}");
        assert_eq!(serde_json::from_value::<InstanceSpec>(old).unwrap(), spec());
        let near = Some("fra1".to_owned());
        let preferences = Preferences { prefer: Prefer::Pack, near };
        let new = InstanceSpec { preferences, ..spec() };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<InstanceSpec>(&text).unwrap(), new);
        for near in ["", "line\nbreak", &"x".repeat(1_000)] {
            let preferences = Preferences { near: Some(near.into()), ..Preferences::default() };
            let error = InstanceSpec { preferences, ..spec() }.check().unwrap_err();
            assert_eq!(error.field.as_deref(), Some("placement.near"));
        }
    }

    #[test]
    fn keys_are_bounded_one_by_one_and_together() {
        let mut spec = spec();
        let key = |number: u8| {
            let start = format!("ssh-rsa {number}");
            format!("{start:A<width$}", width = limits::SSH_KEY_MAX)
        };
        spec.ssh_keys = (0..4).map(key).collect();
        spec.check().unwrap();
        assert!(spec.specification_bytes() > limits::SSH_KEYS_TOTAL_MAX as u64);
        spec.ssh_keys = (0..5).map(key).collect();
        assert_eq!(spec.check().unwrap_err().field.as_deref(), Some("ssh_keys"));
    }
}
