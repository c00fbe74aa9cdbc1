//! Whether a value has a type.

use super::Value;
use crate::path::{AttributePath, Step};
use crate::types::{ObjectType, Type};

/// A value that does not have the type its place asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {found} where {expected} is needed")]
pub struct Mismatch {
    /// Where the value stands.
    pub path: AttributePath,
    /// What the place asks for.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl Value {
    /// Checks that this is a value of `ty`, all the way down. Null and unknown are values of
    /// every type.
    ///
    /// # Errors
    /// The first place where it is not.
    pub fn conforms_to(&self, ty: &Type) -> Result<(), Mismatch> {
        check(self, ty, &mut AttributePath::root())
    }
}

fn check(value: &Value, ty: &Type, path: &mut AttributePath) -> Result<(), Mismatch> {
    match (value, ty) {
        (Value::Null | Value::Unknown(_), _)
        | (Value::Bool(_), Type::Bool)
        | (Value::Number(_), Type::Number)
        | (Value::String(_), Type::String) => Ok(()),
        (Value::List(elements), Type::List(element)) => {
            check_sequence(elements.iter().map(|value| (value, &**element)), path)
        }
        (Value::Tuple(elements), Type::Tuple(types)) => {
            if elements.len() != types.len() {
                let found = format!("a tuple of {} elements", elements.len());
                return Err(mismatch(path, &ty.to_string(), &found));
            }
            check_sequence(elements.iter().zip(types.iter()), path)
        }
        (Value::Set(elements), Type::Set(element)) => elements
            .iter()
            .try_for_each(|value| within(path, Step::Element, |path| check(value, element, path))),
        (Value::Map(members), Type::Map(element)) => members.iter().try_for_each(|(key, value)| {
            within(path, Step::Key(key.clone()), |path| check(value, element, path))
        }),
        (Value::Object(_), Type::Object(object)) => check_object(value, object, path),
        (Value::Dynamic(typed), Type::Dynamic) => check(&typed.value, &typed.ty, path),
        _ => Err(mismatch(path, &ty.to_string(), value.kind())),
    }
}

fn check_sequence<'a>(
    elements: impl Iterator<Item = (&'a Value, &'a Type)>,
    path: &mut AttributePath,
) -> Result<(), Mismatch> {
    elements.enumerate().try_for_each(|(index, (value, ty))| {
        within(path, Step::Index(index), |path| check(value, ty, path))
    })
}

fn check_object(
    value: &Value,
    object: &ObjectType,
    path: &mut AttributePath,
) -> Result<(), Mismatch> {
    let Value::Object(members) = value else { return Ok(()) };
    for (name, ty) in object.iter() {
        match members.get(name) {
            Some(value) => {
                within(path, Step::Attribute(name.clone()), |path| check(value, ty, path))?;
            }
            None => {
                let path = path.clone().attribute(name.clone());
                return Err(mismatch(&path, &ty.to_string(), "nothing at all"));
            }
        }
    }
    match members.keys().find(|name| object.get(name).is_none()) {
        Some(name) => {
            let path = path.clone().attribute(name.clone());
            Err(mismatch(&path, "no such attribute", "a value"))
        }
        None => Ok(()),
    }
}

fn within<T>(
    path: &mut AttributePath,
    step: Step,
    visit: impl FnOnce(&mut AttributePath) -> T,
) -> T {
    path.push(step);
    let answer = visit(path);
    path.pop();
    answer
}

fn mismatch(path: &AttributePath, expected: &str, found: &str) -> Mismatch {
    Mismatch { path: path.clone(), expected: expected.to_owned(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wrong_place_is_named() {
        let ty = Type::object([
            ("name", Type::String),
            ("volumes", Type::map(Type::object([("size", Type::Number)]))),
        ]);
        let good = |size: Value| {
            Value::object([
                ("name", Value::Null),
                ("volumes", Value::map([("data", Value::object([("size", size)]))])),
            ])
        };
        assert_eq!(good(1.into()).conforms_to(&ty), Ok(()));
        assert_eq!(good(Value::UNKNOWN).conforms_to(&ty), Ok(()));
        let error = good("1".into()).conforms_to(&ty).unwrap_err();
        assert_eq!(error.to_string(), r#"volumes["data"].size: a string where number is needed"#);
        let error = Value::object([("name", Value::Null)]).conforms_to(&ty).unwrap_err();
        assert_eq!(error.path, AttributePath::new("volumes"));
        let mut more = good(1.into());
        more.set_member("extra", true);
        assert_eq!(more.conforms_to(&ty).unwrap_err().path, AttributePath::new("extra"));
    }

    #[test]
    fn dynamic_places_want_a_typed_value() {
        let typed = Value::dynamic(Type::list(Type::Bool), Value::list([true.into()]));
        assert_eq!(typed.conforms_to(&Type::Dynamic), Ok(()));
        assert!(typed.conforms_to(&Type::list(Type::Bool)).is_err());
        assert!(Value::from("x").conforms_to(&Type::Dynamic).is_err());
        let wrong = Value::dynamic(Type::Bool, "x".into());
        assert!(wrong.conforms_to(&Type::Dynamic).is_err());
        assert!(Value::tuple([true.into()]).conforms_to(&Type::tuple([])).is_err());
    }
}
