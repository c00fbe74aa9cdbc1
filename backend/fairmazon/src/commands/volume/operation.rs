//! Operations that a command waits for.

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::{
    CreateVolumeRequest, DeleteVolumeRequest, OperationState, VolumeResponse, VolumeSpec,
    WaitOperationRequest, operations_service_client::OperationsServiceClient,
    volumes_service_client::VolumesServiceClient,
};
use tonic::Status;

use super::attempts::pause;
use crate::{
    client::{Client, refused},
    commands::key::Giver,
    error::CommandError,
    keys,
};

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
                        giver.give_of(&mut volumes, volume, None).await?;
                    }
                }
            }
        };
        pause(broken, &mut failures).await.map_err(refused(what))?;
    }
}

/// Asks for a volume: its id, and that of the operation that makes it.
pub(super) async fn create(
    client: &Client,
    spec: VolumeSpec,
    idempotency_key: String,
    what: &str,
) -> Result<(String, String), CommandError> {
    let request = CreateVolumeRequest { spec: Some(spec), idempotency_key };
    let made = VolumesServiceClient::new(client.clone()).create_volume(request).await;
    match made.map_err(refused(what.to_owned()))?.into_inner() {
        VolumeResponse { volume: Some(volume), operation: Some(operation) } => {
            Ok((volume.id, operation.id))
        }
        _ => Err(CommandError::Usage(format!("{what}: the answer names none"))),
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
