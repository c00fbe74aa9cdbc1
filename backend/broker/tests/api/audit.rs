//! Every change leaves an entry in the audit log: the table of all methods that change something.

use std::{collections::BTreeMap, time::Duration};

use fairmazon_broker::session::{BrokerSays, Hello, HostSays};
use fairmazon_host::identity::HostIdentity;
use fairmazon_model::{
    access::Role,
    id::HostId,
    instance::ObservedState,
    machine::{GuestSeen, MachineSeen, ObservedSet},
    units::{Epoch, Generation},
};
use fairmazon_proto::{FILE_DESCRIPTOR_SET, v1};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use v1::{
    accounts_service_client::AccountsServiceClient, hosts_service_client::HostsServiceClient,
    instances_service_client::InstancesServiceClient,
    operations_service_client::OperationsServiceClient,
    placement_groups_service_client::PlacementGroupsServiceClient,
    tokens_service_client::TokensServiceClient, volumes_service_client::VolumesServiceClient,
};

use crate::harness::{Broker, host_spec, instance_spec};

/// Method and the verb of its entry.
const VERBS: [(&str, &str); 28] = [
    ("CreateAccount", "account.create"),
    ("CreateToken", "token.create"),
    ("RegisterCertificate", "token.create"),
    ("RevokeToken", "token.revoke"),
    ("RegisterHost", "host.register"),
    ("UpdateHost", "host.update"),
    ("RotateHostToken", "token.revoke"),
    ("JoinHost", "host.join"),
    ("DrainHost", "host.drain"),
    ("CancelDrain", "host.cancel_drain"),
    ("RemoveHost", "host.remove"),
    ("CreateInstance", "instance.create"),
    ("UpdateInstance", "instance.update"),
    ("RebootInstance", "instance.reboot"),
    ("MigrateInstance", "instance.migrate"),
    ("DeleteInstance", "instance.delete"),
    ("ConfirmCreated", "instance.confirm"),
    ("CreatePlacementGroup", "group.create"),
    ("UpdatePlacementGroup", "group.update"),
    ("DeletePlacementGroup", "group.delete"),
    ("CreateVolume", "volume.create"),
    ("UpdateVolume", "volume.update"),
    ("DeleteVolume", "volume.delete"),
    ("GiveKeys", "volume.give_key"),
    ("ImportVolume", "volume.import"),
    // What comes with another change has an entry of its own.
    ("CreateAccount", "token.create"),
    ("RegisterHost", "token.create"),
    ("RemoveHost", "token.remove"),
];

/// The names of all methods that change something.
fn changing() -> Vec<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let names = services.flat_map(|service| &service.method).map(|m| m.name().to_owned());
    let reads = ["Get", "List", "Wait", "Export", "Verify"];
    let streams = ["OpenStream", "SendVolume", "ReceiveVolume"];
    let names = names.filter(|name| !streams.contains(&name.as_str()));
    names.filter(|name| !reads.iter().any(|read| name.starts_with(read))).collect()
}

/// What the methods left in the log.
struct Log<'a> {
    broker: &'a Broker,
    last: u64,
    verbs: BTreeMap<&'static str, Vec<String>>,
}

impl Log<'_> {
    async fn after(&mut self, method: &'static str) {
        let (verbs, last) = self.broker.audited(self.last).await;
        self.last = last;
        self.verbs.insert(method, verbs);
    }
}

/// Opens a stream of a host that takes machines from others.
async fn connect(
    broker: &Broker,
    host: HostId,
) -> (mpsc::Sender<HostSays>, JoinHandle<()>, JoinHandle<()>) {
    let (says, inbound) = mpsc::channel(8);
    let (outbound, mut hears) = mpsc::channel::<BrokerSays>(64);
    let engine = broker.engine.clone();
    let stream = tokio::spawn(async move {
        let _ = engine.host_stream(host, ReceiverStream::new(inbound), outbound).await;
    });
    let hello = Hello {
        host,
        agent_version: String::new(),
        hypervisor: String::new(),
        session: String::new(),
        generation: Generation(0),
        migration_address: "host:1".into(),
        conformity: None,
    };
    says.send(HostSays::Hello(hello)).await.unwrap();
    let heard = tokio::spawn(async move { while hears.recv().await.is_some() {} });
    (says, stream, heard)
}

#[tokio::test]
async fn every_change_stands_in_the_audit_log() {
    let broker = Broker::start().await;
    let stop = CancellationToken::new();
    let reconciler = broker.engine.start(stop.clone());
    // A host that does nothing by itself, so that an instance is decided.
    let (says, stream, heard) = connect(&broker, broker.host).await;

    let key = || "key".to_owned();
    let last = broker.audited(0).await.1;
    let mut log = Log { broker: &broker, last, verbs: BTreeMap::new() };

    let platform = broker.as_role(Role::PlatformOperator).await;
    let mut accounts = AccountsServiceClient::new(platform.clone());
    let request = v1::CreateAccountRequest { name: "new".into(), idempotency_key: key() };
    accounts.create_account(request).await.unwrap();
    log.after("CreateAccount").await;
    let mut tokens = TokensServiceClient::new(platform);
    let request = v1::CreateTokenRequest {
        name: "token".into(),
        role: v1::Role::PlatformOperator.into(),
        idempotency_key: key(),
        ..Default::default()
    };
    let made = tokens.create_token(request).await.unwrap().into_inner().token.unwrap();
    log.after("CreateToken").await;
    let own = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    let request = v1::RegisterCertificateRequest {
        name: "certificate".into(),
        role: v1::Role::PlatformOperator.into(),
        certificate_pem: own.cert.pem(),
        idempotency_key: key(),
    };
    tokens.register_certificate(request).await.unwrap();
    log.after("RegisterCertificate").await;
    let request = v1::RevokeTokenRequest { id: made.id, idempotency_key: key() };
    tokens.revoke_token(request).await.unwrap();
    log.after("RevokeToken").await;

    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let spec = Some((&host_spec("second")).into());
    let request = v1::RegisterHostRequest { spec, idempotency_key: key() };
    let second = hosts.register_host(request).await.unwrap().into_inner().host.unwrap();
    log.after("RegisterHost").await;
    let mut spec = second.spec.unwrap();
    spec.schedulable = false;
    let id = second.id;
    let spec = Some(spec);
    let request = v1::UpdateHostRequest { id: id.clone(), spec, idempotency_key: key() };
    hosts.update_host(request).await.unwrap();
    log.after("UpdateHost").await;
    let request = v1::RotateHostTokenRequest { id: id.clone(), idempotency_key: key() };
    hosts.rotate_host_token(request).await.unwrap();
    log.after("RotateHostToken").await;
    let deadline_ms = 1_000;
    let request = v1::DrainHostRequest { id: id.clone(), deadline_ms, idempotency_key: key() };
    hosts.drain_host(request).await.unwrap();
    log.after("DrainHost").await;
    hosts.cancel_drain(v1::CancelDrainRequest { id: id.clone() }).await.unwrap();
    log.after("CancelDrain").await;
    let request = v1::RemoveHostRequest { id, idempotency_key: key() };
    hosts.remove_host(request).await.unwrap();
    log.after("RemoveHost").await;

    let folder = tempfile::tempdir().unwrap();
    let identity = HostIdentity::open(folder.path()).unwrap();
    let request = v1::JoinHostRequest {
        certificate_request: identity.request().unwrap(),
        sealing_key: identity.secret().sealing_key().bytes().to_vec(),
    };
    let mut joining = HostsServiceClient::new(broker.as_role(Role::Host).await);
    joining.join_host(request).await.unwrap();
    log.after("JoinHost").await;

    let customer = broker.as_role(Role::Customer).await;
    let mut instances = InstancesServiceClient::new(customer.clone());
    let spec = Some(instance_spec("one"));
    let request = v1::CreateInstanceRequest { spec, idempotency_key: key() };
    let one = instances.create_instance(request).await.unwrap().into_inner().instance.unwrap();
    log.after("CreateInstance").await;
    let mut operations = OperationsServiceClient::new(customer.clone());
    operations
        .confirm_created(v1::ConfirmCreatedRequest { ids: vec![one.id.clone()] })
        .await
        .unwrap();
    log.after("ConfirmCreated").await;
    let request = v1::UpdateInstanceRequest {
        id: one.id.clone(),
        spec: Some(instance_spec("renamed")),
        idempotency_key: key(),
        ..Default::default()
    };
    instances.update_instance(request).await.unwrap();
    log.after("UpdateInstance").await;
    let decided = async || {
        let request = v1::GetInstanceRequest { id: one.id.clone() };
        let mut instances = instances.clone();
        instances.get_instance(request).await.unwrap().into_inner().lease_epoch > 0
    };
    while !decided().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut volumes = VolumesServiceClient::new(customer.clone());
    let request = v1::ListKeyRequestsRequest { instance_id: one.id.clone(), ..Default::default() };
    let wanted = volumes.list_key_requests(request).await.unwrap().into_inner().requests;
    let given = v1::GivenKey {
        volume_id: wanted[0].volume_id.clone(),
        host_id: wanted[0].host_id.clone(),
        version: wanted[0].version,
        key_version: wanted[0].key_version,
        fingerprint: format!("SHA256:{}", "A".repeat(43)),
        sealed: vec![1],
        wrapped: vec![2],
    };
    volumes.give_keys(v1::GiveKeysRequest { keys: vec![given] }).await.unwrap();
    log.after("GiveKeys").await;
    let request = v1::RebootInstanceRequest { id: one.id.clone(), idempotency_key: key() };
    instances.reboot_instance(request).await.unwrap();
    log.after("RebootInstance").await;
    let spec = Some((&host_spec("third")).into());
    let request = v1::RegisterHostRequest { spec, idempotency_key: "third".into() };
    let third = hosts.register_host(request).await.unwrap().into_inner().host.unwrap();
    let (third, third_stream, third_heard) = connect(&broker, third.id.parse().unwrap()).await;
    let seen = MachineSeen {
        instance: one.id.parse().unwrap(),
        epoch: Epoch(1),
        spec_version: u64::MAX,
        state: ObservedState::Running,
        failure: None,
        addresses: Vec::new(),
        guest: GuestSeen::default(),
        handover: None,
        lacks_memory: false,
    };
    let set = ObservedSet { machines: vec![seen], ..ObservedSet::default() };
    says.send(HostSays::Observed { sequence: 1, set }).await.unwrap();
    let runs = async || {
        let request = v1::GetInstanceRequest { id: one.id.clone() };
        let mut instances = instances.clone();
        let state = instances.get_instance(request).await.unwrap().into_inner().state();
        state == v1::InstanceState::Running && broker.engine.hosts_connected() == 2
    };
    while !runs().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = v1::MigrateInstanceRequest { id: one.id.clone(), idempotency_key: key() };
    instances.migrate_instance(request).await.unwrap();
    log.after("MigrateInstance").await;
    let request = v1::DeleteInstanceRequest { id: one.id.clone(), idempotency_key: key() };
    instances.delete_instance(request).await.unwrap();
    log.after("DeleteInstance").await;

    let mut groups = PlacementGroupsServiceClient::new(customer.clone());
    let labels = BTreeMap::new();
    let request = v1::CreatePlacementGroupRequest {
        name: "group".into(),
        labels: labels.clone(),
        idempotency_key: key(),
    };
    let id = groups.create_placement_group(request).await.unwrap().into_inner().id;
    log.after("CreatePlacementGroup").await;
    let request = v1::UpdatePlacementGroupRequest {
        id: id.clone(),
        name: "other".into(),
        labels,
        idempotency_key: key(),
    };
    groups.update_placement_group(request).await.unwrap();
    log.after("UpdatePlacementGroup").await;
    let request = v1::DeletePlacementGroupRequest { id, idempotency_key: key() };
    groups.delete_placement_group(request).await.unwrap();
    log.after("DeletePlacementGroup").await;

    let spec = v1::VolumeSpec {
        name: "data".into(),
        size_gib: 1,
        class: "fast".into(),
        ..Default::default()
    };
    let request = v1::CreateVolumeRequest { spec: Some(spec.clone()), idempotency_key: key() };
    let made = volumes.create_volume(request).await.unwrap().into_inner().volume.unwrap();
    log.after("CreateVolume").await;
    let request = v1::UpdateVolumeRequest {
        id: made.id.clone(),
        spec: Some(v1::VolumeSpec { size_gib: 2, ..spec }),
        idempotency_key: key(),
        ..Default::default()
    };
    volumes.update_volume(request).await.unwrap();
    log.after("UpdateVolume").await;
    let request = v1::DeleteVolumeRequest { id: made.id, idempotency_key: key() };
    volumes.delete_volume(request).await.unwrap();
    log.after("DeleteVolume").await;

    let spec = v1::VolumeSpec {
        name: "imported".into(),
        size_gib: 1,
        class: "standard".into(),
        read_only: true,
        import: Some(v1::VolumeImport { bytes: 2 << 20, sha256: "0".repeat(64) }),
        ..Default::default()
    };
    let request = v1::CreateVolumeRequest { spec: Some(spec), idempotency_key: "import".into() };
    let made = volumes.create_volume(request).await.unwrap().into_inner().volume.unwrap();
    let part = Some(v1::import_volume_request::Part::VolumeId(made.id));
    let request = futures::stream::iter([v1::ImportVolumeRequest { part }]);
    let mut importing = volumes.clone();
    // No agent answers: it ends with the test.
    let call = tokio::spawn(async move { importing.import_volume(request).await });
    let is_noted = async || broker.audited(log.last).await.0.contains(&"volume.import".into());
    while !is_noted().await {}
    call.abort();
    log.after("ImportVolume").await;

    for (method, verb) in VERBS {
        let left = log.verbs.get(method).unwrap_or_else(|| panic!("{method} was not called"));
        assert!(left.iter().any(|there| there == verb), "{method} left {left:?}, not {verb}");
    }
    for method in changing() {
        assert!(VERBS.iter().any(|(named, _)| *named == method), "{method} is in no line");
    }
    stop.cancel();
    reconciler.await.unwrap();
    drop((says, third));
    for task in [stream, heard, third_stream, third_heard] {
        task.await.unwrap();
    }
    broker.stop().await;
}
