//! What can go wrong between the plugin and the broker, told apart by what the user can do.
//!
//! Owns the reading of a gRPC status: the broker's own words where it sent them, otherwise what
//! the connection's chain of causes says. How it is shown is in [`crate::diagnostics`].

use std::{error::Error as StdError, io, time::Duration};

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1;
use rustls::AlertDescription as Alert;
use tonic::{Code, Status};

use crate::keyring::KeyringError;

/// Where the broker is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// Which setting says so.
    pub origin: Origin,
}

/// Where a setting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In the provider block.
    Block,
    /// In the environment.
    Environment,
}

/// A call that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The broker answered with an error.
    #[error("the broker refused the call")]
    Refused {
        /// Its words.
        error: Box<DomainError>,
        /// Found again in the platform's log; may be empty.
        request_id: String,
    },
    /// The work that a call began ended in failure.
    #[error("the operation {operation} failed")]
    Failed {
        /// The operation's id.
        operation: String,
        /// The broker's words.
        error: Box<DomainError>,
        /// Found again in the platform's log; may be empty.
        request_id: String,
    },
    /// No connection to the broker.
    #[error("the broker at {} can't be reached", endpoint.url)]
    Unreachable {
        /// Where it was sought.
        endpoint: Address,
        /// Why not.
        cause: Unreachable,
    },
    /// The connection was not trusted, by one side or the other.
    #[error("no trusted connection to {endpoint}")]
    Untrusted {
        /// Where it was sought.
        endpoint: String,
        /// Why not.
        cause: Untrusted,
    },
    /// No answer within the time of one call.
    #[error("no answer within {} s", limit.as_secs())]
    Late {
        /// How long it was waited for.
        limit: Duration,
    },
    /// A host waits for the key of a volume, and this client has no identity to make one with.
    #[error("a host waits for the key of a volume, and there is no identity to make one with")]
    NoIdentity,
    /// No key can be given to a host.
    #[error(transparent)]
    Keys(#[from] Box<KeyringError>),
    /// The broker answered something that has no meaning here.
    #[error("the broker's answer makes no sense: {0}")]
    Nonsense(String),
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nothing listens there.
    ConnectionRefused,
    /// The host name leads nowhere.
    NameNotFound,
    /// The connection broke, or nothing came back.
    Broken,
}

/// Why a connection is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrusted {
    /// The broker's certificate is from nobody we know.
    UnknownIssuer,
    /// The broker's certificate is no longer, or not yet, valid.
    Expired,
    /// The broker's certificate is for another name.
    WrongName,
    /// The other side does not speak TLS.
    NotTls,
    /// The broker does not accept the client certificate.
    ClientCertificate,
    /// The client certificate is no longer, or not yet, valid.
    ClientCertificateExpired,
    /// Anything else, in the TLS library's words.
    Other(String),
}

impl ClientError {
    /// What the broker says it is, when it was the broker that said no.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refused { error, .. } | Self::Failed { error, .. } => Some(error.kind),
            _ => None,
        }
    }

    /// Whether the thing that was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(ErrorKind::NotFound)
    }

    /// Whether somebody else was first.
    pub fn is_conflict(&self) -> bool {
        self.kind() == Some(ErrorKind::Conflict)
    }

    /// Whether what the idempotency key made is kept already, so that the next key has to be used.
    pub fn is_key_taken(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.kind == ErrorKind::AlreadyExists
            && error.field.as_deref() == Some("idempotency_key"))
    }

    /// Whether the same call may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { cause, .. } => *cause != Unreachable::NameNotFound,
            Self::Refused { error, .. } => error.kind == ErrorKind::Unavailable,
            _ => false,
        }
    }

    /// Reads a failed operation's error.
    pub fn failed(operation: String, detail: v1::ErrorDetail) -> Self {
        let request_id = detail.request_id.clone();
        Self::Failed { operation, error: Box::new(detail.into()), request_id }
    }

    /// Reads the status of a call to `endpoint` that was given `limit` to answer.
    pub fn of_status(status: &Status, endpoint: &Address, limit: Duration) -> Self {
        if let Some(refused) = refused_with_details(status) {
            return refused;
        }
        if let Some(cause) = untrusted(status) {
            return Self::Untrusted { endpoint: endpoint.url.clone(), cause };
        }
        match status.code() {
            Code::DeadlineExceeded => Self::Late { limit },
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                if has_cause(status) =>
            {
                Self::Unreachable { endpoint: endpoint.clone(), cause: unreachable(status) }
            }
            Code::Unavailable => {
                Self::Unreachable { endpoint: endpoint.clone(), cause: Unreachable::Broken }
            }
            code => Self::Refused {
                error: Box::new(DomainError::new(kind_of(code), status.message())),
                request_id: request_id(status),
            },
        }
    }
}

/// The broker's own words, when the status carries them.
fn refused_with_details(status: &Status) -> Option<ClientError> {
    let detail = v1::ErrorDetail::from_status_details(status.details())?;
    let request_id = match detail.request_id.as_str() {
        "" => request_id(status),
        id => id.to_owned(),
    };
    Some(ClientError::Refused { error: Box::new(detail.into()), request_id })
}

fn request_id(status: &Status) -> String {
    let header = status.metadata().get("request-id");
    header.and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

const fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::FailedPrecondition => ErrorKind::Precondition,
        Code::Aborted => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::LimitExceeded,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::Forbidden,
        Code::Unavailable => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn has_cause(status: &Status) -> bool {
    StdError::source(status).is_some()
}

/// The causes of a status, outermost first. An `io::Error` hides what it wraps from `source`,
/// so that is unpacked on the way.
fn causes<'a>(status: &'a Status) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(StdError::source(status), |error| next_cause(*error))
}

fn next_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inside) => Some(inside),
        None => error.source(),
    }
}

fn untrusted(status: &Status) -> Option<Untrusted> {
    causes(status).find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(error) => Some(trust_problem(error)),
        None => refusal(&cause.to_string()),
    })
}

/// The broker's word on the client certificate. It is known by its text: with TLS 1.3 it comes when
/// the connection stands already, and HTTP/2 hands on no more of an error.
fn refusal(text: &str) -> Option<Untrusted> {
    REFUSALS
        .into_iter()
        .find(|(alert, _)| text == rustls::Error::AlertReceived(*alert).to_string())
        .map(|(_, meaning)| meaning)
}

/// What a broker says of a client certificate that it does not take, and what that means.
const REFUSALS: [(Alert, Untrusted); 9] = [
    (Alert::BadCertificate, Untrusted::ClientCertificate),
    (Alert::CertificateExpired, Untrusted::ClientCertificateExpired),
    (Alert::CertificateRequired, Untrusted::ClientCertificate),
    (Alert::CertificateRevoked, Untrusted::ClientCertificate),
    (Alert::CertificateUnknown, Untrusted::ClientCertificate),
    (Alert::DecryptError, Untrusted::ClientCertificate),
    (Alert::UnsupportedCertificate, Untrusted::ClientCertificate),
    (Alert::UnknownCA, Untrusted::ClientCertificate),
    (Alert::AccessDenied, Untrusted::ClientCertificate),
];

fn trust_problem(error: &rustls::Error) -> Untrusted {
    use rustls::{CertificateError as Certificate, Error};
    match error {
        Error::InvalidCertificate(problem) => match problem {
            Certificate::UnknownIssuer | Certificate::BadSignature => Untrusted::UnknownIssuer,
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. } => Untrusted::Expired,
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                Untrusted::WrongName
            }
            other => Untrusted::Other(other.to_string()),
        },
        Error::InvalidMessage(_) => Untrusted::NotTls,
        other => {
            let text = other.to_string();
            refusal(&text).unwrap_or(Untrusted::Other(text))
        }
    }
}

fn unreachable(status: &Status) -> Unreachable {
    for cause in causes(status) {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return Unreachable::ConnectionRefused;
        }
        // The resolver's error has no type of its own; its text is all there is.
        if cause.to_string().contains("failed to lookup address") {
            return Unreachable::NameNotFound;
        }
    }
    Unreachable::Broken
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn read(status: &Status) -> ClientError {
        let url = "https://broker.example".to_owned();
        ClientError::of_status(status, &Address { url, origin: Origin::Block }, LIMIT)
    }

    fn caused_by(cause: impl StdError + Send + Sync + 'static) -> Status {
        Status::from_error(Box::new(io::Error::other(cause)))
    }

    #[test]
    fn the_brokers_words_are_kept() {
        let error = DomainError::invalid("boot_volume.size_gib", "too small").advise("grow it");
        let mut detail = v1::ErrorDetail::from(&error);
        detail.request_id = "r-1".to_owned();
        let code = Code::InvalidArgument;
        let status = Status::with_details(code, "x", detail.to_status_details(code).into());
        match read(&status) {
            ClientError::Refused { error: seen, request_id } => {
                assert_eq!((*seen, request_id.as_str()), (error, "r-1"));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_status_without_details_keeps_its_kind() {
        assert!(read(&Status::not_found("gone")).is_not_found());
        assert!(!read(&Status::not_found("gone")).is_transient());
        assert!(matches!(read(&Status::deadline_exceeded("")), ClientError::Late { .. }));
        assert!(read(&Status::unavailable("starting")).is_transient());
    }

    #[test]
    fn tls_problems_are_told_apart() {
        use rustls::{CertificateError, Error};
        let cases = [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Untrusted::UnknownIssuer),
            (Error::InvalidCertificate(CertificateError::Expired), Untrusted::Expired),
            (Error::InvalidCertificate(CertificateError::NotValidForName), Untrusted::WrongName),
            (Error::AlertReceived(Alert::CertificateRequired), Untrusted::ClientCertificate),
            (Error::AlertReceived(Alert::CertificateExpired), Untrusted::ClientCertificateExpired),
        ];
        for (error, expected) in cases {
            match read(&caused_by(error)) {
                ClientError::Untrusted { cause, .. } => assert_eq!(cause, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_refused_connection_is_transient_and_a_wrong_name_is_not() {
        let refused = read(&caused_by(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert!(matches!(
            refused,
            ClientError::Unreachable { cause: Unreachable::ConnectionRefused, .. }
        ));
        assert!(refused.is_transient());
        let nowhere = read(&caused_by(io::Error::other("failed to lookup address information")));
        assert!(!nowhere.is_transient(), "{nowhere:?}");
    }
}
