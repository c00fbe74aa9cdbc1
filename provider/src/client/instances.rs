//! Calls about instances.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::limits::PAGE_MAX;
use fairmazon_proto::v1;
use prost::Message as _;
use tokio_stream::StreamExt as _;

use super::{ANSWER_MAX, Channel, Client, ClientError, PAUSE_MIN, Page, Row};

impl Row for v1::Instance {
    fn id(&self) -> &str {
        &self.id
    }

    fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }
}

/// What a change of one answers: how it is now, and the work that was begun.
fn both(answer: v1::InstanceResponse) -> Result<(v1::Instance, v1::Operation), ClientError> {
    match (answer.instance, answer.operation) {
        (Some(instance), Some(operation)) => Ok((instance, operation)),
        _ => {
            Err(ClientError::Nonsense("the instance or its operation is missing in it".to_owned()))
        }
    }
}

impl Client {
    /// Asks for one. Answers as soon as it has an id; the operation does the rest.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn create_instance(
        &self,
        spec: v1::InstanceSpec,
    ) -> Result<(v1::Instance, v1::Operation), ClientError> {
        let bytes = spec.encode_to_vec();
        let make = |idempotency_key| {
            let request = v1::CreateInstanceRequest { spec: Some(spec.clone()), idempotency_key };
            self.call(request, move |request| {
                let mut service = self.instances_service();
                async move { service.create_instance(request).await }
            })
        };
        both(self.create("instance", &bytes, make).await?)
    }

    /// One as it was when all were first listed, or as it is when it is newer than that.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn instance(&self, id: &str) -> Result<Arc<v1::Instance>, ClientError> {
        let page = |token| self.instances_page(token, BTreeMap::new());
        match self.instances.get(id, page).await? {
            Some(row) => Ok(row),
            None => self.instance_now(id).await.map(Arc::new),
        }
    }

    /// One as it is now.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn instance_now(&self, id: &str) -> Result<v1::Instance, ClientError> {
        let row = self
            .call(v1::GetInstanceRequest { id: id.to_owned() }, |request| {
                let mut service = self.instances_service();
                async move { service.get_instance(request).await }
            })
            .await?;
        self.instances.put(&row);
        Ok(row)
    }

    /// One, once it is as wanted. How long that may take is for the caller to bound.
    ///
    /// # Errors
    /// When there is none, also later, or it can't be followed any more.
    pub async fn instance_once(
        &self,
        id: &str,
        wanted: impl Fn(&v1::Instance) -> bool + Send + Sync,
    ) -> Result<v1::Instance, ClientError> {
        loop {
            let request = v1::WatchInstanceRequest { id: id.to_owned() };
            let mut rows = self
                .open(request, |request| {
                    let mut service = self.instances_service();
                    async move { service.watch_instance(request).await }
                })
                .await?;
            while let Some(row) = rows.next().await {
                match row {
                    Ok(row) if wanted(&row) => {
                        self.instances.put(&row);
                        return Ok(row);
                    }
                    Ok(_) => {}
                    Err(status) => {
                        self.breaks_off(&status)?;
                        break;
                    }
                }
            }
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }

    /// What the guest of one has written last to its serial console.
    ///
    /// # Errors
    /// When its host can't read it or does not answer.
    pub async fn console(&self, id: &str) -> Result<String, ClientError> {
        let request = v1::GetConsoleRequest { id: id.to_owned() };
        let answer = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.get_console(request).await }
            })
            .await?;
        Ok(answer.text)
    }

    /// Replaces the whole spec. With `allow_rebuild` a changed image makes the boot
    /// volume anew; without, it is refused.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn update_instance(
        &self,
        id: &str,
        spec: v1::InstanceSpec,
        allow_rebuild: bool,
    ) -> Result<(v1::Instance, v1::Operation), ClientError> {
        let request = v1::UpdateInstanceRequest {
            id: id.to_owned(),
            spec: Some(spec),
            idempotency_key: self.keys.for_change(),
            expected_revision: 0,
            allow_rebuild,
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.update_instance(request).await }
            })
            .await?;
        self.instances.forget(id);
        both(answer)
    }

    /// Begins to remove one.
    ///
    /// # Errors
    /// When there is none, or it is protected or in use.
    pub async fn delete_instance(&self, id: &str) -> Result<v1::Operation, ClientError> {
        let request = v1::DeleteInstanceRequest {
            id: id.to_owned(),
            idempotency_key: self.keys.for_change(),
        };
        let operation = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.delete_instance(request).await }
            })
            .await?;
        self.instances.forget(id);
        Ok(operation)
    }

    /// Begins to restart one.
    ///
    /// # Errors
    /// When there is none, or it does not run.
    pub async fn reboot_instance(&self, id: &str) -> Result<v1::Operation, ClientError> {
        let request = v1::RebootInstanceRequest {
            id: id.to_owned(),
            idempotency_key: self.keys.for_change(),
        };
        let operation = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.reboot_instance(request).await }
            })
            .await?;
        self.instances.forget(id);
        Ok(operation)
    }

    /// Begins to move a running one to another host.
    ///
    /// # Errors
    /// When there is none, it does not run, or no other host can take it.
    pub async fn migrate_instance(&self, id: &str) -> Result<v1::Operation, ClientError> {
        let request = v1::MigrateInstanceRequest {
            id: id.to_owned(),
            idempotency_key: self.keys.for_change(),
        };
        let operation = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.migrate_instance(request).await }
            })
            .await?;
        self.instances.forget(id);
        Ok(operation)
    }

    /// Those that have these labels, read anew: the page of this token, the first for an empty
    /// one.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn instances_page(
        &self,
        token: String,
        labels: BTreeMap<String, String>,
    ) -> Result<Page<v1::Instance>, ClientError> {
        let request = v1::ListInstancesRequest {
            page: Some(v1::Page { size: PAGE_MAX, token }),
            filter: (!labels.is_empty()).then_some(v1::Filter { labels }),
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.instances_service();
                async move { service.list_instances(request).await }
            })
            .await?;
        Ok(Page { rows: answer.instances, next: answer.next_page_token })
    }

    fn instances_service(&self) -> v1::instances_service_client::InstancesServiceClient<Channel> {
        v1::instances_service_client::InstancesServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
    }
}
