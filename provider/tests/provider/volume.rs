//! The life of a volume and of a placement group.

use serde_json::{Value, json};
use tfplugin::harness::{ChangeAction, unknown};

use crate::common::Broker;

const ADDRESS: &str = "fairmazon_volume.data";

#[tokio::test]
async fn a_volume_grows_and_never_shrinks() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let size = |gib: u64| json!({ "name": "data", "size_gib": gib });
    let plan = client.plan(ADDRESS, size(100)).await.unwrap();
    assert_eq!(plan.planned.member("price_per_hour").as_str(), Some("0.0055"));
    client.apply(ADDRESS, size(100)).await.unwrap();
    assert_eq!(client.plan(ADDRESS, size(100)).await.unwrap().action, ChangeAction::None);
    let plan = client.plan(ADDRESS, size(200)).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Update);
    assert!(plan.planned.is_wholly_known(), "{:?}", plan.planned);
    client.apply(ADDRESS, size(200)).await.unwrap();
    let told = client.plan(ADDRESS, size(150)).await.unwrap_err().to_string();
    assert!(told.contains("(at size_gib)") && told.contains("can't shrink"), "{told}");
    let other = json!({ "name": "data", "size_gib": 200, "class": "fast" });
    assert_eq!(client.plan(ADDRESS, other).await.unwrap().action, ChangeAction::Replace);
}

#[tokio::test]
async fn a_key_is_exchanged_in_place_and_never_goes_back() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let version = |version: Value| json!({ "name": "d", "size_gib": 1, "key_version": version });
    let state = client.apply(ADDRESS, version(Value::Null)).await.unwrap().state;
    assert_eq!(state["key_version"], 1);
    assert_eq!(client.plan(ADDRESS, version(json!(1))).await.unwrap().action, ChangeAction::None);
    let plan = client.plan(ADDRESS, version(json!(3))).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Update);
    // Another key has another fingerprint, and what it costs stays.
    assert!(plan.planned.member("key_fingerprint").is_unknown());
    assert!(!plan.planned.member("price_per_hour").is_unknown());
    let state = client.apply(ADDRESS, version(json!(3))).await.unwrap().state;
    assert_eq!(
        (&state["key_version"], &state["key_fingerprint"]),
        (&json!(3), &json!("SHA256:key-3"))
    );
    assert_eq!(client.plan(ADDRESS, version(json!(3))).await.unwrap().action, ChangeAction::None);
    for lower in [json!(2), Value::Null] {
        let told = client.plan(ADDRESS, version(lower)).await.unwrap_err().to_string();
        assert!(told.contains("(at key_version)") && told.contains("Leave it at 3"), "{told}");
    }
    let told = client.plan(ADDRESS, version(json!(0))).await.unwrap_err().to_string();
    assert!(told.contains("key_version"), "{told}");
    let later = client.plan(ADDRESS, version(unknown())).await.unwrap();
    assert_eq!(later.action, ChangeAction::Update);
    assert!(later.planned.member("key_fingerprint").is_unknown());
}

#[tokio::test]
async fn an_exchange_that_did_not_come_about_is_planned_again() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let config = json!({ "name": "d", "size_gib": 1, "key_version": 2 });
    client.apply(ADDRESS, config.clone()).await.unwrap();
    // The platform was asked for it, and the volume still has the key of before.
    broker.state.lock().volumes.values_mut().for_each(|row| row.key_version = 1);
    client.refresh(ADDRESS).await.unwrap();
    assert_eq!(client.plan(ADDRESS, config.clone()).await.unwrap().action, ChangeAction::Update);
    client.apply(ADDRESS, config.clone()).await.unwrap();
    assert_eq!(client.plan(ADDRESS, config).await.unwrap().action, ChangeAction::None);
}

#[tokio::test]
async fn a_protected_volume_stays() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let config = |on: bool| json!({ "name": "d", "size_gib": 1, "deletion_protection": on });
    client.apply(ADDRESS, config(true)).await.unwrap();
    assert!(client.destroy(ADDRESS).await.unwrap_err().to_string().contains("protected"));
    client.apply(ADDRESS, config(false)).await.unwrap();
    client.destroy(ADDRESS).await.unwrap();
    assert!(broker.state.lock().volumes.is_empty());
}

#[tokio::test]
async fn a_volume_is_imported_without_a_change() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let config = json!({ "name": "d", "size_gib": 3, "placement": { "countries": ["DE"] } });
    let state = client.apply(ADDRESS, config.clone()).await.unwrap().state;
    let id = state["id"].as_str().unwrap();
    client.import("fairmazon_volume.again", id).await.unwrap();
    let plan = client.plan("fairmazon_volume.again", config).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
}

#[tokio::test]
async fn a_group_is_made_changed_imported_and_removed() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let address = "fairmazon_placement_group.g";
    let config = |name: &str| json!({ "name": name, "labels": { "a": "b" } });
    let state = client.apply(address, config("one")).await.unwrap().state;
    let plan = client.plan(address, config("two")).await.unwrap();
    assert!(plan.planned.is_wholly_known());
    client.apply(address, config("two")).await.unwrap();
    client.import("fairmazon_placement_group.h", state["id"].as_str().unwrap()).await.unwrap();
    let plan = client.plan("fairmazon_placement_group.h", config("two")).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None);
    client.destroy(address).await.unwrap();
    assert!(broker.state.lock().groups.is_empty());
}
