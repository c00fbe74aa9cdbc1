//! Domain errors become gRPC statuses here and nowhere else.
//!
//! What leaves: the kind as a code and by name, the user's message, advice, field, and the id
//! of the request. What stays: the operator's text, which is logged once, with the same id.

use fairmazon_model::{DomainError, ErrorKind, limits};
use fairmazon_proto::v1::ErrorDetail;
use tonic::{Code, Status};

use super::request_id::RequestId;

/// The status for a caller; logs what the operator should know.
pub(crate) fn of(error: &DomainError, request_id: RequestId) -> Status {
    // Without a text for the operator it is no fault of the platform, as when it ends or an
    // account's limit is reached.
    let is_fault = match error.kind {
        ErrorKind::Internal => true,
        ErrorKind::Unavailable | ErrorKind::LimitExceeded => !error.operator.is_empty(),
        _ => false,
    };
    let (kind, operator) = (error.kind.as_str(), error.operator.as_str());
    if is_fault {
        tracing::error!(%request_id, kind, operator, "{error}");
    } else {
        tracing::debug!(%request_id, kind, operator, "{error}");
    }
    let code = code_of(error.kind);
    let detail = ErrorDetail { request_id: request_id.to_string(), ..ErrorDetail::from(error) };
    Status::with_details(code, error.to_string(), detail.to_status_details(code).into())
}

/// What a status means that the gRPC library made before or after a handler of this method.
pub(crate) fn foreign(status: &Status, method: &str) -> DomainError {
    let library = format!("{:?}: {}", status.code(), status.message());
    let error = match status.code() {
        Code::OutOfRange => {
            let most = message_max(method);
            let text = format!("a message of this call has at most {most} bytes, and one has more");
            DomainError::new(ErrorKind::LimitExceeded, text).advise("ask for less at once")
        }
        Code::Unimplemented => {
            DomainError::invalid("content-encoding", "messages must not be compressed")
        }
        Code::Internal | Code::InvalidArgument | Code::Unknown => DomainError::new(
            ErrorKind::Invalid,
            "the message can't be read: it is not what this call expects",
        )
        .advise("use a client of the same major version as the platform"),
        _ => DomainError::new(ErrorKind::Unavailable, "the call was cut off").advise("repeat it"),
    };
    error.for_operator(library)
}

/// The largest message that the method takes, in bytes.
pub(crate) fn message_max(method: &str) -> usize {
    if method.starts_with("/fairmazon.host.") {
        limits::HOST_MESSAGE_MAX
    } else {
        limits::API_MESSAGE_MAX
    }
}

/// Whether the status was made by [`of`].
pub(crate) fn is_own(status: &Status) -> bool {
    status.code() == Code::Ok || !status.details().is_empty()
}

const fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Precondition | ErrorKind::BudgetExceeded => Code::FailedPrecondition,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::NoCapacity | ErrorKind::LimitExceeded => Code::ResourceExhausted,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_text_never_leaves() {
        let error = DomainError::internal("SECRET of the database");
        let status = of(&error, RequestId(7));
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(!status.message().contains("SECRET") && !details.contains("SECRET"));
        let detail = ErrorDetail::from_status_details(status.details()).unwrap();
        assert_eq!(detail.request_id, RequestId(7).to_string());
        assert_eq!(detail.kind, "internal");
        assert!(is_own(&status));
    }

    #[test]
    fn a_message_that_is_too_large_is_told_what_it_may_have() {
        let status = Status::out_of_range("LIBRARY");
        for (method, most) in [
            ("/fairmazon.v1.VolumesService/GetVolume", limits::API_MESSAGE_MAX),
            ("/fairmazon.host.v1.HostStreamService/OpenStream", limits::HOST_MESSAGE_MAX),
        ] {
            let error = foreign(&status, method);
            assert_eq!(error.kind, ErrorKind::LimitExceeded);
            assert!(error.message.contains(&format!("at most {most} bytes")), "{error}");
        }
    }

    #[test]
    fn the_librarys_own_text_never_leaves() {
        let status = Status::internal("failed to decode Protobuf message: LIBRARY");
        assert!(!is_own(&status));
        let error = foreign(&status, "/a.B/C");
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(!error.to_string().contains("LIBRARY"));
    }
}
