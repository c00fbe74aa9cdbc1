//! `parse_id`: what an id says by itself.

use fairmazon_model::id::{
    AccountId, HostId, InstanceId, OperationId, PlacementGroupId, TokenId, VolumeId,
};
use serde::Serialize;
use tfplugin::{Function, FunctionError, Signature, Type};

use crate::resources::shared::rfc3339;

/// The function.
pub struct ParseId;

/// What an id says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Parsed {
    noun: &'static str,
    created_at: String,
}

/// Reads an id of any noun: the noun, and when it was made in ms since the Unix epoch.
pub(super) fn parse(text: &str) -> Option<(&'static str, u64)> {
    macro_rules! try_all {
        ($($id:ty => $noun:literal),*) => {$(
            if let Ok(id) = text.parse::<$id>() {
                return Some(($noun, id.ulid().timestamp_ms()));
            }
        )*};
    }
    try_all!(
        InstanceId => "instance", VolumeId => "volume", PlacementGroupId => "placement_group",
        AccountId => "account", TokenId => "token", OperationId => "operation", HostId => "host"
    );
    None
}

impl Function for ParseId {
    type Args = (String,);
    type Output = Parsed;

    fn name(&self) -> &'static str {
        "parse_id"
    }

    fn signature(&self) -> Signature {
        let result = Type::object([("noun", Type::String), ("created_at", Type::String)]);
        Signature::returning(result, "What an id says by itself.")
            .parameter("id", Type::String, "An id of the platform (`ins-…`, `vol-…`).")
            .describe(
                "Answers with the noun (`instance`, `volume`, `placement_group`, `account`, \
                 `token`, `operation` or `host`) and when the id was made, in UTC (RFC 3339).",
            )
    }

    fn call(&self, (id,): Self::Args) -> Result<Parsed, FunctionError> {
        let Some((noun, at)) = parse(&id) else {
            let shown: String = id.chars().take(64).collect();
            return Err(FunctionError::argument(
                0,
                format!(
                    "{shown:?} is not an id of the platform: it must be a short prefix such as \
                     `ins-` and 26 characters of a ULID, in small letters."
                ),
            ));
        };
        let created_at = i64::try_from(at).map(rfc3339).unwrap_or_default();
        Ok(Parsed { noun, created_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_noun_is_read() {
        let at = 1_700_000_000_000;
        for (text, noun) in [
            (InstanceId::from_parts(at, 1).to_string(), "instance"),
            (VolumeId::from_parts(at, 1).to_string(), "volume"),
            (PlacementGroupId::from_parts(at, 1).to_string(), "placement_group"),
            (AccountId::from_parts(at, 1).to_string(), "account"),
            (TokenId::from_parts(at, 1).to_string(), "token"),
            (OperationId::from_parts(at, 1).to_string(), "operation"),
            (HostId::from_parts(at, 1).to_string(), "host"),
        ] {
            let parsed = ParseId.call((text,)).unwrap();
            assert_eq!(parsed, Parsed { noun, created_at: "2023-11-14T22:13:20Z".to_owned() });
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "ins-", "ins-1", "web", "xyz-01jd0000000000000000000000"] {
            assert!(ParseId.call((text.to_owned(),)).is_err(), "{text}");
        }
    }
}
