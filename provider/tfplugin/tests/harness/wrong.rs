//! What the server makes of handlers that fail, panic, are stopped, or answer wrongly.

use serde_json::{Value as Json, json};
use tfplugin::harness::ChangeAction;

use crate::lab::harness;

#[tokio::test]
async fn what_was_made_before_the_failure_is_kept() {
    let (mut client, _) = harness().await;
    let told = client.apply("lab_thing", json!({ "name": "fails" })).await;
    assert!(told.expect_err("it fails").to_string().contains("broke on the way"));
    let state = client.state("lab_thing").expect("it is stored");
    assert_eq!(state["id"], "thing-0");
    assert_eq!(state["password_length"], Json::Null, "unknown values become null");
    assert!(client.is_tainted("lab_thing"));
    let told = client.apply("lab_thing", json!({ "name": "refused" })).await;
    assert!(told.expect_err("it is refused").to_string().contains("no room"));
    assert_eq!(client.state("lab_thing"), Ok(Json::Null), "nothing was made");
}

#[tokio::test]
async fn a_panic_is_an_error_that_names_the_call() {
    let (mut client, _) = harness().await;
    let told = client.apply("lab_thing", json!({ "name": "panics" })).await;
    let told = told.expect_err("it panics").to_string();
    assert!(told.contains("ApplyResourceChange of lab_thing panicked"), "{told}");
    assert!(told.contains("a mistake was made"), "{told}");
    let state = client.state("lab_thing").expect("it is stored");
    assert_eq!(state["id"], "thing-0", "what was saved before is kept");
    let told = client.call("join", vec![json!("panic"), Json::Null]).await;
    let told = told.expect_err("it panics").to_string();
    assert!(told.contains("CallFunction of join panicked"), "{told}");
    let told = client.invoke("lab_poke", json!({ "what": "void" })).await;
    let told = told.expect_err("it panics").to_string();
    assert!(told.contains("InvokeAction of lab_poke panicked"), "{told}");
}

#[tokio::test]
async fn a_stop_reaches_what_is_under_way() {
    let (mut client, service) = harness().await;
    let stopper = client.stopper();
    let stopping = async {
        service.waiting.notified().await;
        stopper.stop().await
    };
    let (told, stopped) =
        tokio::join!(client.apply("lab_thing", json!({ "name": "waits" })), stopping);
    assert_eq!(stopped, Ok(()));
    assert!(told.expect_err("it was stopped").to_string().contains("Cancelled"));
    assert_eq!(client.state("lab_thing").map(|state| state["id"].clone()), Ok(json!("thing-0")));
    let after = client.apply("lab_thing.other", json!({ "name": "a" })).await;
    assert!(after.is_ok(), "what starts later is not stopped");
}

#[tokio::test]
async fn a_panic_in_a_rule_or_a_look_names_the_call() {
    let (mut client, _) = harness().await;
    let thing = |name: &str| json!({ "name": name });
    let names = |told: String, call: &str, why: &str| {
        assert!(told.contains(&format!("{call} of lab_thing panicked")), "{told}");
        assert!(told.contains(why), "{told}");
    };
    let told = client.validate("lab_thing", thing("puzzle")).await.expect_err("it panics");
    names(told.to_string(), "ValidateResourceConfig", "a mistake in a rule");
    let told = client.plan("lab_thing", thing("unplannable")).await.expect_err("it panics");
    names(told.to_string(), "PlanResourceChange", "a mistake in a plan");
    let told = client.import("lab_thing.c", "none").await.expect_err("it panics");
    names(told.to_string(), "ImportResourceState", "a mistake in an import");
    client.apply("lab_thing", thing("a")).await.expect("it is made");
    let puzzle = json!({ "name": "a", "kind": "puzzle" });
    let told = client.plan("lab_thing", puzzle).await.expect_err("it panics");
    names(told.to_string(), "PlanResourceChange", "a mistake in a rule");
    client.apply("lab_thing.b", thing("unreadable")).await.expect("it is made");
    let told = client.refresh("lab_thing.b").await.expect_err("it panics");
    names(told.to_string(), "ReadResource", "a mistake in a look");
}

#[tokio::test]
async fn a_stop_reaches_what_only_looks_and_does_not_listen() {
    let (mut client, service) = harness().await;
    client.apply("lab_thing.hides", json!({ "name": "hides" })).await.expect("it is made");
    for what in ["plan", "read", "import"] {
        let stopper = client.stopper();
        let stopping = async {
            service.waiting.notified().await;
            stopper.stop().await
        };
        let looking = async {
            match what {
                "plan" => client.plan("lab_thing", json!({ "name": "ponders" })).await.map(drop),
                "read" => client.refresh("lab_thing.hides").await.map(drop),
                _ => client.import("lab_thing.far", "far").await.map(drop),
            }
        };
        let (told, stopped) = tokio::join!(looking, stopping);
        assert_eq!(stopped, Ok(()));
        assert!(told.expect_err("it was stopped").to_string().contains("Cancelled"), "{what}");
    }
}

#[tokio::test]
async fn secrets_stay_out_of_diagnostics() {
    let (mut client, _) = harness().await;
    let told = client.apply("lab_thing", json!({ "name": "leaks", "token": "t0psecret" })).await;
    let told = told.expect_err("it fails").to_string();
    assert!(told.contains("the service refused (sensitive value)"), "{told}");
}

#[tokio::test]
async fn wrong_answers_name_the_attribute() {
    let (mut client, _) = harness().await;
    let told = client.apply("lab_thing", json!({ "name": "renamed" })).await;
    let told = told.expect_err("a planned value was changed").to_string();
    assert!(told.contains("at name") && told.contains("ApplyResourceChange"), "{told}");
    let told = client.apply("lab_thing.b", json!({ "name": "forgets" })).await;
    let told = told.expect_err("a value is left unknown").to_string();
    assert!(told.contains("at password_length"), "{told}");
    let told = client.plan("lab_thing.c", json!({ "name": "chooser", "size": 5 })).await;
    let told = told.expect_err("a configured value was changed").to_string();
    assert!(told.contains("at size") && told.contains("PlanResourceChange"), "{told}");
}

#[tokio::test]
async fn a_failed_change_leaves_what_was() {
    let (mut client, _) = harness().await;
    client.apply("lab_thing", json!({ "name": "sticky" })).await.expect("it is created");
    let told = client.apply("lab_thing", json!({ "name": "sticky", "size": 13 })).await;
    assert!(told.is_err());
    assert_eq!(client.state("lab_thing").map(|state| state["size"].clone()), Ok(json!(1)));
    assert!(!client.is_tainted("lab_thing"));
    assert!(client.destroy("lab_thing").await.is_err());
    assert_eq!(client.state("lab_thing").map(|state| state["id"].clone()), Ok(json!("thing-0")));
}

#[tokio::test]
async fn a_plan_may_refuse_a_destroy() {
    let (mut client, service) = harness().await;
    client.apply("lab_thing", json!({ "name": "precious" })).await.expect("it is created");
    let told = client.destroy("lab_thing").await.expect_err("it is protected");
    assert!(told.to_string().contains("precious"));
    assert_eq!(service.things().len(), 1);
    let plan = client.plan("lab_thing", json!({ "name": "precious" })).await.expect("a plan");
    assert_eq!(plan.action, ChangeAction::None);
}

#[tokio::test]
async fn what_is_not_offered_is_said() {
    let (mut client, _) = harness().await;
    assert!(client.plan("lab_nothing", json!({})).await.is_err());
    assert!(client.data("lab_nothing", json!({})).await.is_err());
    assert!(client.invoke("lab_nothing", json!({})).await.is_err());
}
