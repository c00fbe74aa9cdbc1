//! Operations: long work is waited for on a stream, not asked about again and again.

use fairmazon_proto::v1;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::{Channel, Client, ClientError};

impl Client {
    /// Waits until the operation ends; `progress` is told what it waits for when that changes.
    /// How long is for the caller to bound.
    ///
    /// # Errors
    /// Why it failed, or why it can't be followed any more.
    pub async fn wait(
        &self,
        operation: &v1::Operation,
        progress: impl Fn(&str) + Send + Sync,
    ) -> Result<(), ClientError> {
        let mut told = String::new();
        let mut last = operation.clone();
        loop {
            if let Some(end) = ending(&last) {
                return end;
            }
            let mut changes = self.changes(operation).await?;
            while let Some(change) = changes.next().await {
                match change {
                    Ok(operation) => last = operation,
                    Err(status) => {
                        self.breaks_off(&status)?;
                        break;
                    }
                }
                if let Some(end) = ending(&last) {
                    return end;
                }
                if last.waits_for_keys {
                    self.give_keys(&last.target_id).await?;
                }
                if told != last.waiting_for {
                    told.clone_from(&last.waiting_for);
                    progress(&told);
                }
            }
            tokio::time::sleep(super::PAUSE_MIN).await;
        }
    }

    /// Gives the keys that the operation's target waits for, as soon as it does; for those who do
    /// not wait for its end.
    ///
    /// # Errors
    /// Why it failed, or why no key can be given.
    pub async fn hand_keys(&self, operation: &v1::Operation) -> Result<(), ClientError> {
        let mut changes = self.changes(operation).await?;
        while let Some(Ok(change)) = changes.next().await {
            if change.waits_for_keys {
                return self.give_keys(&change.target_id).await;
            }
            if let Some(end) = ending(&change) {
                return end;
            }
        }
        Ok(())
    }

    /// Follows the operation: as it is now, and each change.
    async fn changes(
        &self,
        operation: &v1::Operation,
    ) -> Result<Streaming<v1::Operation>, ClientError> {
        let request = v1::WaitOperationRequest { id: operation.id.clone() };
        self.open(request, |request| {
            let mut service = self.operations_service();
            async move { service.wait_operation(request).await }
        })
        .await
    }

    pub(super) fn operations_service(
        &self,
    ) -> v1::operations_service_client::OperationsServiceClient<Channel> {
        v1::operations_service_client::OperationsServiceClient::new(self.channel.clone())
    }
}

/// How the operation ended, when it did.
fn ending(operation: &v1::Operation) -> Option<Result<(), ClientError>> {
    match operation.state() {
        v1::OperationState::Done => Some(Ok(())),
        v1::OperationState::Failed => {
            let detail = operation.error.clone().unwrap_or_default();
            Some(Err(ClientError::failed(operation.id.clone(), detail)))
        }
        v1::OperationState::Unspecified | v1::OperationState::Running => None,
    }
}
