//! Rates and streams: who takes too much is told, and others notice nothing.

use fairmazon_broker::api::Rate;
use fairmazon_model::{access::Role, limits};
use fairmazon_proto::v1::{
    GetCatalogueRequest, WaitOperationRequest, catalogue_service_client::CatalogueServiceClient,
    operations_service_client::OperationsServiceClient,
};
use futures::future::try_join_all;
use tonic::Code;

use crate::harness::{Broker, detail, endless};

#[tokio::test]
async fn a_credential_has_its_rate() {
    let slow = Rate { per_second: 0.001, burst: 3.0 };
    let broker = Broker::start_with(|config| config.credential_rate = slow).await;
    let mut catalogue = CatalogueServiceClient::new(broker.as_role(Role::Customer).await);
    for _ in 0..3 {
        catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    }
    let status = catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(!detail(&status).advice.is_empty());
    let mut other = CatalogueServiceClient::new(broker.as_role(Role::Auditor).await);
    other.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn guessing_has_its_rate() {
    let slow = Rate { per_second: 0.001, burst: 2.0 };
    let broker = Broker::start_with(|config| config.address_rate = slow).await;
    let mut guessing = CatalogueServiceClient::new(broker.with_token(Some("fmz_guess")).await);
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(guessing.get_catalogue(GetCatalogueRequest {}).await.unwrap_err().code());
    }
    assert_eq!(codes, [Code::Unauthenticated, Code::Unauthenticated, Code::ResourceExhausted]);
    let mut valid = CatalogueServiceClient::new(broker.as_role(Role::Customer).await);
    valid.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_credential_has_its_streams() {
    let broker = Broker::start_with(|config| config.streams_per_credential = 1).await;
    let client = broker.as_role(Role::Customer).await;
    let id = endless(&client).await;
    let mut operations = OperationsServiceClient::new(client);
    let wait = || WaitOperationRequest { id: id.clone() };
    let mut first = operations.wait_operation(wait()).await.unwrap().into_inner();
    assert!(first.message().await.unwrap().is_some());
    let status = operations.wait_operation(wait()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(first);
    // The slot comes back when the server has seen the end of the first stream.
    loop {
        match operations.wait_operation(wait()).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        tokio::task::yield_now().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_credential_has_as_many_streams_as_is_stated_and_others_have_theirs() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::Customer).await;
    let id = endless(&client).await;
    let operations = OperationsServiceClient::new(client.clone());
    let wait = async |mut operations: OperationsServiceClient<_>| {
        let request = WaitOperationRequest { id: id.clone() };
        operations.wait_operation(request).await.map(tonic::Response::into_inner)
    };
    let most = limits::STREAMS_PER_TOKEN;
    let open = try_join_all((0..most).map(|_| wait(operations.clone()))).await.unwrap();
    let status = wait(operations).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let said = detail(&status);
    assert!(said.message.contains(&most.to_string()) && !said.advice.is_empty(), "{said:?}");
    // What is no stream is answered on the same connection, and so are others' streams.
    let mut catalogue = CatalogueServiceClient::new(client);
    catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    let other = OperationsServiceClient::new(broker.as_role(Role::Auditor).await);
    let mut others = wait(other).await.unwrap();
    assert!(others.message().await.unwrap().is_some());
    drop((open, others));
    broker.stop().await;
}
