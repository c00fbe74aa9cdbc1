//! Tokens and certificates: valid, revoked, ended, foreign, and nobody's.

use fairmazon_model::access::Role;
use fairmazon_proto::v1::{
    self, CreateTokenRequest, GetAccountRequest, ListTokensRequest, RegisterCertificateRequest,
    RevokeTokenRequest, accounts_service_client::AccountsServiceClient,
    tokens_service_client::TokensServiceClient,
};
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status};

use crate::harness::{Broker, Client, detail};

async fn who_am_i(client: &Client) -> Result<v1::GetAccountResponse, Status> {
    let mut accounts = AccountsServiceClient::new(client.clone());
    accounts.get_account(GetAccountRequest {}).await.map(tonic::Response::into_inner)
}

async fn new_token(client: &Client, key: &str, lifetime_seconds: u64) -> v1::CreateTokenResponse {
    let request = CreateTokenRequest {
        name: key.into(),
        role: v1::Role::Customer.into(),
        lifetime_seconds,
        idempotency_key: key.into(),
        account_id: String::new(),
    };
    let mut tokens = TokensServiceClient::new(client.clone());
    tokens.create_token(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_token_works_until_it_is_revoked() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    let made = new_token(&customer, "short", 0).await;
    let client = broker.with_token(Some(&made.secret)).await;
    let account = who_am_i(&client).await.unwrap().account.unwrap();
    assert_eq!(account.id, broker.customer.to_string());
    let request =
        RevokeTokenRequest { id: made.token.unwrap().id, idempotency_key: "revoke".into() };
    TokensServiceClient::new(customer.clone()).revoke_token(request).await.unwrap();
    let status = who_am_i(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(detail(&status).message.contains("revoked"), "{status}");
    assert!(!status.message().contains(&made.secret));
    let mut tokens = TokensServiceClient::new(customer);
    let listed = tokens.list_tokens(ListTokensRequest::default()).await.unwrap();
    let listed = listed.into_inner().tokens;
    assert_eq!(listed.iter().filter(|token| token.revoked_at_ms != 0).count(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_token_ends_by_itself() {
    let broker = Broker::start().await;
    let customer = broker.as_role(Role::Customer).await;
    let made = new_token(&customer, "an-hour", 3_600).await;
    let client = broker.with_token(Some(&made.secret)).await;
    who_am_i(&client).await.unwrap();
    broker.clock.forward(3_600_001);
    let status = who_am_i(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(detail(&status).message.contains("ended"), "{status}");
    broker.stop().await;
}

#[tokio::test]
async fn unknown_tokens_are_refused_without_an_echo() {
    let broker = Broker::start().await;
    for token in ["fmz_0000", "password", ""] {
        let client = broker.with_token(Some(token)).await;
        let status = who_am_i(&client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{token}");
        assert!(token.is_empty() || !status.message().contains(token), "{status}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn nobody_hands_out_more_than_they_have() {
    let broker = Broker::start().await;
    let mut tokens = TokensServiceClient::new(broker.as_role(Role::Customer).await);
    for role in [v1::Role::PlatformOperator, v1::Role::HostOperator, v1::Role::Auditor] {
        let request = CreateTokenRequest {
            name: "more".into(),
            role: role.into(),
            idempotency_key: format!("{role:?}"),
            ..CreateTokenRequest::default()
        };
        let status = tokens.create_token(request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{role:?}");
    }
    broker.stop().await;
}

struct Pair {
    certificate: String,
    key: String,
}

/// A certificate that is signed by its own key and valid in these years.
fn certificate(from: i32, to: i32) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    Pair { certificate, key: key.serialize_pem() }
}

fn registration(pair: &Pair) -> RegisterCertificateRequest {
    RegisterCertificateRequest {
        name: "laptop".into(),
        role: v1::Role::Customer.into(),
        certificate_pem: pair.certificate.clone(),
        idempotency_key: "register".into(),
    }
}

#[tokio::test]
async fn a_registered_certificate_is_a_credential() {
    let broker = Broker::start().await;
    let pair = certificate(2020, 2120);
    let client = broker.with_certificate(&pair.certificate, &pair.key).await.unwrap();
    assert_eq!(who_am_i(&client).await.unwrap_err().code(), Code::Unauthenticated);

    let mut tokens = TokensServiceClient::new(broker.as_role(Role::Customer).await);
    let row = tokens.register_certificate(registration(&pair)).await.unwrap().into_inner();
    assert_eq!(row.kind, "certificate");
    let account = who_am_i(&client).await.unwrap().account.unwrap();
    assert_eq!(account.id, broker.customer.to_string());

    let revoke = RevokeTokenRequest { id: row.id, idempotency_key: "revoke".into() };
    tokens.revoke_token(revoke).await.unwrap();
    assert_eq!(who_am_i(&client).await.unwrap_err().code(), Code::Unauthenticated);
    broker.stop().await;
}

#[tokio::test]
async fn an_ended_certificate_is_refused_twice() {
    let broker = Broker::start().await;
    let pair = certificate(2001, 2002);
    let mut tokens = TokensServiceClient::new(broker.as_role(Role::Customer).await);
    let status = tokens.register_certificate(registration(&pair)).await.unwrap_err();
    assert_eq!(detail(&status).field, "certificate_pem");
    // In TLS 1.3 the client learns of the refusal when it first uses the connection.
    let refused = match broker.with_certificate(&pair.certificate, &pair.key).await {
        Ok(client) => who_am_i(&client).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    broker.stop().await;
}
