//! Why bytes are no value of a type, or a value is none.

use super::limits::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};
use crate::path::{AttributePath, Step};
use crate::types::TypeError;
use crate::value::NumberError;

/// Bytes that are no value of the type.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode {path}")]
pub struct DecodeError {
    /// Where in the value.
    pub path: AttributePath,
    /// What is wrong there.
    #[source]
    pub fault: DecodeFault,
}

impl DecodeError {
    /// The same error, seen from one level further out.
    pub(super) fn inside(mut self, step: Step) -> Self {
        self.path.prepend(step);
        self
    }
}

impl From<DecodeFault> for DecodeError {
    fn from(fault: DecodeFault) -> Self {
        Self { path: AttributePath::root(), fault }
    }
}

/// What is wrong with encoded bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeFault {
    /// The bytes end before the value does.
    #[error("the bytes end inside the value")]
    End,
    /// Bytes are left after the value.
    #[error("{0} bytes are left over after the value")]
    Trailing(usize),
    /// Something else stands where a value of the type should be.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What should be there.
        expected: &'static str,
        /// What is.
        found: &'static str,
    },
    /// A length that differs from the type's.
    #[error("expected {expected} elements, found {found}")]
    Length {
        /// How many the type has.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// The grammar of JSON is broken.
    #[error("not JSON at byte {at}: {what}")]
    Syntax {
        /// The offset, from zero.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// An attribute that the type has and the bytes do not.
    #[error("the attribute is missing")]
    Missing,
    /// An attribute that the type does not have.
    #[error("there is no attribute of that name")]
    NoSuchAttribute,
    /// One name twice.
    #[error("the name occurs twice")]
    Duplicate,
    /// A numeral that cannot be read.
    #[error("not a number that can be read")]
    Number(#[source] NumberError),
    /// A dynamic value whose type cannot be read.
    #[error("the type of the dynamic value cannot be read")]
    Type(#[source] TypeError),
    /// Past the limit.
    #[error("longer than {MAX_BYTES} bytes")]
    TooLarge,
    /// Past the limit.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Past the limit.
    #[error("more than {MAX_VALUES} values")]
    TooMany,
}

/// A value that cannot be encoded as the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode {path}: {fault}")]
pub struct EncodeError {
    /// Where in the value.
    pub path: AttributePath,
    /// What is wrong there.
    pub fault: EncodeFault,
}

impl EncodeError {
    /// The same error, seen from one level further out.
    pub(super) fn inside(mut self, step: Step) -> Self {
        self.path.prepend(step);
        self
    }
}

impl From<EncodeFault> for EncodeError {
    fn from(fault: EncodeFault) -> Self {
        Self { path: AttributePath::root(), fault }
    }
}

/// What is wrong with a value that shall be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeFault {
    /// The value does not have the type.
    #[error("{found} where {expected} is needed")]
    Mismatch {
        /// The type.
        expected: String,
        /// What the value is.
        found: &'static str,
    },
    /// An attribute that the type does not have.
    #[error("there is no attribute of that name")]
    NoSuchAttribute,
    /// JSON has no unknown values.
    #[error("JSON cannot hold an unknown value")]
    Unknown,
}
