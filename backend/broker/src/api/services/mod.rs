//! The services of `fairmazon.v1`, one file each: parse the message, call the core, map what
//! it answers. Nothing is decided here.

mod accounts;
mod audit;
mod catalogue;
mod host_stream;
mod hosts;
mod instances;
mod operations;
mod placement_groups;
mod sites;
mod tokens;
mod usage;
mod volumes;

use std::{fmt::Display, str::FromStr, sync::Arc, time::Duration};

use fairmazon_model::{DomainError, limits, site::Site};
use fairmazon_proto::{
    FILE_DESCRIPTOR_SET,
    host::v1::host_stream_service_server::HostStreamServiceServer,
    v1::{
        self, accounts_service_server::AccountsServiceServer,
        audit_service_server::AuditServiceServer, catalogue_service_server::CatalogueServiceServer,
        hosts_service_server::HostsServiceServer, instances_service_server::InstancesServiceServer,
        operations_service_server::OperationsServiceServer,
        placement_groups_service_server::PlacementGroupsServiceServer,
        sites_service_server::SitesServiceServer, tokens_service_server::TokensServiceServer,
        usage_service_server::UsageServiceServer, volumes_service_server::VolumesServiceServer,
    },
};
use tonic::{Streaming, service::Routes};

use crate::{
    api::HostAuthority,
    core::{Engine, Page, PageRequest},
};

/// How long a caller may take from a call to its first message.
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Implements the services of the core.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) host_authority: Option<Arc<HostAuthority>>,
}

/// All services of the platform, and reflection.
///
/// # Errors
/// When the descriptors that were compiled in can't be read.
pub(crate) fn routes(
    engine: Engine,
    host_authority: Option<Arc<HostAuthority>>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let api = Api { engine, host_authority };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (small, large) = (limits::API_MESSAGE_MAX, limits::HOST_MESSAGE_MAX);
    let mut routes = Routes::builder();
    macro_rules! serve {
        ($($server:ident;)+) => {$(
            routes.add_service($server::new(api.clone()).max_decoding_message_size(small));
        )+};
    }
    serve! {
        AccountsServiceServer;
        AuditServiceServer;
        CatalogueServiceServer;
        HostsServiceServer;
        InstancesServiceServer;
        OperationsServiceServer;
        PlacementGroupsServiceServer;
        SitesServiceServer;
        TokensServiceServer;
        UsageServiceServer;
        VolumesServiceServer;
    }
    routes
        .add_service(HostStreamServiceServer::new(api).max_decoding_message_size(large))
        .add_service(reflection);
    Ok(routes.routes())
}

/// Reads an id and blames `field` when it is not one.
fn id<T>(field: &str, text: &str) -> Result<T, DomainError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error: T::Err| DomainError::invalid(field, error.to_string()))
}

/// As [`id`]; none where there is no text.
fn optional_id<T>(field: &str, text: &str) -> Result<Option<T>, DomainError>
where
    T: FromStr<Err: Display>,
{
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// The value of a message field that must be there.
fn required<T>(field: &str, value: Option<T>) -> Result<T, DomainError> {
    value.ok_or_else(|| DomainError::invalid(field, "it is missing, and has to be given"))
}

/// Which part of a list is asked for. The token of a page is the last id of the page before, or
/// the last name.
fn page<Id>(page: Option<v1::Page>) -> Result<PageRequest<Id>, DomainError>
where
    Id: FromStr<Err: Display>,
{
    let page = page.unwrap_or_default();
    let after = match page.token.as_str() {
        "" => None,
        token => Some(token.parse().map_err(|_| {
            DomainError::invalid(
                "page.token",
                "it is not the `next_page_token` of an answer to this call",
            )
            .advise("begin with the first page, without a token")
        })?),
    };
    Ok(PageRequest { after, limit: page.size })
}

/// The token of the next page; empty when there is none.
fn page_token(next: Option<impl Display>) -> String {
    next.map(|id| id.to_string()).unwrap_or_default()
}

/// The rows of a page as messages, cut off where they have enough bytes for one answer, and the
/// token of the next page.
fn cut<T, M, Id>(
    found: &Page<T, Id>,
    id: impl Fn(&T) -> Id,
    message: impl Fn(&T) -> M,
) -> (Vec<M>, String)
where
    M: prost::Message,
    Id: Display,
{
    let (mut messages, mut bytes) = (Vec::with_capacity(found.items.len()), 0);
    for (index, item) in found.items.iter().enumerate() {
        let message = message(item);
        bytes += message.encoded_len();
        if bytes > limits::PAGE_BYTES_MAX && index > 0 {
            return (messages, page_token(Some(id(&found.items[index - 1]))));
        }
        messages.push(message);
    }
    (messages, page_token(found.next.as_ref()))
}

/// Name and country of where something is; empty when it is nowhere yet.
fn place(site: Option<&Site>) -> (String, String) {
    site.map(|site| (site.name.clone(), site.country.clone())).unwrap_or_default()
}

/// The first message of a call; none when none comes in time.
async fn first<T>(messages: &mut Streaming<T>) -> Option<T> {
    let first = tokio::time::timeout(FIRST_WITHIN, messages.message()).await;
    first.ok()?.ok()?
}

#[cfg(test)]
mod tests {
    use fairmazon_model::id::InstanceId;

    use super::*;

    #[test]
    fn a_page_token_is_an_id_or_nothing() {
        let token = InstanceId::from_parts(1, 2).to_string();
        let asked = Some(v1::Page { size: 5, token });
        let read = page::<InstanceId>(asked).unwrap();
        assert_eq!(read.after, Some(InstanceId::from_parts(1, 2)));
        assert_eq!(read.limit, 5);
        assert_eq!(page::<InstanceId>(None).unwrap().after, None);
        let nonsense = Some(v1::Page { size: 0, token: "x".into() });
        assert_eq!(page::<InstanceId>(nonsense).unwrap_err().field.as_deref(), Some("page.token"));
    }
}
