//! The life of a machine.

use serde_json::json;
use tfplugin::harness::{ChangeAction, unknown};

use crate::common::{Broker, machine, machine_with};

const ADDRESS: &str = "fairmazon_instance.web";

#[tokio::test]
async fn a_machine_is_planned_with_its_price_made_and_left_alone() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let plan = client.plan(ADDRESS, machine()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Create);
    // small: 0.005 EUR; 10 GiB at 0.000055 EUR.
    assert_eq!(plan.planned.member("price_per_hour").as_str(), Some("0.00555"));
    assert_eq!(plan.planned.member("price_per_month").as_str(), Some("4.0515"));
    assert_eq!(plan.planned.member("actual_flavor").as_str(), Some("small"));
    let made = client.apply(ADDRESS, machine()).await.unwrap().state;
    assert_eq!(made["price_per_hour"], "0.00555");
    assert_eq!(made["state"], "running");
    assert_eq!(made["boot_volume"]["size_gib"], 10);
    assert_eq!(made["created_at"], "2023-11-14T22:13:20Z");
    assert_eq!(client.plan(ADDRESS, machine()).await.unwrap().action, ChangeAction::None);
}

#[tokio::test]
async fn a_small_change_leaves_everything_else_known() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    client.apply(ADDRESS, machine()).await.unwrap();
    let renamed = machine_with(json!({ "name": "bücher" }));
    let plan = client.plan(ADDRESS, renamed.clone()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Update);
    assert!(plan.planned.is_wholly_known(), "{:?}", plan.planned);
    assert!(plan.warnings.is_empty(), "{}", plan.warnings);
    let state = client.apply(ADDRESS, renamed).await.unwrap().state;
    assert_eq!(state["name"], "bücher");
}

#[tokio::test]
async fn what_hurts_is_said_before() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    client.apply(ADDRESS, machine()).await.unwrap();
    for (change, word) in [
        (json!({ "flavor": "medium" }), "restarts"),
        (json!({ "reboot_trigger": "1" }), "restarts"),
        (json!({ "power_state": "stopped" }), "stops"),
        (json!({ "image": "debian-12", "on_image_change": "rebuild" }), "rebuilds"),
    ] {
        let plan = client.plan(ADDRESS, machine_with(change.clone())).await.unwrap();
        assert_eq!(plan.action, ChangeAction::Update, "{change}");
        assert!(plan.warnings.to_string().contains(word), "{change}: {}", plan.warnings);
    }
    let plan = client.plan(ADDRESS, machine_with(json!({ "image": "debian-12" }))).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Replace);
    let state = client.apply(ADDRESS, machine_with(json!({ "reboot_trigger": "1" }))).await;
    assert_eq!(state.unwrap().state["reboot_trigger"], "1");
    assert_eq!((broker.calls("reboot_instance"), broker.calls("update_instance")), (1, 0));
}

#[tokio::test]
async fn a_resize_knows_its_price_and_keeps_the_id() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let before = client.apply(ADDRESS, machine()).await.unwrap().state;
    let bigger = machine_with(json!({ "flavor": "medium", "boot_volume": { "size_gib": 20 } }));
    let plan = client.plan(ADDRESS, bigger.clone()).await.unwrap();
    assert_eq!(plan.planned.member("price_per_hour").as_str(), Some("0.0111"));
    assert_eq!(plan.planned.member("actual_flavor").as_str(), Some("medium"));
    let after = client.apply(ADDRESS, bigger).await.unwrap().state;
    assert_eq!(before["id"], after["id"]);
    let smaller = machine_with(json!({ "flavor": "medium", "boot_volume": { "size_gib": 15 } }));
    let told = client.plan(ADDRESS, smaller).await.unwrap_err().to_string();
    assert!(told.contains("boot_volume.size_gib") && told.contains("can't shrink"), "{told}");
}

#[tokio::test]
async fn a_protected_machine_is_neither_destroyed_nor_replaced() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let protected = json!({ "deletion_protection": true });
    client.apply(ADDRESS, machine_with(protected)).await.unwrap();
    let told = client.destroy(ADDRESS).await.unwrap_err().to_string();
    assert!(told.contains("protected") && told.contains("(at deletion_protection)"), "{told}");
    let replaced = machine_with(json!({ "deletion_protection": true, "image": "debian-12" }));
    let told = client.plan(ADDRESS, replaced).await.unwrap_err().to_string();
    assert!(told.contains("Unable to replace"), "{told}");
    client.apply(ADDRESS, machine()).await.unwrap();
    client.destroy(ADDRESS).await.unwrap();
    assert!(broker.state.lock().instances.is_empty());
}

#[tokio::test]
async fn every_attribute_survives_a_round() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let volume = client
        .apply("fairmazon_volume.data", json!({ "name": "data", "size_gib": 5 }))
        .await
        .unwrap()
        .state;
    let group = client.apply("fairmazon_placement_group.g", json!({ "name": "g" })).await.unwrap();
    let full = machine_with(json!({
        "flavor_fallback": ["medium"],
        "on_image_change": "rebuild",
        "placement": {
            "countries": ["NL", "DE"], "regions": ["eu-central"], "with": [group.state["id"]],
            "min_conformity": 2, "confidential": true,
        },
        "boot_volume": { "size_gib": 12, "class": "fast", "delete_with_instance": false },
        "volumes": { "data": { "volume_id": volume["id"], "read_only": true } },
        "user_data": "#cloud-config\nhostname: wéb\n",
        "on_user_data_change": "replace",
        "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJzr5 someone@example.com"],
        "power_state": "running",
        "schedule": [{ "timezone": "Europe/Berlin", "start": "08:00", "stop": "18:00", "days": ["mon"] }],
        "spot": { "max_price_per_hour": "0.0100" },
        "restart_policy": "never",
        "stop_timeout": "1m30s",
        "reboot_trigger": "x",
        "wait_for": ["running", "address"],
        "labels": { "role": "wéb" },
        "timeouts": { "create": "15m" },
    }));
    let state = client.apply(ADDRESS, full.clone()).await.unwrap().state;
    assert_eq!(state["stop_timeout"], "1m30s");
    assert_eq!(state["spot"]["max_price_per_hour"], "0.0100");
    assert_eq!(state["user_data_sha256"].as_str().map(str::len), Some(64));
    let plan = client.plan(ADDRESS, full).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
}

#[tokio::test]
async fn an_import_needs_no_change() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let config = machine_with(json!({ "labels": { "a": "b" }, "boot_volume": { "size_gib": 11 } }));
    let id = client.apply(ADDRESS, config.clone()).await.unwrap().state["id"].clone();
    let id = id.as_str().unwrap();
    client.import("fairmazon_instance.by_id", id).await.unwrap();
    let plan = client.plan("fairmazon_instance.by_id", config.clone()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    client.import_identity("fairmazon_instance.by_identity", json!({ "id": id })).await.unwrap();
    let plan = client.plan("fairmazon_instance.by_identity", config).await.unwrap();
    assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    for wrong in ["web", "vol-01jd0000000000000000000000", "ins-01jd0000000000000000000000"] {
        assert!(client.import("fairmazon_instance.no", wrong).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn what_vanished_is_planned_again_and_drift_is_seen() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let id = client.apply(ADDRESS, machine()).await.unwrap().state["id"].clone();
    let id = id.as_str().unwrap().to_owned();
    let row = |change: &dyn Fn(&mut fairmazon_proto::v1::InstanceSpec)| {
        let mut state = broker.state.lock();
        change(state.instances.get_mut(&id).unwrap().spec.as_mut().unwrap());
    };
    row(&|spec| spec.name = "other".to_owned());
    let mut client = {
        client.configure(broker.block()).await.unwrap();
        client
    };
    let plan = client.plan(ADDRESS, machine()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Update);
    client.apply(ADDRESS, machine()).await.unwrap();
    assert_eq!(broker.instance(&id).spec.unwrap().name, "web");
    broker.state.lock().instances.clear();
    client.configure(broker.block()).await.unwrap();
    assert_eq!(client.plan(ADDRESS, machine()).await.unwrap().action, ChangeAction::Create);
}

#[tokio::test]
async fn a_failed_create_keeps_the_id() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().fail = Some(fairmazon_proto::v1::ErrorDetail {
        kind: "no_capacity".to_owned(),
        message: "no host has room".to_owned(),
        ..Default::default()
    });
    let told = client.apply(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("No host has room.") && told.contains("Id: ins-"), "{told}");
    assert!(client.is_tainted(ADDRESS));
    assert!(client.state(ADDRESS).unwrap()["id"].is_string());
}

#[tokio::test]
async fn a_create_that_takes_too_long_keeps_the_id() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().hold = true;
    let config = machine_with(json!({ "timeouts": { "create": "1s" } }));
    let told = client.apply(ADDRESS, config).await.unwrap_err().to_string();
    assert!(told.contains("Timed out") && told.contains("ins-"), "{told}");
    assert!(client.state(ADDRESS).unwrap()["id"].is_string());
    assert_eq!(broker.calls("create_instance"), 1);
}

#[tokio::test]
async fn a_killed_apply_finds_its_machines_and_equal_ones_are_many() {
    let broker = Broker::start().await;
    let mut killed = broker.harness().await;
    for name in ["a", "b", "c"] {
        killed.apply(&format!("fairmazon_instance.{name}"), machine()).await.unwrap();
    }
    assert_eq!(broker.state.lock().instances.len(), 3);
    // Nothing of the first run's state is left; the second finds all three.
    let mut again = broker.harness().await;
    for name in ["a", "b", "c"] {
        again.apply(&format!("fairmazon_instance.{name}"), machine()).await.unwrap();
    }
    assert_eq!(broker.state.lock().instances.len(), 3);
    // Once their ids are seen in a state, an equal one is a new one.
    for name in ["a", "b", "c"] {
        again.refresh(&format!("fairmazon_instance.{name}")).await.unwrap();
    }
    again.configure(broker.block()).await.unwrap();
    again.apply("fairmazon_instance.d", machine()).await.unwrap();
    assert_eq!(broker.state.lock().instances.len(), 4);
}

#[tokio::test]
async fn a_killed_apply_that_wrote_down_half_of_equal_machines_finds_the_other_half() {
    let broker = Broker::start().await;
    let mut killed = broker.harness().await;
    for name in ["a", "b", "c", "d"] {
        killed.apply(&format!("fairmazon_instance.{name}"), machine()).await.unwrap();
    }
    // The state has b and d; a and c were made, and nothing tells of them.
    let mut again = broker.harness().await;
    for name in ["b", "d"] {
        let address = format!("fairmazon_instance.{name}");
        let id = killed.state(&address).unwrap()["id"].as_str().unwrap().to_owned();
        again.import(&address, &id).await.unwrap();
    }
    for name in ["a", "c"] {
        again.apply(&format!("fairmazon_instance.{name}"), machine()).await.unwrap();
    }
    assert_eq!(broker.state.lock().instances.len(), 4);
    again.apply("fairmazon_instance.e", machine()).await.unwrap();
    assert_eq!(broker.state.lock().instances.len(), 5);
}

#[tokio::test]
async fn many_reads_are_one_list() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let address = |number: usize| format!("fairmazon_instance.i{number}");
    for number in 0..30 {
        client.apply(&address(number), machine()).await.unwrap();
    }
    client.configure(broker.block()).await.unwrap();
    broker.state.lock().calls.clear();
    for number in 0..30 {
        let plan = client.plan(&address(number), machine()).await.unwrap();
        assert_eq!(plan.action, ChangeAction::None);
    }
    assert_eq!((broker.calls("list_instances"), broker.calls("get_instance")), (1, 0));
    assert_eq!(broker.calls("get_catalogue"), 1);
}

#[tokio::test]
async fn unknown_inputs_leave_what_follows_unknown() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let plan = client.plan(ADDRESS, machine_with(json!({ "flavor": unknown() }))).await.unwrap();
    assert!(plan.planned.member("price_per_hour").is_unknown());
    assert!(plan.planned.member("actual_flavor").is_unknown());
    let config = machine_with(json!({ "volumes": { "data": { "volume_id": unknown() } } }));
    let plan = client.plan(ADDRESS, config).await.unwrap();
    assert_eq!(plan.planned.member("price_per_hour").as_str(), Some("0.00555"));
    let config = machine_with(json!({ "flavor_fallback": ["medium"] }));
    let plan = client.plan(ADDRESS, config).await.unwrap();
    assert!(plan.planned.member("price_per_hour").is_unknown());
}

#[tokio::test]
async fn what_the_catalogue_lacks_is_said_at_plan() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    for (change, field, part) in [
        (json!({ "flavor": "giant" }), "(at flavor)", "It has tiny, small"),
        (json!({ "image": "dos" }), "(at image)", "debian-13"),
        (json!({ "boot_volume": { "class": "tape" } }), "(at boot_volume.class)", "standard"),
        (json!({ "boot_volume": { "size_gib": 2 } }), "(at boot_volume.size_gib)", "5 GiB"),
        (json!({ "flavor": "tiny", "image": "ubuntu-24.04" }), "(at flavor)", "1024 MiB"),
    ] {
        let told = client.plan(ADDRESS, machine_with(change)).await.unwrap_err().to_string();
        assert!(told.contains(field) && told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn default_labels_and_the_guard_count_for_all() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let mut block = broker.block();
    block["default_labels"] = json!({ "team": "a", "env": "prod" });
    client.configure(block.clone()).await.unwrap();
    let config = machine_with(json!({ "labels": { "env": "test" } }));
    let state = client.apply(ADDRESS, config.clone()).await.unwrap().state;
    assert_eq!(state["labels"], json!({ "env": "test" }));
    assert_eq!(state["effective_labels"], json!({ "env": "test", "team": "a" }));
    block["max_price_per_hour"] = json!("0.01");
    client.configure(block).await.unwrap();
    assert_eq!(client.plan(ADDRESS, config).await.unwrap().action, ChangeAction::None);
    let told = client.plan("fairmazon_instance.more", machine()).await.unwrap_err().to_string();
    assert!(told.contains("max_price_per_hour") && told.contains("0.0111 EUR"), "{told}");
}
