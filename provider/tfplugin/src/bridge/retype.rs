//! The types of dynamic places, kept as they were.
//!
//! An author's value does not say whether its sequence is a list, a set or a tuple, so
//! [`to_value`](super::to_value) guesses. The client compares types too: what was planned as a
//! list must be applied as one.

use std::sync::Arc;

use crate::types::Type;
use crate::value::{Members, Value};

/// The value, of type `ty`, with the types that `like` has in dynamic places, wherever what is
/// in them can be of that type.
#[must_use]
pub fn keep_types(value: Value, like: &Value, ty: &Type) -> Value {
    if ty.has_dynamic() { keep(value, like) } else { value }
}

fn keep(value: Value, like: &Value) -> Value {
    match (value, like) {
        (Value::Dynamic(typed), Value::Dynamic(like)) if typed.ty != like.ty => {
            match convert(&typed.value, &like.ty) {
                Some(value) => Value::dynamic(like.ty.clone(), value),
                None => Value::Dynamic(typed),
            }
        }
        (Value::Object(members), Value::Object(likes)) => Value::Object(keep_all(members, likes)),
        (Value::Map(members), Value::Map(likes)) => Value::Map(keep_all(members, likes)),
        (Value::List(elements), Value::List(likes)) => Value::List(keep_each(elements, likes)),
        (Value::Tuple(elements), Value::Tuple(likes)) => Value::Tuple(keep_each(elements, likes)),
        (value, _) => value,
    }
}

fn keep_all(members: Members, likes: &Members) -> Members {
    let keep_one = |(name, value)| match likes.get(&name) {
        Some(like) => (name, keep(value, like)),
        None => (name, value),
    };
    members.into_iter().map(keep_one).collect()
}

fn keep_each(elements: Vec<Value>, likes: &[Value]) -> Vec<Value> {
    let keep_one = |(index, value)| match likes.get(index) {
        Some(like) => keep(value, like),
        None => value,
    };
    elements.into_iter().enumerate().map(keep_one).collect()
}

/// The value as one of type `ty`, when it says the same.
fn convert(value: &Value, ty: &Type) -> Option<Value> {
    match (value, ty) {
        (Value::Null | Value::Unknown(_), _)
        | (Value::Bool(_), Type::Bool)
        | (Value::Number(_), Type::Number)
        | (Value::String(_), Type::String)
        | (Value::Dynamic(_), Type::Dynamic) => Some(value.clone()),
        (Value::Dynamic(typed), _) => convert(&typed.value, ty),
        (Value::Map(members) | Value::Object(members), Type::Map(element)) => {
            let convert = |(key, value): (&_, _)| Some((Arc::clone(key), convert(value, element)?));
            Some(Value::Map(members.iter().map(convert).collect::<Option<_>>()?))
        }
        (Value::Map(members) | Value::Object(members), Type::Object(object)) => {
            if !members.keys().eq(object.iter().map(|(name, _)| name)) {
                return None;
            }
            let pairs = members.iter().zip(object.iter());
            let convert = |((name, value), (_, ty)): ((&Arc<str>, _), (_, _))| {
                Some((name.clone(), convert(value, ty)?))
            };
            Some(Value::Object(pairs.map(convert).collect::<Option<_>>()?))
        }
        (_, Type::List(element)) => convert_all(value, element).map(Value::List),
        (_, Type::Set(element)) => convert_all(value, element).map(Value::set),
        (_, Type::Tuple(types)) => {
            let elements = value.as_elements().filter(|it| it.len() == types.len())?;
            let pairs = elements.iter().zip(types.iter());
            pairs.map(|(value, ty)| convert(value, ty)).collect::<Option<_>>().map(Value::Tuple)
        }
        _ => None,
    }
}

fn convert_all(value: &Value, element: &Type) -> Option<Vec<Value>> {
    value.as_elements()?.iter().map(|value| convert(value, element)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{from_value, to_value};

    /// What comes back when an author reads the value as JSON and writes it again.
    fn through_json(value: &Value) -> Value {
        let json: serde_json::Value = from_value(value).unwrap();
        keep_types(to_value(&json, &Type::Dynamic).unwrap(), value, &Type::Dynamic)
    }

    #[test]
    fn the_users_types_survive_the_authors_json() {
        let object = Type::object([("a", Type::Number), ("b", Type::set(Type::String))]);
        let member =
            || Value::object([("a", Value::Null), ("b", Value::set(["y".into(), "x".into()]))]);
        for value in [
            Value::dynamic(Type::list(Type::String), Value::list(["a".into(), Value::Null])),
            Value::dynamic(Type::tuple([Type::Bool]), Value::tuple([true.into()])),
            Value::dynamic(Type::map(Type::Number), Value::map([("k", 1.into())])),
            Value::dynamic(Type::list(object), Value::list([member(), member()])),
        ] {
            assert_eq!(through_json(&value), value);
        }
    }

    #[test]
    fn a_value_that_cannot_have_the_type_keeps_its_own() {
        let text = Value::dynamic(Type::String, "x".into());
        let number = Value::dynamic(Type::Number, 1.into());
        assert_eq!(keep(text.clone(), &number), text);
        let list = Value::dynamic(Type::list(Type::Number), Value::list([]));
        assert_eq!(keep(text.clone(), &list), text);
    }

    #[test]
    fn members_follow_their_own_likes() {
        let list = Value::dynamic(Type::list(Type::Bool), Value::list([true.into()]));
        let tuple = Value::dynamic(Type::tuple([Type::Bool]), Value::tuple([true.into()]));
        let object = |value: &Value| Value::object([("a", value.clone()), ("b", 1.into())]);
        assert_eq!(keep(object(&tuple), &object(&list)), object(&list));
        let map = |value: &Value| Value::map([("k", value.clone())]);
        assert_eq!(keep(map(&tuple), &map(&list)), map(&list));
    }
}
