//! Placement: constraints, each of which holds on every move, and preferences among the hosts that
//! obey them. The host is never named.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    DomainError,
    conformity::LEVEL_MOST,
    id::PlacementGroupId,
    limits,
    units::{Revision, UnixMs},
};

/// Where something may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// ISO 3166-1 alpha-2, upper case; empty means any.
    pub countries: BTreeSet<String>,
    /// Regions of the platform; empty means any.
    pub regions: BTreeSet<String>,
    /// Never on a host with a machine of one of these groups; the machine joins each of them.
    pub not_with: BTreeSet<PlacementGroupId>,
    /// On the host that the groups' machines are on; the machine joins each of them.
    pub with: BTreeSet<PlacementGroupId>,
    /// The lowest host standard level that will do (0 to 3; 0 means any).
    pub min_conformity: u8,
    /// Only on hosts with SEV-SNP or TDX.
    pub confidential: bool,
}

impl Placement {
    /// Checks forms and sizes; whether the groups exist is the broker's to check.
    ///
    /// # Errors
    /// `Invalid` with the path of the field (`countries`, `min_conformity`, …).
    pub fn check(&self) -> Result<(), DomainError> {
        for country in &self.countries {
            if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
                return Err(DomainError::invalid(
                    "countries",
                    format!(
                        "`{}` is not a country: it has to be two capital letters as in `DE`",
                        country.escape_debug()
                    ),
                ));
            }
        }
        for region in &self.regions {
            if !limits::is_word(region) {
                return Err(DomainError::invalid(
                    "regions",
                    format!(
                        "`{}` is not a region: 1 to {} small letters, digits and `-`, as in \
                         `eu-central`",
                        region.escape_debug(),
                        limits::WORD_MAX
                    ),
                ));
            }
        }
        let sizes = [
            ("countries", self.countries.len()),
            ("regions", self.regions.len()),
            ("not_with", self.not_with.len()),
            ("with", self.with.len()),
        ];
        for (field, size) in sizes {
            if size > limits::PLACEMENT_LIST_MAX {
                return Err(DomainError::invalid(
                    field,
                    format!("at most {} entries", limits::PLACEMENT_LIST_MAX),
                ));
            }
        }
        if let Some(both) = self.with.intersection(&self.not_with).next() {
            return Err(DomainError::invalid(
                "not_with",
                format!("{both} has to be in one of `with` and `not_with`"),
            ));
        }
        if self.min_conformity > LEVEL_MOST {
            return Err(DomainError::invalid("min_conformity", "a host standard level is 0 to 3"));
        }
        Ok(())
    }

    /// Whether every host that obeys `old` obeys this one, too: nothing that is placed under `old`
    /// has to move for this one.
    pub fn loosens(&self, old: &Self) -> bool {
        let wider = |new: &BTreeSet<String>, old: &BTreeSet<String>| {
            new.is_empty() || !old.is_empty() && new.is_superset(old)
        };
        wider(&self.countries, &old.countries)
            && wider(&self.regions, &old.regions)
            && self.not_with.is_subset(&old.not_with)
            && self.with.is_subset(&old.with)
            && self.min_conformity <= old.min_conformity
            && self.confidential <= old.confidential
    }

    /// Whether a machine of this placement belongs to the group.
    pub fn names(&self, group: PlacementGroupId) -> bool {
        self.with.contains(&group) || self.not_with.contains(&group)
    }
}

/// What is better among the hosts that will do. Preferences refuse nothing and move nothing: they
/// count whenever a host is chosen anyway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Preferences {
    /// What is weighed most.
    pub prefer: Prefer,
    /// Name of a site or a region of the platform to be close to; before all else.
    pub near: Option<String>,
}

/// What is weighed most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The cheapest host, then the emptiest.
    #[default]
    Price,
    /// The emptiest host, then the cheapest: load and failures spread.
    Spread,
    /// The fullest host that has room, then the cheapest: whole hosts stay free.
    Pack,
}

impl Preferences {
    /// Whether nothing in particular is preferred.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks forms; whether there is such a site or region is the broker's to check.
    ///
    /// # Errors
    /// `Invalid` with the field `near`.
    pub fn check(&self) -> Result<(), DomainError> {
        let Some(near) = &self.near else { return Ok(()) };
        limits::check_name(near).map_err(|error| DomainError {
            field: Some("near".into()),
            message: format!("this is no name of a site or a region: {}", error.message),
            ..error
        })
    }
}

/// A name that machines gather around (`with`) or keep apart by (`not_with`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementGroup {
    /// Its id.
    pub id: PlacementGroupId,
    /// Whose it is.
    pub account: crate::id::AccountId,
    /// For people.
    pub name: String,
    /// The customer's own marks.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Set while the creating client has not yet shown that it keeps the id.
    #[serde(default)]
    pub unconfirmed: bool,
    /// When it was made.
    pub created_at: UnixMs,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    /// What a host has that constraints ask for: groups are those of its machines.
    #[derive(Debug)]
    struct Place {
        country: String,
        region: String,
        groups: BTreeSet<PlacementGroupId>,
        level: u8,
        confidential: bool,
    }

    impl Place {
        fn obeys(&self, wanted: &Placement) -> bool {
            let among = |set: &BTreeSet<String>, it| set.is_empty() || set.contains(it);
            among(&wanted.countries, &self.country)
                && among(&wanted.regions, &self.region)
                && wanted.not_with.is_disjoint(&self.groups)
                && wanted.with.is_subset(&self.groups)
                && wanted.min_conformity <= self.level
                && (self.confidential || !wanted.confidential)
        }
    }

    fn word() -> impl Strategy<Value = String> {
        "[AB]"
    }

    fn groups() -> impl Strategy<Value = BTreeSet<PlacementGroupId>> {
        btree_set((1..3_u64).prop_map(|n| PlacementGroupId::from_parts(1, n.into())), 0..2)
    }

    prop_compose! {
        fn placement()(
            countries in btree_set(word(), 0..3),
            regions in btree_set(word(), 0..3),
            not_with in groups(),
            with in groups(),
            min_conformity in 0..3_u8,
            confidential: bool,
        ) -> Placement {
            Placement { countries, regions, not_with, with, min_conformity, confidential }
        }
    }

    prop_compose! {
        fn place()(
            country in word(), region in word(), groups in groups(), level in 0..3_u8,
            confidential: bool,
        ) -> Place {
            Place { country, region, groups, level, confidential }
        }
    }

    proptest! {
        #[test]
        fn what_obeys_a_placement_obeys_one_that_loosens_it(
            old in placement(), new in placement(), place in place(),
        ) {
            prop_assert!(new.loosens(&new));
            prop_assert!(Placement::default().loosens(&old));
            if new.loosens(&old) && place.obeys(&old) {
                prop_assert!(place.obeys(&new));
            }
        }

        #[test]
        fn each_constraint_that_is_new_or_narrower_loosens_nothing(old in placement()) {
            let narrower = [
                Placement { countries: ["C".to_owned()].into(), ..old.clone() },
                Placement { regions: ["C".to_owned()].into(), ..old.clone() },
                Placement { not_with: [PlacementGroupId::from_parts(1, 9)].into(), ..old.clone() },
                Placement { with: [PlacementGroupId::from_parts(1, 9)].into(), ..old.clone() },
                Placement { min_conformity: old.min_conformity + 1, ..old.clone() },
            ];
            for new in narrower {
                prop_assert!(!new.loosens(&old));
            }
            let confidential = Placement { confidential: true, ..old.clone() };
            prop_assert_eq!(confidential.loosens(&old), old.confidential);
        }
    }
}
