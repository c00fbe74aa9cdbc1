//! Each service with what it is for.

use std::collections::BTreeMap;

use fairmazon_model::{access::Role, limits};
use fairmazon_proto::v1::{
    self, ConfirmCreatedRequest, CreateAccountRequest, CreateInstanceRequest,
    CreatePlacementGroupRequest, CreateVolumeRequest, DeletePlacementGroupRequest,
    DeleteVolumeRequest, Filter, GetAccountRequest, GetHostRequest, GetInstanceRequest,
    GetOperationRequest, GetPlacementGroupRequest, GetVolumeRequest, ListAccountsRequest,
    ListHostsRequest, ListInstancesRequest, ListOperationsRequest, ListPlacementGroupsRequest,
    ListSitesRequest, ListVolumesRequest, Page, RegisterHostRequest, RemoveHostRequest,
    UpdateHostRequest, UpdateInstanceRequest, UpdatePlacementGroupRequest, UpdateVolumeRequest,
    accounts_service_client::AccountsServiceClient, hosts_service_client::HostsServiceClient,
    instances_service_client::InstancesServiceClient,
    operations_service_client::OperationsServiceClient,
    placement_groups_service_client::PlacementGroupsServiceClient,
    sites_service_client::SitesServiceClient, volumes_service_client::VolumesServiceClient,
};
use prost::Message as _;
use tonic::Code;

use crate::harness::{Broker, host_spec, instance_spec};

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.into(), value.into())])
}

#[tokio::test]
async fn instances_are_made_listed_changed_and_confirmed() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::Customer).await;
    let mut instances = InstancesServiceClient::new(client.clone());
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let request =
            CreateInstanceRequest { spec: Some(instance_spec(name)), idempotency_key: name.into() };
        let first = instances.create_instance(request.clone()).await.unwrap().into_inner();
        let again = instances.create_instance(request).await.unwrap().into_inner();
        let (first, again) = (first.instance.unwrap(), again.instance.unwrap());
        assert_eq!(first.id, again.id, "the same key is the same machine");
        assert!(first.unconfirmed && first.price_per_hour_nano_eur > 0);
        assert_eq!(first.spec.unwrap(), instance_spec(name), "nothing is lost on the way");
        ids.push(first.id);
    }
    let mut listed = Vec::new();
    let mut token = String::new();
    loop {
        let page = Some(Page { size: 2, token });
        let request = ListInstancesRequest { page, filter: None };
        let page = instances.list_instances(request).await.unwrap().into_inner();
        assert!(page.instances.len() <= 2 && page.revision > 0);
        listed.extend(page.instances.into_iter().map(|instance| instance.id));
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    ids.sort();
    assert_eq!(listed, ids);
    let filter = Some(Filter { labels: labels("name", "b") });
    let request = ListInstancesRequest { page: None, filter };
    let found = instances.list_instances(request).await.unwrap().into_inner().instances;
    assert_eq!(found.len(), 1);

    let one = &found[0];
    let mut spec = one.spec.clone().unwrap();
    spec.name = "renamed".into();
    let update = |revision, key: &str| UpdateInstanceRequest {
        id: one.id.clone(),
        spec: Some(spec.clone()),
        idempotency_key: key.into(),
        expected_revision: revision,
        allow_rebuild: false,
    };
    let status = instances.update_instance(update(one.revision + 99, "stale")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let changed = instances.update_instance(update(one.revision, "now")).await.unwrap();
    assert_eq!(changed.into_inner().instance.unwrap().spec.unwrap().name, "renamed");

    let mut operations = OperationsServiceClient::new(client);
    let request =
        ConfirmCreatedRequest { ids: vec![one.id.clone()], idempotency_key: "confirm".into() };
    operations.confirm_created(request).await.unwrap();
    let request = GetInstanceRequest { id: one.id.clone() };
    assert!(!instances.get_instance(request).await.unwrap().into_inner().unconfirmed);
    let request = ListOperationsRequest { page: None, target_id: one.id.clone() };
    let found = operations.list_operations(request).await.unwrap().into_inner().operations;
    assert!(found.iter().any(|operation| operation.kind() == v1::OperationKind::Create));
    let request = GetOperationRequest { id: found[0].id.clone() };
    assert_eq!(operations.get_operation(request).await.unwrap().into_inner().id, found[0].id);
    broker.stop().await;
}

#[tokio::test]
async fn a_page_of_large_instances_is_cut_off_where_it_has_enough_bytes() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::Customer).await;
    let mut instances = InstancesServiceClient::new(client);
    let mut ids = Vec::new();
    for number in 0..50 {
        let mut spec = instance_spec(&format!("large-{number}"));
        spec.user_data = "x".repeat(limits::USER_DATA_MAX);
        let long = "A".repeat(limits::SSH_KEY_MAX - 20);
        spec.ssh_keys = (0..4).map(|key| format!("ssh-rsa {key}{long}")).collect();
        let request =
            CreateInstanceRequest { spec: Some(spec), idempotency_key: format!("{number}") };
        let made = instances.create_instance(request).await.unwrap().into_inner();
        ids.push(made.instance.unwrap().id);
    }
    ids.sort();
    let (mut listed, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let page = Some(Page { size: 0, token });
        let request = ListInstancesRequest { page, filter: None };
        let page = instances.list_instances(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < limits::PAGE_BYTES_MAX + 1_000);
        listed.extend(page.instances.into_iter().map(|instance| instance.id));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    assert_eq!(listed, ids, "none is lost between the pages");
    assert!(pages > 2, "{pages}");
    broker.stop().await;
}

#[tokio::test]
async fn volumes_are_made_grown_and_deleted() {
    let broker = Broker::start().await;
    let mut volumes = VolumesServiceClient::new(broker.as_role(Role::Customer).await);
    let spec = v1::VolumeSpec {
        name: "data".into(),
        size_gib: 10,
        class: "fast".into(),
        labels: labels("a", "b"),
        ..v1::VolumeSpec::default()
    };
    let request = CreateVolumeRequest { spec: Some(spec.clone()), idempotency_key: "data".into() };
    let made = volumes.create_volume(request).await.unwrap().into_inner().volume.unwrap();
    assert_eq!(made.state(), v1::VolumeState::Available);
    assert_eq!(made.price_per_month_nano_eur, made.price_per_hour_nano_eur * 730);
    let update = |size_gib, key: &str| UpdateVolumeRequest {
        id: made.id.clone(),
        spec: Some(v1::VolumeSpec { size_gib, ..spec.clone() }),
        idempotency_key: key.into(),
        expected_revision: 0,
    };
    volumes.update_volume(update(20, "grow")).await.unwrap();
    let shrunk = volumes.update_volume(update(5, "shrink")).await.unwrap_err();
    assert!(matches!(shrunk.code(), Code::InvalidArgument | Code::FailedPrecondition), "{shrunk}");
    let got = volumes.get_volume(GetVolumeRequest { id: made.id.clone() }).await.unwrap();
    assert_eq!(got.into_inner().spec.unwrap().size_gib, 20);
    let listed = volumes.list_volumes(ListVolumesRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().volumes.len(), 1);
    let request = DeleteVolumeRequest { id: made.id.clone(), idempotency_key: "gone".into() };
    volumes.delete_volume(request).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn groups_are_made_changed_and_deleted() {
    let broker = Broker::start().await;
    let mut groups = PlacementGroupsServiceClient::new(broker.as_role(Role::Customer).await);
    let request = CreatePlacementGroupRequest {
        name: "apart".into(),
        labels: labels("a", "b"),
        idempotency_key: "make".into(),
    };
    let made = groups.create_placement_group(request).await.unwrap().into_inner();
    let request = UpdatePlacementGroupRequest {
        id: made.id.clone(),
        name: "together".into(),
        labels: BTreeMap::new(),
        idempotency_key: "change".into(),
    };
    let changed = groups.update_placement_group(request).await.unwrap().into_inner();
    assert_eq!((changed.name.as_str(), changed.labels.len()), ("together", 0));
    let listed = groups.list_placement_groups(ListPlacementGroupsRequest::default());
    assert_eq!(listed.await.unwrap().into_inner().placement_groups.len(), 1);
    let request =
        DeletePlacementGroupRequest { id: made.id.clone(), idempotency_key: "gone".into() };
    groups.delete_placement_group(request).await.unwrap();
    let request = GetPlacementGroupRequest { id: made.id };
    let status = groups.get_placement_group(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    broker.stop().await;
}

#[tokio::test]
async fn hosts_are_registered_listed_changed_and_removed() {
    let broker = Broker::start().await;
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let request = RegisterHostRequest {
        spec: Some((&host_spec("second")).into()),
        idempotency_key: "second".into(),
    };
    let made = hosts.register_host(request).await.unwrap().into_inner();
    assert!(made.token.starts_with("fmz_"));
    let made = made.host.unwrap();
    let listed = hosts.list_hosts(ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().any(|host| host.id == broker.host.to_string() && !host.connected));
    let mut spec = made.spec.unwrap();
    spec.schedulable = false;
    let request = UpdateHostRequest {
        id: made.id.clone(),
        spec: Some(spec),
        idempotency_key: "drain".into(),
    };
    assert!(!hosts.update_host(request).await.unwrap().into_inner().spec.unwrap().schedulable);
    let request =
        RemoveHostRequest { id: made.id.clone(), idempotency_key: "gone".into(), lost: false };
    hosts.remove_host(request).await.unwrap();
    let status = hosts.get_host(GetHostRequest { id: made.id }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut sites = SitesServiceClient::new(broker.as_role(Role::Customer).await);
    let sites = sites.list_sites(ListSitesRequest::default()).await.unwrap().into_inner().sites;
    assert_eq!(sites.len(), 1);
    assert_eq!((sites[0].country.as_str(), sites[0].hosts_available), ("DE", 0));
    broker.stop().await;
}

#[tokio::test]
async fn accounts_are_opened_and_do_not_see_each_other() {
    let broker = Broker::start().await;
    let mut platform = AccountsServiceClient::new(broker.as_role(Role::PlatformOperator).await);
    let request = CreateAccountRequest { name: "new".into(), idempotency_key: "new".into() };
    let opened = platform.create_account(request).await.unwrap().into_inner();
    let listed = platform.list_accounts(ListAccountsRequest::default()).await.unwrap();
    assert_eq!(listed.into_inner().accounts.len(), 5);

    let stranger = broker.with_token(Some(&opened.token)).await;
    let account = AccountsServiceClient::new(stranger.clone())
        .get_account(GetAccountRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(account.account.clone().unwrap().id, opened.account.unwrap().id);
    assert_eq!((account.role(), account.instances), (v1::Role::Customer, 0));

    let request =
        CreateInstanceRequest { spec: Some(instance_spec("mine")), idempotency_key: "mine".into() };
    let mut own = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let made = own.create_instance(request).await.unwrap().into_inner().instance.unwrap();
    let mut instances = InstancesServiceClient::new(stranger);
    let status =
        instances.get_instance(GetInstanceRequest { id: made.id.clone() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let listed = instances.list_instances(ListInstancesRequest::default()).await.unwrap();
    assert!(listed.into_inner().instances.is_empty());
    let mut auditor = InstancesServiceClient::new(broker.as_role(Role::Auditor).await);
    auditor.get_instance(GetInstanceRequest { id: made.id }).await.unwrap();
    broker.stop().await;
}
