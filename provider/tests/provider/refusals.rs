//! What a user reads of a value or an id that is refused: why, and what to do.

use fairmazon_model::id::{InstanceId, VolumeId};
use serde_json::json;

use crate::common::{Broker, machine_with};

#[tokio::test]
async fn a_stop_timeout_out_of_its_range_is_told_the_range() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    for timeout in ["0s", "61m", "soon", ""] {
        let config = machine_with(json!({ "stop_timeout": timeout }));
        let told = client.plan("fairmazon_instance.a", config).await.unwrap_err().to_string();
        assert!(told.contains("(at stop_timeout)") && told.contains("from 1s to 1h"), "{told}");
        assert!(!told.contains(".."), "{told}");
    }
    for timeout in ["1s", "1h"] {
        let config = machine_with(json!({ "stop_timeout": timeout }));
        client.plan("fairmazon_instance.a", config).await.unwrap();
    }
}

#[tokio::test]
async fn an_unknown_id_is_told_with_what_to_do() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    for (noun, id) in [
        ("instance", InstanceId::from_parts(1, 1).to_string()),
        ("volume", VolumeId::from_parts(1, 1).to_string()),
    ] {
        let told = client.import(&format!("fairmazon_{noun}.a"), &id).await.unwrap_err();
        let told = told.to_string();
        assert!(told.contains(&id) && told.contains("terraform query"), "{told}");
    }
    let volume = VolumeId::from_parts(1, 1).to_string();
    let snapshot = json!({ "name": "then", "volume_id": volume });
    let told = client.apply("fairmazon_snapshot.a", snapshot.clone()).await.unwrap_err();
    assert!(told.to_string().contains("Check the id"), "{told}");
    let told = client.invoke("fairmazon_snapshot", snapshot).await.unwrap_err().to_string();
    assert!(told.contains("Check the id"), "{told}");
}
