//! Values of the wire: what a configuration, a plan or a state holds.
//!
//! Owns [`Value`] and what can be said of one without its schema. A value knows its shape but
//! not its type: null is null of any type. Decoding, encoding and [`Value::conforms_to`] bring
//! the [`Type`].

mod conform;
mod display;
mod number;
mod set;
mod unknown;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use conform::Mismatch;
pub(crate) use number::Compact;
pub use number::{Number, NumberError};
pub use set::SetValue;
pub use unknown::{Bound, Refinements};

use crate::path::{AttributePath, Step};
use crate::types::Type;

/// Attributes or map elements, by name.
pub type Members = BTreeMap<Arc<str>, Value>;

/// Any value. Two values are equal when they mean the same to the client.
///
/// The order between values has no meaning of its own; it makes sets canonical.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Absent.
    #[default]
    Null,
    /// Not known before apply, though something may be known about it.
    Unknown(Option<Box<Refinements>>),
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// An ordered collection.
    List(Vec<Value>),
    /// A collection without order or repetition.
    Set(SetValue),
    /// A fixed sequence, each element of its own type.
    Tuple(Vec<Value>),
    /// A collection by string key.
    Map(Members),
    /// Attributes by name.
    Object(Members),
    /// A value in a place of dynamic type, with the type it has there. A null or unknown in
    /// such a place whose type is not known either is plain [`Value::Null`] or
    /// [`Value::Unknown`].
    Dynamic(Box<Typed>),
}

/// A value together with its type; see [`Value::Dynamic`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Typed {
    /// The type, never [`Type::Dynamic`] itself.
    pub ty: Type,
    /// The value, which conforms to the type.
    pub value: Value,
}

impl Value {
    /// A value that is not known yet, about which nothing is known.
    pub const UNKNOWN: Self = Self::Unknown(None);

    /// A value that is not known yet, but some things about it are.
    #[must_use]
    pub fn unknown(refinements: Refinements) -> Self {
        if refinements.is_empty() { Self::UNKNOWN } else { Self::Unknown(Some(refinements.into())) }
    }

    /// A list of these elements.
    #[must_use]
    pub fn list(elements: impl IntoIterator<Item = Self>) -> Self {
        Self::List(elements.into_iter().collect())
    }

    /// A set of these elements; equal ones become one.
    #[must_use]
    pub fn set(elements: impl IntoIterator<Item = Self>) -> Self {
        Self::Set(elements.into_iter().collect())
    }

    /// A tuple of these elements.
    #[must_use]
    pub fn tuple(elements: impl IntoIterator<Item = Self>) -> Self {
        Self::Tuple(elements.into_iter().collect())
    }

    /// A map of these elements.
    #[must_use]
    pub fn map<K: Into<Arc<str>>>(elements: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(elements.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// An object of these attributes.
    #[must_use]
    pub fn object<K: Into<Arc<str>>>(attributes: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Object(attributes.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// A value for a place of dynamic type.
    #[must_use]
    pub fn dynamic(ty: Type, value: Self) -> Self {
        if ty == Type::Dynamic { value } else { Self::Dynamic(Box::new(Typed { ty, value })) }
    }

    /// Whether this is null; a typed null in a dynamic place is.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.undynamic(), Self::Null)
    }

    /// Whether this itself is unknown. See [`Self::is_wholly_known`] for what is inside.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self.undynamic(), Self::Unknown(_))
    }

    /// Whether neither this nor anything inside it is unknown.
    #[must_use]
    pub fn is_wholly_known(&self) -> bool {
        match self {
            Self::Unknown(_) => false,
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => true,
            Self::List(elements) | Self::Tuple(elements) => {
                elements.iter().all(Self::is_wholly_known)
            }
            Self::Set(elements) => elements.iter().all(Self::is_wholly_known),
            Self::Map(members) | Self::Object(members) => {
                members.values().all(Self::is_wholly_known)
            }
            Self::Dynamic(typed) => typed.value.is_wholly_known(),
        }
    }

    /// The value itself, without the type that a dynamic place adds.
    #[must_use]
    pub fn undynamic(&self) -> &Self {
        match self {
            Self::Dynamic(typed) => typed.value.undynamic(),
            _ => self,
        }
    }

    /// The string, when it is a known string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self.undynamic() {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, when it is known.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.undynamic() {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The number, when it is a known number.
    #[must_use]
    pub fn as_number(&self) -> Option<&Number> {
        match self.undynamic() {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The attributes of an object, or the elements of a map.
    #[must_use]
    pub fn as_members(&self) -> Option<&Members> {
        match self.undynamic() {
            Self::Object(members) | Self::Map(members) => Some(members),
            _ => None,
        }
    }

    /// The attributes of an object, or the elements of a map, to be changed.
    #[must_use]
    pub fn as_members_mut(&mut self) -> Option<&mut Members> {
        match self {
            Self::Object(members) | Self::Map(members) => Some(members),
            Self::Dynamic(typed) => typed.value.as_members_mut(),
            _ => None,
        }
    }

    /// The elements of a list, set or tuple.
    #[must_use]
    pub fn as_elements(&self) -> Option<&[Self]> {
        match self.undynamic() {
            Self::List(elements) | Self::Tuple(elements) => Some(elements),
            Self::Set(elements) => Some(elements),
            _ => None,
        }
    }

    /// The attribute or map element of this name, when there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_members()?.get(name)
    }

    /// The attribute or map element of this name; null when there is none, unknown when the
    /// whole is unknown.
    #[must_use]
    pub fn member(&self, name: &str) -> &Self {
        const UNKNOWN: &Value = &Value::UNKNOWN;
        if self.is_unknown() { UNKNOWN } else { self.get(name).unwrap_or(&Self::Null) }
    }

    /// The value at the end of a path. A path through a set has no end.
    #[must_use]
    pub fn at(&self, path: &AttributePath) -> Option<&Self> {
        path.steps().iter().try_fold(self, |value, step| match step {
            Step::Attribute(name) | Step::Key(name) => value.get(name),
            Step::Index(index) => match value.undynamic() {
                Self::List(elements) | Self::Tuple(elements) => elements.get(*index),
                _ => None,
            },
            Step::Element => None,
        })
    }

    /// The same, to be changed.
    #[must_use]
    pub fn at_mut(&mut self, path: &AttributePath) -> Option<&mut Self> {
        path.steps().iter().try_fold(self, |value, step| match step {
            Step::Attribute(name) | Step::Key(name) => value.as_members_mut()?.get_mut(name),
            Step::Index(index) => match value {
                Self::List(elements) | Self::Tuple(elements) => elements.get_mut(*index),
                _ => None,
            },
            Step::Element => None,
        })
    }

    /// Puts an attribute into an object, in place of the one that was there. Does nothing when
    /// this is no object or map.
    pub fn set_member(&mut self, name: impl Into<Arc<str>>, value: impl Into<Self>) {
        if let Some(members) = self.as_members_mut() {
            members.insert(name.into(), value.into());
        }
    }

    /// What kind of value this is, for messages: `a string`, `null`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Unknown(_) => "an unknown value",
            Self::Bool(_) => "a bool",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Tuple(_) => "a tuple",
            Self::Map(_) => "a map",
            Self::Object(_) => "an object",
            Self::Dynamic(typed) => typed.value.kind(),
        }
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        Self::Number(number)
    }
}

macro_rules! from_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Value {
            fn from(int: $int) -> Self {
                Self::Number(int.into())
            }
        }
    )*};
}
from_int!(i8, i16, i32, i64, u8, u16, u32, u64);

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Value {
        Value::object([
            ("name", "web".into()),
            ("volumes", Value::map([("data", Value::object([("size", 3.into())]))])),
            ("tags", Value::list(["a".into(), Value::UNKNOWN])),
        ])
    }

    #[test]
    fn paths_find_what_they_name() {
        let mut machine = machine();
        let size = AttributePath::new("volumes").key("data").attribute("size");
        assert_eq!(machine.at(&size), Some(&3.into()));
        *machine.at_mut(&size).unwrap() = 4.into();
        assert_eq!(machine.at(&size), Some(&4.into()));
        assert_eq!(machine.at(&AttributePath::new("tags").index(0)), Some(&"a".into()));
        assert_eq!(machine.at(&AttributePath::new("tags").index(2)), None);
        assert_eq!(machine.at(&AttributePath::new("tags").element()), None);
        assert_eq!(machine.at(&AttributePath::root()), Some(&machine));
    }

    #[test]
    fn unknown_spreads_to_members() {
        assert!(Value::UNKNOWN.member("a").is_unknown());
        assert!(Value::Null.member("a").is_null());
        assert!(machine().member("nothing").is_null());
        assert!(!machine().is_unknown() && !machine().is_wholly_known());
        assert!(Value::dynamic(Type::String, Value::Null).is_null());
    }

    #[test]
    fn sets_have_no_order_and_no_repetition() {
        let one = Value::set(["b".into(), "a".into(), "a".into()]);
        assert_eq!(one, Value::set(["a".into(), "b".into()]));
        assert_eq!(one.as_elements().map(<[Value]>::len), Some(2));
        let unknowns = Value::set([Value::UNKNOWN, Value::UNKNOWN]);
        assert_eq!(unknowns.as_elements().map(<[Value]>::len), Some(2));
    }
}
