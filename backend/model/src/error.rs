//! The closed domain error: what every edge of the platform says, in one vocabulary.
//!
//! One file in the broker turns it into a gRPC status, one file in the plugin turns that into
//! a diagnostic. `message` is for the user; `operator` is logged and never leaves the broker.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it is. Closed: an edge matches on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The thing does not exist, or the caller may not know that it does.
    NotFound,
    /// A thing with this identity exists already.
    AlreadyExists,
    /// A value of the request is wrong; `field` names it.
    Invalid,
    /// The thing is not in a state that allows this; the user must do something first.
    Precondition,
    /// Somebody else changed it meanwhile; reading again and repeating helps.
    Conflict,
    /// No host can take it now; the message says which rule excluded how many.
    NoCapacity,
    /// A limit of counts, sizes or rates is reached.
    LimitExceeded,
    /// The account's budget does not allow it.
    BudgetExceeded,
    /// No valid credential.
    Unauthenticated,
    /// A valid credential without the right to do this.
    Forbidden,
    /// Not reachable or not ready now; repeating later helps.
    Unavailable,
    /// A fault of the platform.
    Internal,
}

impl ErrorKind {
    /// The stable name used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Invalid => "invalid",
            Self::Precondition => "precondition",
            Self::Conflict => "conflict",
            Self::NoCapacity => "no_capacity",
            Self::LimitExceeded => "limit_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// A failure as the user and the operator are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainError {
    /// The kind.
    pub kind: ErrorKind,
    /// What happened and why, for the user; no internal text.
    pub message: String,
    /// What the user can do about it; empty where the message of a wrong value says what it has to
    /// be, and where nothing is known.
    pub advice: String,
    /// The field of the request to blame, as a path (`boot_volume.size_gib`).
    pub field: Option<String>,
    /// More for the operator's log; never sent to a caller.
    #[serde(skip)]
    pub operator: String,
}

impl DomainError {
    /// An error of `kind` with the user's message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            advice: String::new(),
            field: None,
            operator: String::new(),
        }
    }

    /// A wrong value of the field at `path`.
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(path.into()), ..Self::new(ErrorKind::Invalid, message) }
    }

    /// Nothing of this noun with this id is visible to the caller.
    pub fn not_found(noun: &str, id: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {noun} with the id {id}")).advise(
            format!("check the id: the {noun} may be deleted by now, or of another account"),
        )
    }

    /// A fault of the platform; `operator` says which, the user sees only that it happened.
    pub fn internal(operator: impl Into<String>) -> Self {
        Self {
            operator: operator.into(),
            ..Self::new(ErrorKind::Internal, "the platform made an error; it has been logged")
        }
    }

    /// The same error with advice on what to do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The same error with text for the operator's log.
    #[must_use]
    pub fn for_operator(mut self, text: impl Into<String>) -> Self {
        self.operator = text.into();
        self
    }

    /// The same error with its field below `parent` (`placement` + `countries`).
    #[must_use]
    pub fn below(mut self, parent: &str) -> Self {
        self.field = Some(match self.field {
            Some(field) => format!("{parent}.{field}"),
            None => parent.to_owned(),
        });
        self
    }
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if !self.advice.is_empty() {
            write!(f, " ({})", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for DomainError {}
