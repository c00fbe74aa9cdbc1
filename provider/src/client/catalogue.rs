//! The catalogue and the sites, each asked for once in a process.

use std::sync::Arc;

use fairmazon_model::catalogue::Catalogue;
use fairmazon_proto::v1;
use tokio::sync::OnceCell;

use super::{Client, ClientError, Page, Pages};

/// The catalogue, once it was asked for.
#[derive(Default)]
pub(super) struct CatalogueCache(OnceCell<Arc<Catalogue>>);

impl Client {
    /// What can be rented and at what price, as it was when first asked for.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn catalogue(&self) -> Result<Arc<Catalogue>, ClientError> {
        let ask = || async {
            let answer = self
                .call(v1::GetCatalogueRequest {}, |request| {
                    let mut service = self.catalogue_service();
                    async move { service.get_catalogue(request).await }
                })
                .await?;
            Ok(Arc::new(answer.into()))
        };
        self.catalogue.0.get_or_try_init(ask).await.cloned()
    }

    /// Where hosts stand now.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn sites(&self) -> Result<Vec<v1::Site>, ClientError> {
        let mut pages = Pages::new(|token| self.sites_page(token));
        let mut sites = Vec::new();
        while let Some(rows) = pages.next().await? {
            sites.extend(rows);
        }
        Ok(sites)
    }

    async fn sites_page(&self, token: String) -> Result<Page<v1::Site>, ClientError> {
        let request = v1::ListSitesRequest { page: Some(v1::Page { size: 0, token }) };
        let answer = self
            .call(request, |request| {
                let mut service = self.sites_service();
                async move { service.list_sites(request).await }
            })
            .await?;
        Ok(Page { rows: answer.sites, next: answer.next_page_token })
    }

    fn catalogue_service(
        &self,
    ) -> v1::catalogue_service_client::CatalogueServiceClient<super::Channel> {
        v1::catalogue_service_client::CatalogueServiceClient::new(self.channel.clone())
    }

    fn sites_service(&self) -> v1::sites_service_client::SitesServiceClient<super::Channel> {
        v1::sites_service_client::SitesServiceClient::new(self.channel.clone())
    }
}
