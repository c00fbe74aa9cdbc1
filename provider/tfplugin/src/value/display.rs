//! Values as a person would write them, for messages. Not a serialisation.
//!
//! Callers redact: a value alone does not know that it is secret.

use std::fmt;

use super::Value;

/// Much of a value is enough to recognise it; a message must not grow with the state.
const MOST_MEMBERS: usize = 8;
const MOST_CHARACTERS: usize = 120;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Unknown(_) => f.write_str("(known after apply)"),
            Self::Bool(truth) => truth.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::String(text) => match text.char_indices().nth(MOST_CHARACTERS) {
                Some((end, _)) => write!(f, "{:?}...", &text[..end]),
                None => write!(f, "{text:?}"),
            },
            Self::List(elements) | Self::Tuple(elements) => write_elements(f, elements),
            Self::Set(elements) => write_elements(f, elements),
            Self::Map(members) | Self::Object(members) => {
                f.write_str("{")?;
                for (position, (name, value)) in members.iter().enumerate() {
                    let separator = if position == 0 { "" } else { ", " };
                    if position == MOST_MEMBERS {
                        write!(f, "{separator}...")?;
                        break;
                    }
                    write!(f, "{separator}{name} = {value}")?;
                }
                f.write_str("}")
            }
            Self::Dynamic(typed) => typed.value.fmt(f),
        }
    }
}

fn write_elements(f: &mut fmt::Formatter<'_>, elements: &[Value]) -> fmt::Result {
    f.write_str("[")?;
    for (position, value) in elements.iter().enumerate() {
        let separator = if position == 0 { "" } else { ", " };
        if position == MOST_MEMBERS {
            write!(f, "{separator}...")?;
            break;
        }
        write!(f, "{separator}{value}")?;
    }
    f.write_str("]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_configuration() {
        let value = Value::object([
            ("a", Value::list([1.into(), "x\"".into()])),
            ("b", Value::UNKNOWN),
            ("c", Value::Null),
        ]);
        assert_eq!(value.to_string(), r#"{a = [1, "x\""], b = (known after apply), c = null}"#);
    }

    #[test]
    fn is_bounded() {
        let long = Value::list(vec![Value::from("x".repeat(1000)); 100]);
        assert!(long.to_string().len() < 1200);
    }
}
