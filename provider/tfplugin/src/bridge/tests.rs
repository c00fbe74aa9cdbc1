//! Both halves together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bigdecimal::BigDecimal;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::arbitrary::{Unknowns, any_typed};
use crate::value::Number;

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Power {
    Running,
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Disk {
    size_gib: u64,
    class: Attr<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Machine {
    name: String,
    power: Option<Power>,
    boot: Option<Disk>,
    disks: BTreeMap<String, Disk>,
    keys: BTreeSet<String>,
    ports: Attr<Vec<Attr<u16>>>,
    weight: f64,
    #[serde(with = "crate::decimal")]
    price: BigDecimal,
    exact: Number,
    extra: serde_json::Value,
}

fn machine_type() -> Type {
    let disk = Type::object([("size_gib", Type::Number), ("class", Type::String)]);
    Type::object([
        ("name", Type::String),
        ("power", Type::String),
        ("boot", disk.clone()),
        ("disks", Type::map(disk)),
        ("keys", Type::set(Type::String)),
        ("ports", Type::list(Type::Number)),
        ("weight", Type::Number),
        ("price", Type::Number),
        ("exact", Type::Number),
        ("extra", Type::Dynamic),
        ("id", Type::String),
    ])
}

fn machine() -> Machine {
    Machine {
        name: "web".to_owned(),
        power: Some(Power::Stopped),
        boot: None,
        disks: [("data".to_owned(), Disk { size_gib: 10, class: Attr::Unknown })].into(),
        keys: ["b".to_owned(), "a".to_owned()].into(),
        ports: Attr::Value(vec![Attr::Value(80), Attr::Unknown, Attr::Null]),
        weight: 0.1,
        price: "0.0123456789012345678901234567890".parse().unwrap(),
        exact: u64::MAX.into(),
        extra: serde_json::json!({"a": [1, null, "x"], "b": {"c": true, "d": 0.5}}),
    }
}

fn value() -> Value {
    let number = |text: &str| Value::Number(text.parse().unwrap());
    let inner = Type::object([("c", Type::Bool), ("d", Type::Number)]);
    let list = Type::tuple([Type::Number, Type::Dynamic, Type::String]);
    let extra = Value::object([
        ("a", Value::tuple([1.into(), Value::Null, "x".into()])),
        ("b", Value::object([("c", true.into()), ("d", number("0.5"))])),
    ]);
    let disk = Value::object([("size_gib", 10.into()), ("class", Value::UNKNOWN)]);
    Value::object([
        ("name", "web".into()),
        ("power", "stopped".into()),
        ("boot", Value::Null),
        ("disks", Value::map([("data", disk)])),
        ("keys", Value::set(["a".into(), "b".into()])),
        ("ports", Value::list([80.into(), Value::UNKNOWN, Value::Null])),
        ("weight", number("0.1")),
        ("price", number("0.0123456789012345678901234567890")),
        ("exact", u64::MAX.into()),
        ("extra", Value::dynamic(Type::object([("a", list), ("b", inner)]), extra)),
        ("id", Value::Null),
    ])
}

#[test]
fn a_model_goes_both_ways() {
    assert_eq!(value().conforms_to(&machine_type()), Ok(()));
    assert_eq!(to_value(&machine(), &machine_type()).unwrap(), value());
    assert_eq!(from_value::<Machine>(&value()).unwrap(), machine());
}

fn fault(path: &str, wrong: Value) -> String {
    let mut value = value();
    let target = path
        .split('.')
        .fold(&mut value, |value, name| value.as_members_mut().unwrap().get_mut(name).unwrap());
    *target = wrong;
    from_value::<Machine>(&value).unwrap_err().to_string()
}

#[test]
fn what_does_not_fit_is_named() {
    let unknown = "the value is not known yet, and must be here";
    assert_eq!(fault("name", Value::UNKNOWN), format!("name: {unknown}"));
    assert_eq!(fault("power", Value::UNKNOWN), format!("power: {unknown}"));
    assert_eq!(fault("name", Value::Null), "name: expected a string, but it is not set");
    assert_eq!(fault("name", 1.into()), "name: expected a string, found a number");
    assert_eq!(
        fault("disks.data.size_gib", Value::from(-1)),
        r#"disks["data"].size_gib: the number is too large or too small for an integer of its kind"#
    );
    let half: Number = "0.5".parse().unwrap();
    assert_eq!(
        fault("ports", Value::list([half.into()])),
        "ports[0]: the number is not whole for an integer of its kind"
    );
    assert_eq!(fault("power", "paused".into()), "power: must be one of running, stopped");
    assert_eq!(fault("keys", Value::set([Value::UNKNOWN])), format!("keys[*]: {unknown}"));
    let extra = Value::dynamic(Type::list(Type::Bool), Value::list([Value::UNKNOWN]));
    assert_eq!(fault("extra", extra), format!("extra[0]: {unknown}"));
}

#[test]
fn what_the_type_lacks_is_named() {
    let ty = Type::object([("size_gib", Type::Number), ("class", Type::Number)]);
    let disk = Disk { size_gib: 1, class: "ssd".into() };
    let error = to_value(&disk, &ty).unwrap_err().to_string();
    assert_eq!(error, "class: the type is number, the field holds a string");
    let ty = Type::list(Type::object([("size_gib", Type::Number)]));
    let error = to_value(&[disk], &ty).unwrap_err().to_string();
    assert_eq!(error, "[0].class: the schema has no attribute for this field");
    assert!(to_value(&f64::NAN, &Type::Number).is_err());
    assert!(to_value(&(1, 2, 3), &Type::tuple([Type::Number, Type::Number])).is_err());
    assert!(to_value(&(1,), &Type::tuple([Type::Number, Type::Number])).is_err());
}

#[test]
fn variants_with_content_are_objects() {
    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Source {
        Image(String),
        Snapshot(String),
    }
    let ty = Type::object([("image", Type::String), ("snapshot", Type::String)]);
    let value = to_value(&Source::Snapshot("s".to_owned()), &ty).unwrap();
    let expected = Value::object([("image", Value::Null), ("snapshot", "s".into())]);
    assert_eq!(value, expected);
    assert_eq!(from_value::<Source>(&value).unwrap(), Source::Snapshot("s".to_owned()));
    assert!(from_value::<Source>(&Value::object([("image", Value::Null)])).is_err());
    let image: Source = from_value(&Value::object([("image", "i".into())])).unwrap();
    assert_eq!(image, Source::Image("i".to_owned()));
}

#[test]
fn maps_take_other_keys_and_wrappers_nest() {
    let counts: HashMap<u32, Option<bool>> = [(1, None), (2, Some(true))].into();
    let value = to_value(&counts, &Type::map(Type::Bool)).unwrap();
    assert_eq!(value, Value::map([("1", Value::Null), ("2", true.into())]));
    let back: BTreeMap<String, Attr<bool>> = from_value(&value).unwrap();
    assert_eq!(back["2"], Attr::Value(true));
    let nested: Attr<Attr<bool>> = from_value(&Value::UNKNOWN).unwrap();
    assert_eq!(nested, Attr::Unknown);
    let whole: Attr<Disk> = from_value(&Value::UNKNOWN).unwrap();
    assert!(whole.is_unknown());
}

#[test]
fn errors_do_not_quote_values() {
    let mut secret = value();
    secret.set_member("name", 4242);
    secret.set_member("power", "hunter2");
    let error = from_value::<Machine>(&secret).unwrap_err().to_string();
    assert!(!error.contains("4242") && !error.contains("hunter2"), "{error}");
    let error = from_value::<char>(&"hunter2".into()).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

proptest! {
    #[test]
    fn any_known_value_is_read_as_json((_, value) in any_typed(Unknowns::None)) {
        let _: serde_json::Value = from_value(&value).unwrap();
    }

    #[test]
    fn json_survives_a_dynamic_place(text in "[a-z]{0,4}", int: i64, float in -1e9..1e9, truth: bool) {
        let json = serde_json::json!([text, {"a": int, "b": [float, null]}, truth, {}]);
        let value = to_value(&json, &Type::Dynamic).unwrap();
        prop_assert_eq!(value.conforms_to(&Type::Dynamic), Ok(()));
        let back: serde_json::Value = from_value(&value).unwrap();
        let close = |a: &serde_json::Value| a[1]["b"][0].as_f64().unwrap();
        prop_assert_eq!(close(&back), close(&json));
        prop_assert_eq!(&back[0], &json[0]);
        prop_assert_eq!(&back[1]["a"], &json[1]["a"]);
    }

    #[test]
    fn any_model_survives(
        size_gib: u64,
        class in prop_oneof![
            Just(Attr::Null), Just(Attr::Unknown), ".*".prop_map(Attr::Value)
        ],
    ) {
        let ty = Type::object([("size_gib", Type::Number), ("class", Type::String)]);
        let disk = Disk { size_gib, class };
        let value = to_value(&disk, &ty).unwrap();
        prop_assert_eq!(value.conforms_to(&ty), Ok(()));
        prop_assert_eq!(from_value::<Disk>(&value).unwrap(), disk);
    }
}
