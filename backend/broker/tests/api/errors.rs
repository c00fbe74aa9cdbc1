//! What a wrong request is answered: the field, the kind, the id, and nothing internal.

use fairmazon_model::{access::Role, limits};
use fairmazon_proto::v1::{
    CreateInstanceRequest, GetInstanceRequest, ListInstancesRequest, Page,
    instances_service_client::InstancesServiceClient,
};
use http::uri::PathAndQuery;
use tonic::{Code, Request, client::Grpc};
use tonic_prost::ProstCodec;

use crate::harness::{Broker, detail, instance_spec};

#[tokio::test]
async fn a_wrong_field_is_named() {
    let broker = Broker::start().await;
    let mut instances = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let create = |spec| CreateInstanceRequest { spec, idempotency_key: "key".into() };
    let mut unnamed = instance_spec("x");
    unnamed.name = String::new();
    let mut unknown_flavor = instance_spec("x");
    unknown_flavor.flavor = "gigantic".into();
    for (request, field) in [
        (create(None), "spec"),
        (create(Some(unnamed)), "name"),
        (create(Some(unknown_flavor)), "flavor"),
    ] {
        let status = instances.create_instance(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(detail(&status).field, field);
    }
    let keyless =
        CreateInstanceRequest { spec: Some(instance_spec("x")), idempotency_key: String::new() };
    let status = instances.create_instance(keyless).await.unwrap_err();
    assert_eq!(detail(&status).field, "idempotency_key");
    let page = Some(Page { size: 1, token: "nonsense".into() });
    let request = ListInstancesRequest { page, filter: None };
    let status = instances.list_instances(request).await.unwrap_err();
    assert_eq!(detail(&status).field, "page.token");
    broker.stop().await;
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request_and_a_date() {
    let broker = Broker::start().await;
    let mut instances = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let answer = instances.list_instances(ListInstancesRequest::default()).await.unwrap();
    let first = answer.metadata().get("request-id").unwrap().to_str().unwrap().to_owned();
    // By which clients tell how old a row is.
    assert!(answer.metadata().get("date").is_some());
    let request = GetInstanceRequest { id: "ins-01jd0000000000000000000000".into() };
    let status = instances.get_instance(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let second = detail(&status).request_id;
    assert_eq!(status.metadata().get("request-id").unwrap().to_str().unwrap(), second);
    assert!(first.starts_with("req-") && second.starts_with("req-") && first != second);
    broker.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let broker = Broker::start().await;
    let mut instances = InstancesServiceClient::new(broker.as_role(Role::Customer).await);
    let mut spec = instance_spec("large");
    spec.user_data = "x".repeat(limits::API_MESSAGE_MAX + 1);
    let request = CreateInstanceRequest { spec: Some(spec), idempotency_key: "key".into() };
    let status = instances.create_instance(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let said = detail(&status);
    assert_eq!(said.kind, "limit_exceeded");
    assert!(said.message.contains(&limits::API_MESSAGE_MAX.to_string()), "{said:?}");
    // The connection goes on.
    instances.list_instances(ListInstancesRequest::default()).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn nonsense_is_refused_without_the_librarys_words() {
    let broker = Broker::start().await;
    let mut grpc = Grpc::new(broker.as_role(Role::Customer).await);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/fairmazon.v1.InstancesService/GetInstance");
    // Field 1 is a text there: a message with a number in its place can't be read.
    let request = Request::new(7_u64);
    let codec = ProstCodec::<u64, ()>::default();
    let status = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(!status.message().contains("Protobuf") && !status.message().contains("wire"));
    assert!(!detail(&status).request_id.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_handler_that_panics_fails_alone() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::Customer).await;
    for number in 1..6 {
        broker.clock.break_at(number);
        let request = CreateInstanceRequest {
            spec: Some(instance_spec("web")),
            idempotency_key: format!("{number}"),
        };
        let answer = InstancesServiceClient::new(client.clone()).create_instance(request).await;
        broker.clock.break_at(0);
        if let Err(status) = answer {
            assert!(!status.message().contains("a fault was asked for"), "{status}");
        }
        let request = CreateInstanceRequest {
            spec: Some(instance_spec("web")),
            idempotency_key: format!("after {number}"),
        };
        let again = broker.as_role(Role::Customer).await;
        InstancesServiceClient::new(again).create_instance(request).await.unwrap();
    }
    broker.stop().await;
}
