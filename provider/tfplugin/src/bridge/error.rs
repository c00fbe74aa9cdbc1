//! Why a value and an author's type do not fit.

use std::fmt;

use crate::path::{AttributePath, Step};

/// A value that does not fit the author's type, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConversionError {
    /// Where in the value.
    pub path: AttributePath,
    /// What does not fit. Quotes no values: they may be secret.
    pub reason: String,
}

impl ConversionError {
    /// Where in the value.
    #[must_use]
    pub const fn path(&self) -> &AttributePath {
        &self.path
    }

    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { path: AttributePath::root(), reason: reason.into() }
    }

    /// The same error, seen from one level further out.
    pub(super) fn inside(mut self, step: Step) -> Self {
        self.path.prepend(step);
        self
    }
}

impl serde::de::Error for ConversionError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(reason.to_string())
    }

    /// Serde would quote the value here.
    fn invalid_value(
        unexpected: serde::de::Unexpected<'_>,
        expected: &dyn serde::de::Expected,
    ) -> Self {
        Self::new(format!("{} is not {expected}", kind(unexpected)))
    }

    fn invalid_type(
        unexpected: serde::de::Unexpected<'_>,
        expected: &dyn serde::de::Expected,
    ) -> Self {
        Self::new(format!("expected {expected}, found {}", kind(unexpected)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("must be one of {}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("the attribute is missing").inside(Step::Attribute(field.into()))
    }
}

impl serde::ser::Error for ConversionError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(reason.to_string())
    }
}

fn kind(unexpected: serde::de::Unexpected<'_>) -> &'static str {
    use serde::de::Unexpected as U;
    match unexpected {
        U::Bool(_) => "a bool",
        U::Unsigned(_) | U::Signed(_) => "the integer",
        U::Float(_) => "the number",
        U::Char(_) | U::Str(_) => "the string",
        U::Bytes(_) => "binary data",
        U::Unit | U::Option => "null",
        U::Seq => "a sequence",
        U::Map => "a map or object",
        _ => "the value",
    }
}
