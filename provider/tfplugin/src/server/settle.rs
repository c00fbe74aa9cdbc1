//! The last steps on a state before it goes out: nothing unknown, nothing write-only.

use crate::{AttributePath, Diagnostic, Diagnostics, Value, path::Step, value::SetValue};

/// The same with null in place of everything unknown.
pub(super) fn known(value: Value) -> Value {
    match value {
        Value::Unknown(_) => Value::Null,
        Value::List(elements) => Value::List(elements.into_iter().map(known).collect()),
        Value::Tuple(elements) => Value::Tuple(elements.into_iter().map(known).collect()),
        Value::Set(elements) => {
            Value::Set(elements.iter().cloned().map(known).collect::<SetValue>())
        }
        Value::Map(members) => {
            Value::Map(members.into_iter().map(|(key, value)| (key, known(value))).collect())
        }
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, known(value))).collect())
        }
        Value::Dynamic(typed) => Value::dynamic(typed.ty, known(typed.value)),
        simple => simple,
    }
}

/// Where something is unknown.
pub(super) fn unknown_paths(value: &Value) -> Vec<AttributePath> {
    let mut found = Vec::new();
    if !value.is_wholly_known() {
        collect(value, AttributePath::root(), &mut found);
    }
    found
}

fn collect(value: &Value, path: AttributePath, found: &mut Vec<AttributePath>) {
    match value.undynamic() {
        Value::Unknown(_) => found.push(path),
        Value::List(elements) | Value::Tuple(elements) => {
            for (index, element) in elements.iter().enumerate() {
                collect(element, path.clone().index(index), found);
            }
        }
        Value::Set(elements) => {
            for element in elements.iter() {
                collect(element, path.clone().element(), found);
            }
        }
        Value::Map(members) => {
            for (key, element) in members {
                collect(element, path.clone().step(Step::Key(key.clone())), found);
            }
        }
        Value::Object(members) => {
            for (name, element) in members {
                collect(element, path.clone().step(Step::Attribute(name.clone())), found);
            }
        }
        _ => {}
    }
}

/// One error for each value that the provider left unknown although it succeeded.
pub(super) fn refuse_unknown(rpc: &str, type_name: &str, value: &Value) -> Diagnostics {
    let left = unknown_paths(value).into_iter().map(|path| {
        Diagnostic::error("The provider left a value unknown")
            .detail(format!(
                "After {rpc} of {type_name}, {path} is still unknown. It is stored as null. This \
                 is a mistake in the provider: please report it."
            ))
            .at(path)
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_unknown_is_found_and_nulled() {
        let value = Value::object([
            ("a", Value::UNKNOWN),
            ("l", Value::list(["x".into(), Value::UNKNOWN])),
            ("m", Value::map([("k", Value::object([("b", Value::UNKNOWN)]))])),
            ("s", Value::set([Value::UNKNOWN])),
        ]);
        let paths: Vec<_> = unknown_paths(&value).iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["a", "l[1]", r#"m["k"].b"#, "s[*]"]);
        let settled = known(value);
        assert!(settled.is_wholly_known());
        assert_eq!(settled.at(&AttributePath::new("l").index(0)), Some(&"x".into()));
        assert!(unknown_paths(&settled).is_empty());
    }
}
