//! The schema is sound, and it is what it was: others depend on every part of it.
//!
//! `FAIRMAZON_WRITE_GOLDEN=1 cargo nextest run -p terraform-provider-fairmazon golden` writes the
//! golden file anew; the difference is for the reviewer.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value as Json, json};
use tfplugin::{
    Provider as _, Schema,
    harness::Harness,
    schema::{Attribute, Body, Replace},
};

use crate::common::provider;

#[tokio::test]
async fn every_schema_is_sound() {
    Harness::new(provider()).check_schemas().await.unwrap();
}

#[test]
fn every_attribute_is_described() {
    fn check(of: &str, body: &Body) {
        for attribute in body.attributes() {
            let name = attribute.name();
            assert!(!attribute.description().is_empty(), "{of}.{name} has no description");
            if let Some(inner) = attribute.body() {
                check(&format!("{of}.{name}"), inner);
            }
        }
    }
    let offers = provider().offers();
    check("provider", provider().schema().body());
    for (name, schema, _) in offers.resources() {
        check(name, schema.body());
    }
    for (name, schema) in offers.data_sources().chain(offers.ephemerals()) {
        check(name, schema.body());
    }
    for (name, schema) in offers.lists().chain(offers.actions()) {
        check(name, schema.body());
    }
}

#[test]
fn timeouts_say_what_becomes_of_what_they_are_of() {
    let mut found = Vec::new();
    for (name, schema, _) in provider().offers().resources() {
        let Some(timeouts) = schema.attributes().iter().find(|it| it.name() == "timeouts") else {
            continue;
        };
        let about = timeouts.description().to_owned();
        let noun = name.replace("fairmazon_instance", "machine").replace("fairmazon_", "");
        assert!(about.contains(&format!("a {noun} that takes longer to create")), "{about}");
        // Volumes and snapshots wait for no place.
        assert_eq!(about.contains("found no place"), noun == "machine", "{about}");
        found.push(noun);
    }
    assert_eq!(found, ["machine", "volume", "snapshot"]);
}

fn flags(attribute: &Attribute) -> Vec<&'static str> {
    let all = [
        (attribute.is_required(), "required"),
        (attribute.is_optional(), "optional"),
        (attribute.is_computed(), "computed"),
        (attribute.is_sensitive(), "sensitive"),
        (attribute.is_write_only(), "write_only"),
    ];
    all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

fn body(body: &Body) -> Json {
    let mut members = Map::new();
    for attribute in body.attributes() {
        let mut one = json!({ "flags": flags(attribute) });
        match attribute.nested_objects() {
            Some((nesting, inner)) => {
                one["nesting"] = json!(format!("{nesting:?}").to_lowercase());
                one["attributes"] = self::body(inner);
            }
            None => {
                one["type"] = serde_json::from_slice(&attribute.ty().to_json()).unwrap();
            }
        }
        if let Some(default) = attribute.default_value() {
            one["default"] = json!(default.to_string());
        }
        match attribute.replace() {
            Replace::Never => {}
            Replace::Always => one["replaces"] = json!("always"),
            Replace::When { describe, .. } => one["replaces"] = json!(&**describe),
        }
        if let Some(allowed) = attribute.allowed_values() {
            one["allowed"] = json!(allowed);
        }
        members.insert(attribute.name().to_owned(), one);
    }
    Json::Object(members)
}

fn schema(schema: &Schema) -> Json {
    json!({ "version": schema.version(), "attributes": body(schema.body()) })
}

fn whole() -> Json {
    let (provider, offers) = (provider(), provider().offers());
    let named = |all: Vec<(&'static str, Schema)>| {
        Json::Object(all.iter().map(|(name, one)| ((*name).to_owned(), schema(one))).collect())
    };
    let functions: Map<_, _> = offers
        .functions()
        .map(|(name, signature)| {
            let ty =
                |ty: &tfplugin::Type| -> Json { serde_json::from_slice(&ty.to_json()).unwrap() };
            let parameters: Vec<_> = signature
                .parameters()
                .map(|(name, parameter, _)| json!({ "name": name, "type": ty(parameter) }))
                .collect();
            let one = json!({ "parameters": parameters, "returns": ty(signature.result_type()) });
            (name.to_owned(), one)
        })
        .collect();
    json!({
        "provider": schema(&provider.schema()),
        "resources": named(offers.resources().map(|(name, one, _)| (name, one)).collect()),
        "data_sources": named(offers.data_sources().collect()),
        "ephemeral_resources": named(offers.ephemerals().collect()),
        "list_resources": named(offers.lists().collect()),
        "actions": named(offers.actions().collect()),
        "functions": functions,
    })
}

#[test]
fn golden() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/provider/schema.json");
    let now = serde_json::to_string_pretty(&whole()).unwrap() + "\n";
    if std::env::var_os("FAIRMAZON_WRITE_GOLDEN").is_some() {
        fs::write(&path, &now).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(now == golden, "the schema is not what {} says", path.display());
}
