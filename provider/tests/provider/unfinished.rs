//! Creates that nobody could wait for to their end: what exists stays.

use fairmazon_model::{DomainError, ErrorKind};
use serde_json::{Value as Json, json};
use terraform_provider_fairmazon::Fairmazon;
use tfplugin::harness::{ChangeAction, Harness};

use crate::common::{Broker, machine, machine_with};

const MACHINE: &str = "fairmazon_instance.web";
const SNAPSHOT: &str = "fairmazon_snapshot.then";
const VOLUME: &str = "fairmazon_volume.data";

/// How an apply is cut off while it waits: all these calls are refused.
fn cut_off(broker: &Broker, calls: &[&'static str], kind: ErrorKind) {
    let mut state = broker.state.lock();
    state.hold = true;
    let error = DomainError::new(kind, "no more of this");
    state.refused = calls.iter().map(|call| (*call, error.clone())).collect();
}

/// Makes it while it can't be waited for: with a warning, and it stays as it is.
async fn stays(client: &mut Harness<Fairmazon>, broker: &Broker, address: &str, config: &Json) {
    let applied = client.apply(address, config.clone()).await.unwrap();
    let told = applied.warnings.to_string();
    assert!(told.contains("is not ready yet") && told.contains("No more of this."), "{told}");
    assert!(applied.state["id"].is_string() && !client.is_tainted(address), "{address}");
    broker.state.lock().refused.clear();
    let plan = client.plan(address, config.clone()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{address}");
}

#[tokio::test]
async fn a_credential_that_ends_during_an_apply_costs_nothing_that_exists() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let ends = |calls: &[&'static str]| cut_off(&broker, calls, ErrorKind::Unauthenticated);
    let data = json!({ "name": "data", "size_gib": 5 });
    ends(&["wait_operation", "get_volume"]);
    stays(&mut client, &broker, VOLUME, &data).await;
    let volume = client.state(VOLUME).unwrap()["id"].clone();
    let then = json!({ "name": "then", "volume_id": volume });
    ends(&["wait_operation"]);
    stays(&mut client, &broker, SNAPSHOT, &then).await;
    ends(&["wait_operation", "get_instance", "get_console"]);
    stays(&mut client, &broker, MACHINE, &machine()).await;
    // The work is done, and the look at what came of it is refused.
    ends(&["get_instance"]);
    broker.state.lock().hold = false;
    stays(&mut client, &broker, "fairmazon_instance.seen", &machine()).await;
    // Its guest is waited for.
    broker.state.lock().agent = None;
    ends(&["watch_instance"]);
    broker.state.lock().hold = false;
    let waits = machine_with(json!({ "wait_for": ["guest_agent"] }));
    stays(&mut client, &broker, "fairmazon_instance.guest", &waits).await;
}

#[tokio::test]
async fn a_limit_of_the_platform_costs_nothing_that_exists() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    cut_off(&broker, &["wait_operation"], ErrorKind::LimitExceeded);
    stays(&mut client, &broker, VOLUME, &json!({ "name": "data", "size_gib": 5 })).await;
    // It has no place yet, and has had no time to find one.
    cut_off(&broker, &["wait_operation"], ErrorKind::LimitExceeded);
    broker.state.lock().no_place = true;
    stays(&mut client, &broker, MACHINE, &machine()).await;
}
