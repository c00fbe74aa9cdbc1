//! Every list comes in pages, with the revision that they show.

use std::collections::BTreeMap;

use fairmazon_broker::core::Caller;
use fairmazon_model::{access::Role, limits};
use fairmazon_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        CreatePlacementGroupRequest, ListPlacementGroupsRequest, ListSitesRequest,
        ListUsageRequest, Page, placement_groups_service_client::PlacementGroupsServiceClient,
        sites_service_client::SitesServiceClient, usage_service_client::UsageServiceClient,
    },
};
use futures::future::join_all;
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::harness::{Broker, host_spec};

/// Methods that answer with several things and have no pages, and why.
const WITHOUT_PAGES: [(&str, &str); 2] = [
    ("GetCatalogue", "it is small, and one version of it is one whole"),
    ("GetDrain", "it is the report of one host at one moment"),
];

/// Whether a message has a field of this name and type.
fn has(message: &DescriptorProto, name: &str, kind: Type) -> bool {
    message.field.iter().any(|field| field.name() == name && field.r#type() == kind)
}

/// Whether a message has rows; maps are none.
fn has_rows(message: &DescriptorProto) -> bool {
    let is_map = |name: &str| {
        let entry = name.rsplit('.').next().unwrap();
        message.nested_type.iter().any(|nested| nested.name() == entry)
    };
    message.field.iter().any(|field| {
        let is_many = field.label() == Label::Repeated && field.r#type() == Type::Message;
        is_many && !is_map(field.type_name())
    })
}

#[test]
fn every_list_has_pages_and_a_revision() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            messages.insert(format!(".{}.{}", file.package(), message.name()), message);
        }
    }
    let mut exceptions: BTreeMap<_, _> = WITHOUT_PAGES.into_iter().collect();
    let mut lists = 0;
    for method in set.file.iter().flat_map(|file| &file.service).flat_map(|of| &of.method) {
        let (name, answer) = (method.name(), messages[method.output_type()]);
        let is_list = name.starts_with("List") || has_rows(answer);
        if !is_list || method.server_streaming() || exceptions.remove(name).is_some() {
            continue;
        }
        lists += 1;
        let request = messages[method.input_type()];
        let asks = request.field.iter().find(|field| field.name() == "page");
        let asks = asks.map(|field| field.type_name());
        assert_eq!(asks, Some(".fairmazon.v1.Page"), "{name} takes a page");
        assert!(has(answer, "next_page_token", Type::String), "{name} says where it goes on");
        assert!(has(answer, "revision", Type::Uint64), "{name} says of which revision it is");
    }
    assert!(lists > 8, "{lists}");
    assert!(exceptions.is_empty(), "these are no lists: {exceptions:?}");
}

fn one_after(token: String) -> Option<Page> {
    Some(Page { size: 1, token })
}

#[tokio::test]
async fn sites_come_in_pages_by_their_names() {
    let broker = Broker::start().await;
    let operator = Caller {
        credential: None,
        account: Some(broker.engine.account_named("HostOperator").unwrap().id),
        role: Role::HostOperator,
        host: None,
    };
    for site in ["waw1", "ams1", "par1"] {
        let mut spec = host_spec(site);
        spec.site.name = site.into();
        broker.engine.register_host(&operator, spec, site).await.unwrap();
    }
    let mut sites = SitesServiceClient::new(broker.as_role(Role::Customer).await);
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListSitesRequest { page: one_after(token) };
        let answer = sites.list_sites(request).await.unwrap().into_inner();
        assert!(answer.sites.len() == 1 && answer.revision > 0);
        names.extend(answer.sites.into_iter().map(|site| site.name));
        if answer.next_page_token.is_empty() {
            break;
        }
        token = answer.next_page_token;
    }
    assert_eq!(names, ["ams1", "fra1", "par1", "waw1"]);
    let all = sites.list_sites(ListSitesRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.sites.len(), 4, "who asks for no page gets the largest");
    broker.stop().await;
}

#[tokio::test]
async fn usage_says_of_which_revision_it_is() {
    let broker = Broker::start().await;
    let mut usage = UsageServiceClient::new(broker.as_role(Role::Customer).await);
    let answer = usage.list_usage(ListUsageRequest::default()).await.unwrap().into_inner();
    assert!(answer.revision > 0 && answer.next_page_token.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_page_has_so_many_rows_and_no_more_and_the_next_goes_on_behind_it() {
    let broker = Broker::start().await;
    let client = PlacementGroupsServiceClient::new(broker.as_role(Role::Customer).await);
    let create = async |number: usize| {
        let request = CreatePlacementGroupRequest {
            name: format!("group {number}"),
            labels: BTreeMap::new(),
            idempotency_key: format!("group {number}"),
        };
        client.clone().create_placement_group(request).await.unwrap().into_inner().id
    };
    let most = limits::PAGE_MAX as usize;
    let mut ids = join_all((0..most).map(create)).await;
    ids.sort();
    let list = async |size: u32, token: String| {
        let request = ListPlacementGroupsRequest { page: Some(Page { size, token }), filter: None };
        let answer = client.clone().list_placement_groups(request).await.unwrap().into_inner();
        let listed = answer.placement_groups.into_iter().map(|group| group.id);
        (listed.collect::<Vec<_>>(), answer.next_page_token)
    };
    // As many as the largest page holds are the last page.
    for size in [0, limits::PAGE_MAX, limits::PAGE_MAX + 1, u32::MAX] {
        assert_eq!(list(size, String::new()).await, (ids.clone(), String::new()), "of {size}");
    }
    ids.extend(join_all((most..most + 3).map(create)).await);
    ids.sort();
    for size in [0, limits::PAGE_MAX, limits::PAGE_MAX + 1, u32::MAX] {
        let (mut listed, token) = list(size, String::new()).await;
        assert_eq!(listed.len(), most, "a page of {size} is the largest");
        let (rest, end) = list(size, token).await;
        assert_eq!((rest.len(), end.as_str()), (3, ""), "after a page of {size}");
        listed.extend(rest);
        assert_eq!(listed, ids, "no gap after a page of {size}");
    }
    broker.stop().await;
}
