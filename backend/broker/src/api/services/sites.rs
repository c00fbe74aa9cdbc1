//! `SitesService`.

use fairmazon_proto::v1::{
    ListSitesRequest, ListSitesResponse, Site, sites_service_server::SitesService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, page};
use crate::{api::context::Context, core::SiteView};

#[async_trait]
impl SitesService for Api {
    async fn list_sites(
        &self,
        request: Request<ListSitesRequest>,
    ) -> Result<Response<ListSitesResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let found = self.engine.sites(&page(message.page)?);
            let (sites, next_page_token) = cut(&found, |view| view.site.name.clone(), site);
            Ok(ListSitesResponse { sites, revision: found.revision.0, next_page_token })
        };
        context.answer(work).await
    }
}

fn site(view: &SiteView) -> Site {
    let site = &view.site;
    Site {
        name: site.name.clone(),
        town: site.town.clone(),
        country: site.country.clone(),
        region: site.region.clone(),
        latitude: site.coordinates.latitude,
        longitude: site.coordinates.longitude,
        hosts_available: view.hosts_available,
    }
}
