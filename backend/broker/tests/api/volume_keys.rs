//! The way of a volume's key from its customer to its host.

use fairmazon_keys::{
    Binding, HostCertificate, HostSecret, Identity, KeyError, Keyring, Purpose, SealedKey,
    SealingKey, VolumeKey, WrappedKey, host_name, sealing_key_name,
};
use fairmazon_model::{
    access::Role,
    id::{HostId, VolumeId},
    key::KeyRequest,
};
use fairmazon_proto::{
    host::v1::{
        Desired, MachineSeen, Observed, SealedKey as SentKey, SeenState, VolumeSeen, from_host,
        to_host,
    },
    v1::{
        self, CreateInstanceRequest, CreateVolumeRequest, GetWrappedKeyRequest, GiveKeysRequest,
        GivenKey, InstanceSpec, ListKeyRequestsRequest, UpdateVolumeRequest, VolumeAttachment,
        VolumeSpec, WaitOperationRequest, instances_service_client::InstancesServiceClient,
        operations_service_client::OperationsServiceClient,
        volumes_service_client::VolumesServiceClient,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    harness::{Broker, Client, detail, instance_spec},
    host_stream::{Stream, says},
    joining::{Machine, now, stream},
    transfers::spec,
};

/// A broker that works, and its host, which has joined and is on its stream.
struct Platform {
    broker: Broker,
    machine: Machine,
    client: Client,
    stream: Stream,
    stop: CancellationToken,
    reconciler: JoinHandle<()>,
}

impl Platform {
    async fn start() -> Self {
        let broker = Broker::start().await;
        let machine = Machine::new();
        let joined = machine.join(&broker.as_role(Role::Host).await).await.unwrap();
        let client = machine.showing(&broker, &joined).await;
        let stream = stream(&broker, &client).await.unwrap();
        let stop = CancellationToken::new();
        let reconciler = broker.engine.start(stop.clone());
        Self { broker, machine, client, stream, stop, reconciler }
    }

    /// An instance that was created and waits for its keys; its operation and its boot volume's
    /// request.
    async fn waiting(&mut self) -> (v1::Instance, String, v1::KeyRequest) {
        let customer = self.broker.as_role(Role::Customer).await;
        let mut instances = InstancesServiceClient::new(customer.clone());
        let spec = Some(instance_spec("one"));
        let request = CreateInstanceRequest { spec, idempotency_key: "one".into() };
        let made = instances.create_instance(request).await.unwrap().into_inner();
        let (instance, operation) = (made.instance.unwrap(), made.operation.unwrap().id);
        waits_for_keys(&customer, &operation).await;
        let mut wanted = wanted(&customer, &instance.id).await.unwrap();
        assert_eq!(wanted.len(), 1);
        (instance, operation, wanted.remove(0))
    }

    /// The first set from now on that has what is looked for.
    async fn desired<T>(&mut self, find: impl Fn(&Desired) -> Option<T>) -> (Desired, T) {
        loop {
            if let to_host::Message::Desired(set) = self.stream.next().await
                && let Some(found) = find(&set)
            {
                return (set, found);
            }
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.reconciler.await.unwrap();
        self.broker.stop().await;
    }
}

/// Follows an operation until it waits for keys.
async fn waits_for_keys(client: &Client, operation: &str) {
    let request = WaitOperationRequest { id: operation.into() };
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut states = operations.wait_operation(request).await.unwrap().into_inner();
    loop {
        let state = states.message().await.unwrap().unwrap();
        assert_eq!(state.state(), v1::OperationState::Running);
        if state.waits_for_keys {
            assert!(state.waiting_for.contains("key"), "{}", state.waiting_for);
            return;
        }
    }
}

/// Follows an operation to its end, which is that it is done.
async fn done(client: &Client, operation: &str) {
    let request = WaitOperationRequest { id: operation.into() };
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut states = operations.wait_operation(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(state) = states.message().await.unwrap() {
        last = Some(state);
    }
    assert_eq!(last.unwrap().state(), v1::OperationState::Done);
}

/// What a host reports that has done all of the set.
fn all_done(sequence: u64, set: &Desired) -> Observed {
    let machines = set.machines.iter().map(|machine| MachineSeen {
        instance_id: machine.instance_id.clone(),
        epoch: machine.epoch,
        spec_version: machine.spec_version,
        state: SeenState::Running.into(),
        ..MachineSeen::default()
    });
    let volumes = set.volumes.iter().map(|volume| VolumeSeen {
        volume_id: volume.volume_id.clone(),
        present: true,
        size_gib: volume.size_gib,
        ..VolumeSeen::default()
    });
    Observed {
        sequence,
        generation: set.generation,
        machines: machines.collect(),
        volumes: volumes.collect(),
        ..Observed::default()
    }
}

pub(crate) async fn wanted(
    client: &Client,
    instance_id: &str,
) -> Result<Vec<v1::KeyRequest>, Status> {
    let request = ListKeyRequestsRequest { instance_id: instance_id.into(), ..Default::default() };
    let answer = VolumesServiceClient::new(client.clone()).list_key_requests(request).await?;
    Ok(answer.into_inner().requests)
}

pub(crate) async fn give(client: &Client, keys: Vec<GivenKey>) -> Result<(), Status> {
    let mut volumes = VolumesServiceClient::new(client.clone());
    // As clients that know of no key here.
    let request = GiveKeysRequest { keys, ..GiveKeysRequest::default() };
    volumes.give_keys(request).await.map(|_| ())
}

fn read(request: &v1::KeyRequest) -> KeyRequest {
    KeyRequest {
        volume: request.volume_id.parse().unwrap(),
        host: request.host_id.parse().unwrap(),
        version: request.version,
        made_for: request.key_version,
        certificate: request.host_certificate.clone(),
    }
}

pub(crate) fn answer(keyring: &mut Keyring, request: &v1::KeyRequest) -> GivenKey {
    let key = keyring.answer(&read(request), now()).unwrap().key;
    GivenKey {
        volume_id: request.volume_id.clone(),
        host_id: request.host_id.clone(),
        version: key.version,
        key_version: key.made_for,
        fingerprint: key.fingerprint,
        sealed: key.sealed.0,
        wrapped: key.wrapped.0,
    }
}

/// Opens what a host was sent.
fn open(secret: &HostSecret, request: &v1::KeyRequest, sent: &SentKey) -> Option<VolumeKey> {
    let KeyRequest { volume, host, .. } = read(request);
    let binding = Binding { volume, host, purpose: Purpose::Run, version: sent.version };
    let sealed = SealedKey::from_bytes(sent.sealed.as_slice());
    sealed.open(secret, &binding).ok().map(|opened| opened.key)
}

#[tokio::test]
async fn a_key_goes_from_its_customer_to_its_host_and_nobody_else() {
    let mut platform = Platform::start().await;
    let (_, operation, request) = platform.waiting().await;
    assert_eq!(request.host_id, platform.broker.host.to_string());
    let customer = platform.broker.as_role(Role::Customer).await;
    let mut operations = OperationsServiceClient::new(customer.clone());
    let (identity, ca) = (Identity::generate(), platform.broker.ca_pem.clone());
    let mut keyring = Keyring::new(identity.clone(), ca, "").unwrap();
    let key = answer(&mut keyring, &request);
    give(&customer, vec![key.clone()]).await.unwrap();
    assert_eq!(wanted(&customer, "").await.unwrap(), []);

    let find = |set: &Desired| set.volumes.iter().find_map(|volume| volume.key.clone());
    let (set, sent) = platform.desired(find).await;
    assert_eq!(set.volumes[0].volume_id, request.volume_id);
    let opened = open(&platform.machine.identity.secret(), &request, &sent).unwrap();
    assert_eq!(opened.fingerprint(), key.fingerprint);
    assert!(open(&HostSecret::generate(), &request, &sent).is_none());
    // The host's part is what is waited for now.
    let follow = WaitOperationRequest { id: operation.clone() };
    let mut states = operations.wait_operation(follow).await.unwrap().into_inner();
    while states.message().await.unwrap().unwrap().waits_for_keys {}

    let observed = all_done(1, &set);
    platform.stream.sender.send(says(from_host::Message::Observed(observed))).await.unwrap();
    done(&customer, &operation).await;

    let mut volumes = VolumesServiceClient::new(customer);
    let ask = GetWrappedKeyRequest { volume_id: request.volume_id.clone() };
    let kept = volumes.get_wrapped_key(ask).await.unwrap().into_inner();
    assert_eq!(kept.fingerprint, key.fingerprint);
    let volume: VolumeId = request.volume_id.parse().unwrap();
    let kept = WrappedKey::from_bytes(kept.wrapped).open(volume, &identity).unwrap();
    assert_eq!(kept.passphrase(), opened.passphrase());
    platform.stop().await;
}

#[tokio::test]
async fn a_next_key_is_told_beside_the_one_before_until_its_host_has_changed() {
    let mut platform = Platform::start().await;
    let customer = platform.broker.as_role(Role::Customer).await;
    let mut volumes = VolumesServiceClient::new(customer.clone());
    let spec = Some(VolumeSpec { name: "data".into(), ..spec() });
    let request = CreateVolumeRequest { spec: spec.clone(), idempotency_key: "data".into() };
    let made = volumes.create_volume(request).await.unwrap().into_inner();
    let id = made.volume.unwrap().id;
    let data = VolumeAttachment { volume_id: id.clone(), read_only: false };
    let attached = [("data".to_owned(), data)].into();
    let web = InstanceSpec { volumes: attached, ..instance_spec("one") };
    let request = CreateInstanceRequest { spec: Some(web), idempotency_key: "one".into() };
    let mut instances = InstancesServiceClient::new(customer.clone());
    let made = instances.create_instance(request).await.unwrap().into_inner();
    let operation = made.operation.unwrap().id;
    waits_for_keys(&customer, &operation).await;
    let identities = [Identity::generate(), Identity::generate()];
    let [mut before, mut after] = [0, 1].map(|which: usize| {
        Keyring::new(identities[which].clone(), platform.broker.ca_pem.clone(), "").unwrap()
    });
    let all = wanted(&customer, "").await.unwrap();
    let given: Vec<_> = all.iter().map(|request| answer(&mut before, request)).collect();
    let first = given.iter().find(|given| given.volume_id == id).unwrap().clone();
    give(&customer, given).await.unwrap();
    let has_keys = |set: &Desired| {
        let keys = set.volumes.iter().filter(|volume| volume.key.is_some());
        (keys.count() == 2).then_some(())
    };
    let (set, ()) = platform.desired(has_keys).await;
    let observed = all_done(1, &set);
    platform.stream.sender.send(says(from_host::Message::Observed(observed))).await.unwrap();
    done(&customer, &operation).await;
    let ask = || GetWrappedKeyRequest { volume_id: id.clone() };
    let kept = volumes.get_wrapped_key(ask()).await.unwrap().into_inner();
    assert_eq!((kept.version, kept.next), (1, None));

    let spec = spec.map(|spec| VolumeSpec { key_version: 2, ..spec });
    let request = UpdateVolumeRequest {
        id: id.clone(),
        spec,
        idempotency_key: "raised".into(),
        expected_revision: 0,
    };
    let changed = volumes.update_volume(request).await.unwrap().into_inner();
    let operation = changed.operation.unwrap().id;
    waits_for_keys(&customer, &operation).await;
    let all = wanted(&customer, "").await.unwrap();
    assert_eq!((all.len(), all[0].version, all[0].key_version), (1, 2, 2));
    let second = answer(&mut after, &all[0]);
    give(&customer, vec![second.clone()]).await.unwrap();
    let both = volumes.get_wrapped_key(ask()).await.unwrap().into_inner();
    assert_eq!(
        (both.version, both.fingerprint, both.wrapped),
        (1, first.fingerprint, first.wrapped)
    );
    let next = both.next.unwrap();
    assert_eq!((next.version, &next.fingerprint), (2, &second.fingerprint));
    let opened = WrappedKey::from_bytes(next.wrapped).open(id.parse().unwrap(), &identities[1]);
    assert_eq!(opened.unwrap().fingerprint(), second.fingerprint);

    let find = |set: &Desired| set.volumes.iter().find_map(|volume| volume.next_key.clone());
    let (set, sent) = platform.desired(find).await;
    assert_eq!((sent.version, &sent.sealed), (2, &second.sealed));
    let mut observed = all_done(2, &set);
    for seen in observed.volumes.iter_mut().filter(|seen| seen.volume_id == id) {
        seen.changed_key = second.fingerprint.clone();
    }
    platform.stream.sender.send(says(from_host::Message::Observed(observed))).await.unwrap();
    done(&customer, &operation).await;
    let now = volumes.get_wrapped_key(ask()).await.unwrap().into_inner();
    assert_eq!((now.version, now.fingerprint, now.next), (2, second.fingerprint, None));
    // What opens a key for somebody is not in the log, which outlives the volume.
    let log = platform.broker.audit_text().await;
    assert!(log.contains("next_keys") && !log.contains("wrapped"), "{log}");
    platform.stop().await;
}

#[tokio::test]
async fn a_key_that_was_given_stays() {
    let mut platform = Platform::start().await;
    let (_, _, request) = platform.waiting().await;
    let customer = platform.broker.as_role(Role::Customer).await;
    let mut keyring =
        Keyring::new(Identity::generate(), platform.broker.ca_pem.clone(), "").unwrap();
    let (first, other) = (answer(&mut keyring, &request), answer(&mut keyring, &request));
    assert_ne!(first.fingerprint, other.fingerprint);
    give(&customer, vec![first.clone()]).await.unwrap();
    let last = platform.broker.audited(0).await.1;
    give(&customer, vec![first.clone()]).await.unwrap();
    assert_eq!(platform.broker.audited(last).await.0, Vec::<String>::new(), "nothing was done");
    let status = give(&customer, vec![other]).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    let ask = GetWrappedKeyRequest { volume_id: request.volume_id.clone() };
    let kept = VolumesServiceClient::new(customer).get_wrapped_key(ask).await.unwrap();
    assert_eq!(kept.into_inner().fingerprint, first.fingerprint);
    platform.stop().await;
}

#[tokio::test]
async fn keys_that_nobody_waits_for_are_refused() {
    let mut platform = Platform::start().await;
    let (instance, _, request) = platform.waiting().await;
    let customer = platform.broker.as_role(Role::Customer).await;
    let mut keyring =
        Keyring::new(Identity::generate(), platform.broker.ca_pem.clone(), "").unwrap();
    let good = answer(&mut keyring, &request);

    let elsewhere = GivenKey { host_id: HostId::from_parts(1, 1).to_string(), ..good.clone() };
    let next = GivenKey { version: 2, ..good.clone() };
    for odd in [elsewhere, next] {
        let status = give(&customer, vec![odd]).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted, "{status}");
    }
    let nowhere = GivenKey { volume_id: VolumeId::from_parts(1, 1).to_string(), ..good.clone() };
    let status = give(&customer, vec![good.clone(), nowhere]).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    for (odd, field) in [
        (GivenKey { volume_id: "x".into(), ..good.clone() }, "keys[0].volume_id"),
        (GivenKey { host_id: String::new(), ..good.clone() }, "keys[0].host_id"),
        (GivenKey { fingerprint: "the key".into(), ..good.clone() }, "keys[0].fingerprint"),
        (GivenKey { sealed: vec![0; 513], ..good.clone() }, "keys[0].sealed"),
        (GivenKey { wrapped: Vec::new(), ..good.clone() }, "keys[0].wrapped"),
    ] {
        let status = give(&customer, vec![odd]).await.unwrap_err();
        let named = detail(&status).field;
        assert_eq!((status.code(), named.as_str()), (Code::InvalidArgument, field));
    }
    let twice = vec![good.clone(), answer(&mut keyring, &request)];
    let status = give(&customer, twice).await.unwrap_err();
    assert_eq!(detail(&status).field, "keys[1].volume_id", "{status}");

    let stranger = platform.broker.stranger().await;
    assert_eq!(wanted(&stranger, "").await.unwrap(), []);
    let status = wanted(&stranger, &instance.id).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = give(&stranger, vec![good.clone()]).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let ask = GetWrappedKeyRequest { volume_id: request.volume_id.clone() };
    let mut volumes = VolumesServiceClient::new(stranger);
    assert_eq!(volumes.get_wrapped_key(ask).await.unwrap_err().code(), Code::NotFound);

    // None of these has left anything.
    assert_eq!(wanted(&customer, &instance.id).await.unwrap(), [request]);
    give(&customer, vec![good]).await.unwrap();
    platform.stop().await;
}

#[tokio::test]
async fn another_sealing_key_is_refused_while_volumes_are_there() {
    let mut platform = Platform::start().await;
    // Nothing is there yet, so nothing was sealed.
    let anew = Machine::new();
    let joined = anew.join(&platform.client).await.unwrap();
    platform.client = anew.showing(&platform.broker, &joined).await;
    platform.stream = stream(&platform.broker, &platform.client).await.unwrap();
    platform.machine = anew;

    let (_, _, request) = platform.waiting().await;
    let shown = HostCertificate::verify(
        &request.host_certificate,
        &platform.broker.ca_pem,
        platform.broker.host,
        now(),
    );
    let own = platform.machine.identity.secret().sealing_key();
    assert_eq!(shown.unwrap().sealing_key, own);
    let status = Machine::new().join(&platform.client).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    platform.machine.join(&platform.client).await.unwrap();
    platform.stop().await;
}

/// A certificate of the host for this sealing key, by an authority that has the platform's name.
fn forged(host: HostId, sealing_key: &SealingKey) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Fairmazon development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let by = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    for name in [host_name(host), sealing_key_name(sealing_key)] {
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &by).unwrap();
    format!("{}{}", leaf.pem(), by.pem())
}

#[tokio::test]
async fn a_certificate_that_was_swapped_on_the_way_gets_no_key() {
    let mut platform = Platform::start().await;
    let (_, _, request) = platform.waiting().await;
    let ca = platform.broker.ca_pem.clone();
    let keyring = |known: &str| Keyring::new(Identity::generate(), ca.clone(), known).unwrap();
    let foreign = HostSecret::generate().sealing_key();
    let swapped =
        KeyRequest { certificate: forged(platform.broker.host, &foreign), ..read(&request) };
    let error = keyring("").answer(&swapped, now()).unwrap_err();
    assert!(matches!(error, KeyError::BadCertificate { .. }), "{error}");
    assert!(error.to_string().contains("no authority that is trusted"), "{error}");

    // A platform that signs for a key of its own is found out with a host that is known.
    let seen = keyring("").answer(&read(&request), now()).unwrap().first_seen.unwrap();
    let known = platform.machine.identity.secret().sealing_key().fingerprint();
    assert_eq!(seen, format!("{} {known}\n", platform.broker.host));
    let other = format!("{} {}\n", platform.broker.host, foreign.fingerprint());
    let error = keyring(&other).answer(&read(&request), now()).unwrap_err();
    assert!(matches!(error, KeyError::ChangedHost { .. }), "{error}");
    assert!(keyring(&seen).answer(&read(&request), now()).unwrap().first_seen.is_none());
    platform.stop().await;
}
