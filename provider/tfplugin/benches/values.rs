//! What one resource costs in a plan where everything is up to date: its configuration and
//! states decoded, planned, read into a model and written back. Prints one line a figure.
//!
//! `cargo bench -p tfplugin --bench values [-- ROUNDS]`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints and may stop at the first surprise"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tfplugin::codec::{json, msgpack};
use tfplugin::schema::validators::{length, name, one_of, range};
use tfplugin::{Attr, Attribute, Schema, Type, Value, from_value, plan, rules, to_value, validate};

#[derive(Deserialize, Serialize)]
struct Disk {
    size_gib: u64,
    class: String,
}

#[derive(Deserialize, Serialize)]
struct Machine {
    id: Attr<String>,
    name: String,
    flavor: String,
    image: String,
    boot: Option<Disk>,
    volumes: BTreeMap<String, Disk>,
    labels: BTreeMap<String, String>,
    keys: Vec<String>,
    power_state: Attr<String>,
    state: Attr<String>,
    site: Attr<String>,
    country: Attr<String>,
    price_per_hour: Attr<String>,
    price_per_month: Attr<String>,
    created_at: Attr<String>,
    deletion_protection: Attr<bool>,
}

fn schema() -> Schema {
    let disk = || {
        [
            Attribute::integer("size_gib").required().validate(range(1..=4096)),
            Attribute::string("class").default("ssd").validate(one_of(["hdd", "ssd"])),
        ]
    };
    let kept = |name: &str| Attribute::string(name).computed().use_state_for_unknown();
    Schema::builder()
        .attribute(kept("id"))
        .attribute(Attribute::string("name").required().validate(name(63)))
        .attribute(Attribute::string("flavor").required())
        .attribute(Attribute::string("image").required().requires_replace())
        .attribute(Attribute::nested("boot", disk()).optional())
        .attribute(Attribute::nested_map("volumes", disk()).optional())
        .attribute(Attribute::map("labels", Type::String).optional())
        .attribute(Attribute::set("keys", Type::String).optional().validate(length(..=16)))
        .attribute(Attribute::string("power_state").default("running"))
        .attribute(Attribute::string("state").computed())
        .attributes(["site", "country", "created_at"].map(kept))
        .attributes(
            ["price_per_hour", "price_per_month"].map(|name| {
                Attribute::string(name).computed().recomputed_when(["flavor", "volumes"])
            }),
        )
        .attribute(Attribute::bool("deletion_protection").default(false))
        .build()
}

fn disk(size: i64, class: Value) -> Value {
    Value::object([("size_gib", size.into()), ("class", class)])
}

fn config() -> Value {
    let schema = schema();
    let names = schema.object_type().as_object().unwrap().iter();
    let mut config = Value::object(names.map(|(name, _)| (name.clone(), Value::Null)));
    config.set_member("name", "bench-machine-0001");
    config.set_member("flavor", "small");
    config.set_member("image", "alpine-3.22");
    config.set_member("boot", disk(20, Value::Null));
    config.set_member("volumes", Value::map([("data", disk(100, Value::Null))]));
    config.set_member("labels", Value::map([("env", "bench".into()), ("team", "a".into())]));
    config.set_member("keys", Value::set(["ssh-ed25519 AAAA one".into(), "two".into()]));
    config
}

fn prior() -> Value {
    let mut state = plan::plan(&schema(), &Value::Null, &config(), &config()).state;
    for (name, value) in state.as_members_mut().unwrap() {
        if value.is_unknown() {
            *value = format!("{name} of the machine").into();
        }
    }
    state
}

fn measure(what: &str, rounds: u32, mut run: impl FnMut()) {
    run();
    let start = Instant::now();
    for _ in 0..rounds {
        run();
    }
    println!("{what}: {:.2} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
}

fn main() {
    let rounds = std::env::args().filter_map(|argument| argument.parse().ok()).next();
    let rounds = rounds.unwrap_or(20_000);
    let (schema, config, prior) = (schema(), config(), prior());
    let ty = schema.object_type();
    let packed = msgpack::encode(&prior, ty).unwrap();
    let stored = json::encode(&prior, ty).unwrap();
    let packed_config = msgpack::encode(&config, ty).unwrap();
    let model: Machine = from_value(&prior).unwrap();
    let (packed, stored, packed_config) =
        (packed.as_slice(), stored.as_slice(), packed_config.as_slice());
    println!("a state of {} bytes in msgpack, {} in JSON", packed.len(), stored.len());

    measure("msgpack decode", rounds, || drop(black_box(msgpack::decode(packed, ty))));
    measure("msgpack encode", rounds, || drop(black_box(msgpack::encode(&prior, ty))));
    measure("json decode", rounds, || drop(black_box(json::decode_lenient(stored, ty))));
    measure("into a model", rounds, || drop(black_box(from_value::<Machine>(&prior))));
    measure("out of a model", rounds, || drop(black_box(to_value(&model, ty))));
    measure("validate", rounds, || drop(black_box(validate::config(&schema, &config))));
    measure("plan", rounds, || drop(black_box(plan::plan(&schema, &prior, &prior, &config))));
    measure("check of a plan", rounds, || {
        drop(black_box(rules::plan(&schema, &prior, &config, &prior)));
    });
    measure("all that one resource costs in a plan without changes", rounds, || {
        // Validate, upgrade, read, plan.
        let config = msgpack::decode(packed_config, ty).unwrap();
        black_box(validate::config(&schema, &config));
        let upgraded = json::decode_lenient(stored, ty).unwrap();
        black_box(msgpack::encode(&upgraded, ty).unwrap());
        let current = msgpack::decode(packed, ty).unwrap();
        let model: Machine = from_value(&current).unwrap();
        black_box(msgpack::encode(&to_value(&model, ty).unwrap(), ty).unwrap());
        let prior = msgpack::decode(packed, ty).unwrap();
        let proposed = msgpack::decode(packed, ty).unwrap();
        let config = msgpack::decode(packed_config, ty).unwrap();
        let planned = plan::plan(&schema, &prior, &proposed, &config);
        black_box(from_value::<Machine>(&planned.state).is_ok());
        black_box(msgpack::encode(&planned.state, ty).unwrap());
    });
}
