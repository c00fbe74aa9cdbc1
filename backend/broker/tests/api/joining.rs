//! Hosts that join: from a token that is used once to certificates that come and go.

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_broker::core::{Clock as _, CoreConfig, SystemClock};
use fairmazon_host::{
    identity::HostIdentity,
    transport::{JoinedTransport, Transport as _, TransportError},
};
use fairmazon_keys::{HostCertificate, HostSecret, host_name, sealing_key_name};
use fairmazon_model::{access::Role, id::HostId, units::UnixMs};
use fairmazon_proto::{
    host::v1::{
        VolumePart, VolumeTaken, host_stream_service_client::HostStreamServiceClient, to_host,
    },
    v1::{
        JoinHostRequest, JoinHostResponse, ListTokensRequest, RevokeTokenRequest,
        RotateHostTokenRequest, hosts_service_client::HostsServiceClient,
        tokens_service_client::TokensServiceClient,
    },
};
use futures::stream::iter;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::{
    harness::{Broker, Client, detail},
    host_stream::{Stream, hello, open_as},
};

pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// What a host has on its disk.
pub(crate) struct Machine {
    pub(crate) identity: HostIdentity,
    _folder: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = HostIdentity::open(folder.path()).unwrap();
        Self { identity, _folder: folder }
    }

    fn request(&self) -> JoinHostRequest {
        JoinHostRequest {
            certificate_request: self.identity.request().unwrap(),
            sealing_key: self.identity.secret().sealing_key().bytes().to_vec(),
            // As agents that know of none: each request makes a certificate.
            idempotency_key: String::new(),
        }
    }

    /// Asks for a certificate.
    pub(crate) async fn join(&self, client: &Client) -> Result<JoinHostResponse, Status> {
        join(client, self.request()).await
    }

    /// A client that shows a certificate of this host.
    pub(crate) async fn showing(&self, broker: &Broker, joined: &JoinHostResponse) -> Client {
        let key = self.identity.tls_key_pem();
        broker.with_certificate(&joined.certificate, &key).await.unwrap()
    }
}

/// A client with the certificate that the broker's host joins for with its token.
pub(crate) async fn joined(broker: &Broker) -> Client {
    let machine = Machine::new();
    let joined = machine.join(&broker.as_role(Role::Host).await).await.unwrap();
    machine.showing(broker, &joined).await
}

async fn join(client: &Client, request: JoinHostRequest) -> Result<JoinHostResponse, Status> {
    HostsServiceClient::new(client.clone())
        .join_host(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Opens the host's stream.
pub(crate) async fn stream(broker: &Broker, client: &Client) -> Result<Stream, Status> {
    let mut stream = open_as(client, hello(broker.host.to_string())).await?;
    assert!(matches!(stream.next().await, to_host::Message::Welcome(_)));
    Ok(stream)
}

/// That a credential is refused, and why.
pub(crate) fn refused<T>(answer: Result<T, Status>, why: &str) {
    let status = answer.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains(why), "{status}");
}

fn serial(certificate: &str) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
    pem.parse_x509().unwrap().raw_serial_as_string()
}

pub(crate) fn now() -> UnixMs {
    SystemClock.now()
}

#[tokio::test]
async fn a_token_joins_until_the_certificate_is_shown() {
    let broker = Broker::start().await;
    let (machine, token) = (Machine::new(), broker.as_role(Role::Host).await);
    let lost = machine.join(&token).await.unwrap();
    // The answer never came: the host asks again.
    let joined = machine.join(&token).await.unwrap();
    assert_eq!(joined.host_id, broker.host.to_string());
    let days = (joined.expires_at_ms - now().0) / DAY_MS;
    assert!((28..=30).contains(&days), "{days}");
    let shown =
        HostCertificate::verify(&joined.certificate, &broker.ca_pem, broker.host, now()).unwrap();
    assert_eq!(shown.sealing_key, machine.identity.secret().sealing_key());
    refused(machine.join(&machine.showing(&broker, &lost).await).await, "not known");
    assert_ne!(serial(&lost.certificate), serial(&joined.certificate));

    let client = machine.showing(&broker, &joined).await;
    let _stream = stream(&broker, &client).await.unwrap();
    refused(machine.join(&token).await, "revoked");
    refused(stream(&broker, &token).await, "revoked");
    machine.join(&client).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_token_opens_nothing_before_and_after_it_has_joined() {
    let broker = Broker::start().await;
    let (machine, token) = (Machine::new(), broker.as_role(Role::Host).await);
    let opens_nothing = async || {
        let mut host = HostStreamServiceClient::new(token.clone());
        let calls = [
            stream(&broker, &token).await.err(),
            host.send_volume(iter([VolumePart::default()])).await.err(),
            host.receive_volume(iter([VolumeTaken::default()])).await.err(),
        ];
        for status in calls.map(Option::unwrap) {
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
            assert!(status.message().contains("joins it and nothing more"), "{status}");
            assert!(status.message().contains("fairmazon host join"), "{status}");
        }
        assert_eq!(broker.engine.hosts_connected(), 0);
    };
    let (_, before) = broker.audited(0).await;
    opens_nothing().await;
    assert_eq!(broker.audited(before).await, (Vec::new(), before), "nothing has changed");
    // Whoever has the token with the keys that it was used with has no more of it.
    let joined = machine.join(&token).await.unwrap();
    opens_nothing().await;

    let _stream = stream(&broker, &machine.showing(&broker, &joined).await).await.unwrap();
    assert_eq!(broker.engine.hosts_connected(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_token_joins_with_the_keys_of_its_first_use_only() {
    let broker = Broker::start().await;
    let (machine, token) = (Machine::new(), broker.as_role(Role::Host).await);
    let mine = machine.request();
    let joined = machine.join(&token).await.unwrap();
    let (_, before) = broker.audited(0).await;
    let theirs = Machine::new().request();
    let key = |key: &str, request: &JoinHostRequest| JoinHostRequest {
        idempotency_key: key.into(),
        ..request.clone()
    };
    let requests = [
        JoinHostRequest { sealing_key: mine.sealing_key.clone(), ..theirs.clone() },
        JoinHostRequest { sealing_key: theirs.sealing_key.clone(), ..mine.clone() },
        theirs,
    ];
    for request in requests.iter().flat_map(|it| [key("", it), key("one", it), key("two", it)]) {
        let status = join(&token, request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        let advice = format!("fairmazon host rotate-token {}", broker.host);
        assert!(status.message().contains("other keys"), "{status}");
        assert!(status.message().contains(&advice), "{status}");
    }
    let (audited, _) = broker.audited(before).await;
    assert_eq!((audited, credentials(&broker).await), (Vec::new(), 2), "nothing has changed");

    // The first host is as it was, and asks again as often as it likes.
    let client = machine.showing(&broker, &joined).await;
    let again = join(&client, key("three", &mine)).await.unwrap();
    assert_ne!(serial(&again.certificate), serial(&joined.certificate));
    for key in [key("", &mine), key("four", &mine), key("four", &mine)] {
        join(&token, key).await.unwrap();
    }
    let last = join(&token, key("four", &mine)).await.unwrap();
    let client = machine.showing(&broker, &last).await;
    let _stream = stream(&broker, &client).await.unwrap();
    refused(machine.join(&token).await, "revoked");

    // Another token is for whoever joins with it first, and this host is empty.
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let id = broker.host.to_string();
    let request = RotateHostTokenRequest { id, idempotency_key: "rotate".into() };
    let other = hosts.rotate_host_token(request).await.unwrap().into_inner().token;
    let other = broker.with_token(Some(&other)).await;
    let next = Machine::new();
    let joined = next.join(&other).await.unwrap();
    assert_eq!(machine.join(&other).await.unwrap_err().code(), Code::PermissionDenied);
    let _stream = stream(&broker, &next.showing(&broker, &joined).await).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn of_hosts_that_use_a_token_at_once_one_joins() {
    let broker = Broker::start().await;
    let token = broker.as_role(Role::Host).await;
    let machines: Vec<_> = (0..6).map(|_| Machine::new()).collect();
    let answers = futures::future::join_all(machines.iter().map(|it| it.join(&token))).await;
    let (joined, refused): (Vec<_>, Vec<_>) =
        answers.iter().zip(&machines).partition(|it| it.0.is_ok());
    assert_eq!((joined.len(), refused.len()), (1, 5));
    for (answer, _) in refused {
        assert_eq!(answer.as_ref().unwrap_err().code(), Code::PermissionDenied);
    }
    let (joined, machine) = joined[0];
    let client = machine.showing(&broker, joined.as_ref().unwrap()).await;
    let _stream = stream(&broker, &client).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_key_answers_with_the_first_certificate_until_there_is_a_later_one() {
    let broker = Broker::start().await;
    let (machine, token) = (Machine::new(), broker.as_role(Role::Host).await);
    // A request is signed anew each time, and is the same all the same.
    let ask = |key: &str| JoinHostRequest { idempotency_key: key.into(), ..machine.request() };
    let first = join(&token, ask("one")).await.unwrap();
    let again = join(&token, ask("one")).await.unwrap();
    assert_eq!(again, first);
    let status =
        join(&token, JoinHostRequest { idempotency_key: "one".into(), ..Machine::new().request() });
    let status = status.await.unwrap_err();
    assert_eq!((status.code(), detail(&status).field.as_str()), (Code::Aborted, "idempotency_key"));

    let later = join(&token, ask("two")).await.unwrap();
    assert_ne!(serial(&later.certificate), serial(&first.certificate));
    let anew = join(&token, ask("one")).await.unwrap();
    assert_ne!(serial(&anew.certificate), serial(&first.certificate), "that one was taken back");
    let client = machine.showing(&broker, &anew).await;
    let _stream = stream(&broker, &client).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_ends_the_one_before() {
    let broker = Broker::start().await;
    let machine = Machine::new();
    let first = machine.join(&broker.as_role(Role::Host).await).await.unwrap();
    let first = machine.showing(&broker, &first).await;
    let open = stream(&broker, &first).await.unwrap();
    // While the stream is open, and with an answer that never came.
    let lost = machine.join(&first).await.unwrap();
    let renewed = machine.join(&first).await.unwrap();
    refused(machine.join(&machine.showing(&broker, &lost).await).await, "not known");

    let renewed = machine.showing(&broker, &renewed).await;
    let _stream = stream(&broker, &renewed).await.unwrap();
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    refused(machine.join(&first).await, "revoked");
    refused(stream(&broker, &first).await, "revoked");
    broker.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_made_after_the_clock_was_set_back_counts_too() {
    let broker = Broker::start().await;
    let (machine, token) = (Machine::new(), broker.as_role(Role::Host).await);
    broker.clock.forward(-60 * 60 * 1_000);
    let joined = machine.join(&token).await.unwrap();
    let client = machine.showing(&broker, &joined).await;
    let _stream = stream(&broker, &client).await.unwrap();
    refused(machine.join(&token).await, "revoked");
    broker.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_stream_at_once() {
    let broker = Broker::start().await;
    let machine = Machine::new();
    let joined = machine.join(&broker.as_role(Role::Host).await).await.unwrap();
    let client = machine.showing(&broker, &joined).await;
    let open = stream(&broker, &client).await.unwrap();
    let mut tokens = TokensServiceClient::new(broker.as_role(Role::PlatformOperator).await);
    let listed = tokens.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner();
    let own = listed.tokens.iter().find(|row| row.kind == "certificate").unwrap();
    let request = RevokeTokenRequest { id: own.id.clone(), idempotency_key: "revoke".into() };
    tokens.revoke_token(request).await.unwrap();
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    refused(stream(&broker, &client).await, "revoked");
    refused(machine.join(&client).await, "revoked");

    // Its operator lets it in again, and out.
    let mut hosts = HostsServiceClient::new(broker.as_role(Role::HostOperator).await);
    let mut rotate = async |key: &str| {
        let id = broker.host.to_string();
        let request = RotateHostTokenRequest { id, idempotency_key: key.into() };
        hosts.rotate_host_token(request).await.unwrap().into_inner().token
    };
    let token = rotate("in").await;
    let joined = machine.join(&broker.with_token(Some(&token)).await).await.unwrap();
    let client = machine.showing(&broker, &joined).await;
    let open = stream(&broker, &client).await.unwrap();
    rotate("out").await;
    assert_eq!(open.end().await.code(), Code::Unauthenticated);
    refused(machine.join(&client).await, "revoked");
    broker.stop().await;
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused() {
    let broker = Broker::start().await;
    let machine = Machine::new();
    let joined = machine.join(&broker.as_role(Role::Host).await).await.unwrap();
    let client = machine.showing(&broker, &joined).await;
    broker.clock.forward(joined.expires_at_ms - now().0 - 60_000);
    machine.join(&client).await.unwrap();
    broker.clock.forward(120_000);
    refused(machine.join(&client).await, "ended");
    refused(stream(&broker, &client).await, "ended");
    broker.stop().await;
}

#[tokio::test]
async fn an_agent_speaks_to_no_broker_whose_certificate_has_expired() {
    // It was valid for 90 days, and nobody has replaced it while the broker ran on.
    let made_at = UnixMs(now().0 - 100 * DAY_MS);
    let broker = Broker::start_shown(made_at, CoreConfig::default(), |_| {}).await;
    let (_, before) = broker.audited(0).await;
    let (valid, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let identity = Arc::new(HostIdentity::open(folder.path()).unwrap());
    let agent = |of: &Broker| {
        let (address, ca) = (of.server().address(), of.ca_pem.clone());
        let token = Some(of.tokens[&Role::Host].clone());
        JoinedTransport::new(format!("https://{address}"), ca, identity.clone(), token)
    };
    let refused = |error: TransportError| {
        let mut said = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            said = format!("{said}: {next}");
            cause = next.source();
        }
        assert!(matches!(error, TransportError::Unreachable { .. }), "{said}");
        assert!(said.contains(&broker.server().address().to_string()), "{said}");
        assert!(said.contains("certificate expired"), "{said}");
    };
    // Its token is not shown, so it is as good as before.
    refused(agent(&broker).join_anew().await.unwrap_err());
    assert!(identity.certificate().unwrap().is_none());
    // Nor is its certificate, once it has one.
    agent(&valid).join_anew().await.unwrap();
    refused(agent(&broker).connect().await.unwrap_err());
    assert_eq!(broker.audited(before).await, (Vec::new(), before), "nothing has changed");
    assert_eq!(broker.engine.hosts_connected(), 0);
    // By another certificate of the broker's it does.
    let _link = agent(&valid).connect().await.unwrap();
    valid.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_bad_request_is_refused_with_its_field() {
    let broker = Broker::start().await;
    let (machine, client) = (Machine::new(), broker.as_role(Role::Host).await);
    let good = machine.request();
    // The signature is the end of it.
    let end = good.certificate_request.rfind("-----END").unwrap() - 12;
    let mut changed = good.certificate_request.clone();
    let other = if &changed[end..=end] == "A" { "B" } else { "A" };
    changed.replace_range(end..=end, other);
    let large = good.certificate_request.replace("\n-----END", &"\nAAAA".repeat(4_000));
    for (request, why) in [
        (String::new(), "PKCS #10"),
        ("garbage".into(), "PKCS #10"),
        (broker.ca_pem.clone(), "PKCS #10"),
        (changed, "signature"),
        (large, "16384 bytes"),
    ] {
        let request = JoinHostRequest { certificate_request: request, ..good.clone() };
        let status = join(&client, request).await.unwrap_err();
        let detail = detail(&status);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(detail.field, "certificate_request", "{status}");
        assert!(detail.message.to_lowercase().contains(&why.to_lowercase()), "{why}: {status}");
    }
    for bytes in [0, 31, 33, 100_000] {
        let request = JoinHostRequest { sealing_key: vec![1; bytes], ..good.clone() };
        let status = join(&client, request).await.unwrap_err();
        let field = detail(&status).field;
        assert_eq!((status.code(), field.as_str()), (Code::InvalidArgument, "sealing_key"));
    }
    // Nothing of it was kept, and the token is as good as before.
    assert_eq!(credentials(&broker).await, 1);
    machine.join(&client).await.unwrap();
    broker.stop().await;
}

async fn credentials(broker: &Broker) -> usize {
    let mut tokens = TokensServiceClient::new(broker.as_role(Role::PlatformOperator).await);
    let listed = tokens.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner();
    listed.tokens.iter().filter(|row| row.name.starts_with("host ")).count()
}

#[tokio::test]
async fn what_a_request_asks_to_be_called_does_not_count() {
    let broker = Broker::start().await;
    let client = broker.as_role(Role::Host).await;
    let (other, secret) = (HostId::from_parts(1, 1), HostSecret::generate());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Fairmazon development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let foreign = HostSecret::generate().sealing_key();
    for name in [host_name(other), sealing_key_name(&foreign)] {
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    }
    let key = KeyPair::generate().unwrap();
    let request = JoinHostRequest {
        certificate_request: params.serialize_request(&key).unwrap().pem().unwrap(),
        sealing_key: secret.sealing_key().bytes().to_vec(),
        idempotency_key: String::new(),
    };
    // A request for an authority's certificate may be refused too.
    if let Ok(joined) = join(&client, request).await {
        let verify =
            |host| HostCertificate::verify(&joined.certificate, &broker.ca_pem, host, now());
        assert_eq!(verify(broker.host).unwrap().sealing_key, secret.sealing_key());
        verify(other).unwrap_err();
        let (_, pem) = x509_parser::pem::parse_x509_pem(joined.certificate.as_bytes()).unwrap();
        assert!(!pem.parse_x509().unwrap().is_ca());
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_without_an_authority_signs_for_nobody() {
    let broker = Broker::start_with(|config| config.host_authority = None).await;
    let status = Machine::new().join(&broker.as_role(Role::Host).await).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    broker.stop().await;
}

#[tokio::test]
async fn however_often_a_host_joins_with_its_keys_each_certificate_is_new_and_the_last_one_is_kept()
{
    let broker = Broker::start().await;
    let (machine, client) = (Machine::new(), broker.as_role(Role::Host).await);
    let mut serials = BTreeSet::new();
    for _ in 0..20 {
        serials.insert(serial(&machine.join(&client).await.unwrap().certificate));
    }
    assert_eq!(serials.len(), 20, "{serials:?}");
    assert_eq!(credentials(&broker).await, 2, "its token, and the last certificate");
    broker.stop().await;
}
