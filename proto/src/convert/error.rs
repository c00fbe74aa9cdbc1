//! Errors: the kind travels as a stable name.

use fairmazon_model::{DomainError, ErrorKind};

use crate::v1;

impl From<&DomainError> for v1::ErrorDetail {
    fn from(error: &DomainError) -> Self {
        Self {
            kind: error.kind.as_str().to_owned(),
            message: error.message.clone(),
            advice: error.advice.clone(),
            field: error.field.clone().unwrap_or_default(),
            request_id: String::new(),
        }
    }
}

impl From<v1::ErrorDetail> for DomainError {
    /// A kind that this version does not know is `Internal`, with the message kept.
    fn from(detail: v1::ErrorDetail) -> Self {
        const KINDS: [ErrorKind; 12] = [
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
            ErrorKind::Invalid,
            ErrorKind::Precondition,
            ErrorKind::Conflict,
            ErrorKind::NoCapacity,
            ErrorKind::LimitExceeded,
            ErrorKind::BudgetExceeded,
            ErrorKind::Unauthenticated,
            ErrorKind::Forbidden,
            ErrorKind::Unavailable,
            ErrorKind::Internal,
        ];
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.as_str() == detail.kind)
            .unwrap_or(ErrorKind::Internal);
        Self {
            kind,
            message: detail.message,
            advice: detail.advice,
            field: (!detail.field.is_empty()).then_some(detail.field),
            operator: String::new(),
        }
    }
}
