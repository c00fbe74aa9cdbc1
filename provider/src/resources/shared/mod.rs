//! What several resources have in common: labels, placement, timeouts, and the reading of
//! attributes whose values may not be known yet.

pub mod confirm;
pub mod keys;
pub mod labels;
pub mod placement;
pub mod planned_before;
pub mod protection;
pub mod reader;
pub mod snapshots;
pub mod stop;
pub mod taken_over;
pub mod timeouts;
pub mod unfinished;

use fairmazon_model::{DomainError, limits};
use tfplugin::{Attr, Attribute, IdentitySchema, Type, schema::validators};

/// Seconds and milliseconds since the Unix epoch as RFC 3339 in UTC.
pub fn rfc3339(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(|_| String::new(), |at| at.to_string())
}

/// The description of a resource, with what its creation has to do with earlier ones. `noun` is
/// what people call one.
pub fn described(text: &str, noun: &str) -> String {
    format!(
        "{text}\n\nAn apply that was cut off is gone on with: within 24 hours one of an equal \
         configuration takes over the {noun} that was made and that no plan has read since, with a \
         warning. So run a plan without `-target` between an apply that makes a {noun} and one \
         that makes another one of equal arguments, or two resources hold the first."
    )
}

/// The identity of everything here: its id.
pub fn identity(noun: &str) -> IdentitySchema {
    IdentitySchema::new().required("id", Type::String, &format!("Id of the {noun}."))
}

/// A string that the platform makes and that stays.
pub fn computed(name: &str, description: &str) -> Attribute {
    Attribute::string(name).computed().use_state_for_unknown().describe(description)
}

/// The name of what the user makes, which has to be given.
pub fn name(description: &str) -> Attribute {
    name_in("name").required().describe(description)
}

/// An attribute that holds a name.
pub fn name_in(attribute: &str) -> Attribute {
    let check = |text: &str| limits::check_name(text).map_err(|error| error.message);
    Attribute::string(attribute).validate(validators::string("a name of the platform", check))
}

/// That the catalogue lacks what a field names, with what it has.
pub fn not_in_catalogue<'a>(
    field: &str,
    value: &str,
    names: impl Iterator<Item = &'a str>,
) -> DomainError {
    let names: Vec<_> = names.collect();
    let value = value.escape_debug();
    DomainError::invalid(field, format!("the catalogue has no `{value}`"))
        .advise(format!("it has {}", names.join(", ")))
}

/// What was planned, where it was known; otherwise what is there now.
///
/// A planned value must come back as it was planned. Where the world moved on between plan and
/// apply, the next read shows it.
pub fn settle<T: Clone>(planned: &Attr<T>, now: Attr<T>) -> Attr<T> {
    match planned {
        Attr::Unknown => now,
        known => known.clone(),
    }
}

/// A text, or null for an empty one.
pub fn text(text: &str) -> Attr<String> {
    if text.is_empty() { Attr::Null } else { Attr::Value(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), "");
    }

    #[test]
    fn planned_values_stay() {
        assert!(matches!(settle(&Attr::Value(1), Attr::Value(2)), Attr::Value(1)));
        assert!(matches!(settle(&Attr::Unknown, Attr::Value(2)), Attr::Value(2)));
        assert!(matches!(settle(&Attr::Null, Attr::Value(2)), Attr::Null));
    }
}
