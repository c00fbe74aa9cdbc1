//! Which values of an object are secret, and the object without them.

use super::{Body, Mark, Schema, each_marked};
use crate::path::AttributePath;
use crate::value::{Number, Value};

/// What stands where a secret was.
const REDACTED: &str = "(sensitive value)";

impl Schema {
    /// Whether the value at a path is secret: an attribute on the way to it is declared
    /// sensitive or write-only.
    #[must_use]
    pub fn is_sensitive_at(&self, path: &AttributePath) -> bool {
        let steps = path.steps();
        (1..=steps.len()).any(|end| {
            self.attribute_at(&AttributePath::from(steps[..end].to_vec()))
                .is_some_and(|it| Mark::Secret.is_on(it))
        })
    }

    /// The paths of the secrets that `value`, an object of this schema, holds. Nulls and
    /// unknowns are none.
    #[must_use]
    pub fn sensitive_paths(&self, value: &Value) -> Vec<AttributePath> {
        let mut paths = Vec::new();
        each_secret(self, value, |path, _| paths.push(path.clone()));
        paths
    }

    /// Every text in which a secret of `value` may be written, for filters of logs and messages:
    /// strings as they are, numbers in each form. What `true` and `false` say can't be taken out
    /// of a text, so booleans are not among them.
    #[must_use]
    pub fn sensitive_strings(&self, value: &Value) -> Vec<String> {
        let mut strings = Vec::new();
        each_secret(self, value, |_, secret| gather(secret, &mut strings));
        strings
    }

    /// The object with every secret replaced by a remark.
    #[must_use]
    pub fn redacted(&self, value: &Value) -> Value {
        redact(self.body(), value)
    }
}

/// Calls `found` with each known secret and its path.
fn each_secret(schema: &Schema, value: &Value, mut found: impl FnMut(&AttributePath, &Value)) {
    each_marked(schema.body(), value, Mark::Secret, &mut |path, secret| {
        if !secret.is_unknown() {
            found(path, secret);
        }
    });
}

fn gather(value: &Value, strings: &mut Vec<String>) {
    match value.undynamic() {
        Value::String(text) if !text.is_empty() => strings.push(text.clone()),
        Value::List(elements) | Value::Tuple(elements) => {
            elements.iter().for_each(|element| gather(element, strings));
        }
        Value::Set(elements) => elements.iter().for_each(|element| gather(element, strings)),
        Value::Map(members) | Value::Object(members) => {
            members.values().for_each(|value| gather(value, strings));
        }
        Value::Number(number) => written(number, strings),
        _ => {}
    }
}

/// The forms in which clients, programs and JSON write a number: in plain digits, to the last one
/// and as short as they read back, with a point after whole ones, and with an exponent.
fn written(number: &Number, strings: &mut Vec<String>) {
    strings.push(number.to_string());
    let float = number.to_f64();
    if !float.is_finite() {
        return;
    }
    let scientific = format!("{float:e}");
    if let Some((digits, exponent)) = scientific.split_once('e') {
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |it| ('-', it));
        strings.push(format!("{digits}e{sign}{exponent:0>2}"));
    }
    strings.extend([float.to_string(), format!("{float:?}"), scientific]);
}

fn redact(body: &Body, value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let members = members.iter().map(|(name, value)| {
        let value = if let Some(attribute) = body.attribute(name) {
            match attribute.body() {
                _ if Mark::Secret.is_on(attribute) && !value.is_null() => REDACTED.into(),
                Some(body) => redact_nested(body, value),
                None => value.clone(),
            }
        } else if let Some(block) = body.block(name) {
            redact_nested(block.body(), value)
        } else {
            value.clone()
        };
        (name.clone(), value)
    });
    Value::Object(members.collect())
}

fn redact_nested(body: &Body, value: &Value) -> Value {
    match value {
        Value::List(elements) => Value::list(elements.iter().map(|element| redact(body, element))),
        Value::Set(elements) => Value::set(elements.iter().map(|element| redact(body, element))),
        Value::Map(members) => {
            Value::map(members.iter().map(|(key, value)| (key.clone(), redact(body, value))))
        }
        _ => redact(body, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Attribute;
    use crate::schema::Block;

    fn schema() -> Schema {
        Schema::builder()
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("token").optional().sensitive())
            .attribute(
                Attribute::nested_map(
                    "users",
                    [
                        Attribute::string("login").required(),
                        Attribute::string("password_wo").optional().write_only(),
                    ],
                )
                .optional(),
            )
            .block(Block::list("key", [Attribute::string("private").required().sensitive()]))
            .build()
    }

    fn value() -> Value {
        let user = Value::object([("login", "eve".into()), ("password_wo", "p4ss".into())]);
        Value::object([
            ("name", "n".into()),
            ("token", "t0k".into()),
            ("users", Value::map([("a", user)])),
            ("key", Value::list([Value::object([("private", "k3y".into())])])),
        ])
    }

    #[test]
    fn secrets_are_found_everywhere() {
        let paths: Vec<_> =
            schema().sensitive_paths(&value()).iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["token", r#"users["a"].password_wo"#, "key[0].private"]);
        assert_eq!(schema().sensitive_strings(&value()), ["t0k", "p4ss", "k3y"]);
        assert!(schema().is_sensitive_at(&AttributePath::new("key").index(0).attribute("private")));
        assert!(!schema().is_sensitive_at(&AttributePath::new("name")));
    }

    #[test]
    fn numbers_are_found_in_each_form() {
        let schema = Schema::builder()
            .attribute(Attribute::number("pin").optional().sensitive())
            .attribute(Attribute::bool("on").optional().sensitive())
            .build();
        let forms = |pin: &str| {
            let pin = Value::Number(pin.parse().expect("it is a number"));
            schema.sensitive_strings(&Value::object([("pin", pin), ("on", true.into())]))
        };
        for (pin, expected) in [
            ("1234567", &["1234567", "1234567.0", "1.234567e6", "1.234567e+06"][..]),
            ("-0.25", &["-0.25", "-2.5e-1", "-2.5e-01"]),
            ("1e25", &["10000000000000000000000000", "1e25", "1e+25"]),
            ("0.1", &["0.1", "1e-1"]),
        ] {
            let found = forms(pin);
            for form in expected {
                assert!(found.iter().any(|it| it == form), "{form} is not in {found:?}");
            }
            assert!(!found.iter().any(|it| it == "true"), "{found:?}");
        }
        // As the wire has it, which is a little more than a tenth.
        let tenth = Value::Number(Number::from_f64_exact(0.1).expect("it is finite"));
        let found = schema.sensitive_strings(&Value::object([("pin", tenth), ("on", Value::Null)]));
        assert!(found.iter().any(|it| it == "0.1"), "{found:?}");
        assert!(found.iter().any(|it| it.starts_with("0.10000000000000000555")), "{found:?}");
    }

    #[test]
    fn nothing_secret_is_left_after_redaction() {
        let text = schema().redacted(&value()).to_string();
        for secret in ["t0k", "p4ss", "k3y"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("eve"));
    }
}
