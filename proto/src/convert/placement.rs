//! Placement constraints, preferences and groups.

use fairmazon_model::{
    DomainError,
    placement::{Placement, PlacementGroup, Prefer, Preferences},
};

use super::{id, known};
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

impl From<&Preferences> for v1::Preferences {
    fn from(preferences: &Preferences) -> Self {
        Self {
            prefer: v1::Prefer::from(preferences.prefer).into(),
            near: preferences.near.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Preferences> for Preferences {
    type Error = DomainError;

    fn try_from(message: v1::Preferences) -> Result<Self, DomainError> {
        let prefer = match known("prefer", v1::Prefer::try_from(message.prefer))? {
            v1::Prefer::Unspecified | v1::Prefer::Price => Prefer::Price,
            v1::Prefer::Spread => Prefer::Spread,
            v1::Prefer::Pack => Prefer::Pack,
        };
        Ok(Self { prefer, near: Some(message.near).filter(|near| !near.is_empty()) })
    }
}

impl From<Prefer> for v1::Prefer {
    fn from(prefer: Prefer) -> Self {
        match prefer {
            Prefer::Price => Self::Price,
            Prefer::Spread => Self::Spread,
            Prefer::Pack => Self::Pack,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_survive_the_wire_and_none_are_the_usual_ones() {
        for prefer in [Prefer::Price, Prefer::Spread, Prefer::Pack] {
            for near in [None, Some("fra1".to_owned())] {
                let preferences = Preferences { prefer, near };
                let back = v1::Preferences::from(&preferences).try_into();
                assert_eq!(back, Ok(preferences));
            }
        }
        assert_eq!(v1::Preferences::default().try_into(), Ok(Preferences::default()));
        let unknown = v1::Preferences { prefer: 99, near: String::new() };
        let error = Preferences::try_from(unknown).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("prefer"));
    }
}
