//! What hosts prove of the host standard.

use fairmazon_model::{
    DomainError,
    conformity::{Conformity, FAILED_MOST, FailedCheck, LEVEL_MOST, Proof},
};

use super::machine::text_of_host;
use crate::{host::v1 as host, v1};

impl From<&Proof> for host::Conformity {
    fn from(proof: &Proof) -> Self {
        match proof {
            Proof::Unproven { why } => Self { unproven: why.clone(), ..Self::default() },
            Proof::Proven { level, failed } => Self {
                unproven: String::new(),
                level: level.map(u32::from),
                failed: failed
                    .iter()
                    .map(|failed| host::FailedCheck {
                        check: failed.check.clone(),
                        allows: failed.allows.map(u32::from),
                        remedy: failed.remedy.clone(),
                    })
                    .collect(),
            },
        }
    }
}

impl TryFrom<host::Conformity> for Proof {
    type Error = DomainError;

    fn try_from(message: host::Conformity) -> Result<Self, DomainError> {
        if !message.unproven.is_empty() {
            return Ok(Self::Unproven { why: text_of_host(&message.unproven) });
        }
        let failed = message.failed.into_iter().take(FAILED_MOST).map(|failed| {
            Ok(FailedCheck {
                check: text_of_host(&failed.check),
                allows: level("conformity.failed.allows", failed.allows)?,
                remedy: text_of_host(&failed.remedy),
            })
        });
        Ok(Self::Proven {
            level: level("conformity.level", message.level)?,
            failed: failed.collect::<Result<_, DomainError>>()?,
        })
    }
}

fn level(field: &str, value: Option<u32>) -> Result<Option<u8>, DomainError> {
    let read = |value| u8::try_from(value).ok().filter(|level| *level <= LEVEL_MOST);
    let wrong = || DomainError::invalid(field, "a host standard level is 0 to 3");
    value.map(|value| read(value).ok_or_else(wrong)).transpose()
}

impl From<&Conformity> for v1::HostConformity {
    fn from(known: &Conformity) -> Self {
        let host::Conformity { unproven, level, failed } = (&known.proof).into();
        let failed = failed.into_iter().map(|failed| v1::FailedCheck {
            check: failed.check,
            allows: failed.allows,
            remedy: failed.remedy,
        });
        Self {
            unproven,
            level,
            failed: failed.collect(),
            failing_since_ms: known.lacks.get(&0).map_or(0, |since| since.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proven_comes_back_as_it_was() {
        let failed =
            |allows| FailedCheck { check: "no-swap".into(), allows, remedy: "`swapoff -a`".into() };
        for proof in [
            Proof::Unproven { why: "its driver runs no guests".into() },
            Proof::Proven { level: None, failed: vec![failed(None)] },
            Proof::Proven { level: Some(2), failed: vec![failed(Some(2))] },
            Proof::Proven { level: Some(3), failed: Vec::new() },
        ] {
            assert_eq!(Proof::try_from(host::Conformity::from(&proof)).unwrap(), proof);
        }
    }

    #[test]
    fn a_level_that_there_is_not_is_refused_and_what_is_too_much_is_cut() {
        let message = host::Conformity { level: Some(4), ..Default::default() };
        let error = Proof::try_from(message).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("conformity.level"));
        let failed = host::FailedCheck { allows: Some(256), ..Default::default() };
        let message = host::Conformity { failed: vec![failed], ..Default::default() };
        Proof::try_from(message).unwrap_err();
        let failed = host::FailedCheck { check: "x".repeat(5_000), ..Default::default() };
        let message = host::Conformity { failed: vec![failed; 1_000], ..Default::default() };
        let Proof::Proven { failed, .. } = Proof::try_from(message).unwrap() else { panic!() };
        assert!(failed.len() == FAILED_MOST && failed[0].check.len() < 2_000);
    }
}
