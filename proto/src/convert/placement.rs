//! Placement constraints and groups.

use fairmazon_model::{
    DomainError,
    placement::{Placement, PlacementGroup},
};

use super::id;
use crate::v1;

impl From<&Placement> for v1::Placement {
    fn from(placement: &Placement) -> Self {
        Self {
            countries: placement.countries.iter().cloned().collect(),
            regions: placement.regions.iter().cloned().collect(),
            not_with: placement.not_with.iter().map(ToString::to_string).collect(),
            with: placement.with.iter().map(ToString::to_string).collect(),
            min_conformity: u32::from(placement.min_conformity),
            confidential: placement.confidential,
        }
    }
}

impl TryFrom<v1::Placement> for Placement {
    type Error = DomainError;

    fn try_from(message: v1::Placement) -> Result<Self, DomainError> {
        Ok(Self {
            countries: message.countries.into_iter().collect(),
            regions: message.regions.into_iter().collect(),
            not_with: message
                .not_with
                .iter()
                .map(|text| id("not_with", text))
                .collect::<Result<_, _>>()?,
            with: message.with.iter().map(|text| id("with", text)).collect::<Result<_, _>>()?,
            min_conformity: u8::try_from(message.min_conformity).map_err(|_| {
                DomainError::invalid("min_conformity", "a host standard level is 0 to 3")
            })?,
            confidential: message.confidential,
        })
    }
}

impl From<&PlacementGroup> for v1::PlacementGroup {
    fn from(group: &PlacementGroup) -> Self {
        Self {
            id: group.id.to_string(),
            account_id: group.account.to_string(),
            revision: group.revision.0,
            name: group.name.clone(),
            labels: group.labels.clone(),
            created_at_ms: group.created_at.0,
        }
    }
}
