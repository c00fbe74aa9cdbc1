//! `PlacementGroupsService`.

use fairmazon_proto::v1::{
    CreatePlacementGroupRequest, DeletePlacementGroupRequest, DeletePlacementGroupResponse,
    GetPlacementGroupRequest, ListPlacementGroupsRequest, ListPlacementGroupsResponse,
    PlacementGroup, UpdatePlacementGroupRequest,
    placement_groups_service_server::PlacementGroupsService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, id, page};
use crate::api::context::Context;

#[async_trait]
impl PlacementGroupsService for Api {
    async fn create_placement_group(
        &self,
        request: Request<CreatePlacementGroupRequest>,
    ) -> Result<Response<PlacementGroup>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let key = &message.idempotency_key;
            let group = self
                .engine
                .create_group(&context.caller, &message.name, &message.labels, key)
                .await?;
            Ok(group.as_ref().into())
        };
        context.answer(work).await
    }

    async fn get_placement_group(
        &self,
        request: Request<GetPlacementGroupRequest>,
    ) -> Result<Response<PlacementGroup>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let group = self.engine.group(&context.caller, id("id", &message.id)?)?;
            Ok(group.as_ref().into())
        };
        context.answer(work).await
    }

    async fn list_placement_groups(
        &self,
        request: Request<ListPlacementGroupsRequest>,
    ) -> Result<Response<ListPlacementGroupsResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let labels = message.filter.unwrap_or_default().labels;
            let found = self.engine.groups(&context.caller, page(message.page)?, &labels);
            let (placement_groups, next_page_token) =
                cut(&found, |row| row.id, |row| row.as_ref().into());
            Ok(ListPlacementGroupsResponse {
                placement_groups,
                next_page_token,
                revision: found.revision.0,
            })
        };
        context.answer(work).await
    }

    async fn update_placement_group(
        &self,
        request: Request<UpdatePlacementGroupRequest>,
    ) -> Result<Response<PlacementGroup>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let group = self
                .engine
                .update_group(&context.caller, target, &message.name, &message.labels, key)
                .await?;
            Ok(group.as_ref().into())
        };
        context.answer(work).await
    }

    async fn delete_placement_group(
        &self,
        request: Request<DeletePlacementGroupRequest>,
    ) -> Result<Response<DeletePlacementGroupResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            self.engine.delete_group(&context.caller, target, key).await?;
            Ok(DeletePlacementGroupResponse {})
        };
        context.answer(work).await
    }
}
