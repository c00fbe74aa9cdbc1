//! Imports, upgrades, moves and generated configurations.

use serde_json::{Value as Json, json};
use tfplugin::harness::ChangeAction;

use crate::lab::harness;

#[tokio::test]
async fn an_import_is_followed_by_an_empty_plan() {
    let (mut client, _) = harness().await;
    let block = json!({ "name": "a" });
    client.apply("lab_thing", block.clone()).await.expect("it is created");
    let imported = client.import("lab_thing.again", "thing-0").await.expect("it is found");
    assert_eq!(imported, client.state("lab_thing").expect("it is stored"));
    let plan = client.plan("lab_thing.again", block).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::None);
    let identity = json!({ "id": "thing-0" });
    let imported = client.import_identity("lab_thing.third", identity).await;
    assert_eq!(imported.map(|state| state["name"].clone()), Ok(json!("a")));
    let told = client.import("lab_thing.none", "thing-9").await.expect_err("there is none");
    assert!(told.to_string().contains("no such lab_thing"), "{told}");
    assert!(client.import("lab_thing.none", "").await.is_err());
}

#[tokio::test]
async fn old_states_are_upgraded_step_by_step() {
    let (client, _) = harness().await;
    let old = json!({ "id": "i", "title": "a", "kind": "plain", "size": 1, "colour": "red" });
    let state = client.upgrade("lab_thing", 0, old.clone()).await.expect("it is upgraded");
    assert_eq!(state["name"], "a");
    assert_eq!(state["token"], Json::Null);
    let middle = json!({ "id": "i", "caption": "b", "kind": "plain", "size": 1 });
    let state = client.upgrade("lab_thing", 1, middle).await.expect("it is upgraded");
    assert_eq!(state["name"], "b");
    let told = client.upgrade("lab_thing", 3, old).await.expect_err("it is from the future");
    assert!(told.to_string().contains("newer provider"), "{told}");
    let told = client.upgrade("lab_thing", 2, json!({ "size": "big" })).await;
    assert!(told.is_err(), "the stored state does not fit");
}

#[tokio::test]
async fn other_types_are_taken_over_when_the_author_says_so() {
    let (mut client, _) = harness().await;
    let old = json!({ "id": "i", "title": "a" });
    let from = ("registry.terraform.io/example/old", "old_thing");
    let state = client.move_state("lab_thing", from, old.clone()).await.expect("it is moved");
    assert_eq!(state["name"], "a");
    let told = client.move_state("lab_thing.b", (from.0, "else"), old).await;
    assert!(told.expect_err("only old things").to_string().contains("old things"));
    let told = client.move_state("lab_thing.c", from, json!({ "id": "i", "title": "lost" })).await;
    let told = told.expect_err("nothing was saved").to_string();
    assert!(told.contains("MoveResourceState of lab_thing"), "{told}");
}

#[tokio::test]
async fn a_configuration_is_what_a_user_would_write() {
    let (mut client, _) = harness().await;
    let block = json!({ "name": "a", "size": 7, "token": "t0psecret" });
    client.apply("lab_thing", block).await.expect("it is created");
    let written = client.generate_config("lab_thing").await.expect("a configuration");
    assert_eq!(written["name"], "a");
    assert_eq!(written["size"], 7);
    assert_eq!(written["label"], "the a", "the user may set it");
    for absent in ["id", "kind", "token", "password_wo", "password_length"] {
        assert_eq!(written[absent], Json::Null, "{absent}");
    }
}
