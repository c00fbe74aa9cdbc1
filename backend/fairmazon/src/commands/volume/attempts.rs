//! What is tried again where the way to the platform has broken.

use std::time::Duration;

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::ErrorDetail;
use tonic::{Code, Status};

use crate::{client::refused, error::CommandError, output};

/// How often in a row the platform may be asked in vain: for about ten minutes.
const ATTEMPTS: u32 = 30;
/// The longest pause between two times.
const LONGEST: Duration = Duration::from_secs(30);

/// Why an attempt at a transfer did not bring all of it.
pub(super) enum Ended {
    /// The way there, or the platform.
    Broken(Status),
    /// Something else.
    Failed(CommandError),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// The attempts at a transfer.
pub(super) struct Attempts {
    /// What is told when there is no place for it.
    transfer: String,
    /// What failed when it is given up.
    what: String,
    /// In a row.
    failures: u32,
    is_told: bool,
}

impl Attempts {
    pub(super) const fn new(transfer: String, what: String) -> Self {
        Self { transfer, what, failures: 0, is_told: false }
    }

    /// The last one got further than those before it.
    pub(super) const fn went_on(&mut self) {
        self.failures = 0;
    }

    /// Waits for the time of the next one.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn again(&mut self, ended: Ended) -> Result<(), CommandError> {
        let status = match ended {
            Ended::Failed(error) => return Err(error),
            Ended::Broken(status) => status,
        };
        if let Some(limit) = limit(&status).filter(|_| !self.is_told) {
            output::note(&format!("{} waits for a place: {}", self.transfer, limit.message));
            self.is_told = true;
        }
        pause(status, &mut self.failures).await.map_err(refused(self.what.clone()))
    }
}

/// Waits before something is asked again that has failed for the way there, or for what else is
/// under way.
///
/// # Errors
/// The status itself when the platform has refused it, or this was the last attempt.
pub(super) async fn pause(status: Status, failures: &mut u32) -> Result<(), Status> {
    if !is_passing(&status) || *failures >= ATTEMPTS {
        return Err(status);
    }
    let pause = Duration::from_millis(100 << (*failures).min(10));
    *failures += 1;
    tokio::time::sleep(pause.min(LONGEST)).await;
    Ok(())
}

/// Whether the same may be granted later.
fn is_passing(status: &Status) -> bool {
    // What comes without a detail does not come from the platform's services.
    let is_theirs = ErrorDetail::from_status_details(status.details()).is_some();
    status.code() == Code::Unavailable || !is_theirs || limit(status).is_some()
}

/// The limit that a call was refused for: of calls at once, in which one that has broken off
/// counts until the platform has noticed.
fn limit(status: &Status) -> Option<DomainError> {
    let detail = ErrorDetail::from_status_details(status.details())?;
    Some(DomainError::from(detail)).filter(|error| error.kind == ErrorKind::LimitExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_hold_is_waited_for_and_what_is_refused_is_not() {
        let status = |code, kind| {
            let detail = ErrorDetail::from(&DomainError::new(kind, "why"));
            Status::with_details(code, "why", detail.to_status_details(code).into())
        };
        let full = status(Code::ResourceExhausted, ErrorKind::LimitExceeded);
        assert!(is_passing(&full));
        assert_eq!(limit(&full).unwrap().message, "why");
        for status in [Status::unavailable("away"), Status::internal("cut off")] {
            assert!(is_passing(&status) && limit(&status).is_none(), "{status}");
        }
        for status in [
            status(Code::NotFound, ErrorKind::NotFound),
            status(Code::ResourceExhausted, ErrorKind::NoCapacity),
        ] {
            assert!(!is_passing(&status), "{status}");
        }
    }
}
