//! What is of one account is not there for another: every method that names something, or lists it.
//! The owner's own call is the proof that it was there to be found.

use std::collections::{BTreeMap, BTreeSet};

use fairmazon_broker::core::Caller;
use fairmazon_model::access::Role;
use fairmazon_proto::v1;
use tonic::{Code, Response, Status};
use v1::{
    hosts_service_client::HostsServiceClient, instances_service_client::InstancesServiceClient,
    operations_service_client::OperationsServiceClient,
    placement_groups_service_client::PlacementGroupsServiceClient,
    tokens_service_client::TokensServiceClient, usage_service_client::UsageServiceClient,
    volumes_service_client::VolumesServiceClient,
};

use crate::{
    harness::{Broker, Client, host_spec, instance_spec},
    matrix::methods,
};

/// What names nothing of an account: it makes something new, is about the platform or the caller
/// alone, or is a host's own stream.
const NAMES_NOTHING: [&str; 15] = [
    "GetAccount",
    "CreateAccount",
    "ListAccounts",
    "CreateToken",
    "RegisterCertificate",
    "ExportAudit",
    "VerifyAudit",
    "GetCatalogue",
    "ListSites",
    "RegisterHost",
    "JoinHost",
    "CreatePlacementGroup",
    "OpenStream",
    "SendVolume",
    "ReceiveVolume",
];

/// The ids of what one account has.
struct Owned {
    instance: String,
    volume: String,
    group: String,
    operation: String,
    token: String,
    host: String,
}

fn code<T>(answer: Result<Response<T>, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

fn key() -> String {
    "tenants".to_owned()
}

fn volume_spec(name: &str) -> v1::VolumeSpec {
    v1::VolumeSpec {
        name: name.into(),
        size_gib: 1,
        class: "standard".into(),
        placement: Some(v1::Placement::default()),
        ..Default::default()
    }
}

/// Calls each method with these ids as a customer, those that remove last; how each ended.
async fn as_customer(client: &Client, owned: &Owned) -> BTreeMap<&'static str, Code> {
    let mut instances = InstancesServiceClient::new(client.clone());
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut groups = PlacementGroupsServiceClient::new(client.clone());
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut tokens = TokensServiceClient::new(client.clone());
    let Owned { instance, volume, group, operation, token, .. } = owned;
    let id = || instance.clone();
    let mut ended = BTreeMap::new();

    ended.insert(
        "GetInstance",
        code(instances.get_instance(v1::GetInstanceRequest { id: id() }).await),
    );
    let request = v1::WatchInstanceRequest { id: id() };
    ended.insert("WatchInstance", code(instances.watch_instance(request).await));
    let request = v1::GetConsoleRequest { id: id() };
    ended.insert("GetConsole", code(instances.get_console(request).await));
    let request = v1::UpdateInstanceRequest {
        id: id(),
        spec: Some(instance_spec("renamed")),
        idempotency_key: key(),
        ..Default::default()
    };
    ended.insert("UpdateInstance", code(instances.update_instance(request).await));
    let request = v1::RebootInstanceRequest { id: id(), idempotency_key: key() };
    ended.insert("RebootInstance", code(instances.reboot_instance(request).await));
    let request = v1::MigrateInstanceRequest { id: id(), idempotency_key: key() };
    ended.insert("MigrateInstance", code(instances.migrate_instance(request).await));
    // What a new one of one's own may refer to.
    let mut spec = instance_spec("beside");
    let attached = v1::VolumeAttachment { volume_id: volume.clone(), read_only: false };
    spec.volumes = BTreeMap::from([("data".to_owned(), attached)]);
    let request = v1::CreateInstanceRequest { spec: Some(spec), idempotency_key: key() };
    ended.insert("CreateInstance", code(instances.create_instance(request).await));
    let mut spec = instance_spec("with");
    spec.placement = Some(v1::Placement { with: vec![group.clone()], ..Default::default() });
    let request = v1::CreateInstanceRequest { spec: Some(spec), idempotency_key: "with".into() };
    ended.insert("CreateInstance with a group", code(instances.create_instance(request).await));

    let get = v1::GetVolumeRequest { id: volume.clone() };
    ended.insert("GetVolume", code(volumes.get_volume(get).await));
    let request = v1::UpdateVolumeRequest {
        id: volume.clone(),
        spec: Some(v1::VolumeSpec { size_gib: 2, ..volume_spec("data") }),
        idempotency_key: key(),
        ..Default::default()
    };
    ended.insert("UpdateVolume", code(volumes.update_volume(request).await));
    let spec = v1::VolumeSpec { source_volume_id: volume.clone(), ..volume_spec("copy") };
    let request = v1::CreateVolumeRequest {
        spec: Some(v1::VolumeSpec { size_gib: 2, ..spec }),
        idempotency_key: key(),
    };
    ended.insert("CreateVolume", code(volumes.create_volume(request).await));
    let request = v1::ListKeyRequestsRequest { instance_id: id(), ..Default::default() };
    ended.insert("ListKeyRequests", code(volumes.list_key_requests(request).await));
    let request = v1::ListKeyRequestsRequest { volume_id: volume.clone(), ..Default::default() };
    ended.insert("ListKeyRequests of a volume", code(volumes.list_key_requests(request).await));
    let given = v1::GivenKey {
        volume_id: volume.clone(),
        host_id: owned.host.clone(),
        version: 1,
        key_version: 1,
        fingerprint: format!("SHA256:{}", "A".repeat(43)),
        sealed: vec![1],
        wrapped: vec![2],
    };
    let request = v1::GiveKeysRequest { keys: vec![given], idempotency_key: key() };
    ended.insert("GiveKeys", code(volumes.give_keys(request).await));
    let request = v1::GetWrappedKeyRequest { volume_id: volume.clone() };
    ended.insert("GetWrappedKey", code(volumes.get_wrapped_key(request).await));
    let request = v1::ExportVolumeRequest { volume_id: volume.clone(), offset: 0 };
    ended.insert("ExportVolume", code(volumes.export_volume(request).await));
    let part = Some(v1::import_volume_request::Part::VolumeId(volume.clone()));
    let request = futures::stream::iter([v1::ImportVolumeRequest { part, idempotency_key: key() }]);
    ended.insert("ImportVolume", code(volumes.import_volume(request).await));

    let get = v1::GetOperationRequest { id: operation.clone() };
    ended.insert("GetOperation", code(operations.get_operation(get).await));
    let wait = v1::WaitOperationRequest { id: operation.clone() };
    ended.insert("WaitOperation", code(operations.wait_operation(wait).await));
    let request = v1::ConfirmCreatedRequest {
        ids: vec![id(), volume.clone(), group.clone()],
        idempotency_key: key(),
    };
    ended.insert("ConfirmCreated", code(operations.confirm_created(request).await));

    let get = v1::GetPlacementGroupRequest { id: group.clone() };
    ended.insert("GetPlacementGroup", code(groups.get_placement_group(get).await));
    let request = v1::UpdatePlacementGroupRequest {
        id: group.clone(),
        name: "other".into(),
        labels: BTreeMap::new(),
        idempotency_key: key(),
    };
    ended.insert("UpdatePlacementGroup", code(groups.update_placement_group(request).await));

    let request = v1::DeletePlacementGroupRequest { id: group.clone(), idempotency_key: key() };
    ended.insert("DeletePlacementGroup", code(groups.delete_placement_group(request).await));
    let request = v1::DeleteInstanceRequest { id: id(), idempotency_key: key() };
    ended.insert("DeleteInstance", code(instances.delete_instance(request).await));
    let request = v1::DeleteVolumeRequest { id: volume.clone(), idempotency_key: key() };
    ended.insert("DeleteVolume", code(volumes.delete_volume(request).await));
    let request = v1::RevokeTokenRequest { id: token.clone(), idempotency_key: key() };
    ended.insert("RevokeToken", code(tokens.revoke_token(request).await));
    ended
}

/// The same for what operators of hosts call.
async fn as_operator(client: &Client, owned: &Owned) -> BTreeMap<&'static str, Code> {
    let mut hosts = HostsServiceClient::new(client.clone());
    let id = || owned.host.clone();
    let mut ended = BTreeMap::new();
    ended.insert("GetHost", code(hosts.get_host(v1::GetHostRequest { id: id() }).await));
    let request = v1::UpdateHostRequest {
        id: id(),
        spec: Some((&host_spec("first")).into()),
        idempotency_key: key(),
    };
    ended.insert("UpdateHost", code(hosts.update_host(request).await));
    let request = v1::DrainHostRequest { id: id(), deadline_ms: 60_000, idempotency_key: key() };
    ended.insert("DrainHost", code(hosts.drain_host(request).await));
    ended.insert("GetDrain", code(hosts.get_drain(v1::GetDrainRequest { id: id() }).await));
    ended.insert("WatchDrain", code(hosts.watch_drain(v1::WatchDrainRequest { id: id() }).await));
    let request = v1::CancelDrainRequest { id: id(), idempotency_key: key() };
    ended.insert("CancelDrain", code(hosts.cancel_drain(request).await));
    let request = v1::RotateHostTokenRequest { id: id(), idempotency_key: key() };
    ended.insert("RotateHostToken", code(hosts.rotate_host_token(request).await));
    let request = v1::RemoveHostRequest { id: id(), idempotency_key: key(), lost: false };
    ended.insert("RemoveHost", code(hosts.remove_host(request).await));
    ended
}

/// How many of each a customer lists.
async fn listed(client: &Client, owned: &Owned) -> BTreeMap<&'static str, usize> {
    let mut instances = InstancesServiceClient::new(client.clone());
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut groups = PlacementGroupsServiceClient::new(client.clone());
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut tokens = TokensServiceClient::new(client.clone());
    let mut usage = UsageServiceClient::new(client.clone());
    let machines = instances.list_instances(v1::ListInstancesRequest::default()).await.unwrap();
    let disks = volumes.list_volumes(v1::ListVolumesRequest::default()).await.unwrap();
    let request = v1::ListPlacementGroupsRequest::default();
    let together = groups.list_placement_groups(request).await.unwrap();
    let request =
        v1::ListOperationsRequest { target_id: owned.instance.clone(), ..Default::default() };
    let work = operations.list_operations(request).await.unwrap();
    let credentials = tokens.list_tokens(v1::ListTokensRequest::default()).await.unwrap();
    let is_foreign = |token: &&v1::Token| token.id == owned.token;
    let request = v1::ListUsageRequest { subject_id: owned.instance.clone(), ..Default::default() };
    let used = usage.list_usage(request).await.unwrap();
    [
        ("ListInstances", machines.into_inner().instances.len()),
        ("ListVolumes", disks.into_inner().volumes.len()),
        ("ListPlacementGroups", together.into_inner().placement_groups.len()),
        ("ListOperations", work.into_inner().operations.len()),
        ("ListTokens", credentials.into_inner().tokens.iter().filter(is_foreign).count()),
        ("ListUsage", used.into_inner().usage.len()),
    ]
    .into()
}

/// How many hosts an operator lists.
async fn hosts_listed(client: &Client) -> usize {
    let mut hosts = HostsServiceClient::new(client.clone());
    hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap().into_inner().hosts.len()
}

/// A customer's machine, volume, group and token, and the operator's host.
async fn owned(broker: &Broker, customer: &Client) -> Owned {
    let mut instances = InstancesServiceClient::new(customer.clone());
    let spec = Some(instance_spec("mine"));
    let request = v1::CreateInstanceRequest { spec, idempotency_key: "mine".into() };
    let made = instances.create_instance(request).await.unwrap().into_inner();
    let mut volumes = VolumesServiceClient::new(customer.clone());
    let spec = Some(volume_spec("data"));
    let request = v1::CreateVolumeRequest { spec, idempotency_key: "mine".into() };
    let volume = volumes.create_volume(request).await.unwrap().into_inner().volume.unwrap();
    let mut groups = PlacementGroupsServiceClient::new(customer.clone());
    let request = v1::CreatePlacementGroupRequest {
        name: "mine".into(),
        labels: BTreeMap::new(),
        idempotency_key: "mine".into(),
    };
    let group = groups.create_placement_group(request).await.unwrap().into_inner();
    let mut tokens = TokensServiceClient::new(customer.clone());
    let request = v1::CreateTokenRequest {
        name: "mine".into(),
        role: v1::Role::Customer.into(),
        idempotency_key: "mine".into(),
        ..Default::default()
    };
    let token = tokens.create_token(request).await.unwrap().into_inner().token.unwrap();
    Owned {
        instance: made.instance.unwrap().id,
        volume: volume.id,
        group: group.id,
        operation: made.operation.unwrap().id,
        token: token.id,
        host: broker.host.to_string(),
    }
}

#[tokio::test]
async fn what_is_of_one_account_is_not_there_for_another() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    let stranger = broker.stranger().await;
    let operator = broker.as_role(Role::HostOperator).await;
    let platform = Caller::platform();
    let (other, _) = broker.engine.create_account(&platform, "hosts", "hosts").await.unwrap();
    let secret = format!("fmz_{:064x}", 77);
    broker.engine.ensure_token(other.id, Role::HostOperator, "other", &secret).await.unwrap();
    let strange_operator = broker.with_token(Some(&secret)).await;
    let owned = owned(&broker, &customer).await;

    let before = broker.audited(0).await.1;
    let mut called = BTreeSet::new();
    for (method, code) in as_customer(&stranger, &owned).await {
        // To confirm is to say what one's state holds, whatever has become of it.
        let expected = if method == "ConfirmCreated" { Code::Ok } else { Code::NotFound };
        assert_eq!(code, expected, "{method} of another's");
        called.insert(method);
    }
    for (method, code) in as_operator(&strange_operator, &owned).await {
        assert_eq!(code, Code::NotFound, "{method} of another's");
        called.insert(method);
    }
    for (method, count) in listed(&stranger, &owned).await {
        assert_eq!(count, 0, "{method} shows another's");
        called.insert(method);
    }
    assert_eq!(hosts_listed(&strange_operator).await, 0, "ListHosts shows another's");
    called.insert("ListHosts");
    assert_eq!(broker.audited(before).await.0, [] as [&str; 0], "nothing has changed");

    // Whoever adds a method says here whose things it names.
    for path in methods() {
        let name = path.rsplit('/').next().unwrap();
        let is_known = called.contains(name) || NAMES_NOTHING.contains(&name);
        assert!(is_known, "{name} is not tried with what is of another account");
    }

    let lists = listed(&customer, &owned).await;
    for method in ["ListInstances", "ListVolumes", "ListPlacementGroups", "ListOperations"] {
        assert!(lists[method] > 0, "{method}");
    }
    assert_eq!((lists["ListTokens"], hosts_listed(&operator).await), (1, 1));
    for (method, code) in as_customer(&customer, &owned).await {
        assert_ne!(code, Code::NotFound, "{method} of one's own");
    }
    for (method, code) in as_operator(&operator, &owned).await {
        assert_ne!(code, Code::NotFound, "{method} of one's own");
    }
    broker.stop().await;
}
