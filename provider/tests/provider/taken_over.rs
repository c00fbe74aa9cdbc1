//! Creates that find what an earlier run made: the user hears of it.

use serde_json::json;

use crate::common::{Broker, machine};

const MACHINE: &str = "fairmazon_instance.web";
const MINUTE_MS: i64 = 60_000;

#[tokio::test]
async fn what_is_not_of_this_run_is_taken_over_with_a_warning() {
    let broker = Broker::start().await;
    let things = [
        (MACHINE, machine()),
        ("fairmazon_volume.data", json!({ "name": "data", "size_gib": 5 })),
        ("fairmazon_placement_group.near", json!({ "name": "near" })),
    ];
    let mut first = broker.harness().await;
    for (address, config) in &things {
        let applied = first.apply(address, config.clone()).await.unwrap();
        assert!(applied.warnings.is_empty(), "{}", applied.warnings);
    }
    {
        let mut state = broker.state.lock();
        state.instances.values_mut().for_each(|row| row.created_at_ms -= MINUTE_MS);
        state.volumes.values_mut().for_each(|row| row.created_at_ms -= MINUTE_MS);
        state.groups.values_mut().for_each(|row| row.created_at_ms -= MINUTE_MS);
    }
    // Neither a plan nor a refresh of the first, as with `-target`.
    let mut second = broker.harness().await;
    for (address, config) in &things {
        let applied = second.apply(address, config.clone()).await.unwrap();
        let id = first.state(address).unwrap()["id"].clone();
        assert_eq!(applied.state["id"], id);
        let told = applied.warnings.to_string();
        let listed = format!("`terraform state list -id={}`", id.as_str().unwrap());
        for part in ["was made by an earlier run", "-target", "terraform state rm", &listed] {
            assert!(told.contains(part), "{part}: {told}");
        }
        // One more is another one, which nobody had.
        let applied = second.apply(&format!("{address}2"), config.clone()).await.unwrap();
        assert!(applied.state["id"] != id && applied.warnings.is_empty(), "{}", applied.warnings);
    }
}

#[tokio::test]
async fn a_wrong_clock_of_this_machine_tells_nothing_wrong() {
    let hour = 60 * MINUTE_MS;
    for ahead in [-hour, hour] {
        let broker = Broker::start().await;
        broker.state.lock().ahead_ms = ahead;
        let applied = broker.harness().await.apply(MACHINE, machine()).await.unwrap();
        assert!(applied.warnings.is_empty(), "{ahead}: {}", applied.warnings);
        let id = applied.state["id"].as_str().unwrap();
        broker.state.lock().instances.get_mut(id).unwrap().created_at_ms -= MINUTE_MS;
        let applied = broker.harness().await.apply(MACHINE, machine()).await.unwrap();
        assert!(applied.warnings.to_string().contains("by an earlier run"), "{ahead}");
    }
}
