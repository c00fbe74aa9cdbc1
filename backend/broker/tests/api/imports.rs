//! Volumes' files on their way from a customer to an agent, which makes volumes of them.

use std::time::Duration;

use fairmazon_hypervisor::{Hypervisor, sim::SeededFaults};
use fairmazon_model::limits::TRANSFERS_PER_ACCOUNT;
use fairmazon_model::{
    access::Role,
    transfer::{CHUNK_MAX, Sha256},
};
use fairmazon_proto::{
    host::v1::{
        VolumeTaken, VolumeTakenBegin, host_stream_service_client::HostStreamServiceClient,
        volume_taken,
    },
    v1::{
        CreateVolumeRequest, DeleteVolumeRequest, GetOperationRequest, ImportVolumeRequest,
        ImportVolumeResponse, Operation, OperationState, Placement, VolumeImport, VolumeSpec,
        VolumeState, import_volume_request::Part, import_volume_response,
        operations_service_client::OperationsServiceClient,
        volumes_service_client::VolumesServiceClient,
    },
};
use futures::stream;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    harness::{Broker, Client, detail},
    joining::joined,
    transfers::{Platform, begin, spec},
};

const PART: usize = 256 * 1024;

/// The spec of a volume that is made from this file.
fn import(file: &[u8]) -> VolumeSpec {
    let sha256 = Sha256::of(file).to_string();
    let import = Some(VolumeImport { bytes: file.len() as u64, sha256 });
    VolumeSpec { name: "imported".into(), read_only: true, import, ..spec() }
}

/// A call that sends a file.
struct Sending {
    parts: mpsc::Sender<ImportVolumeRequest>,
    answers: Streaming<ImportVolumeResponse>,
    offset: usize,
}

async fn send(client: &Client, volume: &str) -> Result<Sending, Status> {
    let (parts, messages) = mpsc::channel(1);
    let first = ImportVolumeRequest {
        part: Some(Part::VolumeId(volume.into())),
        idempotency_key: format!("import/{volume}"),
    };
    parts.send(first).await.unwrap();
    let mut volumes = VolumesServiceClient::new(client.clone());
    let mut answers = volumes.import_volume(ReceiverStream::new(messages)).await?.into_inner();
    let first = answers.message().await?.unwrap().part.unwrap();
    let import_volume_response::Part::Begin(begin) = first else { panic!("{first:?}") };
    let offset = usize::try_from(begin.offset).unwrap();
    Ok(Sending { parts, answers, offset })
}

/// [`send`], as often as its host is about to be ready.
async fn send_soon(client: &Client, volume: &str) -> Sending {
    loop {
        match send(client, volume).await {
            Ok(sending) => return sending,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
}

impl Sending {
    /// Sends these bytes; whether somebody takes them.
    async fn data(&self, data: &[u8]) -> bool {
        for data in data.chunks(PART) {
            let part = ImportVolumeRequest {
                part: Some(Part::Data(data.to_vec())),
                ..ImportVolumeRequest::default()
            };
            if self.parts.send(part).await.is_err() {
                return false;
            }
        }
        true
    }

    /// How it ends.
    async fn end(mut self) -> Result<(), Status> {
        drop(self.parts);
        match self.answers.message().await?.unwrap().part.unwrap() {
            import_volume_response::Part::Stored(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

/// Sends all that the host has not got of a file.
async fn upload(client: &Client, volume: &str, file: &[u8]) -> Result<(), Status> {
    let sending = send_soon(client, volume).await;
    sending.data(&file[sending.offset..]).await;
    sending.end().await
}

impl Platform {
    /// What the customer has exported of a snapshot.
    async fn exported(&self, snapshot: &str) -> Vec<u8> {
        let (bytes, ended) = begin(&self.customer, snapshot, 0).await.unwrap().rest().await;
        ended.unwrap();
        bytes
    }

    async fn delete(&self, volume: &str) {
        let idempotency_key = format!("delete {volume}");
        let request = DeleteVolumeRequest { id: volume.into(), idempotency_key };
        let mut volumes = VolumesServiceClient::new(self.customer.clone());
        let deleting = volumes.delete_volume(request).await.unwrap().into_inner();
        self.done(&deleting).await;
    }

    /// The operation, once it has ended.
    async fn ended(&self, operation: &Operation) -> Operation {
        let mut operations = OperationsServiceClient::new(self.customer.clone());
        loop {
            let request = GetOperationRequest { id: operation.id.clone() };
            let now = operations.get_operation(request).await.unwrap().into_inner();
            if !matches!(now.state(), OperationState::Running) {
                return now;
            }
        }
    }

    async fn nothing_is_left_of_a_file(&self) {
        assert_eq!(self.sim.inventory().await.unwrap().incoming, []);
    }
}

#[tokio::test]
async fn what_was_exported_is_a_snapshot_again_and_volumes_are_made_of_it() {
    let platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    let last = platform.broker.audited(0).await.1;
    let (id, operation) = platform.make(import(&file)).await;
    assert_eq!(platform.make(import(&file)).await.0, id, "the same key finds the same volume");
    let (state, reason) = platform.state_of(&id).await.unwrap();
    assert_eq!((state, reason.as_str()), (VolumeState::Creating, "its file has not come"));
    // This hypervisor opens nothing, and would take the file before it has the key.
    while !platform.give_keys().await {}
    upload(&platform.customer, &id, &file).await.unwrap();
    platform.done(&operation).await;
    assert_eq!(platform.state_of(&id).await.unwrap().0, VolumeState::Ready);
    platform.nothing_is_left_of_a_file().await;
    let verbs = platform.broker.audited(last).await.0;
    assert!(verbs.contains(&"volume.create".into()) && verbs.contains(&"volume.import".into()));

    // It is asked for no more, and is an ordinary snapshot.
    let sending = send(&platform.customer, &id).await.unwrap();
    assert_eq!(sending.offset, file.len());
    sending.end().await.unwrap();
    assert!(platform.exported(&id).await == file);
    let (name, source_volume_id) = ("restored".into(), id.clone());
    let restored = VolumeSpec { name, source_volume_id, ..spec() };
    let (restored, operation) = platform.make(restored).await;
    platform.done(&operation).await;
    assert_eq!(platform.state_of(&restored).await.unwrap().0, VolumeState::Ready);
    platform.delete(&id).await;
    assert_eq!(platform.state_of(&id).await.unwrap_err().code(), Code::NotFound);
    platform.stop().await;
}

#[tokio::test]
async fn an_import_goes_on_from_the_byte_that_its_host_has() {
    let mut platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    let (id, operation) = platform.make(import(&file)).await;
    let (mut sent, mut kept) = (0, None);
    // The customer goes, comes back while the host still listens to the first call, and the agent
    // goes as well.
    for round in 0..4 {
        let customer = platform.broker.as_role(Role::Customer).await;
        let sending = send_soon(&customer, &id).await;
        assert!((0..=sent).contains(&sending.offset), "{} of {sent}", sending.offset);
        let from = sending.offset;
        sent = from + 1_000_001;
        assert!(sending.data(&file[from..sent]).await);
        match round {
            0 => drop(sending),
            1 => kept = Some(sending),
            _ => {
                // What it has written it keeps.
                loop {
                    let incoming = platform.sim.inventory().await.unwrap().incoming;
                    if incoming[0].bytes > from as u64 {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                platform.end_agent().await;
                let Sending { mut answers, .. } = sending;
                let status = answers.message().await.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                platform.start_agent();
            }
        }
    }
    let status = Sending::end(kept.unwrap()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let sending = send_soon(&platform.customer, &id).await;
    assert!(sending.offset > 0, "what has come is kept");
    sending.data(&file[sending.offset..]).await;
    sending.end().await.unwrap();
    platform.done(&operation).await;
    assert!(platform.exported(&id).await == file);
    platform.stop().await;
}

#[tokio::test]
async fn an_import_comes_about_whatever_fails_on_the_way() {
    let mut platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let name = format!("seed {seed}");
        let (id, operation) = platform.make(VolumeSpec { name, ..import(&file) }).await;
        while !platform.give_keys().await {}
        let faults = SeededFaults::new(seed, 30, 12, Duration::from_millis(20));
        platform.sim.set_faults(faults);
        loop {
            // Cut at any byte, by the customer or the agent.
            let sending = send_soon(&platform.customer, &id).await;
            let rest = &file[sending.offset..];
            if random.random_ratio(1, 4) {
                sending.data(rest).await;
                match sending.end().await {
                    Ok(()) => break,
                    Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
                }
                continue;
            }
            sending.data(&rest[..random.random_range(0..=rest.len())]).await;
            if random.random_ratio(1, 2) {
                platform.end_agent().await;
                platform.start_agent();
            }
        }
        platform.done(&operation).await;
        platform.sim.clear_faults();
        assert!(platform.exported(&id).await == file);
        platform.delete(&id).await;
        platform.nothing_is_left_of_a_file().await;
    }
    platform.stop().await;
}

#[tokio::test]
async fn a_file_that_is_not_the_promised_one_is_not_used_and_another_one_may_come() {
    let platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    let (id, operation) = platform.make(import(&file)).await;
    let mut wrong = file.clone();
    wrong[70_000] ^= 1;
    upload(&platform.customer, &id, &wrong).await.unwrap();
    let ended = platform.ended(&operation).await;
    let error = ended.error.unwrap();
    assert!(error.message.contains("not the one that was promised"), "{}", error.message);
    let (state, reason) = platform.state_of(&id).await.unwrap();
    assert_eq!(state, VolumeState::Failed);
    assert!(reason.contains("not the one that was promised"), "{reason}");
    platform.nothing_is_left_of_a_file().await;

    upload(&platform.customer, &id, &file).await.unwrap();
    while platform.state_of(&id).await.unwrap().0 != VolumeState::Ready {}
    platform.delete(&id).await;

    // One that is no volume's, although it is the promised one.
    let noise = vec![7; 2 << 20];
    let (id, operation) =
        platform.make(VolumeSpec { name: "noise".into(), ..import(&noise) }).await;
    upload(&platform.customer, &id, &noise).await.unwrap();
    let error = platform.ended(&operation).await.error.unwrap();
    assert!(error.message.contains("no volume's"), "{}", error.message);
    platform.delete(&id).await;
    platform.nothing_is_left_of_a_file().await;
    platform.stop().await;
}

#[tokio::test]
async fn an_import_can_be_deleted_at_any_time() {
    let platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    // Before anything has come, when a part has, and while more comes.
    for round in 0..3 {
        let name = format!("round {round}");
        let (id, _) = platform.make(VolumeSpec { name, ..import(&file) }).await;
        let mut sending = None;
        if round > 0 {
            let begun = send_soon(&platform.customer, &id).await;
            begun.data(&file[..1_000_000]).await;
            sending = Some(begun).filter(|_| round > 1);
        }
        platform.delete(&id).await;
        platform.nothing_is_left_of_a_file().await;
        if let Some(sending) = sending {
            let status = sending.end().await.unwrap_err();
            assert!(matches!(status.code(), Code::Unavailable | Code::InvalidArgument), "{status}");
        }
        assert_eq!(send(&platform.customer, &id).await.err().unwrap().code(), Code::NotFound);
    }
    platform.stop().await;
}

#[tokio::test]
async fn what_can_not_be_imported_is_refused() {
    let platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    let mut volumes = VolumesServiceClient::new(platform.customer.clone());
    let mut create = async |spec: VolumeSpec| {
        let request = CreateVolumeRequest { spec: Some(spec), idempotency_key: "key".into() };
        volumes.create_volume(request).await.unwrap_err()
    };
    let with = |change: fn(&mut VolumeSpec)| {
        let mut spec = import(&file);
        change(&mut spec);
        spec
    };
    let copy = VolumeSpec { source_volume_id: platform.data.clone(), ..import(&file) };
    for (spec, field) in [
        (with(|spec| spec.read_only = false), "read_only"),
        (with(|spec| spec.import.as_mut().unwrap().sha256.push('0')), "import.sha256"),
        (with(|spec| spec.import.as_mut().unwrap().bytes = 1_000), "import.bytes"),
        (with(|spec| spec.import.as_mut().unwrap().bytes = 3 << 30), "import.bytes"),
        (copy, "source"),
    ] {
        let status = create(spec).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(detail(&status).field, field, "{status}");
    }
    let nowhere = with(|spec| {
        let placement = Placement { countries: vec!["SE".into()], ..Placement::default() };
        spec.placement = Some(placement);
    });
    let status = create(nowhere).await;
    assert!(status.message().contains("not in SE: 1"), "{status}");
    assert!(detail(&status).advice.contains("fra1"), "{status:?}");
    let status = create(with(|spec| spec.size_gib = 5_000)).await;
    assert!(status.message().contains("less than 5000 GiB of standard free"), "{status}");

    // A volume that is made of nothing, somebody else's, and none.
    let (id, _) = platform.make(import(&file)).await;
    let refused = send(&platform.customer, &platform.data).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let other = platform.broker.stranger().await;
    assert_eq!(send(&other, &id).await.err().unwrap().code(), Code::NotFound);

    // Less and more than was promised, and messages that are too large.
    let all = file.len();
    let sending = send_soon(&platform.customer, &id).await;
    sending.data(&file[sending.offset..all - 1]).await;
    let status = sending.end().await.unwrap_err();
    assert!(status.message().contains("ended 1 bytes before"), "{status}");
    let sending = send_soon(&platform.customer, &id).await;
    sending.data(&file[sending.offset..all - 1]).await;
    sending.data(b"ab").await;
    let status = sending.end().await.unwrap_err();
    assert_eq!(detail(&status).field, "data", "{status}");
    let (id, _) = platform.make(VolumeSpec { name: "large".into(), ..import(&file) }).await;
    let sending = send_soon(&platform.customer, &id).await;
    let part = ImportVolumeRequest {
        part: Some(Part::Data(vec![0; CHUNK_MAX + 1])),
        ..ImportVolumeRequest::default()
    };
    sending.parts.send(part).await.unwrap();
    let status = sending.end().await.unwrap_err();
    assert_eq!(detail(&status).field, "data", "{status}");
    platform.stop().await;
}

#[tokio::test]
async fn imports_and_exports_of_an_account_are_counted_together() {
    let platform = Platform::start().await;
    let file = platform.exported(&platform.snapshot).await;
    let (id, _) = platform.make(import(&file)).await;
    let mut exports = Vec::new();
    for _ in 1..TRANSFERS_PER_ACCOUNT {
        let customer = platform.broker.as_role(Role::Customer).await;
        exports.push(begin(&customer, &platform.snapshot, 0).await.unwrap());
    }
    let sending = send_soon(&platform.customer, &id).await;
    let refused = begin(&platform.customer, &platform.snapshot, 0).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(exports);
    sending.data(&file).await;
    sending.end().await.unwrap();
    platform.stop().await;
}

#[tokio::test]
async fn a_host_takes_only_what_somebody_sends() {
    let broker = Broker::start().await;
    let begin = volume_taken::Taken::Begin(VolumeTakenBegin { offset: 0 });
    let host = joined(&broker).await;
    for (transfer_id, code) in [(vec![1; 16], Code::NotFound), (vec![1; 15], Code::InvalidArgument)]
    {
        let word = VolumeTaken { taken: Some(begin.clone()), transfer_id };
        let mut host = HostStreamServiceClient::new(host.clone());
        let status = host.receive_volume(stream::iter([word])).await.err().unwrap();
        assert_eq!(status.code(), code, "{status}");
    }
    broker.stop().await;
}
