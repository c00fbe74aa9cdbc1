//! Types for values in dynamic places, where only the program's own value says what it is.
//!
//! Sequences become tuples and maps objects, as in the language itself.

use crate::types::Type;
use crate::value::{Members, Typed, Value};

/// A tuple of values from dynamic places, as a value for a dynamic place.
pub(super) fn tuple(elements: Vec<Value>) -> Value {
    let (types, values): (Vec<Type>, Vec<Value>) = elements.into_iter().map(split).unzip();
    Value::dynamic(Type::tuple(types), Value::Tuple(values))
}

/// An object of values from dynamic places, as a value for a dynamic place.
pub(super) fn object(members: Members) -> Value {
    let members: Vec<_> = members.into_iter().map(|(name, value)| (name, split(value))).collect();
    let ty = Type::object(members.iter().map(|(name, (ty, _))| (name.clone(), ty.clone())));
    let value = Value::object(members.into_iter().map(|(name, (_, value))| (name, value)));
    Value::dynamic(ty, value)
}

/// The type and the bare value. Where nothing says what it is, the place stays dynamic.
fn split(value: Value) -> (Type, Value) {
    match value {
        Value::Dynamic(typed) => {
            let Typed { ty, value } = *typed;
            (ty, value)
        }
        other => (Type::Dynamic, other),
    }
}
