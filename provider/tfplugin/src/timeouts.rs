//! How long operations may take, as the user sets it: `timeouts = { create = "30m" }`.
//!
//! A duration is one or more numbers with a unit, h, m or s, the larger units first.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Attribute, AttributePath, Diagnostic, Diagnostics, schema::validators};

/// The model of a `timeouts` attribute. Unset ones have the resource's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// For create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<String>,
    /// For read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
    /// For update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<String>,
    /// For delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<String>,
}

macro_rules! limits {
    ($($name:ident: $field:ident),*) => {$(
        #[doc = concat!("How long ", stringify!($field), " may take.")]
        ///
        /// # Errors
        /// When the text is no duration.
        pub fn $name(&self, default: Duration) -> Result<Duration, Diagnostics> {
            limit(self.$field.as_deref(), stringify!($field), default)
        }
    )*};
}

impl Timeouts {
    /// The attribute for a schema, with those operations that wait: `["create", "delete"]`.
    pub fn attribute<'a>(operations: impl IntoIterator<Item = &'a str>) -> Attribute {
        let limits = operations.into_iter().map(|operation| {
            Attribute::string(operation)
                .optional()
                .describe(format!("How long {operation} may take, such as `30m` or `1h30m`."))
                .validate(validators::string("a duration such as 30m", |text| {
                    parse(text).map(|_| ())
                }))
        });
        Attribute::nested("timeouts", limits)
            .optional()
            .describe("How long operations may take before they fail.")
    }

    limits!(for_create: create, for_read: read, for_update: update, for_delete: delete);
}

fn limit(
    text: Option<&str>,
    field: &'static str,
    default: Duration,
) -> Result<Duration, Diagnostics> {
    text.map_or(Ok(default), |text| {
        parse(text).map_err(|reason| {
            Diagnostic::error("Invalid timeout")
                .detail(reason)
                .at(AttributePath::new("timeouts").attribute(field))
                .into()
        })
    })
}

/// Reads "1h30m", "90s".
///
/// # Errors
/// What is wrong, and what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || {
        format!(
            "{text:?} is no duration. Write numbers with a unit, h, m or s: \"30m\", \"1h30m\"."
        )
    };
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let unit = match rest.as_bytes()[digits] {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return Err(refuse()),
        };
        if unit >= last_unit {
            return Err(refuse());
        }
        last_unit = unit;
        let seconds = number.checked_mul(unit).and_then(|part| total.checked_add(part));
        total = seconds.ok_or_else(refuse)?;
        rest = &rest[digits + 1..];
    }
    match total {
        0 if text.is_empty() => Err(refuse()),
        0 => Err(format!("{text:?} is no time at all")),
        total => Ok(Duration::from_secs(total)),
    }
}

/// The text that [`parse`] reads; fractions of a second are left out.
pub(crate) fn display(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Schema, Value, from_value, to_value, validate};

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "5", "m", "5x", "-5m", "5m1h", "5m5m", "0s", "1.5h", "9999999999999999h", "5ü"]
        {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn the_attribute_and_the_model_fit_each_other() {
        let schema = Schema::builder().attribute(Timeouts::attribute(["create", "delete"])).build();
        schema.assert_sound();
        let ty = schema.attributes()[0].ty();
        let set = Timeouts { create: Some("5m".to_owned()), ..Timeouts::default() };
        let value = to_value(&set, ty).expect("it fits");
        assert_eq!(from_value::<Timeouts>(&value).expect("it fits"), set);
        let of = |value: Value| Value::object([("timeouts", value)]);
        assert!(validate::config(&schema, &of(value)).is_empty());
        let wrong = Value::object([("create", "soon".into()), ("delete", Value::Null)]);
        let problems = validate::config(&schema, &of(wrong));
        assert_eq!(problems[0].path.to_string(), "timeouts.create");
    }

    #[test]
    fn a_bad_limit_names_its_attribute() {
        let timeouts = Timeouts { update: Some("soon".to_owned()), ..Timeouts::default() };
        let told = timeouts.for_update(Duration::from_secs(1)).expect_err("soon is no duration");
        assert!(told.to_string().contains("timeouts.update"), "{told}");
        assert_eq!(timeouts.for_create(Duration::from_secs(1)), Ok(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 1_u64..1_000_000) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&display(duration)), Ok(duration));
        }

        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let _ = parse(&text);
        }
    }
}
