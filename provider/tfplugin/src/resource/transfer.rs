//! States that come from elsewhere: imports, older versions, other types.

use serde_json::Value as Json;

use crate::{Diagnostics, Value};

/// What the user asks to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportTarget {
    /// By the text that stands in the import block or on the command line.
    Id(String),
    /// By the attributes of its identity.
    Identity(Value),
}

impl ImportTarget {
    /// The one text that finds the object: the id as it was given, or the identity's attribute
    /// of this name.
    ///
    /// # Errors
    /// When the identity lacks it, or the text is empty.
    pub fn text(&self, attribute: &str) -> Result<&str, Diagnostics> {
        let text = match self {
            Self::Id(id) => Some(id.as_str()),
            Self::Identity(identity) => identity.member(attribute).as_str(),
        };
        text.filter(|text| !text.trim().is_empty()).ok_or_else(|| {
            Diagnostics::error(
                "Unable to import",
                format!("There is no `{attribute}` to find the object by. Give it in the import."),
            )
        })
    }
}

/// The state of a resource of another type, possibly of another provider.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MoveSource {
    /// The provider it belongs to: `registry.terraform.io/hashicorp/random`.
    pub provider_address: String,
    /// Its type.
    pub type_name: String,
    /// The version of the schema it was written with.
    pub schema_version: i64,
    /// The state as it stands in the state file.
    pub state: Json,
}

type Upgrade = Box<dyn Fn(Json) -> Result<Json, Diagnostics> + Send + Sync>;

/// Brings states, or identities, of one version to the next.
pub struct Upgrader {
    pub(crate) from: i64,
    pub(crate) upgrade: Upgrade,
}

impl Upgrader {
    /// From this version to the one after it, in the form in which the client stores it.
    #[must_use]
    pub fn from_version(
        from: i64,
        upgrade: impl Fn(Json) -> Result<Json, Diagnostics> + Send + Sync + 'static,
    ) -> Self {
        Self { from, upgrade: Box::new(upgrade) }
    }
}

/// What is upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgraded {
    State,
    Identity,
}

impl Upgraded {
    /// As messages call it.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Identity => "identity",
        }
    }
}

/// Applies as many steps as it takes to get from one version to another.
pub(crate) fn upgrade(
    what: Upgraded,
    steps: &[Upgrader],
    mut stored: Json,
    from: i64,
    to: i64,
) -> Result<Json, Diagnostics> {
    for version in from..to {
        let step = steps.iter().find(|step| step.from == version).ok_or_else(|| {
            Diagnostics::error(
                format!("Unable to upgrade the {}", what.noun()),
                format!(
                    "It is of schema version {from} and has to become {to}, but nothing leads \
                     from {version} to {}. Use an older version of the provider in between.",
                    version + 1
                ),
            )
        })?;
        stored = (step.upgrade)(stored)?;
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn append(version: i64) -> Upgrader {
        Upgrader::from_version(version, move |mut state| {
            if let Some(steps) = state.as_array_mut() {
                steps.push(json!(version));
            }
            Ok(state)
        })
    }

    #[test]
    fn upgrades_are_chained() {
        let steps = [append(2), append(0), append(1)];
        assert_eq!(upgrade(Upgraded::State, &steps, json!([]), 0, 3), Ok(json!([0, 1, 2])));
        assert_eq!(upgrade(Upgraded::State, &steps, json!([]), 2, 3), Ok(json!([2])));
        assert_eq!(upgrade(Upgraded::State, &steps, json!([]), 3, 3), Ok(json!([])));
        let gap = upgrade(Upgraded::State, &steps[..1], json!([]), 1, 3)
            .expect_err("nothing leads from 1");
        assert!(gap.to_string().contains("upgrade the state"), "{gap}");
        assert!(gap.to_string().contains("from 1 to 2"), "{gap}");
        let gap = upgrade(Upgraded::Identity, &[], json!({}), 0, 1).expect_err("nothing leads on");
        assert!(gap.to_string().contains("upgrade the identity"), "{gap}");
    }

    #[test]
    fn a_target_without_text_is_refused() {
        let identity = ImportTarget::Identity(Value::object([("id", "i-1".into())]));
        assert_eq!(identity.text("id"), Ok("i-1"));
        assert!(identity.text("name").is_err());
        assert_eq!(ImportTarget::Id("x".to_owned()).text("id"), Ok("x"));
        assert!(ImportTarget::Id(" ".to_owned()).text("id").is_err());
    }
}
