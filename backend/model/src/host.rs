//! Provider hosts: what an operator offers and what the broker knows of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    conformity::{Conformity, LEVEL_MOST, UnprovenHosts, level_that_counts},
    id::{AccountId, HostId},
    key::HostSealing,
    limits,
    site::Site,
    units::{Gib, Mib, Revision, UnixMs, Vcpus},
};

/// What a host has to give.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Hardware threads.
    pub vcpus: Vcpus,
    /// Memory for guests.
    pub memory: Mib,
    /// Disk for guests by storage class.
    pub storage: BTreeMap<String, Gib>,
}

/// A host as its operator offers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Name for people; unique per account.
    pub name: String,
    /// Where it stands.
    pub site: Site,
    /// What it has.
    pub capacity: Capacity,
    /// How many vCPU are sold for each hardware thread, in percent (100 to 1600).
    pub cpu_overcommit_percent: u32,
    /// How much memory is sold for what it has, in percent (100 to 200). What is above 100 is for
    /// spot machines, and counts while the host's agent can take memory back from them.
    #[serde(default = "not_overcommitted")]
    pub memory_overcommit_percent: u32,
    /// Host standard level (0 to 3).
    pub conformity: u8,
    /// What it can do (`confidential`, …).
    pub features: BTreeSet<String>,
    /// Price against the catalogue's, in percent; a preference of the scheduler.
    pub price_percent: u32,
    /// Whether new machines may be placed on it.
    pub schedulable: bool,
}

/// Of a host that was registered before memory could be overcommitted.
const fn not_overcommitted() -> u32 {
    100
}

impl HostSpec {
    /// The memory that machines may have in all. `reclaims`: whether the host's agent can take
    /// memory back from spot machines now; only then it is more than what there is.
    pub fn memory_sold(&self, reclaims: bool) -> Mib {
        let percent = if reclaims { self.memory_overcommit_percent } else { 100 };
        Mib(self.capacity.memory.0.saturating_mul(percent.into()) / 100)
    }

    /// Checks forms and sizes.
    ///
    /// # Errors
    /// `Invalid` with the path of the field.
    pub fn check(&self) -> Result<(), DomainError> {
        limits::check_name(&self.name)?;
        limits::check_name(&self.site.name).map_err(|error| error.below("site"))?;
        let country = &self.site.country;
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(DomainError::invalid(
                "site.country",
                "it has to be two capital letters as in `DE`",
            ));
        }
        if !limits::is_word(&self.site.region) {
            return Err(DomainError::invalid(
                "site.region",
                format!(
                    "a region has 1 to {} small letters, digits and `-`, as `eu-central` has, or \
                     nobody could ask for it",
                    limits::WORD_MAX
                ),
            ));
        }
        let town = &self.site.town;
        if town.chars().count() > limits::NAME_MAX || town.chars().any(char::is_control) {
            return Err(DomainError::invalid(
                "site.town",
                format!("at most {} characters on one line", limits::NAME_MAX),
            ));
        }
        if self.features.len() > limits::FEATURES_MAX {
            let text = format!("at most {} features", limits::FEATURES_MAX);
            return Err(DomainError::invalid("features", text));
        }
        if !self.features.iter().all(|feature| limits::is_word(feature)) {
            return Err(DomainError::invalid(
                "features",
                format!(
                    "each has 1 to {} small letters, digits and `-`, as `confidential` has",
                    limits::WORD_MAX
                ),
            ));
        }
        percent(
            "cpu_overcommit_percent",
            self.cpu_overcommit_percent,
            limits::OVERCOMMIT_PERCENT_MIN..=limits::CPU_OVERCOMMIT_PERCENT_MAX,
        )?;
        percent(
            "memory_overcommit_percent",
            self.memory_overcommit_percent,
            limits::OVERCOMMIT_PERCENT_MIN..=limits::MEMORY_OVERCOMMIT_PERCENT_MAX,
        )?;
        if self.conformity > LEVEL_MOST {
            return Err(DomainError::invalid("conformity", "it has to be 0 to 3"));
        }
        if self.capacity.vcpus.0 == 0 || self.capacity.memory.0 == 0 {
            return Err(DomainError::invalid(
                "capacity",
                "a host must have at least one vCPU and some memory",
            ));
        }
        percent(
            "price_percent",
            self.price_percent,
            limits::PRICE_PERCENT_MIN..=limits::PRICE_PERCENT_MAX,
        )
    }
}

fn percent(field: &str, value: u32, bounds: RangeInclusive<u32>) -> Result<(), DomainError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = bounds.into_inner();
    Err(DomainError::invalid(field, format!("it has to be {least} to {most} percent, not {value}")))
}

/// That a host is being emptied: it takes nothing new, and what runs on it moves to other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Since when.
    pub since: UnixMs,
    /// Until when machines are moved; what is left then stays.
    pub deadline: UnixMs,
    /// Who wants it.
    #[serde(default)]
    pub cause: DrainCause,
    /// The deadline of what its operator had begun, which was over when the platform began: it is
    /// its operator's again once the host conforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<UnixMs>,
}

impl Draining {
    /// Whether the platform may begin to empty the host: what its operator began moves nothing any
    /// more.
    pub fn leaves_it_to_the_platform(&self, now: UnixMs) -> bool {
        self.cause == DrainCause::Operator && self.deadline <= now
    }
}

/// Who wants a host to be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainCause {
    /// Its operator, who alone ends it.
    #[default]
    Operator,
    /// The platform, as it does not conform to the host standard: it ends when it does again.
    Standard,
}

/// A host as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Whose it is.
    pub account: AccountId,
    /// As offered.
    pub spec: HostSpec,
    /// What volume keys are sealed to for it; none until it has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<HostSealing>,
    /// Set while it is being emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// What it proves of the host standard; none until it has said anything of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformity: Option<Conformity>,
    /// When its operator said that it is lost for good, with all that is on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<UnixMs>,
    /// When it was joined.
    pub created_at: UnixMs,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

impl Host {
    /// The host standard level that counts for placement; none when it takes nothing new.
    pub fn level(&self, unproven: UnprovenHosts) -> Option<u8> {
        level_that_counts(self.spec.conformity, self.conformity.as_ref(), unproven)
    }

    /// Why it is being emptied, for its operator; none when it is not.
    pub fn drain_reason(&self) -> Option<String> {
        match self.draining?.cause {
            DrainCause::Operator => Some("its operator asked for it".into()),
            DrainCause::Standard => Some(
                self.failing().unwrap_or_else(|| "it did not conform to the host standard".into()),
            ),
        }
    }

    /// That it does not conform to the host standard, with what fails; none when it was not seen
    /// so.
    pub fn failing(&self) -> Option<String> {
        let known = self.conformity.as_ref().filter(|known| known.fails())?;
        let failed: Vec<_> = known.failed_for(0).map(|failed| failed.check.as_str()).collect();
        Some(format!("it does not conform to the host standard: {}", failed.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::Coordinates;

    #[test]
    fn what_nobody_could_ask_for_and_what_is_too_long_is_refused() {
        let good = HostSpec {
            name: "host".into(),
            site: Site {
                name: "fra1".into(),
                town: "Frankfurt am Main".into(),
                country: "DE".into(),
                region: "eu-central".into(),
                coordinates: Coordinates { latitude: 50.1, longitude: 8.7 },
            },
            capacity: Capacity { vcpus: Vcpus(1), memory: Mib(1), storage: BTreeMap::new() },
            cpu_overcommit_percent: 100,
            memory_overcommit_percent: 100,
            conformity: 0,
            features: ["confidential".to_owned()].into(),
            price_percent: 100,
            schedulable: true,
        };
        good.check().unwrap();
        let changed = |change: &dyn Fn(&mut HostSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec.check().unwrap_err().field.unwrap()
        };
        assert_eq!(changed(&|spec| spec.site.region = "EU Central".into()), "site.region");
        assert_eq!(changed(&|spec| spec.site.region = String::new()), "site.region");
        assert_eq!(changed(&|spec| spec.site.town = "x".repeat(64)), "site.town");
        assert_eq!(changed(&|spec| spec.site.town = "a\u{1b}b".into()), "site.town");
        assert_eq!(changed(&|spec| spec.features = ["A b".to_owned()].into()), "features");
        let many = |spec: &mut HostSpec| spec.features = (0..33).map(|n| n.to_string()).collect();
        assert_eq!(changed(&many), "features");
        for percent in [0, 99, 201] {
            let field = changed(&|spec| spec.memory_overcommit_percent = percent);
            assert_eq!(field, "memory_overcommit_percent", "{percent}");
        }
        for percent in [100, 150, 200] {
            HostSpec { memory_overcommit_percent: percent, ..good.clone() }.check().unwrap();
        }
    }

    #[test]
    fn memory_is_sold_twice_only_where_it_can_be_taken_back() {
        let text = r#"{"name":"h","site":{"name":"s","town":"T","country":"DE","region":"r",
            "coordinates":{"latitude":0.0,"longitude":0.0}},
            "capacity":{"vcpus":1,"memory":1000,"storage":{}},"cpu_overcommit_percent":100,
            "conformity":0,"features":[],"price_percent":100,"schedulable":true}"#;
        let mut spec: HostSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.memory_sold(true), Mib(1_000), "as it was stored before");
        spec.memory_overcommit_percent = 150;
        assert_eq!((spec.memory_sold(true), spec.memory_sold(false)), (Mib(1_500), Mib(1_000)));
    }
}
