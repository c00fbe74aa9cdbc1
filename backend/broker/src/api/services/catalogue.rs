//! `CatalogueService`.

use fairmazon_proto::v1::{
    Catalogue, GetCatalogueRequest, catalogue_service_server::CatalogueService,
};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use crate::api::context::Context;

#[async_trait]
impl CatalogueService for Api {
    async fn get_catalogue(
        &self,
        request: Request<GetCatalogueRequest>,
    ) -> Result<Response<Catalogue>, Status> {
        let (context, _) = Context::of(request)?;
        context.answer(async { Ok(self.engine.catalogue().as_ref().into()) }).await
    }
}
