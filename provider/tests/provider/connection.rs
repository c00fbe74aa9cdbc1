//! What a user reads when the way to the broker is barred, and what goes without one.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tfplugin::harness::{ChangeAction, Harness, as_logged, unknown};

use crate::common::{Broker, machine, provider, provider_in};

const ADDRESS: &str = "fairmazon_instance.web";

/// A client's certificate that is valid until the end of this year, and its key.
fn client_certificate(last_year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A provider block with a client certificate in place of the token.
fn with_certificate(broker: &Broker, (certificate, key): &(String, String)) -> Value {
    let mut block = broker.block();
    block["token"] = Value::Null;
    block["client_certificate"] = json!(certificate);
    block["client_key"] = json!(key);
    block
}

#[tokio::test]
async fn a_wrong_token_says_how_to_set_it() {
    let broker = Broker::start().await;
    let mut client = Harness::new(provider());
    let mut block = broker.block();
    block["token"] = json!("fmz_wrong");
    client.configure(block).await.unwrap();
    let told = client.plan(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("FAIRMAZON_TOKEN") && told.contains("not known"), "{told}");
    assert!(!told.contains("fmz_wrong"), "the token is shown: {told}");
}

#[tokio::test]
async fn credentials_of_the_environment_are_in_no_log() {
    let broker = Broker::start().await;
    let mut block = broker.block();
    block["token"] = json!(null);
    let client = Harness::new(provider_in(|name| match name {
        "FAIRMAZON_TOKEN" => Some("fmz_of_the_environment".to_owned()),
        _ => None,
    }));
    client.configure(block.clone()).await.unwrap();
    assert!(!as_logged("Bearer fmz_of_the_environment").contains("environment"));

    let client = Harness::new(provider_in(|name| match name {
        "FAIRMAZON_CLIENT_CERTIFICATE" => Some("-----BEGIN CERTIFICATE-----\nnone".to_owned()),
        "FAIRMAZON_CLIENT_KEY" => Some("-----BEGIN PRIVATE KEY-----\nbytes-of-a-key".to_owned()),
        _ => None,
    }));
    // That it can't be used does not matter: it may be one half of what can.
    client.configure(block).await.unwrap_err();
    assert!(!as_logged("at bytes-of-a-key").contains("bytes-of-a-key"));
}

#[tokio::test]
async fn an_unknown_authority_says_how_to_trust_it() {
    let (broker, other) = (Broker::start().await, Broker::start().await);
    let mut client = Harness::new(provider());
    let mut block = broker.block();
    block["ca_certificate"] = json!(other.ca_pem);
    client.configure(block).await.unwrap();
    let told = client.plan(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("FAIRMAZON_CA_CERTIFICATE") && told.contains("not trusted"), "{told}");
}

#[tokio::test]
async fn a_client_certificate_is_enough() {
    let shown = client_certificate(4000);
    let broker = Broker::asking_for(&shown.0).await;
    let mut client = Harness::new(provider());
    client.configure(with_certificate(&broker, &shown)).await.unwrap();
    let state = client.apply(ADDRESS, machine()).await.unwrap().state;
    assert!(state["id"].is_string());
    client.destroy(ADDRESS).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_that_is_not_taken_says_why() {
    let expired = client_certificate(2021);
    let broker = Broker::asking_for(&expired.0).await;
    let mut client = Harness::new(provider());
    client.configure(with_certificate(&broker, &expired)).await.unwrap();
    let told = client.plan(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("client certificate has expired"), "{told}");
    assert!(told.contains("FAIRMAZON_CLIENT_CERTIFICATE"), "{told}");
    // One that the authority did not sign.
    let other = client_certificate(4000);
    client.configure(with_certificate(&broker, &other)).await.unwrap();
    let told = client.plan(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("does not accept the client certificate"), "{told}");
    for (_, key) in [expired, other] {
        assert!(!told.contains(&key), "the key is shown: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_named() {
    let broker = Broker::start().await;
    // A port that nothing listens on: it is too low to be given to anybody by chance.
    let closed = "https://127.0.0.1:1";
    let mut block = broker.block();
    block["endpoint"] = json!(closed);
    let in_block = (provider(), block.clone(), "`endpoint` in the provider block");
    block["endpoint"] = json!(null);
    let of_environment = provider_in(|name| {
        (name == "FAIRMAZON_ENDPOINT").then(|| "https://127.0.0.1:1".to_owned())
    });
    let in_environment = (of_environment, block, "FAIRMAZON_ENDPOINT in the environment");
    for (provider, block, origin) in [in_block, in_environment] {
        let mut client = Harness::new(provider);
        client.configure(block).await.unwrap();
        let told = client.plan(ADDRESS, machine()).await.unwrap_err().to_string();
        assert!(told.contains("connection was refused") && told.contains(closed), "{told}");
        assert!(told.contains(&format!("The address is from {origin}.")), "{told}");
    }
}

#[tokio::test]
async fn without_a_known_endpoint_the_rest_is_planned() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let before = client.apply(ADDRESS, machine()).await.unwrap().state;
    let block = json!({ "endpoint": unknown(), "token": unknown() });
    client.configure(block).await.unwrap();
    let plan = client.plan(ADDRESS, machine()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    assert_eq!(client.state(ADDRESS).unwrap()["id"], before["id"]);
    let plan = client.plan("fairmazon_instance.new", machine()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Create);
    assert!(plan.planned.member("price_per_hour").is_unknown());
}

#[tokio::test]
async fn missing_settings_are_told_at_once() {
    let client = Harness::new(provider());
    let told = client.configure(json!({})).await.unwrap_err().to_string();
    assert!(told.contains("FAIRMAZON_ENDPOINT") && told.contains("FAIRMAZON_TOKEN"), "{told}");
    let block = json!({ "endpoint": "https://a", "token": "t", "ca_certificate": "-----BEGIN X" });
    let told = client.configure(block).await.unwrap_err().to_string();
    assert!(told.contains("can't be used"), "{told}");
}
