//! The life of a resource whose author made no mistake.

use serde_json::{Value as Json, json};
use tfplugin::{
    AttributePath, Value,
    harness::{ChangeAction, unknown},
};

use crate::lab::harness;

#[tokio::test]
async fn from_create_to_destroy() {
    let (mut client, service) = harness().await;
    client.check_schemas().await.expect("sound schemas");
    let block = json!({ "name": "a" });
    let plan = client.plan("lab_thing", block.clone()).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Create);
    assert!(plan.planned.member("id").is_unknown());
    assert_eq!(plan.planned.member("label"), &Value::from("the a"));
    let created = client.apply("lab_thing", block.clone()).await.expect("it is created");
    assert_eq!(created.action, ChangeAction::Create);
    assert_eq!(created.state["id"], "thing-0");
    assert_eq!(created.state["kind"], "plain");
    let again = client.plan("lab_thing", block).await.expect("a plan");
    assert_eq!(again.action, ChangeAction::None);

    let block = json!({ "name": "a", "size": 3 });
    let plan = client.plan("lab_thing", block.clone()).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Update);
    assert_eq!(plan.planned.member("id"), &Value::from("thing-0"), "it stays known");
    let updated = client.apply("lab_thing", block).await.expect("it is changed");
    assert_eq!((updated.action, &updated.state["size"]), (ChangeAction::Update, &json!(3)));

    let warnings = client.destroy("lab_thing").await.expect("it is destroyed");
    assert!(warnings.to_string().contains("for good"));
    assert_eq!(client.state("lab_thing"), Ok(Json::Null));
    assert!(service.things().is_empty());
}

#[tokio::test]
async fn what_forces_a_replacement_is_named() {
    let (mut client, service) = harness().await;
    client.apply("lab_thing", json!({ "name": "a" })).await.expect("it is created");
    let block = json!({ "name": "a", "kind": "fancy" });
    let plan = client.plan("lab_thing", block.clone()).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Replace);
    assert_eq!(plan.requires_replace, [AttributePath::new("kind")]);
    assert!(plan.planned.member("id").is_unknown());
    let replaced = client.apply("lab_thing", block).await.expect("it is replaced");
    assert_eq!(replaced.state["kind"], "fancy");
    assert_eq!(service.things().len(), 1);
}

#[tokio::test]
async fn what_is_gone_is_made_again() {
    let (mut client, service) = harness().await;
    client.apply("lab_thing", json!({ "name": "a" })).await.expect("it is created");
    service.things().clear();
    assert_eq!(client.refresh("lab_thing").await, Ok(Json::Null));
    let plan = client.plan("lab_thing", json!({ "name": "a" })).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::Create);
}

#[tokio::test]
async fn unknown_values_are_planned_with() {
    let (mut client, _) = harness().await;
    let block = json!({ "name": unknown(), "size": unknown() });
    let plan = client.plan("lab_thing", block).await.expect("an unknown is no mistake");
    assert!(plan.planned.member("name").is_unknown());
    assert!(plan.planned.member("label").is_unknown());
}

#[tokio::test]
async fn write_only_values_reach_the_provider_and_no_state() {
    let (mut client, _) = harness().await;
    let block = json!({ "name": "a", "password_wo": "hunter2" });
    let created = client.apply("lab_thing", block.clone()).await.expect("it is created");
    assert_eq!(created.state["password_wo"], Json::Null);
    assert_eq!(created.state["password_length"], 7);
    let again = client.plan("lab_thing", block).await.expect("a plan");
    assert_eq!(again.action, ChangeAction::None);
}

#[tokio::test]
async fn checks_and_warnings_reach_the_user() {
    let (client, _) = harness().await;
    let told = client.validate("lab_thing", json!({ "name": "" })).await;
    let told = told.expect_err("an empty name is refused");
    assert_eq!(told.iter().next().and_then(|one| one.path()), Some(&AttributePath::new("name")));
    let warnings = client.validate("lab_thing", json!({ "name": "ugly" })).await;
    assert_eq!(warnings.map(|told| told.len()), Ok(1));
    assert!(client.validate("lab_thing", json!({})).await.is_err(), "the name is required");
    assert!(client.validate("lab_thing", json!({ "name": "a", "x": 1 })).await.is_err());
    assert!(client.validate("lab_thing", json!({ "name": ["a"] })).await.is_err());
    let told = client.configure(json!({ "endpoint": "http://x" })).await;
    assert!(told.expect_err("not without TLS").to_string().contains("endpoint"));
}

#[tokio::test]
async fn two_addresses_are_two_objects() {
    let (mut client, service) = harness().await;
    client.apply("lab_thing.one", json!({ "name": "a" })).await.expect("it is created");
    client.apply("lab_thing.two", json!({ "name": "b" })).await.expect("it is created");
    assert_eq!(service.things().len(), 2);
    client.destroy("lab_thing.one").await.expect("it is destroyed");
    assert_eq!(client.state("lab_thing.two").map(|state| state["name"].clone()), Ok(json!("b")));
}
