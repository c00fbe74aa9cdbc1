//! Every attribute of every schema, at every depth, with null, unknown, wrong type, empty, huge
//! and non-ASCII: an unknown is never a mistake, nothing panics, what must be refused is, and
//! what is refused is refused at its place. What a plan accepts is applied.

use serde_json::{Value as Json, json};
use tfplugin::{
    Diagnostics, Provider as _, Schema, Type,
    harness::{Harness, Objects, unknown},
    schema::{Attribute, Body, Nesting},
};

use terraform_provider_fairmazon::Fairmazon;

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
            "volumes": {
                "d": { "volume_id": "vol-01jd0000000000000000000000", "read_only": false },
            }, "user_data": "#!/bin/sh", "on_user_data_change": "ignore",
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
        "fairmazon_snapshot" => json!({
            "name": "then", "volume_id": "VOLUME", "deletion_protection": false,
            "labels": { "a": "b" }, "timeouts": timeouts,
        }),
        _ => json!({ "name": "g", "labels": { "a": "b" } }),
    }
}

/// What a schema belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Provider,
    Resource,
    DataSource,
    List,
    Ephemeral,
    Action,
}

/// The client under test, and how much it made.
struct Subject {
    client: Harness<Fairmazon>,
    made: usize,
}

impl Subject {
    async fn ask(&mut self, kind: Kind, name: &str, config: Json) -> Result<(), Diagnostics> {
        match kind {
            Kind::Provider => Harness::new(provider()).configure(config).await.map(drop),
            Kind::Resource => self.client.plan(&format!("{name}.x"), config).await.map(drop),
            Kind::DataSource => self.client.data(name, config).await.map(drop),
            Kind::List => self.client.list(name, config, Objects::Whole, 10).await.map(drop),
            Kind::Ephemeral => {
                let opened = self.client.open(name, config).await?;
                self.client.close_ephemeral(opened).await.map(drop)
            }
            Kind::Action => self.client.invoke(name, config).await.map(drop),
        }
    }

    /// Makes what a plan accepted; everything else was done already.
    async fn apply(&mut self, kind: Kind, name: &str, config: Json) -> Result<(), Diagnostics> {
        if kind != Kind::Resource {
            return Ok(());
        }
        self.made += 1;
        let address = format!("{name}.n{}", self.made);
        self.client.apply(&address, config).await.map(drop)
    }
}

/// An attribute and where it stands in a full configuration.
struct Place {
    /// As JSON finds it: names, keys and indices.
    steps: Vec<Json>,
    /// As a diagnostic names it.
    path: String,
    attribute: Attribute,
    /// Whether it is below one that only the provider sets.
    hidden: bool,
}

fn places(schema: &Schema) -> Vec<Place> {
    let mut found = Vec::new();
    collect(schema.body(), (&[], "", false), &mut found);
    found
}

fn collect(body: &Body, (steps, path, hidden): (&[Json], &str, bool), found: &mut Vec<Place>) {
    for attribute in body.attributes() {
        let mut steps = steps.to_vec();
        steps.push(json!(attribute.name()));
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}", attribute.name());
        let place = || (steps.clone(), path.clone());
        if let Some((nesting, body)) = attribute.nested_objects() {
            let (mut steps, path) = place();
            let inside = match nesting {
                Nesting::List => (json!(0), "[0]"),
                Nesting::Set => (json!(0), "[*]"),
                Nesting::Map => (json!("d"), r#"["d"]"#),
                _ => (Json::Null, ""),
            };
            steps.extend(Some(inside.0).filter(|step| !step.is_null()));
            let hidden = hidden || is_read_only(attribute);
            collect(body, (&steps, &format!("{path}{}", inside.1), hidden), found);
        }
        let (steps, path) = place();
        found.push(Place { steps, path, attribute: attribute.clone(), hidden });
    }
}

fn is_read_only(attribute: &Attribute) -> bool {
    !attribute.is_optional() && !attribute.is_required()
}

/// What stands there; null where nothing does.
fn at<'a>(config: &'a Json, steps: &[Json]) -> &'a Json {
    steps.iter().fold(config, |place, step| match step {
        Json::String(name) => &place[name.as_str()],
        step => &place[step.as_u64().and_then(|step| usize::try_from(step).ok()).unwrap()],
    })
}

fn put(config: &mut Json, steps: &[Json], value: Json) {
    let mut place = config;
    for step in steps {
        place = match step {
            Json::String(name) => &mut place[name.as_str()],
            step => &mut place[usize::try_from(step.as_u64().unwrap()).unwrap()],
        };
    }
    *place = value;
}

/// Values of the right type that nobody thought of.
fn strange(ty: &Type) -> Vec<Json> {
    let huge = "x".repeat(200_000);
    match ty {
        Type::Bool => vec![json!(true), json!(false)],
        Type::String => vec![json!(""), json!(huge), json!("日本\u{202e}ü\n\u{0}")],
        Type::Number => vec![json!(-1), json!(0), json!(1.5), json!(1e30), json!(u64::MAX)],
        Type::List(element) | Type::Set(element) if **element != Type::String => {
            vec![json!([]), json!([null])]
        }
        Type::List(_) | Type::Set(_) => {
            vec![json!([]), json!([null]), json!(vec![huge; 20]), json!(["日本", ""])]
        }
        Type::Map(element) if **element != Type::String => {
            vec![json!({}), json!({ "x": null }), json!({ "": null, "日本": null })]
        }
        Type::Map(_) => {
            vec![json!({}), json!({ "": "" }), json!({ "日本": huge }), json!({ "a": null })]
        }
        Type::Object(_) => vec![json!({})],
        _ => Vec::new(),
    }
}

/// The value and others of its type with an element that is not known yet: alone, and beside what
/// is there.
fn with_unknown_elements(ty: &Type, full: &Json) -> Vec<Json> {
    match ty {
        Type::List(_) | Type::Set(_) => {
            let there = full.as_array().cloned().unwrap_or_default();
            let beside = there.into_iter().chain([unknown()]).collect();
            vec![json!([unknown()]), Json::Array(beside)]
        }
        Type::Map(_) => {
            let mut beside = full.as_object().cloned().unwrap_or_default();
            beside.insert("later".to_owned(), unknown());
            vec![json!({ "later": unknown() }), Json::Object(beside)]
        }
        _ => Vec::new(),
    }
}

/// A value that fits the type well enough to get to the provider.
fn some(ty: &Type) -> Json {
    match ty {
        Type::Bool => json!(true),
        Type::String => json!("x"),
        Type::Number => json!(1),
        Type::List(_) | Type::Set(_) => json!([]),
        _ => json!({}),
    }
}

fn wrong(ty: &Type) -> Json {
    if matches!(ty, Type::List(_) | Type::Set(_)) { json!(7) } else { json!([[1]]) }
}

fn told_well(told: &Diagnostics, what: &str) -> String {
    let text = told.to_string();
    // A text that was cut ends in three.
    assert!(!text.replace("...", "").contains(".."), "{what}: {text}");
    for internal in ["panic", "report", "mistake in the provider"] {
        assert!(!text.contains(internal), "{what}: {text}");
    }
    text
}

/// Refused at the attribute itself, or inside it.
fn refused_at(told: &Diagnostics, path: &str, what: &str) {
    let text = told_well(told, what);
    let at: Vec<_> = told.iter().filter_map(|one| one.path()).map(ToString::to_string).collect();
    assert!(at.iter().any(|at| at.starts_with(path)), "{what} is refused at {at:?}: {text}");
}

/// Refused somewhere in the attribute at the top.
fn refused_near(told: &Diagnostics, path: &str, what: &str) {
    refused_at(told, path.split(['.', '[']).next().unwrap_or(path), what);
}

/// Attributes of which their object has one.
const ONE_OF: [(&str, &str); 3] = [
    ("fairmazon_volume", "source.snapshot_id"),
    ("fairmazon_volume", "source.volume_id"),
    ("fairmazon_volume", "source.image"),
];

async fn each(kind: Kind, name: &str, schema: &Schema, full: Json, subject: &mut Subject) {
    subject.ask(kind, name, full.clone()).await.unwrap_or_else(|told| panic!("{name}: {told}"));
    let mut elements = 0;
    for Place { steps, path, attribute, hidden } in places(schema) {
        let what = |what: &str| format!("{name}: {path} {what}");
        let with = |value: Json| {
            let mut config = full.clone();
            put(&mut config, &steps, value);
            config
        };
        if hidden {
            continue;
        }
        if is_read_only(&attribute) {
            let mut values = vec![some(attribute.ty())];
            // Only resources are asked while values are unknown.
            values.extend((kind == Kind::Resource).then(unknown));
            for value in values {
                let told = subject.ask(kind, name, with(value)).await;
                refused_at(&told.unwrap_err(), &path, &what("set by the user"));
            }
            continue;
        }
        // Everything else is asked only when all is known.
        if matches!(kind, Kind::Resource | Kind::Provider) {
            let told = subject.ask(kind, name, with(unknown())).await.err();
            assert!(told.is_none(), "{}: {told:?}", what("unknown"));
            for value in with_unknown_elements(attribute.ty(), at(&full, &steps)) {
                let what = what(&format!("{value}, with an unknown element"));
                let told = subject.ask(kind, name, with(value)).await.err();
                assert!(told.is_none(), "{what}: {told:?}");
                elements += 1;
            }
        }
        match subject.ask(kind, name, with(Json::Null)).await {
            Ok(()) => {
                assert!(!attribute.is_required(), "{}", what("null"));
                let applied = subject.apply(kind, name, with(Json::Null)).await;
                assert!(applied.is_ok(), "{}: {applied:?}", what("null"));
            }
            Err(told) if attribute.is_required() => refused_at(&told, &path, &what("null")),
            // One of those that stand together has to be set.
            Err(told) if ONE_OF.contains(&(name, &path)) => {
                assert!(told_well(&told, &what("null")).contains("one of"), "{told}");
            }
            // The provider needs some of its settings from somewhere.
            Err(told) if kind == Kind::Provider => drop(told_well(&told, &what("null"))),
            Err(told) => panic!("{}: {told}", what("null")),
        }
        for value in strange(attribute.ty()) {
            let shown: String = value.to_string().chars().take(40).collect();
            let what = what(&shown);
            let asked = subject.ask(kind, name, with(value.clone())).await;
            let done = match asked {
                Ok(()) => subject.apply(kind, name, with(value.clone())).await,
                refused => refused,
            };
            let nulls = attribute.nested_objects().is_some() && shown.contains("null");
            match done {
                Ok(()) => assert!(!nulls, "{what} is accepted"),
                Err(told) if nulls => refused_at(&told, &path, &what),
                // Two settings that exclude each other are both named in the text.
                Err(told) if kind == Kind::Provider => {
                    assert!(told_well(&told, &what).contains(&path), "{what}: {told}");
                }
                Err(told) => refused_near(&told, &path, &what),
            }
        }
        let told = subject.ask(kind, name, with(wrong(attribute.ty()))).await;
        let text = told_well(&told.unwrap_err(), &what("of the wrong type"));
        assert!(text.contains(steps[0].as_str().unwrap()), "{}: {text}", what("of wrong type"));
    }
    // Each has labels, if nothing else.
    let asked = matches!(kind, Kind::Resource | Kind::Provider);
    assert_eq!(elements > 0, asked, "{name}: {elements} values with unknown elements");
}

async fn subject(broker: &Broker) -> Subject {
    Subject { client: broker.harness().await, made: 0 }
}

#[tokio::test]
async fn of_the_resources() {
    let broker = Broker::start().await;
    let mut subject = subject(&broker).await;
    let offers = provider().offers();
    for (name, schema, _) in offers.resources() {
        let mut config = full(name);
        if name == "fairmazon_snapshot" {
            let volume = full("fairmazon_volume");
            let made = subject.client.apply("fairmazon_volume.of", volume).await;
            config["volume_id"] = made.unwrap().state["id"].clone();
        }
        each(Kind::Resource, name, &schema, config, &mut subject).await;
    }
}

#[tokio::test]
async fn of_the_provider_block() {
    let broker = Broker::start().await;
    let mut subject = subject(&broker).await;
    let mut block = broker.block();
    block["default_labels"] = json!({ "a": "b" });
    block["max_price_per_hour"] = json!("1.0");
    each(Kind::Provider, "provider", &provider().schema(), block, &mut subject).await;
}

#[tokio::test]
async fn of_data_sources_lists_the_token_and_the_actions() {
    let broker = Broker::start().await;
    let mut subject = subject(&broker).await;
    let made = subject.client.apply("fairmazon_instance.a", crate::common::machine()).await;
    let id = made.unwrap().state["id"].clone();
    let data = json!({ "name": "data", "size_gib": 1 });
    let volume = subject.client.apply("fairmazon_volume.data", data).await.unwrap().state;
    let offers = provider().offers();
    let labels = |schema: &Schema| match schema.attributes().iter().any(|it| it.name() == "labels")
    {
        true => json!({ "labels": { "a": "b" } }),
        false => json!({}),
    };
    for (name, schema) in offers.data_sources() {
        each(Kind::DataSource, name, &schema, labels(&schema), &mut subject).await;
    }
    for (name, schema) in offers.lists() {
        each(Kind::List, name, &schema, labels(&schema), &mut subject).await;
    }
    for (name, schema) in offers.ephemerals() {
        let full = json!({ "name": "t", "role": "customer", "lifetime_seconds": 60 });
        each(Kind::Ephemeral, name, &schema, full, &mut subject).await;
    }
    for (name, schema) in offers.actions() {
        let full = match name {
            "fairmazon_snapshot" => {
                json!({ "volume_id": volume["id"], "name": "then", "labels": { "a": "b" } })
            }
            _ => json!({ "instance_id": id }),
        };
        each(Kind::Action, name, &schema, full, &mut subject).await;
    }
}

#[tokio::test]
async fn of_the_functions() {
    let broker = Broker::start().await;
    let client = broker.harness().await;
    let offers = provider().offers();
    for (name, signature) in offers.functions() {
        let types: Vec<_> = signature.parameters().map(|(_, ty, _)| ty.clone()).collect();
        let good: Vec<_> = types.iter().map(some).collect();
        for (index, ty) in types.iter().enumerate() {
            let with = |value: Json| {
                let mut arguments = good.clone();
                arguments[index] = value;
                arguments
            };
            for value in strange(ty).into_iter().chain([Json::Null]) {
                if let Err(told) = client.call(name, with(value)).await {
                    told_well(&told, name);
                }
            }
            assert!(client.call(name, with(wrong(ty))).await.is_err(), "{name}: {index}");
        }
    }
}
