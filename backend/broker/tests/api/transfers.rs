//! Volumes' files on their way from an agent to their customer.

use std::{sync::Arc, time::Duration};

use fairmazon_broker::ApiConfig;
use fairmazon_host::{
    Config, clock::SystemClock, identity::HostIdentity, state::MemoryState,
    transport::JoinedTransport,
};
use fairmazon_hypervisor::{
    Hypervisor, HypervisorError,
    sim::{Call, Fault, SimHost, Verb, World},
};
use fairmazon_keys::{Identity, Keyring, WrappedKey};
use fairmazon_model::{
    access::Role,
    id::VolumeId,
    limits::{TRANSFERS_PER_ACCOUNT, TRANSFERS_PER_HOST},
};
use fairmazon_proto::{
    host::v1::{
        VolumeBegin, VolumePart, host_stream_service_client::HostStreamServiceClient, volume_part,
    },
    v1::{
        CreateInstanceRequest, CreateVolumeRequest, DeleteVolumeRequest, ExportHeader,
        ExportVolumeRequest, ExportVolumeResponse, GetVolumeRequest, KeyRequest,
        ListKeyRequestsRequest, ListVolumesRequest, Operation, OperationState, VolumeAttachment,
        VolumeSpec, VolumeState, WaitOperationRequest, export_volume_response::Part,
        instances_service_client::InstancesServiceClient,
        operations_service_client::OperationsServiceClient,
        volumes_service_client::VolumesServiceClient,
    },
};
use futures::stream;
use tokio::{io::AsyncReadExt, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    harness::{Broker, Client, detail, host_spec, instance_spec},
    joining::joined,
    volume_keys::{answer, give, wanted},
};

const PART: usize = 256 * 1024;

/// A broker that works, the agent of its host, and a customer with a volume and its snapshot.
pub(crate) struct Platform {
    pub(crate) broker: Broker,
    pub(crate) sim: SimHost,
    pub(crate) customer: Client,
    identity: Identity,
    pub(crate) data: String,
    pub(crate) snapshot: String,
    agent: Option<(CancellationToken, JoinHandle<()>)>,
    stop: CancellationToken,
    reconciler: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(configure: impl FnOnce(&mut ApiConfig)) -> Self {
        let broker = Broker::start_with(configure).await;
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(Arc::new(|| 0));
        let sim = world.add_host(broker.host, host_spec("first").capacity);
        let stop = CancellationToken::new();
        let reconciler = broker.engine.start(stop.clone());
        let customer = broker.as_role(Role::Customer).await;
        let (identity, none) = (Identity::generate(), String::new());
        let mut platform = Self {
            broker,
            sim,
            customer,
            identity,
            data: none.clone(),
            snapshot: none,
            agent: None,
            stop,
            reconciler,
            _folder: folder,
        };
        platform.start_agent();
        platform.data = platform.make(VolumeSpec { name: "data".into(), ..spec() }).await.0;
        let instance = fairmazon_proto::v1::InstanceSpec {
            volumes: [(
                "data".into(),
                VolumeAttachment { volume_id: platform.data.clone(), read_only: false },
            )]
            .into(),
            ..instance_spec("one")
        };
        let request = CreateInstanceRequest { spec: Some(instance), idempotency_key: "one".into() };
        let mut instances = InstancesServiceClient::new(platform.customer.clone());
        let made = instances.create_instance(request).await.unwrap().into_inner();
        platform.done(&made.operation.unwrap()).await;
        // The machine may be told to run before its volumes are told to be there.
        while platform.state_of(&platform.data).await.unwrap().0 != VolumeState::Ready {}
        platform.snapshot = platform.make_snapshot().await;
        platform
    }

    /// Starts the agent, which joins with its token for the first.
    pub(crate) fn start_agent(&mut self) {
        let identity = Arc::new(HostIdentity::open(self._folder.path()).unwrap());
        let config = Config {
            secret: Some(identity.secret()),
            ..Config::new(self.broker.host, 1, Arc::new(MemoryState::default()))
        };
        let transport = JoinedTransport::new(
            format!("https://{}", self.broker.server().address()),
            self.broker.ca_pem.clone(),
            identity,
            Some(self.broker.tokens[&Role::Host].clone()),
        );
        let end = CancellationToken::new();
        let agent = fairmazon_host::run(
            config,
            Arc::new(self.sim.clone()),
            Arc::new(transport),
            Arc::new(SystemClock::new().unwrap()),
            end.clone(),
        );
        self.agent = Some((end, tokio::spawn(async move { agent.await.unwrap() })));
    }

    pub(crate) async fn end_agent(&mut self) {
        let (end, agent) = self.agent.take().unwrap();
        end.cancel();
        agent.await.unwrap();
    }

    pub(crate) async fn make(&self, spec: VolumeSpec) -> (String, Operation) {
        let idempotency_key = spec.name.clone();
        let request = CreateVolumeRequest { spec: Some(spec), idempotency_key };
        let mut volumes = VolumesServiceClient::new(self.customer.clone());
        let made = volumes.create_volume(request).await.unwrap().into_inner();
        (made.volume.unwrap().id, made.operation.unwrap())
    }

    async fn make_snapshot(&self) -> String {
        let source_volume_id = self.data.clone();
        let (name, read_only) = ("snapshot".into(), true);
        let (id, operation) =
            self.make(VolumeSpec { name, source_volume_id, read_only, ..spec() }).await;
        self.done(&operation).await;
        id
    }

    /// Waits for an operation and gives the keys that it waits for.
    pub(crate) async fn done(&self, operation: &Operation) {
        let request = WaitOperationRequest { id: operation.id.clone() };
        let mut operations = OperationsServiceClient::new(self.customer.clone());
        let mut states = operations.wait_operation(request).await.unwrap().into_inner();
        let mut last = OperationState::Unspecified;
        while let Some(state) = states.message().await.unwrap() {
            last = state.state();
            if state.waits_for_keys {
                self.give_keys().await;
            }
        }
        assert_eq!(last, OperationState::Done);
    }

    /// Gives the keys that hosts wait for now; whether there were any.
    pub(crate) async fn give_keys(&self) -> bool {
        let ca = self.broker.ca_pem.clone();
        let mut keyring = Keyring::new(self.identity.clone(), ca, "").unwrap();
        let mut wanted = wanted(&self.customer, "").await.unwrap();
        wanted.extend(self.wanted_of_imports().await);
        let keys: Vec<_> = wanted.iter().map(|request| answer(&mut keyring, request)).collect();
        let any = !keys.is_empty();
        if any {
            give(&self.customer, keys).await.unwrap();
        }
        any
    }

    /// The keys of files that are still to come, each of which is asked about by itself.
    async fn wanted_of_imports(&self) -> Vec<KeyRequest> {
        let mut volumes = VolumesServiceClient::new(self.customer.clone());
        let all = volumes.list_volumes(ListVolumesRequest::default()).await.unwrap();
        let mut wanted = Vec::new();
        for volume in all.into_inner().volumes {
            if volume.spec.is_some_and(|spec| spec.import.is_some()) {
                let of = ListKeyRequestsRequest { volume_id: volume.id, ..Default::default() };
                let asked = volumes.list_key_requests(of).await;
                wanted.extend(asked.unwrap().into_inner().requests);
            }
        }
        wanted
    }

    /// What the hypervisor has of the snapshot.
    async fn file(&self) -> Vec<u8> {
        let snapshot = self.snapshot.parse().unwrap();
        let mut file = self.sim.read_volume(snapshot, 0).await.unwrap();
        let mut bytes = Vec::new();
        file.reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        bytes
    }

    pub(crate) async fn state_of(&self, volume: &str) -> Result<(VolumeState, String), Status> {
        let mut volumes = VolumesServiceClient::new(self.customer.clone());
        let volume = volumes.get_volume(GetVolumeRequest { id: volume.into() }).await?;
        let volume = volume.into_inner();
        Ok((volume.state(), volume.state_reason))
    }

    pub(crate) async fn stop(mut self) {
        self.end_agent().await;
        self.stop.cancel();
        self.reconciler.await.unwrap();
        self.broker.stop().await;
    }
}

pub(crate) fn spec() -> VolumeSpec {
    VolumeSpec { size_gib: 2, class: "standard".into(), ..VolumeSpec::default() }
}

/// A transfer that has begun.
pub(crate) struct Begun {
    header: ExportHeader,
    parts: Streaming<ExportVolumeResponse>,
}

pub(crate) async fn begin(client: &Client, volume: &str, offset: u64) -> Result<Begun, Status> {
    let request = ExportVolumeRequest { volume_id: volume.into(), offset };
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut parts = volumes.export_volume(request).await?.into_inner();
    let Some(Part::Header(header)) = parts.message().await?.and_then(|first| first.part) else {
        panic!("it begins with a header");
    };
    Ok(Begun { header, parts })
}

impl Begun {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        Ok(self.parts.message().await?.map(|message| match message.part {
            Some(Part::Data(data)) => data,
            other => panic!("no data: {other:?}"),
        }))
    }

    /// What comes, and how it ends.
    pub(crate) async fn rest(mut self) -> (Vec<u8>, Result<(), Status>) {
        let mut bytes = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(data)) => bytes.extend(data),
                Ok(None) => return (bytes, Ok(())),
                Err(status) => return (bytes, Err(status)),
            }
        }
    }
}

async fn refused(client: &Client, volume: &str) -> Status {
    begin(client, volume, 0).await.err().unwrap()
}

#[tokio::test]
async fn the_file_comes_whole_and_from_any_byte_on() {
    let platform = Platform::start().await;
    let (customer, snapshot) = (&platform.customer, platform.snapshot.as_str());
    let last = platform.broker.audited(0).await.1;
    let file = platform.file().await;
    let begun = begin(customer, snapshot, 0).await.unwrap();
    let header = begun.header.clone();
    assert_eq!(header.total_bytes, file.len() as u64);
    let volume: VolumeId = snapshot.parse().unwrap();
    let key = WrappedKey::from_bytes(header.wrapped_key).open(volume, &platform.identity).unwrap();
    assert_eq!(key.fingerprint(), header.key_fingerprint);
    let (bytes, ended) = begun.rest().await;
    ended.unwrap();
    assert!(bytes == file, "{} bytes of {}", bytes.len(), file.len());

    for offset in [1, PART as u64 + 7, file.len() as u64 - 1, file.len() as u64] {
        let begun = begin(customer, snapshot, offset).await.unwrap();
        assert_eq!(begun.header.total_bytes, file.len() as u64);
        let (bytes, ended) = begun.rest().await;
        ended.unwrap();
        assert!(bytes == file[usize::try_from(offset).unwrap()..], "from {offset} on");
    }
    let behind = begin(customer, snapshot, file.len() as u64 + 1).await.err().unwrap();
    assert_eq!(detail(&behind).field, "offset", "{behind}");
    assert_eq!(platform.broker.audited(last).await.0, vec!["volume.export"; 6]);
    platform.stop().await;
}

#[tokio::test]
async fn several_come_at_once_and_no_more_than_are_allowed() {
    let platform = Platform::start().await;
    let (customer, snapshot) = (&platform.customer, platform.snapshot.as_str());
    let file = platform.file().await;
    let mut begun = Vec::new();
    for _ in 0..TRANSFERS_PER_ACCOUNT {
        // Each on a connection of its own: what is not taken would fill one that all share.
        let customer = platform.broker.as_role(Role::Customer).await;
        begun.push(begin(&customer, snapshot, 0).await.unwrap());
    }
    let status = refused(customer, snapshot).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for (bytes, ended) in futures::future::join_all(begun.into_iter().map(Begun::rest)).await {
        ended.unwrap();
        assert!(bytes == file);
    }
    // Those that are given up in the middle do not count for long either.
    for _ in 0..3 * TRANSFERS_PER_HOST {
        drop(begin(customer, snapshot, 0).await);
    }
    loop {
        match begin(customer, snapshot, 0).await {
            Ok(begun) => break begun.rest().await.1.unwrap(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
    platform.stop().await;
}

#[tokio::test]
async fn only_a_snapshot_of_ones_own_is_exported() {
    let platform = Platform::start().await;
    let (customer, snapshot) = (&platform.customer, platform.snapshot.as_str());
    let status = refused(customer, &platform.data).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("no snapshot"), "{status}");

    let other = platform.broker.stranger().await;
    assert_eq!(refused(&other, snapshot).await.code(), Code::NotFound);

    let request = DeleteVolumeRequest { id: snapshot.into(), idempotency_key: "delete".into() };
    let mut volumes = VolumesServiceClient::new(customer.clone());
    let deleting = volumes.delete_volume(request).await.unwrap().into_inner();
    let status = refused(customer, snapshot).await;
    assert!(matches!(status.code(), Code::FailedPrecondition | Code::NotFound), "{status}");
    platform.done(&deleting).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_host_that_goes_breaks_it_off_and_the_rest_is_asked_for_again() {
    let mut platform = Platform::start().await;
    let (customer, snapshot) = (platform.customer.clone(), platform.snapshot.clone());
    let file = platform.file().await;
    // Nothing more than a few parts is on its way while the customer takes none.
    let mut begun = begin(&customer, &snapshot, 0).await.unwrap();
    let mut bytes = begun.next().await.unwrap().unwrap();
    platform.end_agent().await;
    let (rest, ended) = begun.rest().await;
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    bytes.extend(rest);
    assert!(bytes.len() < file.len() && file.starts_with(&bytes), "{}", bytes.len());

    let silent = loop {
        let status = refused(&customer, &snapshot).await;
        if status.message().contains("silent") {
            break status;
        }
    };
    assert_eq!(silent.code(), Code::Unavailable, "{silent}");
    platform.start_agent();
    let begun = loop {
        match begin(&customer, &snapshot, bytes.len() as u64).await {
            Ok(begun) => break begun,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    };
    let (rest, ended) = begun.rest().await;
    ended.unwrap();
    bytes.extend(rest);
    assert!(bytes == file);
    platform.stop().await;
}

#[tokio::test]
async fn a_file_may_take_longer_than_a_call() {
    let platform = Platform::start_with(|config| config.call_time = Duration::from_secs(3)).await;
    let customer = &platform.customer;
    let file = platform.file().await;
    let begun = begin(customer, &platform.snapshot, 0).await.unwrap();
    // One that waits for its caller has that long, and began after it.
    let mut volumes = VolumesServiceClient::new(platform.broker.as_role(Role::Customer).await);
    let cut_off = volumes.import_volume(stream::pending()).await.unwrap_err();
    assert_eq!(cut_off.code(), Code::Unavailable, "{cut_off}");
    assert!(cut_off.message().contains("within 3 seconds"), "{cut_off}");
    let (bytes, ended) = begun.rest().await;
    ended.unwrap();
    assert!(bytes == file, "{} bytes of {}", bytes.len(), file.len());
    platform.stop().await;
}

#[tokio::test]
async fn what_a_host_can_not_read_is_said() {
    let platform = Platform::start().await;
    let fail = |call: &Call| match call.verb {
        Verb::ReadVolume => Fault::Fail(HypervisorError::not_found("it")),
        _ => Fault::None,
    };
    platform.sim.set_faults(fail);
    let status = refused(&platform.customer, &platform.snapshot).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("can't send it"), "{status}");
    platform.sim.clear_faults();
    let begun = begin(&platform.customer, &platform.snapshot, 0).await.unwrap();
    begun.rest().await.1.unwrap();
    platform.stop().await;
}

#[tokio::test]
async fn a_host_sends_only_what_somebody_waits_for() {
    let broker = Broker::start().await;
    let begin = volume_part::Part::Begin(VolumeBegin { total_bytes: 1 });
    let host = joined(&broker).await;
    for (transfer_id, code) in [(vec![1; 16], Code::NotFound), (vec![1; 15], Code::InvalidArgument)]
    {
        let part = VolumePart { part: Some(begin.clone()), transfer_id };
        let mut host = HostStreamServiceClient::new(host.clone());
        let status = host.send_volume(stream::iter([part])).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    broker.stop().await;
}
