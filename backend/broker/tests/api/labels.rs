//! Filters of lists: the rows with all of the labels, over as many pages as they take.

use std::collections::BTreeMap;

use fairmazon_model::access::Role;
use fairmazon_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        self, CreateInstanceRequest, CreatePlacementGroupRequest, CreateVolumeRequest, Filter,
        ListInstancesRequest, ListPlacementGroupsRequest, ListVolumesRequest, Page,
        instances_service_client::InstancesServiceClient,
        placement_groups_service_client::PlacementGroupsServiceClient,
        volumes_service_client::VolumesServiceClient,
    },
};
use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::harness::{Broker, Client, instance_spec};

/// Lists that take a filter: each has a test below.
const FILTERED: [&str; 3] = ["ListInstances", "ListPlacementGroups", "ListVolumes"];

/// Labels by key.
type Pairs = [(&'static str, &'static str)];

/// What there is: its name and its labels. Those that match stand between those that do not.
const ROWS: [(&str, &Pairs); 8] = [
    ("bare", &[]),
    ("web-a", &[("tier", "web"), ("zone", "a")]),
    ("db-a", &[("tier", "db"), ("zone", "a")]),
    ("web-b", &[("tier", "web"), ("zone", "b")]),
    ("web", &[("tier", "web")]),
    ("swapped", &[("web", "tier"), ("a", "zone")]),
    ("web-a-more", &[("tier", "web"), ("zone", "a"), ("more", "x")]),
    ("longer", &[("tier", "webs"), ("zones", "a")]),
];

/// What is asked for, and which rows have it.
const FILTERS: [(&Pairs, &[&str]); 7] = [
    (&[], &["bare", "web-a", "db-a", "web-b", "web", "swapped", "web-a-more", "longer"]),
    (&[("tier", "web")], &["web-a", "web-b", "web", "web-a-more"]),
    (&[("tier", "web"), ("zone", "a")], &["web-a", "web-a-more"]),
    (&[("tier", "db"), ("zone", "b")], &[]),
    (&[("tier", "web"), ("nobody", "has it")], &[]),
    (&[("tier", "nobody")], &[]),
    (&[("zone", "")], &[]),
];

fn labels(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// A page of a list: the names of its rows, and the token of the next.
type Names = (Vec<String>, String);

/// Lists with each filter, in pages of each size.
async fn is_filtered(mut list: impl AsyncFnMut(Option<Page>, Option<Filter>) -> Names) {
    for (asked, expected) in FILTERS {
        for size in [0, 1, 2, 3] {
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let filter = Some(Filter { labels: labels(asked) });
                let (names, next) = list(Some(Page { size, token }), filter).await;
                assert!(size == 0 || names.len() <= size as usize, "{asked:?}: {names:?}");
                assert!(next.is_empty() || !names.is_empty(), "{asked:?}: an empty page goes on");
                found.extend(names);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            // Rows come in the order of their ids, and ids of one millisecond are in no order.
            found.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{asked:?} in pages of {size}");
        }
    }
}

/// The customer, and somebody whose rows have the same labels.
async fn both(broker: &Broker) -> [Client; 2] {
    [broker.as_role(Role::Customer).await, broker.stranger().await]
}

#[tokio::test]
async fn volumes_are_listed_by_their_labels() {
    let broker = Broker::start().await;
    let clients = both(&broker).await;
    for client in &clients {
        for (name, pairs) in ROWS {
            let spec = v1::VolumeSpec {
                name: name.into(),
                size_gib: 1,
                class: "standard".into(),
                labels: labels(pairs),
                ..v1::VolumeSpec::default()
            };
            let request =
                CreateVolumeRequest { spec: Some(spec), idempotency_key: format!("make {name}") };
            VolumesServiceClient::new(client.clone()).create_volume(request).await.unwrap();
        }
    }
    let mut volumes = VolumesServiceClient::new(clients[0].clone());
    is_filtered(async |page, filter| {
        let request = ListVolumesRequest { page, filter };
        let answer = volumes.list_volumes(request).await.unwrap().into_inner();
        let names = answer.volumes.into_iter().map(|volume| volume.spec.unwrap().name);
        (names.collect(), answer.next_page_token)
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn placement_groups_are_listed_by_their_labels() {
    let broker = Broker::start().await;
    let clients = both(&broker).await;
    for client in &clients {
        for (name, pairs) in ROWS {
            let request = CreatePlacementGroupRequest {
                name: name.into(),
                labels: labels(pairs),
                idempotency_key: format!("make {name}"),
            };
            let mut groups = PlacementGroupsServiceClient::new(client.clone());
            groups.create_placement_group(request).await.unwrap();
        }
    }
    let mut groups = PlacementGroupsServiceClient::new(clients[0].clone());
    is_filtered(async |page, filter| {
        let request = ListPlacementGroupsRequest { page, filter };
        let answer = groups.list_placement_groups(request).await.unwrap().into_inner();
        let names = answer.placement_groups.into_iter().map(|group| group.name);
        (names.collect(), answer.next_page_token)
    })
    .await;
    broker.stop().await;
}

#[tokio::test]
async fn instances_are_listed_by_their_labels() {
    let broker = Broker::start().await;
    let clients = both(&broker).await;
    for client in &clients {
        for (name, pairs) in ROWS {
            let spec = v1::InstanceSpec { labels: labels(pairs), ..instance_spec(name) };
            let request =
                CreateInstanceRequest { spec: Some(spec), idempotency_key: format!("make {name}") };
            InstancesServiceClient::new(client.clone()).create_instance(request).await.unwrap();
        }
    }
    let mut instances = InstancesServiceClient::new(clients[0].clone());
    is_filtered(async |page, filter| {
        let request = ListInstancesRequest { page, filter };
        let answer = instances.list_instances(request).await.unwrap().into_inner();
        let names = answer.instances.into_iter().map(|instance| instance.spec.unwrap().name);
        (names.collect(), answer.next_page_token)
    })
    .await;
    broker.stop().await;
}

#[test]
fn every_list_with_a_filter_is_known() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let messages = set.file.iter().flat_map(|file| &file.message_type);
    let filtered = messages.filter(|message| {
        message.field.iter().any(|field| field.type_name() == ".fairmazon.v1.Filter")
    });
    let mut names: Vec<_> =
        filtered.map(|message| message.name().trim_end_matches("Request")).collect();
    names.sort_unstable();
    assert_eq!(names, FILTERED);
}
