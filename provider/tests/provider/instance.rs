//! The life of a machine.

use fairmazon_proto::v1::InstanceState;
use serde_json::json;
use terraform_provider_fairmazon::Fairmazon;
use tfplugin::harness::{ChangeAction, Stopper, unknown};

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
    let created_at = broker.instance(made["id"].as_str().unwrap()).created_at_ms;
    let created_at = jiff::Timestamp::from_millisecond(created_at).unwrap().to_string();
    assert_eq!(made["created_at"], created_at.as_str());
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
    let applied = client.apply(ADDRESS, config.clone()).await.unwrap();
    let told = applied.warnings.to_string();
    assert!(told.contains("is not ready yet") && told.contains("ins-"), "{told}");
    assert!(told.contains("Waited 1s"), "{told}");
    assert!(applied.state["id"].is_string());
    // It is well, so it is not made anew.
    assert!(!client.is_tainted(ADDRESS));
    assert_eq!(client.plan(ADDRESS, config).await.unwrap().action, ChangeAction::None);
    assert_eq!(broker.calls("create_instance"), 1);
    let config = json!({ "name": "d", "size_gib": 5, "timeouts": { "create": "1s" } });
    let applied = client.apply("fairmazon_volume.d", config).await.unwrap();
    assert!(applied.warnings.to_string().contains("is not ready yet"));
    assert!(!client.is_tainted("fairmazon_volume.d"));
}

#[tokio::test]
async fn a_create_that_found_no_place_in_time_is_an_error() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    {
        let mut state = broker.state.lock();
        (state.hold, state.no_place) = (true, true);
    }
    let config = machine_with(json!({ "timeouts": { "create": "1s" } }));
    let told = client.apply(ADDRESS, config).await.unwrap_err().to_string();
    assert!(told.contains("no place") && told.contains("no host fits"), "{told}");
    assert!(client.is_tainted(ADDRESS));
}

/// The user interrupts the apply once the broker has had this call.
async fn stops_at(broker: &Broker, stopper: Stopper<Fairmazon>, call: &str) {
    while broker.calls(call) == 0 {
        tokio::task::yield_now().await;
    }
    stopper.stop().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_create_keeps_a_healthy_machine() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().hold = true;
    let stopping = stops_at(&broker, client.stopper(), "wait_operation");
    let (applied, ()) = tokio::join!(client.apply(ADDRESS, machine()), stopping);
    let told = applied.unwrap().warnings.to_string();
    assert!(told.contains("is not ready yet") && told.contains("stopped"), "{told}");
    assert!(!client.is_tainted(ADDRESS));
    assert_eq!(client.plan(ADDRESS, machine()).await.unwrap().action, ChangeAction::None);
}

#[tokio::test]
async fn a_machine_stays_when_nobody_waits_for_its_guest_any_more() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().agent = None;
    let stopping = stops_at(&broker, client.stopper(), "watch_instance");
    let wanted = machine_with(json!({ "wait_for": ["guest_agent"] }));
    let (applied, ()) = tokio::join!(client.apply(ADDRESS, wanted), stopping);
    let told = applied.unwrap().warnings.to_string();
    assert!(told.contains("is not ready yet") && told.contains("stopped"), "{told}");
    assert!(!client.is_tainted(ADDRESS));
}

#[tokio::test]
async fn the_size_it_got_stays_until_the_flavor_changes() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let with = |more: serde_json::Value| {
        let mut config = machine_with(json!({ "flavor_fallback": ["medium"] }));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let id = client.apply(ADDRESS, with(json!({}))).await.unwrap().state["id"].clone();
    {
        // It got the fallback.
        let mut state = broker.state.lock();
        let row = state.instances.get_mut(id.as_str().unwrap()).unwrap();
        row.actual_flavor = "medium".to_owned();
        row.price_per_hour_nano_eur = 10_550_000;
    }
    client.configure(broker.block()).await.unwrap();
    for change in [json!({ "flavor_fallback": null }), json!({ "boot_volume": { "size_gib": 20 } })]
    {
        let plan = client.plan(ADDRESS, with(change)).await.unwrap();
        assert_eq!(plan.planned.member("actual_flavor").as_str(), Some("medium"));
    }
    let bigger = with(json!({ "boot_volume": { "size_gib": 20 } }));
    let plan = client.plan(ADDRESS, bigger.clone()).await.unwrap();
    assert_eq!(plan.planned.member("price_per_hour").as_str(), Some("0.0111"));
    client.apply(ADDRESS, bigger.clone()).await.unwrap();
    client.configure(broker.block()).await.unwrap();
    assert_eq!(client.plan(ADDRESS, bigger).await.unwrap().action, ChangeAction::None);
}

#[tokio::test]
async fn default_labels_may_change_and_go() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let config = machine_with(json!({ "labels": { "role": "web" } }));
    for (defaults, all) in [
        (json!({ "team": "a", "env": "x" }), json!({ "role": "web", "team": "a", "env": "x" })),
        (json!({ "team": "b", "env": "x" }), json!({ "role": "web", "team": "b", "env": "x" })),
        (json!({ "team": "b" }), json!({ "role": "web", "team": "b" })),
        (json!({}), json!({ "role": "web" })),
    ] {
        let mut block = broker.block();
        block["default_labels"] = defaults;
        client.configure(block.clone()).await.unwrap();
        client.refresh(ADDRESS).await.unwrap();
        let state = client.state(ADDRESS).unwrap();
        if state.is_object() {
            assert_eq!(state["labels"], json!({ "role": "web" }), "no default became its own");
        }
        let state = client.apply(ADDRESS, config.clone()).await.unwrap().state;
        assert_eq!(state["labels"], json!({ "role": "web" }));
        assert_eq!(state["effective_labels"], all);
        client.configure(block).await.unwrap();
        let plan = client.plan(ADDRESS, config.clone()).await.unwrap();
        assert_eq!(plan.action, ChangeAction::None, "{:?}", plan.planned);
    }
}

#[tokio::test]
async fn a_machine_that_is_replaced_counts_once_and_is_confirmed_anew() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().fail = Some(fairmazon_proto::v1::ErrorDetail {
        kind: "no_capacity".to_owned(),
        message: "no host has room".to_owned(),
        ..Default::default()
    });
    client.apply(ADDRESS, machine()).await.unwrap_err();
    assert!(client.is_tainted(ADDRESS));
    let mut block = broker.block();
    // One machine costs 0.00555 EUR. The client plans a change first, and then a creation.
    block["max_price_per_hour"] = json!("0.006");
    client.configure(block).await.unwrap();
    let plan = client.plan(ADDRESS, machine()).await.unwrap();
    assert_eq!(plan.action, ChangeAction::Replace);
    let id = client.apply(ADDRESS, machine()).await.unwrap().state["id"].clone();
    client.refresh(ADDRESS).await.unwrap();
    assert!(!broker.instance(id.as_str().unwrap()).unconfirmed);
}

#[tokio::test]
async fn an_address_is_waited_for_only_where_one_comes() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let off = json!({ "wait_for": ["address"], "power_state": "stopped" });
    let told = client.plan(ADDRESS, machine_with(off.clone())).await.unwrap_err().to_string();
    assert!(told.contains("(at wait_for)"), "{told}");
    client.apply(ADDRESS, machine_with(json!({ "wait_for": ["address"] }))).await.unwrap();
    // Switched off later it is nothing to wait for.
    client.apply(ADDRESS, machine_with(off)).await.unwrap();
    // Outside its working hours it is as asked for.
    broker.state.lock().off_hours = true;
    let address = "fairmazon_instance.night";
    let state = client.apply(address, machine_with(json!({ "wait_for": ["address"] }))).await;
    assert_eq!(state.unwrap().state["state"], "stopped");
}

#[tokio::test]
async fn what_a_guest_lacks_is_an_error_with_what_to_do() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let waits =
        json!({ "wait_for": ["guest_agent", "cloud_init"], "timeouts": { "create": "1s" } });
    let patient = machine_with(json!({ "wait_for": waits["wait_for"] }));
    let wanted = machine_with(waits);
    let applied = client.apply(ADDRESS, patient.clone()).await.unwrap();
    assert!(applied.warnings.is_empty(), "{}", applied.warnings);
    // Without an agent the error says what was waited for and what its guest said, and what comes
    // after it is not made.
    let said = (1..=30).map(|number| format!("line {number}")).collect::<Vec<_>>();
    broker.state.lock().console = Some(said.join("\n"));
    broker.state.lock().agent = None;
    let address = "fairmazon_instance.silent";
    let told = client.apply(address, wanted.clone()).await.unwrap_err().to_string();
    for text in [
        "runs, and has not brought what `wait_for` names",
        "install qemu-guest-agent",
        "`cloud_init` out of",
        "Waited 1s",
        "The last on its serial console:\n    line 7\n    line 8",
        "line 30\n\nThe next apply removes it",
        "`terraform untaint`",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
    assert!(client.is_tainted(address));
    assert_eq!(client.state(address).unwrap()["state"], "running", "the state has what is known");
    // It is followed, not asked for again and again.
    assert_eq!((broker.calls("watch_instance"), broker.calls("get_instance")), (1, 3));
    broker.state.lock().console = None;
    broker.state.lock().agent = Some(fairmazon_proto::v1::CloudInit::Unspecified);
    let slow = client.apply("fairmazon_instance.slow", wanted.clone()).await;
    let told = slow.unwrap_err().to_string();
    assert!(
        told.contains("result.json")
            && !told.contains("install qemu-guest-agent in")
            && !told.contains("serial console"),
        "{told}"
    );
    broker.state.lock().agent = Some(fairmazon_proto::v1::CloudInit::Failed);
    let failed = "fairmazon_instance.failed";
    let told = client.apply(failed, patient).await.unwrap_err().to_string();
    assert!(
        told.contains("its cloud-init has failed") && told.contains("cloud-init.log"),
        "{told}"
    );
    assert!(client.is_tainted(failed));
    let off = machine_with(json!({ "wait_for": ["guest_agent"], "power_state": "stopped" }));
    let told = client.plan("fairmazon_instance.off", off).await.unwrap_err().to_string();
    assert!(told.contains("(at wait_for)") && told.contains("no agent in its guest"), "{told}");
}

#[tokio::test]
async fn a_machine_that_ends_while_its_guest_is_waited_for_has_failed() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    broker.state.lock().agent = None;
    let state = broker.state.clone();
    let ends = tokio::spawn(async move {
        while !state.lock().instances.values().any(|row| row.state() == InstanceState::Running) {
            tokio::task::yield_now().await;
        }
        for row in state.lock().instances.values_mut() {
            row.set_state(InstanceState::Failed);
            "Kernel panic - not syncing".clone_into(&mut row.state_reason);
        }
    });
    let wanted = machine_with(json!({ "wait_for": ["guest_agent"] }));
    let told = client.apply(ADDRESS, wanted).await.unwrap_err().to_string();
    ends.await.unwrap();
    assert!(told.contains("failed") && told.contains("says: Kernel panic"), "{told}");
    assert!(client.is_tainted(ADDRESS));
}

#[tokio::test]
async fn a_reboot_trigger_restarts_what_runs_when_its_text_changes() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let with = |trigger: &str| machine_with(json!({ "reboot_trigger": trigger }));
    let id = client.apply(ADDRESS, machine()).await.unwrap().state["id"].clone();
    let imported = "fairmazon_instance.imported";
    client.import(imported, id.as_str().unwrap()).await.unwrap();
    let plan = client.plan(imported, with("1")).await.unwrap();
    assert!(plan.warnings.is_empty(), "the first text is only noted: {}", plan.warnings);
    client.apply(imported, with("1")).await.unwrap();
    assert_eq!(broker.calls("reboot_instance"), 0);
    let mut off = with("2");
    off["power_state"] = json!("stopped");
    let plan = client.plan(imported, off.clone()).await.unwrap();
    assert!(!plan.warnings.to_string().contains("reboot_trigger"), "{}", plan.warnings);
    client.apply(imported, off.clone()).await.unwrap();
    off["reboot_trigger"] = json!("3");
    client.apply(imported, off).await.unwrap();
    assert_eq!(broker.calls("reboot_instance"), 0);
    client.apply(imported, with("3")).await.unwrap();
    client.apply(imported, with("4")).await.unwrap();
    assert_eq!(broker.calls("reboot_instance"), 1);
}

#[tokio::test]
async fn an_image_is_the_same_by_name_and_by_id() {
    let broker = Broker::start().await;
    let mut client = broker.harness().await;
    let id = client.apply(ADDRESS, machine()).await.unwrap().state["id"].clone();
    for image in ["img-debian-13", "debian-13"] {
        let config = machine_with(json!({ "image": image }));
        let plan = client.plan(ADDRESS, config.clone()).await.unwrap();
        assert_eq!(plan.action, ChangeAction::Update);
        assert!(plan.warnings.is_empty(), "{}", plan.warnings);
        let state = client.apply(ADDRESS, config).await.unwrap().state;
        assert_eq!((&state["id"], &state["image"]), (&id, &json!(image)));
    }
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
        (
            json!({ "flavor_fallback": ["medium", "tiny"], "image": "ubuntu-24.04" }),
            "(at flavor_fallback[1])",
            "1024 MiB",
        ),
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
