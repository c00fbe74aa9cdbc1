//! Every attribute of every resource with null, unknown, wrong type, empty, huge and non-ASCII:
//! an unknown is never a mistake, nothing panics, and what is refused is refused at its place.

use serde_json::{Value as Json, json};
use tfplugin::{
    Diagnostics, Provider as _, Schema, Type,
    harness::{Harness, unknown},
    schema::Attribute,
};

use crate::common::{Broker, provider};

/// A configuration with every attribute that can be written.
fn full(resource: &str) -> Json {
    let placement = json!({
        "countries": ["DE"], "regions": ["eu-central"], "with": [],
        "not_with": ["pgr-01jd0000000000000000000000"], "min_conformity": 1, "confidential": false,
    });
    let timeouts = json!({ "create": "1m", "read": "1m", "update": "1m", "delete": "1m" });
    match resource {
        "fairmazon_instance" => json!({
            "name": "web", "flavor": "small", "image": "debian-13", "on_image_change": "rebuild",
            "flavor_fallback": ["medium"], "placement": placement,
            "boot_volume": { "size_gib": 10, "class": "fast", "delete_with_instance": true },
            "volumes": {}, "user_data": "#!/bin/sh", "on_user_data_change": "ignore",
            "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJzr5"],
            "power_state": "running", "stop_timeout": "30s",
            "schedule": [{
                "timezone": "Europe/Berlin", "start": "08:00", "stop": "18:00", "days": ["mon"],
            }],
            "spot": { "max_price_per_hour": "1.0", "notice_seconds": 60, "on_interrupt": "stop" },
            "restart_policy": "always", "deletion_protection": false, "reboot_trigger": "x",
            "wait_for": ["running"], "labels": { "a": "b" }, "timeouts": timeouts,
        }),
        "fairmazon_volume" => json!({
            "name": "data", "size_gib": 5, "class": "standard", "placement": placement,
            "deletion_protection": false, "labels": { "a": "b" }, "timeouts": timeouts,
        }),
        _ => json!({ "name": "g", "labels": { "a": "b" } }),
    }
}

/// All attributes that can be written, with the objects that they stand in.
fn writable(schema: &Schema) -> Vec<(Vec<String>, Attribute)> {
    let mut found = Vec::new();
    collect(schema.attributes(), &[], &mut found);
    found
}

fn collect(attributes: &[Attribute], above: &[String], found: &mut Vec<(Vec<String>, Attribute)>) {
    for attribute in attributes {
        if !attribute.is_optional() && !attribute.is_required() {
            continue;
        }
        let path: Vec<_> = above.iter().cloned().chain([attribute.name().to_owned()]).collect();
        if let Some((tfplugin::schema::Nesting::Single, body)) = attribute.nested_objects() {
            collect(body.attributes(), &path, found);
        }
        found.push((path, attribute.clone()));
    }
}

fn put(config: &mut Json, path: &[String], value: Json) {
    let mut place = config;
    for step in path {
        place = &mut place[step.as_str()];
    }
    *place = value;
}

/// Values of the right type that nobody thought of.
fn strange(ty: &Type) -> Vec<Json> {
    let huge = "x".repeat(200_000);
    match ty {
        Type::String => vec![json!(""), json!(huge), json!("日本\u{202e}ü\n\u{0}")],
        Type::Number => vec![json!(-1), json!(1.5), json!(1e30), json!(u64::MAX)],
        Type::List(element) | Type::Set(element) if **element != Type::String => vec![json!([])],
        Type::List(_) | Type::Set(_) => {
            vec![json!([]), json!([null]), json!(vec![huge; 20]), json!(["日本", ""])]
        }
        Type::Map(element) if **element != Type::String => vec![json!({})],
        Type::Map(_) => {
            vec![json!({}), json!({ "": "" }), json!({ "日本": huge }), json!({ "a": null })]
        }
        Type::Object(_) => vec![json!({})],
        _ => Vec::new(),
    }
}

fn refused_properly(told: &Diagnostics, path: &[String], what: &str) {
    let text = told.to_string();
    assert!(!text.contains("panic") && !text.contains("report"), "{path:?} {what}: {text}");
    let at = told.iter().filter_map(|one| one.path()).map(ToString::to_string);
    let names: Vec<_> = at.collect();
    assert!(
        names.iter().any(|name| name.starts_with(path[0].as_str())),
        "{path:?} {what} is refused elsewhere, at {names:?}: {text}"
    );
}

async fn each(resource: &str) {
    let broker = Broker::start().await;
    let mut client: Harness<_> = broker.harness().await;
    let offers = provider().offers();
    let (_, schema, _) = offers.resources().find(|(name, ..)| *name == resource).unwrap();
    let address = format!("{resource}.x");
    for (path, attribute) in writable(&schema) {
        let with = |value: Json| {
            let mut config = full(resource);
            put(&mut config, &path, value);
            config
        };
        let configs = [("unknown", with(unknown())), ("null", with(Json::Null))];
        for (what, config) in configs {
            let planned = client.plan(&address, config).await;
            match planned {
                Ok(_) => {}
                Err(told) if what == "null" && attribute.is_required() => {
                    assert!(!told.to_string().contains("panic"), "{told}");
                }
                Err(told) => panic!("{path:?} {what}: {told}"),
            }
        }
        for value in strange(attribute.ty()) {
            let what: String = value.to_string().chars().take(40).collect();
            if let Err(told) = client.plan(&address, with(value)).await {
                refused_properly(&told, &path, &what);
            }
        }
        let wrong = if matches!(attribute.ty(), Type::String) { json!([1]) } else { json!("x") };
        let told = client.plan(&address, with(wrong)).await.unwrap_err();
        assert!(!told.to_string().contains("panic"), "{path:?}: {told}");
    }
}

#[tokio::test]
async fn of_the_instance() {
    each("fairmazon_instance").await;
}

#[tokio::test]
async fn of_the_volume() {
    each("fairmazon_volume").await;
}

#[tokio::test]
async fn of_the_placement_group() {
    each("fairmazon_placement_group").await;
}
