//! Calls about placement groups.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::limits::PAGE_MAX;
use fairmazon_proto::v1;
use prost::Message as _;

use super::{ANSWER_MAX, Channel, Client, ClientError, Page, Row};

impl Row for v1::PlacementGroup {
    fn id(&self) -> &str {
        &self.id
    }

    fn is_unconfirmed(&self) -> bool {
        // The broker does not say it of groups, and hears of a group only once.
        false
    }
}

impl Client {
    /// Makes one.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn create_placement_group(
        &self,
        name: String,
        labels: BTreeMap<String, String>,
    ) -> Result<v1::PlacementGroup, ClientError> {
        let spec = v1::CreatePlacementGroupRequest { name, labels, idempotency_key: String::new() };
        let make = |idempotency_key| {
            let request = v1::CreatePlacementGroupRequest { idempotency_key, ..spec.clone() };
            self.call(request, move |request| {
                let mut service = self.placement_groups_service();
                async move { service.create_placement_group(request).await }
            })
        };
        self.create("placement group", &spec.encode_to_vec(), make).await
    }

    /// One as it was when all were first listed, or as it is when it is newer than that.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn placement_group(&self, id: &str) -> Result<Arc<v1::PlacementGroup>, ClientError> {
        let page = |token| self.placement_groups_page(token, BTreeMap::new());
        match self.groups.get(id, page).await? {
            Some(row) => Ok(row),
            None => self.placement_group_now(id).await.map(Arc::new),
        }
    }

    /// One as it is now.
    ///
    /// # Errors
    /// When there is none, or the broker does not answer.
    pub async fn placement_group_now(&self, id: &str) -> Result<v1::PlacementGroup, ClientError> {
        let row = self
            .call(v1::GetPlacementGroupRequest { id: id.to_owned() }, |request| {
                let mut service = self.placement_groups_service();
                async move { service.get_placement_group(request).await }
            })
            .await?;
        self.groups.put(&row);
        Ok(row)
    }

    /// Renames it and replaces its labels.
    ///
    /// # Errors
    /// Why the broker does not take it.
    pub async fn update_placement_group(
        &self,
        id: &str,
        name: String,
        labels: BTreeMap<String, String>,
    ) -> Result<v1::PlacementGroup, ClientError> {
        let request = v1::UpdatePlacementGroupRequest {
            id: id.to_owned(),
            name,
            labels,
            idempotency_key: self.keys.for_change(),
        };
        let row = self
            .call(request, |request| {
                let mut service = self.placement_groups_service();
                async move { service.update_placement_group(request).await }
            })
            .await?;
        self.groups.put(&row);
        Ok(row)
    }

    /// Removes one.
    ///
    /// # Errors
    /// When there is none, or an instance names it.
    pub async fn delete_placement_group(&self, id: &str) -> Result<(), ClientError> {
        let request = v1::DeletePlacementGroupRequest {
            id: id.to_owned(),
            idempotency_key: self.keys.for_change(),
        };
        self.call(request, |request| {
            let mut service = self.placement_groups_service();
            async move { service.delete_placement_group(request).await }
        })
        .await?;
        self.groups.forget(id);
        Ok(())
    }
    /// Those that have these labels, read anew: the page of this token, the first for an empty
    /// one.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn placement_groups_page(
        &self,
        token: String,
        labels: BTreeMap<String, String>,
    ) -> Result<Page<v1::PlacementGroup>, ClientError> {
        let request = v1::ListPlacementGroupsRequest {
            page: Some(v1::Page { size: PAGE_MAX, token }),
            filter: (!labels.is_empty()).then_some(v1::Filter { labels }),
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.placement_groups_service();
                async move { service.list_placement_groups(request).await }
            })
            .await?;
        Ok(Page { rows: answer.placement_groups, next: answer.next_page_token })
    }

    fn placement_groups_service(
        &self,
    ) -> v1::placement_groups_service_client::PlacementGroupsServiceClient<Channel> {
        v1::placement_groups_service_client::PlacementGroupsServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
    }
}
