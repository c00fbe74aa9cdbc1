//! What a change does to a machine, as its plan says it.

use serde_json::json;
use tfplugin::harness::ChangeAction;

use crate::common::{Broker, machine, machine_with};

const ADDRESS: &str = "fairmazon_instance.web";

#[tokio::test]
async fn what_hurts_is_said_before() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    client.apply(ADDRESS, machine_with(json!({ "reboot_trigger": "1" }))).await.unwrap();
    for (change, word) in [
        (json!({ "flavor": "medium" }), "This change may restart the running machine"),
        (
            json!({ "flavor": "medium" }),
            "- `flavor`: hot, or reboot where its guest or its host can't",
        ),
        (json!({ "flavor": "tiny" }), "- `flavor`: reboot"),
        (json!({ "flavor": "medium", "reboot_trigger": "2" }), "This change restarts the"),
        (json!({ "reboot_trigger": "2" }), "restarts"),
        (json!({ "power_state": "stopped" }), "stops"),
        (json!({ "image": "debian-12", "on_image_change": "rebuild" }), "rebuilds"),
    ] {
        let plan = client.plan(ADDRESS, machine_with(change.clone())).await.unwrap();
        assert_eq!(plan.action, ChangeAction::Update, "{change}");
        assert!(plan.warnings.to_string().contains(word), "{change}: {}", plan.warnings);
    }
    let plan = client.plan(ADDRESS, machine_with(json!({ "image": "debian-12" }))).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Replace);
    let state = client.apply(ADDRESS, machine_with(json!({ "reboot_trigger": "2" }))).await;
    assert_eq!(state.unwrap().state["reboot_trigger"], "2");
    assert_eq!((broker.calls("reboot_instance"), broker.calls("update_instance")), (1, 0));
}

#[tokio::test]
async fn where_a_machine_is_stays_known_unless_it_may_have_to_go() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let placed = |placement| machine_with(json!({ "placement": placement }));
    let group = client.apply("fairmazon_placement_group.g", json!({ "name": "g" })).await.unwrap();
    let group = group.state["id"].clone();
    client.apply(ADDRESS, placed(json!({ "regions": ["eu-central"] }))).await.unwrap();
    for stays in [
        json!({ "regions": ["eu-central", "eu-west"] }),
        json!({}),
        json!({ "regions": ["eu-central"], "countries": ["DE", "NL"] }),
    ] {
        let plan = client.plan(ADDRESS, placed(stays.clone())).await.unwrap();
        assert_eq!(plan.action, ChangeAction::Update, "{stays}");
        assert!(plan.planned.is_wholly_known(), "{stays}: {:?}", plan.planned);
        assert!(plan.warnings.is_empty(), "{stays}: {}", plan.warnings);
    }
    for goes in [
        json!({ "countries": ["NL"] }),
        json!({ "regions": ["eu-west"] }),
        json!({ "regions": ["eu-central"], "min_conformity": 1 }),
        json!({ "regions": ["eu-central"], "confidential": true }),
        json!({ "regions": ["eu-central"], "not_with": [group] }),
    ] {
        let plan = client.plan(ADDRESS, placed(goes.clone())).await.unwrap();
        assert_eq!(plan.action, ChangeAction::Update, "{goes}");
        for attribute in ["site", "country", "addresses", "lease_epoch"] {
            assert!(plan.planned.member(attribute).is_unknown(), "{goes}: {attribute}");
        }
        assert!(!plan.planned.member("id").is_unknown(), "a move is no replacement");
        let told = plan.warnings.to_string();
        assert!(told.contains("may move the running machine"), "{goes}: {told}");
    }
}

#[tokio::test]
async fn a_machine_that_is_off_moves_and_loses_its_boot_volume_with_a_warning_too() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let off = json!({ "power_state": "stopped", "on_image_change": "rebuild" });
    client.apply(ADDRESS, machine_with(off.clone())).await.unwrap();
    let mut elsewhere = off.clone();
    elsewhere["placement"] = json!({ "countries": ["NL"] });
    let told = client.plan(ADDRESS, machine_with(elsewhere)).await.unwrap().warnings.to_string();
    assert!(told.contains("may move the machine"), "{told}");
    let mut change = off;
    change["image"] = json!("debian-12");
    change["flavor"] = json!("medium");
    let told = client.plan(ADDRESS, machine_with(change)).await.unwrap().warnings.to_string();
    assert!(told.contains("rebuilds the boot volume of the machine"), "{told}");
    assert!(!told.contains("flavor"), "nothing restarts: {told}");
}

#[tokio::test]
async fn working_hours_that_stop_it_now_are_said_before() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    client.apply(ADDRESS, machine()).await.unwrap();
    // Neither of the two windows of one minute is long, so it is outside one of them.
    let told = |start: &'static str, stop: &'static str| {
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let window = json!({ "timezone": "UTC", "start": start, "stop": stop, "days": days });
        machine_with(json!({ "schedule": [window] }))
    };
    let one = client.plan(ADDRESS, told("03:00", "03:01")).await.unwrap().warnings.to_string();
    let other = client.plan(ADDRESS, told("15:00", "15:01")).await.unwrap().warnings.to_string();
    assert!(one.contains("stops the running") || other.contains("stops the running"), "{one}");
    let always = client.plan(ADDRESS, told("00:00", "00:00")).await.unwrap();
    assert!(always.warnings.is_empty(), "{}", always.warnings);
}
