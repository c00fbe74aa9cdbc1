//! The services of what the platform offers, and of credentials.

use fairmazon_model::id::TokenId;
use fairmazon_proto::v1::{self, *};
use tonic::{Request, Response, Status};

use super::services::{Answer, Fake, missing};

#[tonic::async_trait]
impl catalogue_service_server::CatalogueService for Fake {
    async fn get_catalogue(&self, request: Request<GetCatalogueRequest>) -> Answer<Catalogue> {
        let (state, _) = self.open("get_catalogue", request)?;
        Ok(Response::new((&state.catalogue).into()))
    }
}

#[tonic::async_trait]
impl sites_service_server::SitesService for Fake {
    async fn list_sites(&self, request: Request<ListSitesRequest>) -> Answer<ListSitesResponse> {
        let (_, request) = self.open("list_sites", request)?;
        // Two pages of one site each.
        let is_first = request.page.is_none_or(|page| page.token.is_empty());
        let (name, next) = if is_first { ("fra1", "fra1") } else { ("fra2", "") };
        let site = v1::Site {
            name: name.to_owned(),
            town: "Frankfurt".to_owned(),
            country: "DE".to_owned(),
            region: "eu-central".to_owned(),
            latitude: 50.11,
            longitude: 8.68,
            hosts_available: 2,
        };
        let (sites, next_page_token) = (vec![site], next.to_owned());
        Ok(Response::new(ListSitesResponse { sites, revision: 1, next_page_token }))
    }
}

#[tonic::async_trait]
impl tokens_service_server::TokensService for Fake {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Answer<CreateTokenResponse> {
        let (mut state, request) = self.open("create_token", request)?;
        let (number, now) = (state.next(), state.now_ms());
        let token = Token {
            id: TokenId::from_parts(now.unsigned_abs(), number).to_string(),
            name: request.name,
            role: request.role,
            kind: "token".to_owned(),
            created_at_ms: now,
            expires_at_ms: now + request.lifetime_seconds as i64 * 1_000,
            revoked_at_ms: 0,
        };
        state.tokens.insert(token.id.clone(), token.clone());
        let secret = "fmz_secret".to_owned();
        Ok(Response::new(CreateTokenResponse { token: Some(token), secret }))
    }

    async fn register_certificate(
        &self,
        request: Request<RegisterCertificateRequest>,
    ) -> Answer<Token> {
        drop(self.open("register_certificate", request)?);
        Err(Status::unimplemented("not here"))
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        drop(self.open("list_tokens", request)?);
        Ok(Response::new(ListTokensResponse::default()))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Answer<Token> {
        let (mut state, request) = self.open("revoke_token", request)?;
        let token = state.tokens.get_mut(&request.id);
        let token = token.ok_or_else(|| missing("token", &request.id))?;
        token.revoked_at_ms = 1;
        Ok(Response::new(token.clone()))
    }
}
