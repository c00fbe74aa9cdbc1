//! `AccountsService`.

use fairmazon_model::DomainError;
use fairmazon_proto::v1::{
    CreateAccountRequest, CreateAccountResponse, GetAccountRequest, GetAccountResponse,
    ListAccountsRequest, ListAccountsResponse, Role, accounts_service_server::AccountsService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, page};
use crate::api::context::Context;

#[async_trait]
impl AccountsService for Api {
    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let (context, _) = Context::of(request)?;
        let work = async {
            let caller = &context.caller;
            let own = caller
                .account
                .ok_or_else(|| DomainError::internal("a credential without an account"))?;
            let view = self.engine.account(caller, own)?;
            let limits = self.engine.config();
            Ok(GetAccountResponse {
                account: Some(view.row.as_ref().into()),
                role: Role::from(caller.role).into(),
                instances: view.instances,
                instances_limit: limits.instances_per_account,
                volumes: view.volumes,
                volumes_limit: limits.volumes_per_account,
            })
        };
        context.answer(work).await
    }

    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (account, token) = self
                .engine
                .create_account(&context.caller, &message.name, &message.idempotency_key)
                .await?;
            Ok(CreateAccountResponse {
                account: Some(account.as_ref().into()),
                token: token.secret,
            })
        };
        context.answer(work).await
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let found = self.engine.accounts(&context.caller, page(message.page)?);
            let (accounts, next_page_token) = cut(&found, |row| row.id, |row| row.as_ref().into());
            Ok(ListAccountsResponse { accounts, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }
}
