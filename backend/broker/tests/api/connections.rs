//! Connections: those who show no credential keep out nobody who does, and those of one account
//! nobody else.

use std::{net::SocketAddr, time::Duration};

use fairmazon_model::access::Role;
use fairmazon_proto::v1::{GetAccountRequest, accounts_service_client::AccountsServiceClient};
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tonic::{Code, Streaming, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use crate::harness::{Broker, Client, detail};

/// A connection from an address of this machine that is not that of the other clients.
async fn from_elsewhere(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn is_known(client: &Client) {
    let mut accounts = AccountsServiceClient::new(client.clone());
    accounts.get_account(GetAccountRequest {}).await.unwrap();
}

/// Follows the broker's health on the client's connection.
async fn watch(client: &Client) -> Streaming<HealthCheckResponse> {
    let mut health = HealthClient::new(client.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    watch
}

#[tokio::test]
async fn who_shows_nothing_has_so_many_places_and_others_come_in() {
    let broker = Broker::start_with(|config| {
        (config.connections, config.strangers_per_address) = (4, 2);
        config.handshake_time = Duration::from_secs(3_600);
        config.stranger_time = Duration::from_secs(3_600);
    })
    .await;
    let address = broker.server().address();
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.push(from_elsewhere(address).await);
    }
    // Those above the limit are closed, in whatever way, and have read nothing.
    for refused in &mut strangers[2..] {
        assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    for held in &mut strangers[..2] {
        assert!(held.read(&mut [0]).now_or_never().is_none());
    }
    let (one, two) = (broker.as_role(Role::Customer).await, broker.as_role(Role::Auditor).await);
    is_known(&one).await;
    is_known(&two).await;
    drop(strangers);
    broker.stop().await;
}

#[tokio::test]
async fn who_is_known_takes_no_strangers_place() {
    let broker = Broker::start_with(|config| config.strangers_per_address = 1).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let client = broker.as_role(Role::Customer).await;
        is_known(&client).await;
        clients.push(client);
    }
    for client in &clients {
        is_known(client).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn who_shows_no_credential_does_not_stay_and_who_does_may_rest() {
    let broker = Broker::start_with(|config| config.stranger_time = Duration::from_secs(5)).await;
    let known = broker.as_role(Role::Customer).await;
    is_known(&known).await;
    let mut rests = watch(&known).await;
    // Its connection is made after the other one, and has to end after that would have.
    let stranger = broker.with_token(Some("fmz_guess")).await;
    let mut guesses = watch(&stranger).await;
    assert!(guesses.message().await.is_err(), "its connection has ended");
    assert!(rests.message().now_or_never().is_none(), "it is there still");
    is_known(&known).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_account_has_so_many_connections_and_others_come_in() {
    let broker = Broker::start_with(|config| {
        config.connections_per_account = 2;
        config.stranger_time = Duration::from_secs(5);
    })
    .await;
    let (one, two) = (broker.as_role(Role::Customer).await, broker.as_role(Role::Customer).await);
    is_known(&one).await;
    is_known(&two).await;
    let mut rests = watch(&one).await;
    // Another token of the account is no way around it.
    let secret = format!("fmz_{:064x}", 99);
    let second = broker.engine.ensure_token(broker.customer, Role::Customer, "second", &secret);
    second.await.unwrap();
    let late = broker.with_token(Some(&secret)).await;
    let refused = async |client: &Client| {
        let mut accounts = AccountsServiceClient::new(client.clone());
        accounts.get_account(GetAccountRequest {}).await.err()
    };
    let status = refused(&late).await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("2 connections"), "{status}");
    assert!(!detail(&status).advice.is_empty(), "{status}");
    for role in [Role::HostOperator, Role::Auditor] {
        is_known(&broker.as_role(role).await).await;
    }
    let mut lingers = watch(&late).await;
    assert!(lingers.message().await.is_err(), "its connection has ended");
    assert!(rests.message().now_or_never().is_none(), "it is there still");
    is_known(&one).await;
    // A place comes back when the broker has seen the end of its connection.
    drop(two);
    let next = broker.with_token(Some(&secret)).await;
    while let Some(status) = refused(&next).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
        tokio::task::yield_now().await;
    }
    broker.stop().await;
}

/// What a client without TLS begins with: the preface of HTTP/2 and empty settings, and HTTP/1.
const PLAIN: [&[u8]; 2] = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
];

#[tokio::test]
async fn who_speaks_without_tls_is_refused_and_others_notice_nothing() {
    let broker = Broker::start_with(|config| {
        (config.connections, config.strangers_per_address) = (4, 3);
        config.handshake_time = Duration::from_secs(3_600);
    })
    .await;
    let address = broker.server().address();
    let known = broker.as_role(Role::Customer).await;
    is_known(&known).await;
    // More than there are places: each gives back its own.
    for said in PLAIN.into_iter().cycle().take(20) {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        // The end may be a reset, as not all that was said has been read.
        let _ = plain.read_to_end(&mut answer).await;
        // An alert of TLS at most: its type, its version, the length of two bytes, and those.
        assert!(answer.is_empty() || (answer[0], answer.len()) == (21, 7), "{answer:?}");
    }
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut accounts = AccountsServiceClient::new(plain.connect_lazy());
    let status = accounts.get_account(GetAccountRequest {}).await.unwrap_err();
    assert!(status.details().is_empty(), "it is the connection's end, no answer: {status}");
    is_known(&known).await;
    is_known(&broker.as_role(Role::Auditor).await).await;
    broker.stop().await;
}
