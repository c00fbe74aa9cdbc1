//! The life of a snapshot, and of a volume that is made of one.

use fairmazon_model::{DomainError, ErrorKind};
use serde_json::{Value, json};
use tfplugin::harness::ChangeAction;

use crate::common::Broker;

const DATA: &str = "fairmazon_volume.data";
const ADDRESS: &str = "fairmazon_snapshot.then";

fn data() -> Value {
    json!({ "name": "data", "size_gib": 7, "class": "fast" })
}

#[tokio::test]
async fn a_snapshot_has_the_size_of_its_volume_and_a_price_in_the_plan() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = client.apply(DATA, data()).await.unwrap().state;
    let config = json!({ "name": "then", "volume_id": volume["id"] });
    let plan = client.plan(ADDRESS, config.clone()).await.unwrap();
    assert_eq!(format!("{:?}", plan.planned.member("size_gib")), "Number(7)");
    assert_eq!(plan.planned.member("class").as_str(), Some("fast"));
    assert_eq!(
        plan.planned.member("price_per_hour").as_str(),
        volume["price_per_hour"].as_str(),
        "it takes as much room as its volume"
    );
    let state = client.apply(ADDRESS, config.clone()).await.unwrap().state;
    assert_eq!(client.plan(ADDRESS, config.clone()).await.unwrap().action, ChangeAction::None);
    {
        let rows = broker.state.lock();
        let spec = rows.volumes[state["id"].as_str().unwrap()].spec.clone().unwrap();
        assert!(spec.read_only && spec.source_volume_id == volume["id"].as_str().unwrap());
    }
    let renamed = json!({ "name": "before", "volume_id": volume["id"] });
    assert_eq!(client.plan(ADDRESS, renamed).await.unwrap().action, ChangeAction::Update);

    // What is grown afterwards does not change what was.
    let grown = json!({ "name": "data", "size_gib": 9, "class": "fast" });
    client.apply(DATA, grown).await.unwrap();
    assert_eq!(client.plan(ADDRESS, config.clone()).await.unwrap().action, ChangeAction::None);
    let other = client.apply("fairmazon_volume.other", data()).await.unwrap().state;
    let of_other = json!({ "name": "then", "volume_id": other["id"] });
    assert_eq!(client.plan(ADDRESS, of_other).await.unwrap().action, ChangeAction::Replace);
    client.destroy(ADDRESS).await.unwrap();
}

#[tokio::test]
async fn a_volume_of_a_snapshot_is_made_anew_only_for_another_one() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = client.apply(DATA, data()).await.unwrap().state;
    let taken = json!({ "name": "then", "volume_id": volume["id"] });
    let snapshot = client.apply(ADDRESS, taken).await.unwrap().state;
    let of = |source: Value| json!({ "name": "again", "size_gib": 7, "class": "fast", "source": source });
    let address = "fairmazon_volume.again";
    let made = client.apply(address, of(json!({ "snapshot_id": snapshot["id"] }))).await.unwrap();
    let same = of(json!({ "volume_id": snapshot["id"] }));
    assert_eq!(client.plan(address, same).await.unwrap().action, ChangeAction::Update);
    let other = of(json!({ "volume_id": volume["id"] }));
    assert_eq!(client.plan(address, other).await.unwrap().action, ChangeAction::Replace);
    let id = made.state["id"].as_str().unwrap();
    client.import("fairmazon_volume.found", id).await.unwrap();
    let plan = client.plan("fairmazon_volume.found", of(json!({ "volume_id": snapshot["id"] })));
    assert_eq!(plan.await.unwrap().action, ChangeAction::None);

    for odd in [
        json!({}),
        json!({ "snapshot_id": "vol-1", "volume_id": "vol-2" }),
        json!({ "volume_id": "vol-1", "image": "debian-12" }),
    ] {
        let told = client.plan(address, of(odd)).await.unwrap_err().to_string();
        assert!(told.contains("one of `snapshot_id`, `volume_id` and `image`"), "{told}");
    }
    let told = client.plan(address, of(json!({ "volume_id": "web" }))).await.unwrap_err();
    assert!(told.to_string().contains("source"), "{told}");
}

#[tokio::test]
async fn a_volume_is_filled_from_an_image_that_is_there_and_fits() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let image = broker.state.lock().catalogue.images[0].clone();
    let of = |image: &str, size: u64| json!({ "name": "tools", "size_gib": size, "source": { "image": image } });
    let address = "fairmazon_volume.tools";
    let fits = image.min_boot.0;
    let made = client.apply(address, of(&image.name, fits)).await.unwrap().state;
    let id = made["id"].as_str().unwrap();
    assert_eq!(broker.state.lock().volumes[id].spec.as_ref().unwrap().image, image.name);
    let plan = client.plan(address, of(&image.name, fits + 1)).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Update, "it grows");
    let empty = json!({ "name": "tools", "size_gib": fits });
    assert_eq!(client.plan(address, empty).await.unwrap().action, ChangeAction::Replace);
    let found = "fairmazon_volume.found";
    client.import(found, id).await.unwrap();
    let plan = client.plan(found, of(&image.name, fits)).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None);
    let fresh = "fairmazon_volume.fresh";
    let told = client.plan(fresh, of("windows-95", fits)).await.unwrap_err().to_string();
    assert!(told.contains("source.image") && told.contains(&image.name), "{told}");
    let told = client.plan(fresh, of(&image.name, fits - 1)).await.unwrap_err().to_string();
    assert!(told.contains("size_gib") && told.contains("needs at least"), "{told}");
}

#[tokio::test]
async fn each_is_imported_as_what_it_is() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = client.apply(DATA, data()).await.unwrap().state;
    let config = json!({ "name": "then", "volume_id": volume["id"] });
    let snapshot = client.apply(ADDRESS, config.clone()).await.unwrap().state;
    let id = snapshot["id"].as_str().unwrap();
    client.import("fairmazon_snapshot.again", id).await.unwrap();
    let plan = client.plan("fairmazon_snapshot.again", config).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    let told = client.import("fairmazon_volume.no", id).await.unwrap_err().to_string();
    assert!(told.contains("is a snapshot"), "{told}");
    let id = volume["id"].as_str().unwrap();
    let told = client.import("fairmazon_snapshot.no", id).await.unwrap_err().to_string();
    assert!(told.contains("is a volume"), "{told}");
}

#[tokio::test]
async fn what_a_destroyed_volume_held_is_kept_in_a_final_snapshot() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let snapshots = || {
        let rows = broker.state.lock();
        let specs = rows.volumes.values().filter_map(|row| row.spec.clone());
        specs.filter(|spec| spec.read_only).collect::<Vec<_>>()
    };
    let kept = |name: &str| {
        let mut config = data();
        config["final_snapshot"] = name.into();
        config["labels"] = json!({ "of": "shop" });
        config
    };
    client.apply(DATA, kept("end")).await.unwrap();
    assert_eq!(client.plan(DATA, kept("end")).await.unwrap().action, ChangeAction::None);
    // One that was never attached holds nothing.
    client.destroy(DATA).await.unwrap();
    assert!(snapshots().is_empty());

    let id = client.apply(DATA, kept("end")).await.unwrap().state["id"].clone();
    let exists = || broker.state.lock().volumes.contains_key(id.as_str().unwrap());
    {
        let mut rows = broker.state.lock();
        rows.volumes.get_mut(id.as_str().unwrap()).unwrap().site = "town".into();
        let no_room = DomainError::new(ErrorKind::NoCapacity, "its host has no room");
        rows.fail = Some((&no_room).into());
    }
    let refused = client.destroy(DATA).await.unwrap_err().to_string();
    assert!(refused.contains("final snapshot") && refused.contains("no room"), "{refused}");
    assert!(exists() && snapshots().is_empty(), "the volume stays, and nothing half-made");
    client.destroy(DATA).await.unwrap();
    let made = snapshots();
    assert_eq!(made.len(), 1);
    let (name, source) = (made[0].name.as_str(), made[0].source_volume_id.as_str());
    assert_eq!((name, source), ("end", id.as_str().unwrap()));
    assert_eq!((made[0].size_gib, made[0].labels["of"].as_str()), (7, "shop"));
    assert!(!exists());

    // Nothing of it is asked of the platform while the volume lives.
    client.apply(DATA, kept("end")).await.unwrap();
    let changes = broker.calls("update_volume");
    client.apply(DATA, kept("other")).await.unwrap();
    assert_eq!(broker.calls("update_volume"), changes);
    assert!(client.plan(DATA, kept("")).await.is_err());
}
