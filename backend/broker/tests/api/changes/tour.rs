//! All changes, one after the other.

use std::{collections::BTreeMap, time::Duration};

use fairmazon_broker::session::{BrokerSays, Hello, HostSays};
use fairmazon_host::identity::HostIdentity;
use fairmazon_model::{
    access::Role,
    id::HostId,
    instance::ObservedState,
    key::Blob,
    machine::{GuestSeen, MachineSeen, ObservedSet},
    units::{Epoch, Generation},
};
use fairmazon_proto::v1::{self, volumes_service_client::VolumesServiceClient};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use super::{KEY, Repeated, Tour, refused};
use crate::harness::{Broker, host_spec, instance_spec};

/// Bytes that nobody but a host or a customer may see.
const SEALED: &[u8] = b"sealed for the host alone";
const WRAPPED: &[u8] = b"wrapped for the customer alone";
const USER_DATA: &str = "password: of a guest";

fn other_key() -> String {
    "what comes before a change".into()
}

/// A host that does nothing by itself.
struct Host {
    says: mpsc::Sender<HostSays>,
    tasks: [JoinHandle<()>; 2],
}

/// Opens a stream of a host that takes machines from others; `receives` counts how often it is
/// asked to take a volume's file.
async fn connect(broker: &Broker, host: HostId, receives: &watch::Sender<usize>) -> Host {
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
        accelerator: String::new(),
        reads_consoles: false,
        conformity: None,
    };
    says.send(HostSays::Hello(hello)).await.unwrap();
    let counts = receives.clone();
    let heard = tokio::spawn(async move {
        while let Some(said) = hears.recv().await {
            if matches!(said, BrokerSays::Receive(_)) {
                counts.send_modify(|count| *count += 1);
            }
        }
    });
    Host { says, tasks: [stream, heard] }
}

/// What a request of the accounts or tokens names.
fn role(role: v1::Role) -> i32 {
    role.into()
}

async fn people(tour: &mut Tour) {
    let platform = Role::PlatformOperator;
    let request = |name: &str| v1::CreateAccountRequest { name: name.into(), ..Default::default() };
    let requests = (request("new"), request("other"));
    let method = "AccountsService/CreateAccount";
    let made: v1::CreateAccountResponse =
        tour.step(platform, method, requests, Repeated::ToldOnce).await;
    tour.secrets.push(made.token);

    let request = |name: &str| v1::CreateTokenRequest {
        name: name.into(),
        role: role(v1::Role::PlatformOperator),
        ..Default::default()
    };
    let requests = (request("token"), request("other"));
    let method = "TokensService/CreateToken";
    let made: v1::CreateTokenResponse =
        tour.step(platform, method, requests, Repeated::ToldOnce).await;
    let other = v1::CreateTokenRequest { idempotency_key: other_key(), ..request("kept") };
    let kept: v1::CreateTokenResponse = tour.given(platform, method, other).await;
    tour.secrets.extend([made.secret, kept.secret]);

    let own = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    let request = |name: &str| v1::RegisterCertificateRequest {
        name: name.into(),
        role: role(v1::Role::PlatformOperator),
        certificate_pem: own.cert.pem(),
        ..Default::default()
    };
    let requests = (request("certificate"), request("other"));
    let method = "TokensService/RegisterCertificate";
    let _: v1::Token = tour.step(platform, method, requests, Repeated::ToldOnce).await;

    let request = |token: Option<v1::Token>| v1::RevokeTokenRequest {
        id: token.unwrap().id,
        ..Default::default()
    };
    let requests = (request(made.token), request(kept.token));
    let revoked: v1::Token =
        tour.step(platform, "TokensService/RevokeToken", requests, Repeated::Same).await;
    assert!(revoked.revoked_at_ms > 0);
}

async fn hosts(tour: &mut Tour) {
    let (operator, first) = (Role::HostOperator, tour.broker.host.to_string());
    let request = |name: &str| v1::RegisterHostRequest {
        spec: Some((&host_spec(name)).into()),
        ..Default::default()
    };
    let requests = (request("second"), request("other"));
    let method = "HostsService/RegisterHost";
    let made: v1::RegisterHostResponse =
        tour.step(operator, method, requests, Repeated::ToldOnce).await;
    tour.secrets.push(made.token);
    let id = made.host.unwrap().id;

    let request = |percent| {
        let mut spec = v1::HostSpec::from(&host_spec("second"));
        spec.price_percent = percent;
        v1::UpdateHostRequest { id: id.clone(), spec: Some(spec), ..Default::default() }
    };
    let requests = (request(90), request(80));
    let updated: v1::Host =
        tour.step(operator, "HostsService/UpdateHost", requests, Repeated::Same).await;
    assert_eq!(updated.spec.unwrap().price_percent, 90);

    let request = |id: &str| v1::RotateHostTokenRequest { id: id.into(), ..Default::default() };
    let requests = (request(&id), request(&first));
    let method = "HostsService/RotateHostToken";
    let rotated: v1::RotateHostTokenResponse =
        tour.step(operator, method, requests, Repeated::ToldOnce).await;
    tour.secrets.push(rotated.token);

    let request =
        |deadline_ms| v1::DrainHostRequest { id: id.clone(), deadline_ms, ..Default::default() };
    let requests = (request(1_000), request(2_000));
    let drained: v1::Host =
        tour.step(operator, "HostsService/DrainHost", requests, Repeated::Same).await;
    assert!(drained.draining);
    let request = |id: &str| v1::CancelDrainRequest { id: id.into(), ..Default::default() };
    let requests = (request(&id), request(&first));
    let _: v1::Host =
        tour.step(operator, "HostsService/CancelDrain", requests, Repeated::Same).await;
    let request = |id: &str| v1::RemoveHostRequest { id: id.into(), ..Default::default() };
    let requests = (request(&id), request(&first));
    let _: v1::RemoveHostResponse =
        tour.step(operator, "HostsService/RemoveHost", requests, Repeated::Same).await;

    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [request, other] = folders.each_ref().map(|folder| {
        let identity = HostIdentity::open(folder.path()).unwrap();
        v1::JoinHostRequest {
            certificate_request: identity.request().unwrap(),
            sealing_key: identity.secret().sealing_key().bytes().to_vec(),
            ..Default::default()
        }
    });
    let method = "HostsService/JoinHost";
    let _: v1::JoinHostResponse =
        tour.step(Role::Host, method, (request, other), Repeated::Same).await;
}

/// Instances up to a running one; its id, and that of another one.
async fn instances(tour: &mut Tour) -> (String, String) {
    let customer = Role::Customer;
    let spec = |name: &str| {
        let user_data = USER_DATA.to_owned();
        Some(v1::InstanceSpec { user_data, ..instance_spec(name) })
    };
    let request = |name: &str| v1::CreateInstanceRequest { spec: spec(name), ..Default::default() };
    let method = "InstancesService/CreateInstance";
    let requests = (request("one"), request("other"));
    let one: v1::InstanceResponse = tour.step(customer, method, requests, Repeated::Same).await;
    let two = v1::CreateInstanceRequest { idempotency_key: other_key(), ..request("two") };
    let two: v1::InstanceResponse = tour.given(customer, method, two).await;
    let [one, two] = [one, two].map(|made| made.instance.unwrap().id);

    let request =
        |id: &str| v1::ConfirmCreatedRequest { ids: vec![id.into()], ..Default::default() };
    let requests = (request(&one), request(&two));
    let method = "OperationsService/ConfirmCreated";
    let _: v1::ConfirmCreatedResponse = tour.step(customer, method, requests, Repeated::Same).await;
    let request = |name: &str| v1::UpdateInstanceRequest {
        id: one.clone(),
        spec: spec(name),
        ..Default::default()
    };
    let requests = (request("renamed"), request("other"));
    let _: v1::InstanceResponse =
        tour.step(customer, "InstancesService/UpdateInstance", requests, Repeated::Same).await;
    (one, two)
}

/// The instance, once it is as wanted.
async fn until(tour: &Tour, id: &str, wanted: impl Fn(&v1::Instance) -> bool) {
    loop {
        let request = v1::GetInstanceRequest { id: id.into() };
        let got = tour.call(Role::Customer, "InstancesService/GetInstance", request).await;
        if wanted(&got.unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn keys(tour: &mut Tour, instance: &str) {
    until(tour, instance, |instance| instance.lease_epoch > 0).await;
    let asked = v1::ListKeyRequestsRequest { instance_id: instance.into(), ..Default::default() };
    let wanted: v1::ListKeyRequestsResponse =
        tour.call(Role::Customer, "VolumesService/ListKeyRequests", asked).await.unwrap();
    let wanted = &wanted.requests[0];
    let request = |letter: &str| {
        let given = v1::GivenKey {
            volume_id: wanted.volume_id.clone(),
            host_id: wanted.host_id.clone(),
            version: wanted.version,
            key_version: wanted.key_version,
            fingerprint: format!("SHA256:{}", letter.repeat(43)),
            sealed: SEALED.to_vec(),
            wrapped: WRAPPED.to_vec(),
        };
        v1::GiveKeysRequest { keys: vec![given], ..Default::default() }
    };
    let requests = (request("A"), request("C"));
    let _: v1::GiveKeysResponse =
        tour.step(Role::Customer, "VolumesService/GiveKeys", requests, Repeated::Same).await;
}

/// What is done to a running instance.
async fn running(tour: &mut Tour, host: &Host, one: &str, two: &str) {
    let customer = Role::Customer;
    let request = |id: &str| v1::RebootInstanceRequest { id: id.into(), ..Default::default() };
    let requests = (request(one), request(two));
    let _: v1::Operation =
        tour.step(customer, "InstancesService/RebootInstance", requests, Repeated::Same).await;
    let seen = MachineSeen {
        instance: one.parse().unwrap(),
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
    host.says.send(HostSays::Observed { sequence: 1, set }).await.unwrap();
    until(tour, one, |instance| instance.state() == v1::InstanceState::Running).await;
    while tour.broker.engine.hosts_connected() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = |id: &str| v1::MigrateInstanceRequest { id: id.into(), ..Default::default() };
    let requests = (request(one), request(two));
    let _: v1::Operation =
        tour.step(customer, "InstancesService/MigrateInstance", requests, Repeated::Same).await;
    let request = |id: &str| v1::DeleteInstanceRequest { id: id.into(), ..Default::default() };
    let requests = (request(one), request(two));
    let _: v1::Operation =
        tour.step(customer, "InstancesService/DeleteInstance", requests, Repeated::Same).await;
}

async fn groups(tour: &mut Tour) {
    let customer = Role::Customer;
    let request =
        |name: &str| v1::CreatePlacementGroupRequest { name: name.into(), ..Default::default() };
    let method = "PlacementGroupsService/CreatePlacementGroup";
    let requests = (request("group"), request("other"));
    let made: v1::PlacementGroup = tour.step(customer, method, requests, Repeated::Same).await;
    let other = v1::CreatePlacementGroupRequest { idempotency_key: other_key(), ..request("g") };
    let other: v1::PlacementGroup = tour.given(customer, method, other).await;
    let request = |name: &str| v1::UpdatePlacementGroupRequest {
        id: made.id.clone(),
        name: name.into(),
        labels: BTreeMap::new(),
        ..Default::default()
    };
    let requests = (request("renamed"), request("other"));
    let method = "PlacementGroupsService/UpdatePlacementGroup";
    let _: v1::PlacementGroup = tour.step(customer, method, requests, Repeated::Same).await;
    let request =
        |id: &str| v1::DeletePlacementGroupRequest { id: id.into(), ..Default::default() };
    let requests = (request(&made.id), request(&other.id));
    let method = "PlacementGroupsService/DeletePlacementGroup";
    let _: v1::DeletePlacementGroupResponse =
        tour.step(customer, method, requests, Repeated::Same).await;
}

async fn volumes(tour: &mut Tour) {
    let customer = Role::Customer;
    let spec = |size_gib| {
        let (name, class) = ("data".to_owned(), "fast".to_owned());
        Some(v1::VolumeSpec { name, size_gib, class, ..Default::default() })
    };
    let request = |size| v1::CreateVolumeRequest { spec: spec(size), ..Default::default() };
    let method = "VolumesService/CreateVolume";
    let requests = (request(1), request(2));
    let made: v1::VolumeResponse = tour.step(customer, method, requests, Repeated::Same).await;
    let other = v1::CreateVolumeRequest { idempotency_key: other_key(), ..request(1) };
    let other: v1::VolumeResponse = tour.given(customer, method, other).await;
    let [made, other] = [made, other].map(|made| made.volume.unwrap().id);
    let request =
        |size| v1::UpdateVolumeRequest { id: made.clone(), spec: spec(size), ..Default::default() };
    let requests = (request(2), request(3));
    let _: v1::VolumeResponse =
        tour.step(customer, "VolumesService/UpdateVolume", requests, Repeated::Same).await;
    let request = |id: &str| v1::DeleteVolumeRequest { id: id.into(), ..Default::default() };
    let requests = (request(&made), request(&other));
    let _: v1::Operation =
        tour.step(customer, "VolumesService/DeleteVolume", requests, Repeated::Same).await;
}

/// Asks for the import of a volume's file, and sends nothing of it.
async fn import(
    tour: &Tour,
    volume: &str,
) -> Result<Response<Streaming<v1::ImportVolumeResponse>>, Status> {
    let part = Some(v1::import_volume_request::Part::VolumeId(volume.into()));
    let first = v1::ImportVolumeRequest { part, idempotency_key: KEY.into() };
    let mut client = VolumesServiceClient::new(tour.client(Role::Customer));
    client.import_volume(futures::stream::iter([first])).await
}

/// An import goes on where it broke off, so its repetition asks the host again.
async fn imports(tour: &mut Tour, receives: &watch::Sender<usize>) {
    let mut receives = receives.subscribe();
    let method = "VolumesService/ImportVolume";
    let mut ids = Vec::new();
    for name in ["imported", "other"] {
        let spec = Some(v1::VolumeSpec {
            name: name.into(),
            size_gib: 1,
            class: "standard".into(),
            read_only: true,
            import: Some(v1::VolumeImport { bytes: 2 << 20, sha256: "0".repeat(64) }),
            ..Default::default()
        });
        let request = v1::CreateVolumeRequest { spec, idempotency_key: name.into() };
        let made: v1::VolumeResponse =
            tour.given(Role::Customer, "VolumesService/CreateVolume", request).await;
        ids.push(made.volume.unwrap().id);
    }
    tour.skip().await;
    for round in 1..=2 {
        // No agent answers: the call ends when it is dropped.
        let asked = receives.wait_for(|count| *count == round);
        tokio::select! {
            asked = asked => { asked.unwrap(); }
            answer = import(tour, &ids[0]) => panic!("{answer:?}"),
        }
        if round == 1 {
            tour.left(Role::Customer, method).await;
        }
    }
    refused(method, &import(tour, &ids[1]).await.unwrap_err());
    assert_eq!(tour.entries(Role::Customer).await, [], "{method} once more");
}

#[tokio::test]
async fn every_change_is_done_once_and_stands_in_the_audit_log_without_secrets() {
    let mut tour = Tour::begin().await;
    let stop = CancellationToken::new();
    let reconciler = tour.broker.engine.start(stop.clone());
    for bytes in [SEALED, WRAPPED] {
        let stored = serde_json::to_value(Blob(bytes.to_vec())).unwrap();
        let plain = String::from_utf8(bytes.to_vec()).unwrap();
        tour.secrets.extend([stored.as_str().unwrap().to_owned(), plain]);
    }
    tour.secrets.push(USER_DATA.into());

    people(&mut tour).await;
    hosts(&mut tour).await;
    let receives = watch::Sender::new(0);
    let first = connect(&tour.broker, tour.broker.host, &receives).await;
    let (one, two) = instances(&mut tour).await;
    keys(&mut tour, &one).await;
    let request = v1::RegisterHostRequest {
        spec: Some((&host_spec("third")).into()),
        idempotency_key: other_key(),
    };
    let third: v1::RegisterHostResponse =
        tour.given(Role::HostOperator, "HostsService/RegisterHost", request).await;
    let third = connect(&tour.broker, third.host.unwrap().id.parse().unwrap(), &receives).await;
    running(&mut tour, &first, &one, &two).await;
    groups(&mut tour).await;
    volumes(&mut tour).await;
    imports(&mut tour, &receives).await;

    stop.cancel();
    reconciler.await.unwrap();
    for Host { says, tasks, .. } in [first, third] {
        drop(says);
        for task in tasks {
            task.await.unwrap();
        }
    }
    tour.end().await;
}
