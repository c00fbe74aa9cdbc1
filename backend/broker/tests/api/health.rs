//! Health and reflection: what a probe and a tool without our descriptors are told.

use std::{collections::BTreeMap, time::Duration};

use fairmazon_proto::FILE_DESCRIPTOR_SET;
use futures::stream;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Broker, Client};

/// Everything on the broker's port, written down a second time on purpose.
const SERVICES: [&str; 14] = [
    "fairmazon.host.v1.HostStreamService",
    "fairmazon.v1.AccountsService",
    "fairmazon.v1.AuditService",
    "fairmazon.v1.CatalogueService",
    "fairmazon.v1.HostsService",
    "fairmazon.v1.InstancesService",
    "fairmazon.v1.OperationsService",
    "fairmazon.v1.PlacementGroupsService",
    "fairmazon.v1.SitesService",
    "fairmazon.v1.TokensService",
    "fairmazon.v1.UsageService",
    "fairmazon.v1.VolumesService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
];

#[tokio::test]
async fn a_broker_serves_until_it_is_told_to_end() {
    let broker = Broker::start_with(|config| config.stop_time = Duration::from_secs(3_600)).await;
    let mut health = HealthClient::new(broker.with_token(None).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    // It may be asked before it has looked at its store.
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    let checked = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(checked.status(), ServingStatus::Serving);
    let ending = tokio::spawn(broker.stop());
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    // It ends without waiting for who only watches.
    assert!(watch.message().await.unwrap().is_none());
    ending.await.unwrap();
    drop((watch, health));
}

/// Asks reflection for something.
async fn reflected(client: &Client, asked: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { message_request: Some(asked), ..Default::default() };
    let mut reflection = ServerReflectionClient::new(client.clone());
    let answers = reflection.server_reflection_info(stream::iter([request])).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

/// The files that reflection answers with.
async fn files(client: &Client, asked: MessageRequest) -> Vec<FileDescriptorProto> {
    let answer = reflected(client, asked.clone()).await;
    let MessageResponse::FileDescriptorResponse(found) = answer else {
        panic!("{asked:?}: {answer:?}");
    };
    let read = |bytes: &Vec<u8>| FileDescriptorProto::decode(bytes.as_slice()).unwrap();
    found.file_descriptor_proto.iter().map(read).collect()
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let broker = Broker::start().await;
    let client = broker.with_token(None).await;
    let answer = reflected(&client, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, SERVICES);
    broker.stop().await;
}

#[tokio::test]
async fn reflection_gives_the_descriptors_of_every_service_and_what_they_import() {
    let broker = Broker::start().await;
    let client = broker.with_token(None).await;
    let compiled = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let compiled: BTreeMap<_, _> =
        compiled.into_iter().map(|file| (file.name().to_owned(), file)).collect();
    for name in SERVICES {
        let asked = MessageRequest::FileContainingSymbol(name.into());
        let mut given = files(&client, asked).await;
        let defines = given.iter().flat_map(|file| {
            file.service.iter().map(|service| format!("{}.{}", file.package(), service.name()))
        });
        assert!(defines.into_iter().any(|defined| defined == name), "{name} is in its file");
        // A tool asks for each file that it has not got yet.
        while let Some(file) = given.pop() {
            if name.starts_with("fairmazon.") {
                assert_eq!(Some(&file), compiled.get(file.name()), "{name} is as it was compiled");
            }
            for import in file.dependency {
                given.extend(files(&client, MessageRequest::FileByFilename(import)).await);
            }
        }
    }
    broker.stop().await;
}
