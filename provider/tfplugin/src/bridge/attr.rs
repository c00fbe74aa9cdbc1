//! A field that may be null, unknown or known: what configurations and plans are made of.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{ATTR, UNKNOWN};

/// An attribute's value in an author's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attr<T> {
    /// Not set.
    #[default]
    Null,
    /// Not known before apply.
    Unknown,
    /// Set and known.
    Value(T),
}

impl<T> Attr<T> {
    /// The value, when it is set and known.
    #[must_use]
    pub fn known(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// The same by reference.
    #[must_use]
    pub const fn as_ref(&self) -> Attr<&T> {
        match self {
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
            Self::Value(value) => Attr::Value(value),
        }
    }

    /// The value by reference, when it is set and known.
    #[must_use]
    pub const fn get(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// Whether it is not set.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is not known before apply.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Whether it is set and known.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        matches!(self, Self::Value(_))
    }

    /// The same with the value changed by `change`.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Attr<U> {
        match self {
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
            Self::Value(value) => Attr::Value(change(value)),
        }
    }

    /// The value when it is set and known, else `other`.
    #[must_use]
    pub fn unwrap_or(self, other: T) -> T {
        self.known().unwrap_or(other)
    }

    /// The value when it is set and known, else the type's default.
    #[must_use]
    pub fn unwrap_or_default(self) -> T
    where
        T: Default,
    {
        self.known().unwrap_or_default()
    }

    /// Sets a value where there is none yet: in place of unknown or null.
    pub fn fill(&mut self, value: T) {
        if !self.is_known() {
            *self = Self::Value(value);
        }
    }
}

impl<T> Attr<Option<T>> {
    /// An absent inner value becomes null.
    #[must_use]
    pub fn flatten(self) -> Attr<T> {
        match self {
            Self::Null | Self::Value(None) => Attr::Null,
            Self::Unknown => Attr::Unknown,
            Self::Value(Some(value)) => Attr::Value(value),
        }
    }
}

impl<T: std::ops::Deref> Attr<T> {
    /// The same by reference to what the value points to: `Attr<&str>` from `Attr<String>`.
    #[must_use]
    pub fn as_deref(&self) -> Attr<&T::Target> {
        self.as_ref().map(|value| &**value)
    }
}

impl<T> From<T> for Attr<T> {
    fn from(value: T) -> Self {
        Self::Value(value)
    }
}

impl<T> From<Option<T>> for Attr<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Value)
    }
}

impl From<&str> for Attr<String> {
    fn from(value: &str) -> Self {
        Self::Value(value.to_owned())
    }
}

/// Other formats than a [`Value`](crate::Value) know null and value only.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Attr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ATTR, AttrVisitor(PhantomData))
    }
}

struct AttrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AttrVisitor<T> {
    type Value = Attr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, null or unknown")
    }

    /// How the reader of values says that this one is unknown.
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Attr::Unknown)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        Option::<T>::deserialize(deserializer).map(Attr::from)
    }
}

/// Other formats than a [`Value`](crate::Value) see null in place of unknown.
impl<T: Serialize> Serialize for Attr<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Unknown => serializer.serialize_unit_struct(UNKNOWN),
            Self::Value(value) => serializer.serialize_some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conveniences() {
        let known = Attr::from("x");
        assert_eq!(known.as_deref(), Attr::Value("x"));
        assert_eq!(known.get().map(String::as_str), Some("x"));
        assert_eq!(Attr::<i32>::Unknown.unwrap_or(3), 3);
        assert_eq!(Attr::<i32>::default(), Attr::Null);
        assert_eq!(Attr::<i32>::from(None), Attr::Null);
        assert_eq!(Attr::Value(Some(1)).flatten(), Attr::Value(1));
        let mut planned = Attr::Unknown;
        planned.fill(1);
        planned.fill(2);
        assert_eq!(planned, Attr::Value(1));
    }

    #[test]
    fn other_formats_see_null_and_value() {
        let text = serde_json::to_string(&[Attr::Value(1), Attr::Null, Attr::Unknown]).unwrap();
        assert_eq!(text, "[1,null,null]");
        let read: Vec<Attr<i32>> = serde_json::from_str("[1,null]").unwrap();
        assert_eq!(read, [Attr::Value(1), Attr::Null]);
    }
}
