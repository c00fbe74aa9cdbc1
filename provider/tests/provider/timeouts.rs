//! `timeouts`: what does not end in time is an error that says how long it was waited for and for
//! what. The platform goes on meanwhile, and the next plan finds what came of it.

use serde_json::{Value, json};
use tfplugin::harness::ChangeAction;

use crate::common::{Broker, machine_with};

/// One limit is short. The others are longer, so that a wrong one shows in the text.
fn only(which: &str) -> Value {
    let mut limits = json!({ "create": "3s", "read": "3s", "update": "3s", "delete": "3s" });
    limits[which] = json!("1s");
    limits
}

/// Each resource that has timeouts, with what it is called and its configuration.
fn all(limits: &Value, step: &str) -> [(&'static str, &'static str, Value); 2] {
    let more = json!({ "labels": { "step": step }, "timeouts": limits });
    let mut volume = json!({ "name": "d", "size_gib": 5 });
    volume["labels"] = more["labels"].clone();
    volume["timeouts"] = more["timeouts"].clone();
    [
        ("fairmazon_instance.web", "instance", machine_with(more)),
        ("fairmazon_volume.d", "volume", volume),
    ]
}

/// What is said of the time, and of what to do.
fn is_late(told: &str, what: &str) {
    for part in
        [&format!("Waited 1s for {what}."), "may still happen", "raise the limit in `timeouts`"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test]
async fn a_read_that_takes_too_long_keeps_what_was_known() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut block = broker.block();
    block["endpoint"] = json!(format!("https://{}", silent.local_addr().unwrap()));
    let all = all(&only("read"), "one");
    for (address, _, config) in &all {
        client.apply(address, config.clone()).await.unwrap();
    }
    client.configure(block).await.unwrap();
    for (address, _, _) in all {
        let before = client.state(address).unwrap();
        let told = client.refresh(address).await.unwrap_err().to_string();
        is_late(&told, "the broker's answer");
        assert_eq!(client.state(address).unwrap(), before);
    }
}

#[tokio::test]
async fn a_change_that_takes_too_long_is_found_by_the_next_plan() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let limits = only("update");
    for ((address, noun, before), (_, _, after)) in
        all(&limits, "one").into_iter().zip(all(&limits, "two"))
    {
        broker.state.lock().hold = false;
        let id = client.apply(address, before).await.unwrap().state["id"].clone();
        broker.state.lock().hold = true;
        let told = client.apply(address, after.clone()).await.unwrap_err().to_string();
        is_late(&told, &format!("the {noun} {} to change", id.as_str().unwrap()));
        // Nobody saw it change, and it is well.
        assert_eq!(client.state(address).unwrap()["labels"]["step"], "one");
        assert!(!client.is_tainted(address));
        client.refresh(address).await.unwrap();
        assert_eq!(client.plan(address, after).await.unwrap().action, ChangeAction::None);
    }
}

#[tokio::test]
async fn a_late_change_says_what_a_machine_waits_for() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let limits = only("update");
    let [(address, _, before), _] = all(&limits, "one");
    let [(_, _, after), _] = all(&limits, "two");
    let id = client.apply(address, before).await.unwrap().state["id"].clone();
    {
        let mut state = broker.state.lock();
        (state.hold, state.no_place) = (true, true);
    }
    let told = client.apply(address, after).await.unwrap_err().to_string();
    is_late(&told, &format!("the instance {} to change", id.as_str().unwrap()));
    assert!(told.contains("waits") && told.contains("no host fits"), "{told}");
}

#[tokio::test]
async fn a_removal_that_takes_too_long_stays_in_the_state_until_it_is_gone() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    for (address, noun, config) in all(&only("delete"), "one") {
        broker.state.lock().hold = false;
        let id = client.apply(address, config).await.unwrap().state["id"].clone();
        broker.state.lock().hold = true;
        let told = client.destroy(address).await.unwrap_err().to_string();
        is_late(&told, &format!("the {noun} {} to be gone", id.as_str().unwrap()));
        assert_eq!(client.state(address).unwrap()["id"], id);
        assert_eq!(client.refresh(address).await.unwrap(), Value::Null);
    }
}
