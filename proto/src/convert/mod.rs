//! Translation between messages and the model: `From` outwards, `TryFrom` inwards.
//!
//! Inwards a wrong message is a [`DomainError`] of the kind `Invalid` that names the field.
//! Nothing is decided here; whether a well-formed value is allowed is the broker's to check.

mod access;
mod catalogue;
mod conformity;
mod console;
mod error;
mod hosts;
mod instance;
mod key;
mod machine;
mod migration;
mod operation;
mod placement;
mod transfer;
mod usage;
mod volume;

pub use transfer::chunk;

use std::{fmt::Display, str::FromStr};

use fairmazon_model::DomainError;

/// Reads an id and blames `field` when it is not one.
fn id<T>(field: &str, text: &str) -> Result<T, DomainError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error: T::Err| DomainError::invalid(field, error.to_string()))
}

/// As [`id`], where an empty text means that there is none.
fn optional_id<T>(field: &str, text: &str) -> Result<Option<T>, DomainError>
where
    T: FromStr<Err: Display>,
{
    (!text.is_empty()).then(|| id(field, text)).transpose()
}

/// The value of a message field that must be there.
fn required<T>(field: &str, value: Option<T>) -> Result<T, DomainError> {
    value.ok_or_else(|| DomainError::invalid(field, "it is missing, and has to be given"))
}

/// Reads an enum's number; 0 and numbers unknown to this version are errors.
fn known<T>(field: &str, value: Result<T, impl Display>) -> Result<T, DomainError> {
    value.map_err(|_| {
        DomainError::invalid(field, "this value is not known to this version")
            .advise("use a client of the platform's version")
    })
}
