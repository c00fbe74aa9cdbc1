//! `OperationsService`.

use fairmazon_model::DomainError;
use fairmazon_proto::v1::{
    ConfirmCreatedRequest, ConfirmCreatedResponse, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
    operations_service_server::OperationsService,
};
use futures::stream;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, id, page};
use crate::api::context::{Answers, Context};

#[async_trait]
impl OperationsService for Api {
    type WaitOperationStream = Answers<Operation>;

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let operation = self.engine.operation(&context.caller, id("id", &message.id)?)?;
            Ok(operation.as_ref().into())
        };
        context.answer(work).await
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let target = Some(message.target_id.as_str()).filter(|target| !target.is_empty());
            let found = self.engine.operations(&context.caller, page(message.page)?, target);
            let (operations, next_page_token) =
                cut(&found, |row| row.id, |row| row.as_ref().into());
            Ok(ListOperationsResponse { operations, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Self::WaitOperationStream>, Status> {
        let (context, message) = Context::of(request)?;
        let watch = id("id", &message.id)
            .and_then(|id| self.engine.watch_operation(&context.caller, id))
            .map_err(|error| context.refuse(&error))?;
        let changes = stream::unfold(watch, |mut watch| async move {
            let operation = watch.next().await?;
            Some((Ok::<_, DomainError>(operation.as_ref().into()), watch))
        });
        context.stream(changes)
    }

    async fn confirm_created(
        &self,
        request: Request<ConfirmCreatedRequest>,
    ) -> Result<Response<ConfirmCreatedResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            self.engine
                .confirm_created(&context.caller, &message.ids, &message.idempotency_key)
                .await?;
            Ok(ConfirmCreatedResponse {})
        };
        context.answer(work).await
    }
}
