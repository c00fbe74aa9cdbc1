//! Calls about volumes.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::limits::PAGE_MAX;
use fairmazon_proto::v1;
use prost::Message as _;

use super::{ANSWER_MAX, Channel, Client, ClientError, Page, Row};

impl Row for v1::Volume {
    fn id(&self) -> &str {
        &self.id
    }

    fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }
}

/// What a change of one answers: how it is now, and the work that was begun.
fn both(answer: v1::VolumeResponse) -> Result<(v1::Volume, v1::Operation), ClientError> {
    match (answer.volume, answer.operation) {
        (Some(volume), Some(operation)) => Ok((volume, operation)),
        _ => Err(ClientError::Nonsense("the volume or its operation is missing in it".to_owned())),
    }
}

impl Client {
    /// Asks for one. Answers as soon as it has an id; the operation does the rest.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn create_volume(
        &self,
        spec: v1::VolumeSpec,
    ) -> Result<(v1::Volume, v1::Operation), ClientError> {
        let bytes = spec.encode_to_vec();
        let make = |key| self.ask_for_volume(spec.clone(), key);
        both(self.create("volume", &bytes, make).await?)
    }

    async fn ask_for_volume(
        &self,
        spec: v1::VolumeSpec,
        idempotency_key: String,
    ) -> Result<v1::VolumeResponse, ClientError> {
        let request = v1::CreateVolumeRequest { spec: Some(spec), idempotency_key };
        self.call(request, |request| {
            let mut service = self.volumes_service();
            async move { service.create_volume(request).await }
        })
        .await
    }

    /// Makes a snapshot of a volume that no resource stands for, another one with each call, and
    /// waits until it is there. `told` is given its id as soon as it has one. Answers with the id.
    /// One that can't be made is deleted.
    ///
    /// # Errors
    /// Why the broker does not take it, or why it could not be made.
    pub async fn make_snapshot(
        self: &Arc<Self>,
        spec: v1::VolumeSpec,
        told: impl FnOnce(&str) + Send,
        progress: impl Fn(&str) + Send + Sync,
    ) -> Result<String, ClientError> {
        let (row, operation) = both(self.ask_for_volume(spec, self.keys.for_change()).await?)?;
        told(&row.id);
        let made = async {
            self.confirm(&row.id).await?;
            self.wait(&operation, progress).await
        };
        if let Err(error) = made.await {
            // Nobody would look for what was not made.
            if let Err(left) = self.delete_volume(&row.id).await {
                tracing::warn!(snapshot = row.id, error = ?left, "a failed snapshot is left");
            }
            return Err(error);
        }
        Ok(row.id)
    }

    /// One as it was when all were first listed, or as it is when it is newer than that.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn volume(&self, id: &str) -> Result<Arc<v1::Volume>, ClientError> {
        let page = |token| self.volumes_page(token, BTreeMap::new());
        match self.volumes.get(id, page).await? {
            Some(row) => Ok(row),
            None => self.volume_now(id).await.map(Arc::new),
        }
    }

    /// One as it is now.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn volume_now(&self, id: &str) -> Result<v1::Volume, ClientError> {
        let row = self
            .call(v1::GetVolumeRequest { id: id.to_owned() }, |request| {
                let mut service = self.volumes_service();
                async move { service.get_volume(request).await }
            })
            .await?;
        self.volumes.put(&row);
        Ok(row)
    }

    /// Replaces the whole spec.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn update_volume(
        &self,
        id: &str,
        spec: v1::VolumeSpec,
    ) -> Result<(v1::Volume, v1::Operation), ClientError> {
        let request = v1::UpdateVolumeRequest {
            id: id.to_owned(),
            spec: Some(spec),
            idempotency_key: self.keys.for_change(),
            expected_revision: 0,
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.volumes_service();
                async move { service.update_volume(request).await }
            })
            .await?;
        self.volumes.forget(id);
        both(answer)
    }

    /// Begins to remove one.
    ///
    /// # Errors
    /// When there is none, or it is protected or in use.
    pub async fn delete_volume(&self, id: &str) -> Result<v1::Operation, ClientError> {
        let request =
            v1::DeleteVolumeRequest { id: id.to_owned(), idempotency_key: self.keys.for_change() };
        let operation = self
            .call(request, |request| {
                let mut service = self.volumes_service();
                async move { service.delete_volume(request).await }
            })
            .await?;
        self.volumes.forget(id);
        Ok(operation)
    }

    /// Those that have these labels, read anew: the page of this token, the first for an empty
    /// one.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn volumes_page(
        &self,
        token: String,
        labels: BTreeMap<String, String>,
    ) -> Result<Page<v1::Volume>, ClientError> {
        let request = v1::ListVolumesRequest {
            page: Some(v1::Page { size: PAGE_MAX, token }),
            filter: (!labels.is_empty()).then_some(v1::Filter { labels }),
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.volumes_service();
                async move { service.list_volumes(request).await }
            })
            .await?;
        Ok(Page { rows: answer.volumes, next: answer.next_page_token })
    }

    pub(super) fn volumes_service(
        &self,
    ) -> v1::volumes_service_client::VolumesServiceClient<Channel> {
        v1::volumes_service_client::VolumesServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
    }
}
