//! Streams end with their credential and with the broker.

use fairmazon_model::access::Role;
use fairmazon_proto::v1::{
    self, CreateTokenRequest, ExportAuditRequest, RevokeTokenRequest, VerifyAuditRequest,
    WaitOperationRequest, audit_service_client::AuditServiceClient,
    operations_service_client::OperationsServiceClient, tokens_service_client::TokensServiceClient,
};
use tonic::{Code, Streaming};

use crate::harness::{Broker, Client, endless};

/// What is told of an operation that does not end.
async fn waiting(client: &Client) -> Streaming<v1::Operation> {
    let request = WaitOperationRequest { id: endless(client).await };
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut stream = operations.wait_operation(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.state(), v1::OperationState::Running);
    stream
}

#[tokio::test]
async fn an_open_stream_ends_with_its_token() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    let mut tokens = TokensServiceClient::new(customer);
    let request = CreateTokenRequest {
        name: "short".into(),
        role: v1::Role::Customer.into(),
        idempotency_key: "short".into(),
        ..CreateTokenRequest::default()
    };
    let made = tokens.create_token(request).await.unwrap().into_inner();
    let mut stream = waiting(&broker.with_token(Some(&made.secret)).await).await;
    let id = made.token.unwrap().id;
    let revoke = RevokeTokenRequest { id, idempotency_key: "revoke".into() };
    tokens.revoke_token(revoke).await.unwrap();
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the end has a reason"),
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated);
                break;
            }
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn an_open_stream_ends_with_the_broker() {
    let broker = Broker::start().await;
    let mut stream = waiting(&broker.as_role(Role::Customer).await).await;
    broker.stop().await;
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the end has a reason"),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_audit_log_is_exported_and_holds() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    drop(waiting(&customer).await);
    let read = async |client: Client| {
        let mut audit = AuditServiceClient::new(client);
        let mut stream =
            audit.export_audit(ExportAuditRequest::default()).await.unwrap().into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.unwrap() {
            entries.push(entry);
        }
        entries
    };
    let all = read(broker.as_role(Role::Auditor).await).await;
    let sequences: Vec<_> = all.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=all.len() as u64).collect::<Vec<_>>());
    let own = read(customer).await;
    assert!(!own.is_empty() && own.len() < all.len());
    assert!(own.iter().all(|entry| entry.account_id == broker.customer.to_string()));

    let mut audit = AuditServiceClient::new(broker.as_role(Role::Auditor).await);
    let verdict = audit.verify_audit(VerifyAuditRequest {}).await.unwrap().into_inner();
    assert_eq!((verdict.entries, verdict.first_broken_sequence), (all.len() as u64, 0));
    assert_eq!(verdict.head, all.last().unwrap().hash);
    broker.stop().await;
}
