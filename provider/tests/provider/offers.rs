//! Data sources, lists, functions, the ephemeral token and the actions.

use fairmazon_model::{id::InstanceId, transfer::Sha256};
use serde_json::json;
use tfplugin::harness::{ChangeAction, Objects, as_logged};

use crate::common::{Broker, machine_with};

#[tokio::test]
async fn data_sources_show_what_there_is() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let flavors = client.data("fairmazon_flavors", json!({})).await.unwrap();
    assert_eq!(flavors["flavors"][0]["name"], "tiny");
    assert_eq!(flavors["flavors"][0]["price_per_hour"], "0.0025");
    let images = client.data("fairmazon_images", json!({})).await.unwrap();
    assert_eq!(images["images"][1]["name"], "debian-13");
    assert_eq!(images["images"][1]["sha256"], json!(null), "no version of it is known");
    assert_eq!(images["images"][1]["signed_by"], json!(null));
    let version = Sha256::of(b"the manifest");
    {
        let mut state = broker.state.lock();
        let image = &mut state.catalogue.images[1];
        image.sha256 = Some(version);
        image.signed_by = Some("E7620F1842B4E81F".into());
    }
    // Another run: one asks for the catalogue once.
    let again = broker.harness().await.data("fairmazon_images", json!({})).await.unwrap();
    assert_eq!(again["images"][1]["sha256"], version.to_string());
    assert_eq!(again["images"][1]["signed_by"], "E7620F1842B4E81F");
    let sites = client.data("fairmazon_sites", json!({})).await.unwrap();
    assert_eq!(sites["sites"][0]["latitude"], 50.11);
    assert_eq!(sites["sites"][1]["name"], "fra2", "of the second page");
    for (name, role) in [("a", "web"), ("b", "db")] {
        let config = machine_with(json!({ "name": name, "labels": { "role": role } }));
        client.apply(&format!("fairmazon_instance.{name}"), config).await.unwrap();
    }
    let found = client.data("fairmazon_instances", json!({ "labels": { "role": "db" } })).await;
    let found = found.unwrap();
    assert_eq!(found["instances"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["instances"][0]["name"], "b");
    let all = client.data("fairmazon_instances", json!({})).await.unwrap();
    assert_eq!(all["instances"].as_array().map(Vec::len), Some(2));
    assert_eq!(all["instances"][0]["state_reason"], json!(null), "there is nothing to say");
    {
        let mut state = broker.state.lock();
        let row = state.instances.values_mut().next().unwrap();
        row.state_reason = "its host had no memory left for it".to_owned();
    }
    let all = client.data("fairmazon_instances", json!({})).await.unwrap();
    assert_eq!(all["instances"][0]["state_reason"], "its host had no memory left for it");
}

#[tokio::test]
async fn functions_need_nothing() {
    let broker = Broker::start().await;
    let client = broker.harness().await;
    let parsed = client.call("parse_id", vec![json!("ins-01jd0000000000000000000000")]).await;
    assert_eq!(parsed.unwrap()["noun"], "instance");
    assert!(client.call("parse_id", vec![json!("web")]).await.is_err());
    let far = vec![json!(50.11), json!(8.68), json!(52.37), json!(4.9)];
    let far = client.call("distance_km", far).await.unwrap().as_f64().unwrap();
    assert!((355.0..372.0).contains(&far), "{far}");
    let places =
        json!({ "a": { "latitude": 0, "longitude": 0 }, "b": { "latitude": 50, "longitude": 8 } });
    let order = client.call("nearest", vec![json!(51), json!(8), places]).await.unwrap();
    assert_eq!(order, json!(["b", "a"]));
    let asked = vec![json!("vol-01jd0000000000000000000000"), json!("volume")];
    assert_eq!(client.call("is_id", asked).await.unwrap(), json!(true));
}

#[tokio::test]
async fn a_token_lives_for_one_run() {
    let broker = Broker::start().await;
    let client = broker.harness().await;
    let opened = client.open("fairmazon_token", json!({ "lifetime_seconds": 600 })).await.unwrap();
    assert_eq!(opened.result["token"], "fmz_secret");
    assert!(!as_logged("Bearer fmz_secret").contains("fmz_secret"));
    let expires_at = broker.state.lock().tokens.values().next().unwrap().expires_at_ms;
    let expires_at = jiff::Timestamp::from_millisecond(expires_at).unwrap().to_string();
    assert_eq!(opened.result["expires_at"], expires_at.as_str());
    client.close_ephemeral(opened).await.unwrap();
    assert!(broker.state.lock().tokens.values().all(|token| token.revoked_at_ms == 1));
    assert!(client.open("fairmazon_token", json!({ "role": "king" })).await.is_err());
}

#[tokio::test]
async fn a_reboot_says_what_it_does() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let made = client.apply("fairmazon_instance.a", machine_with(json!({}))).await.unwrap();
    let config = json!({ "instance_id": made.state["id"] });
    let said = client.invoke("fairmazon_reboot", config).await.unwrap();
    assert!(said.last().is_some_and(|line| line.contains("has restarted")), "{said:?}");
    assert_eq!(broker.calls("reboot_instance"), 1);
    assert!(client.invoke("fairmazon_reboot", json!({ "instance_id": "web" })).await.is_err());
}

#[tokio::test]
async fn a_machine_is_moved_and_the_plan_stays_empty() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let address = "fairmazon_instance.a";
    let made = client.apply(address, machine_with(json!({}))).await.unwrap();
    let config = json!({ "instance_id": made.state["id"] });
    let said = client.invoke("fairmazon_migrate", config).await.unwrap();
    assert!(said.last().is_some_and(|line| line.contains("is in fra1, DE")), "{said:?}");
    assert_eq!(broker.calls("migrate_instance"), 1);
    let plan = client.plan(address, machine_with(json!({}))).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None);
    let other = InstanceId::from_parts(1, 1).to_string();
    for wrong in [json!("web"), json!(null), json!(other)] {
        let config = json!({ "instance_id": wrong });
        assert!(client.invoke("fairmazon_migrate", config).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn each_call_makes_a_snapshot_of_its_own() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = json!({ "name": "data", "size_gib": 3, "class": "fast" });
    let volume = client.apply("fairmazon_volume.data", volume).await.unwrap().state;
    let config = json!({
        "volume_id": volume["id"], "name": "then", "labels": { "of": "data" },
    });
    for made in 1..=2 {
        let said = client.invoke("fairmazon_snapshot", config.clone()).await.unwrap();
        assert!(said.last().is_some_and(|line| line.ends_with("is there.")), "{said:?}");
        let rows = broker.state.lock();
        let snapshots: Vec<_> = rows
            .volumes
            .values()
            .filter_map(|row| row.spec.clone())
            .filter(|s| s.read_only)
            .collect();
        assert_eq!(snapshots.len(), made);
        for spec in snapshots {
            assert_eq!((spec.size_gib, spec.class.as_str()), (3, "fast"));
            assert_eq!(spec.source_volume_id, volume["id"].as_str().unwrap());
            assert_eq!(spec.labels["of"], "data");
        }
    }
    for (field, wrong) in [("name", json!("")), ("volume_id", json!("data"))] {
        let mut config = config.clone();
        config[field] = wrong;
        assert!(client.invoke("fairmazon_snapshot", config).await.is_err(), "{field}");
    }
}

#[tokio::test]
async fn lists_show_all_that_exists() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    for name in ["a", "b"] {
        let config = machine_with(json!({ "name": name, "labels": { "only": name } }));
        client.apply(&format!("fairmazon_instance.{name}"), config).await.unwrap();
    }
    client.apply("fairmazon_volume.v", json!({ "name": "v", "size_gib": 1 })).await.unwrap();
    client.apply("fairmazon_placement_group.g", json!({ "name": "g" })).await.unwrap();
    for (noun, count) in [("instance", 2), ("volume", 1), ("placement_group", 1)] {
        let name = format!("fairmazon_{noun}");
        let found = client.list(&name, json!({}), Objects::Whole, 10).await.unwrap();
        assert_eq!(found.len(), count, "{noun}");
        assert!(found[0].identity["id"].is_string() && found[0].object.is_some());
    }
    // Until a run has read it back from a state, it may be one that a killed run has left.
    let one = json!({ "labels": { "only": "b" } });
    for (name, confirmed) in [("b (not confirmed)", false), ("b", true)] {
        let found =
            client.list("fairmazon_instance", one.clone(), Objects::Whole, 10).await.unwrap();
        assert_eq!((found.len(), found[0].display_name.as_str()), (1, name));
        let read = client.data("fairmazon_instances", one.clone()).await.unwrap();
        assert_eq!(read["instances"][0]["confirmed"], confirmed);
        client.refresh("fairmazon_instance.b").await.unwrap();
    }
}
