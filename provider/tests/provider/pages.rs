//! What a plan asks for: each page of what an account has once, and nothing for each resource.

use serde_json::json;

use crate::common::{Broker, machine};

const COUNT: usize = 7;

#[tokio::test]
async fn each_page_is_read_once_however_many_resources_are_planned() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = json!({ "name": "v", "size_gib": 1 });
    for number in 0..COUNT {
        client.apply(&format!("fairmazon_instance.i{number}"), machine()).await.unwrap();
        client.apply(&format!("fairmazon_volume.v{number}"), volume.clone()).await.unwrap();
    }
    broker.state.lock().page_rows = 2;
    for planned in [1, 3, COUNT] {
        // As a run of its own.
        client.configure(broker.block()).await.unwrap();
        broker.state.lock().calls.clear();
        for number in (0..planned).chain(0..planned) {
            let one = format!("fairmazon_instance.i{number}");
            client.plan(&one, machine()).await.unwrap();
            client.refresh(&one).await.unwrap();
            let one = format!("fairmazon_volume.v{number}");
            client.plan(&one, volume.clone()).await.unwrap();
            client.refresh(&one).await.unwrap();
        }
        for call in ["list_instances", "list_volumes"] {
            assert_eq!(broker.calls(call), COUNT.div_ceil(2), "{call}, {planned} planned");
        }
        for call in ["get_instance", "get_volume"] {
            assert_eq!(broker.calls(call), 0, "{call}, {planned} planned");
        }
    }
}
