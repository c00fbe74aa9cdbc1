//! Operations that a command waits for.

use std::time::Duration;

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::{
    DeleteVolumeRequest, ErrorDetail, OperationState, WaitOperationRequest,
    operations_service_client::OperationsServiceClient,
    volumes_service_client::VolumesServiceClient,
};
use tonic::{Code, Status};

use crate::{
    client::{Client, refused},
    commands::key::Giver,
    error::CommandError,
    keys,
};

/// How often in a row the platform may be asked in vain: for about ten minutes.
const ATTEMPTS: u32 = 30;
/// The longest pause between two times.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits until an operation has ended, and gives the key of a volume when it waits for that.
pub(super) async fn finish(
    client: &Client,
    operation: &str,
    what: &str,
    mut giver: Option<(&mut Giver, &str)>,
) -> Result<(), CommandError> {
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut failures = 0;
    loop {
        let request = WaitOperationRequest { id: operation.to_owned() };
        let broken = match operations.wait_operation(request).await {
            Err(status) => status,
            Ok(states) => {
                let mut states = states.into_inner();
                loop {
                    let state = match states.message().await {
                        Ok(Some(state)) => state,
                        Ok(None) => break Status::unavailable("the platform has hung up"),
                        Err(status) => break status,
                    };
                    failures = 0;
                    match state.state() {
                        OperationState::Done => return Ok(()),
                        OperationState::Failed => {
                            let error = state.error.map(DomainError::from).unwrap_or_else(|| {
                                DomainError::new(ErrorKind::Internal, "no reason was given")
                            });
                            return Err(CommandError::refused(what)(error));
                        }
                        OperationState::Running | OperationState::Unspecified => {}
                    }
                    if let Some((giver, volume)) = giver.as_mut().filter(|_| state.waits_for_keys) {
                        giver.give_of(&mut volumes, volume).await?;
                    }
                }
            }
        };
        pause(broken, &mut failures).await.map_err(refused(what))?;
    }
}

/// Deletes a volume and waits until it is gone.
pub(super) async fn delete(client: &Client, volume: &str) -> Result<(), CommandError> {
    let what = format!("unable to delete {volume}");
    let request =
        DeleteVolumeRequest { id: volume.to_owned(), idempotency_key: keys::idempotency()? };
    let operation = VolumesServiceClient::new(client.clone()).delete_volume(request).await;
    let operation = operation.map_err(refused(what.clone()))?.into_inner();
    finish(client, &operation.id, &what, None).await
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
pub(super) fn limit(status: &Status) -> Option<DomainError> {
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
