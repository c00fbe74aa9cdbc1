//! The type system of the wire: what an attribute may hold.
//!
//! Owns [`Type`] and its JSON form. Knows nothing of values: see [`crate::value`].

mod json;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use json::TypeError;

/// The type of a value. Cheap to clone: everything nested is shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// A Unicode string.
    String,
    /// A decimal number of any size and precision.
    Number,
    /// `true` or `false`.
    Bool,
    /// Any type at all; the value carries its own.
    Dynamic,
    /// An ordered collection of one element type.
    List(Arc<Type>),
    /// An unordered collection of distinct elements of one type.
    Set(Arc<Type>),
    /// A collection of one element type, keyed by strings.
    Map(Arc<Type>),
    /// A fixed set of named attributes, each of its own type.
    Object(Arc<ObjectType>),
    /// A fixed sequence of elements, each of its own type.
    Tuple(Arc<[Type]>),
}

impl Type {
    /// A list of `element`.
    #[must_use]
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// A set of `element`.
    #[must_use]
    pub fn set(element: Self) -> Self {
        Self::Set(Arc::new(element))
    }

    /// A map from strings to `element`.
    #[must_use]
    pub fn map(element: Self) -> Self {
        Self::Map(Arc::new(element))
    }

    /// An object with these attributes, all of them always present.
    #[must_use]
    pub fn object<N: Into<Arc<str>>>(attributes: impl IntoIterator<Item = (N, Self)>) -> Self {
        Self::Object(Arc::new(ObjectType::new(attributes)))
    }

    /// A tuple of these element types.
    #[must_use]
    pub fn tuple(elements: impl IntoIterator<Item = Self>) -> Self {
        Self::Tuple(elements.into_iter().collect())
    }

    /// The object's attributes, when this is an object type.
    #[must_use]
    pub fn as_object(&self) -> Option<&ObjectType> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The element type of a list, set or map.
    #[must_use]
    pub fn element(&self) -> Option<&Self> {
        match self {
            Self::List(element) | Self::Set(element) | Self::Map(element) => Some(element),
            _ => None,
        }
    }

    /// Whether `Dynamic` occurs anywhere in this type.
    #[must_use]
    pub fn has_dynamic(&self) -> bool {
        match self {
            Self::Dynamic => true,
            Self::String | Self::Number | Self::Bool => false,
            Self::List(element) | Self::Set(element) | Self::Map(element) => element.has_dynamic(),
            Self::Object(object) => object.attributes.values().any(Self::has_dynamic),
            Self::Tuple(elements) => elements.iter().any(Self::has_dynamic),
        }
    }
}

/// As a person would write it in a variable block: `list(string)`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Number => f.write_str("number"),
            Self::Bool => f.write_str("bool"),
            Self::Dynamic => f.write_str("any"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Set(element) => write!(f, "set({element})"),
            Self::Map(element) => write!(f, "map({element})"),
            Self::Object(object) => object.fmt(f),
            Self::Tuple(elements) => {
                f.write_str("tuple([")?;
                for (index, element) in elements.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{element}")?;
                }
                f.write_str("])")
            }
        }
    }
}

/// The attributes of an object type, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectType {
    attributes: BTreeMap<Arc<str>, Type>,
    optional: BTreeSet<Arc<str>>,
}

impl ObjectType {
    /// An object type with these attributes; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn new<N: Into<Arc<str>>>(attributes: impl IntoIterator<Item = (N, Type)>) -> Self {
        let attributes = attributes.into_iter().map(|(name, ty)| (name.into(), ty)).collect();
        Self { attributes, optional: BTreeSet::new() }
    }

    /// The same, with these attributes marked as ones that a conversion may leave out.
    /// Names without an attribute are dropped.
    #[must_use]
    pub fn with_optional<N: Into<Arc<str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.optional.extend(names.filter(|name| self.attributes.contains_key(name)));
        self
    }

    /// The type of one attribute.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Type> {
        self.attributes.get(name)
    }

    /// The shared name and the type of one attribute.
    pub(crate) fn get_entry(&self, name: &str) -> Option<(&Arc<str>, &Type)> {
        self.attributes.get_key_value(name)
    }

    /// All attributes in order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Type)> {
        self.attributes.iter()
    }

    /// How many attributes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.attributes.len()
    }

    /// Whether there are no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// Whether a conversion to this type may leave the attribute out.
    #[must_use]
    pub fn is_optional(&self, name: &str) -> bool {
        self.optional.contains(name)
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object({")?;
        for (index, (name, ty)) in self.attributes.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            if self.is_optional(name) {
                write!(f, "{separator}{name} = optional({ty})")?;
            } else {
                write!(f, "{separator}{name} = {ty}")?;
            }
        }
        f.write_str("})")
    }
}
