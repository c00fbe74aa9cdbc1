//! What both codecs promise, and what only one of them does.

use proptest::prelude::*;

use super::*;
use crate::arbitrary::{Unknowns, any_type, any_typed};
use crate::types::Type;
use crate::value::{Number, Refinements, Value};

proptest! {
    #[test]
    fn any_value_survives_msgpack((ty, value) in any_typed(Unknowns::Allowed)) {
        prop_assert_eq!(value.conforms_to(&ty), Ok(()));
        let bytes = msgpack::encode(&value, &ty).unwrap();
        prop_assert_eq!(msgpack::decode(&bytes, &ty).unwrap(), value);
    }

    #[test]
    fn any_known_value_survives_json((ty, value) in any_typed(Unknowns::None)) {
        let bytes = json::encode(&value, &ty).unwrap();
        prop_assert_eq!(&json::decode(&bytes, &ty).unwrap(), &value);
        prop_assert_eq!(&json::decode_lenient(&bytes, &ty).unwrap(), &value);
        let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        // Other parsers agree that it is JSON, and their spelling of it reads the same unless
        // they round its numbers.
        if !bytes.iter().any(u8::is_ascii_digit) {
            let respelt = serde_json::to_vec_pretty(&parsed).unwrap();
            prop_assert_eq!(&json::decode(&respelt, &ty).unwrap(), &value);
        }
    }

    #[test]
    fn any_type_survives(ty in any_type()) {
        prop_assert_eq!(Type::from_json(&ty.to_json()).unwrap(), ty);
    }

    #[test]
    fn any_bytes_are_answered(bytes: Vec<u8>, ty in any_type()) {
        let _ = msgpack::decode(&bytes, &ty);
        let _ = json::decode(&bytes, &ty);
        let _ = json::decode_lenient(&bytes, &ty);
        let _ = Type::from_json(&bytes);
    }

    #[test]
    fn damaged_bytes_are_answered(
        (ty, value) in any_typed(Unknowns::Allowed),
        at: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = msgpack::encode(&value, &ty).unwrap();
        let length = bytes.len();
        prop_assert!(msgpack::decode(&bytes[..cut.index(length)], &ty).is_err());
        bytes[at.index(length)] = byte;
        if let Ok(value) = msgpack::decode(&bytes, &ty) {
            prop_assert_eq!(value.conforms_to(&ty), Ok(()));
        }
    }

    #[test]
    fn damaged_json_is_answered(
        (ty, value) in any_typed(Unknowns::None),
        at: prop::sample::Index,
        byte in prop::sample::select(b"{}[]\",:0 n\\".to_vec()),
    ) {
        let mut bytes = json::encode(&value, &ty).unwrap();
        let length = bytes.len();
        bytes[at.index(length)] = byte;
        if let Ok(value) = json::decode(&bytes, &ty) {
            prop_assert_eq!(value.conforms_to(&ty), Ok(()));
        }
        let _ = json::decode_lenient(&bytes, &ty);
    }
}

fn msgpack_fault(bytes: &[u8], ty: &Type) -> String {
    let error = msgpack::decode(bytes, ty).unwrap_err();
    format!("{}: {}", error.path, error.fault)
}

fn json_fault(text: &str, ty: &Type) -> String {
    let error = json::decode(text.as_bytes(), ty).unwrap_err();
    format!("{}: {}", error.path, error.fault)
}

#[test]
fn the_bytes_are_those_of_the_wire() {
    let encode = |value: Value, ty: &Type| msgpack::encode(&value, ty).unwrap();
    assert_eq!(encode(Value::Null, &Type::String), [0xc0]);
    assert_eq!(encode(Value::UNKNOWN, &Type::String), [0xd4, 0, 0]);
    assert_eq!(encode(Value::UNKNOWN, &Type::Dynamic), [0xd4, 0, 0]);
    assert_eq!(encode(7.into(), &Type::Number), [7]);
    assert_eq!(encode(Value::from(-33), &Type::Number), [0xd0, 0xdf]);
    let tenth: Number = "0.1".parse().unwrap();
    assert_eq!(encode(tenth.into(), &Type::Number), [0xa3, b'0', b'.', b'1']);
    let half: Number = "0.5".parse().unwrap();
    assert_eq!(encode(half.into(), &Type::Number), [0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]);
    let dynamic = Value::dynamic(Type::Bool, true.into());
    assert_eq!(
        encode(dynamic, &Type::Dynamic),
        [b"\x92\xc4\x06\"bool\"".as_slice(), &[0xc3]].concat()
    );
    let refined = Value::unknown(Refinements::not_null());
    assert_eq!(encode(refined, &Type::String), [0xc7, 3, 12, 0x81, 1, 0xc2]);
    let object = Type::object([("b", Type::Bool), ("a", Type::String)]);
    let value = Value::object([("b", true.into())]);
    assert_eq!(encode(value, &object), [0x82, 0xa1, b'a', 0xc0, 0xa1, b'b', 0xc3]);
}

#[test]
fn any_extension_is_unknown() {
    for bytes in [&[0xd4, 0, 0][..], &[0xd5, 99, 1, 2], &[0xc7, 0, 5], &[0xc8, 0, 1, 7, 9]] {
        assert_eq!(msgpack::decode(bytes, &Type::Bool).unwrap(), Value::UNKNOWN);
    }
    // A promise under a key of a later protocol is passed over.
    let bytes = [0xc7, 8, 12, 0x82, 77, 0x92, 1, 0xa1, b'x', 1, 0xc2];
    let refined = Value::unknown(Refinements::not_null());
    assert_eq!(msgpack::decode(&bytes, &Type::String).unwrap(), refined);
}

#[test]
fn promises_too_long_for_the_wire_are_weakened() {
    let prefix = "ü".repeat(1000);
    let value = Value::unknown(Refinements::default().prefix(prefix));
    let bytes = msgpack::encode(&value, &Type::String).unwrap();
    let Value::Unknown(Some(refinements)) = msgpack::decode(&bytes, &Type::String).unwrap() else {
        panic!("expected a refined unknown");
    };
    assert_eq!(refinements.string_prefix.unwrap(), "ü".repeat(128));
}

#[test]
fn faults_name_the_place() {
    let ty = Type::object([("volumes", Type::map(Type::object([("size", Type::Number)])))]);
    let bytes = [b"\x81\xa7volumes\x81\xa4data\x81\xa4size".as_slice(), &[0xc3]].concat();
    assert_eq!(
        msgpack_fault(&bytes, &ty),
        r#"volumes["data"].size: expected a number, found a bool"#
    );
    assert_eq!(
        json_fault(r#"{"volumes":{"data":{"size":true}}}"#, &ty),
        r#"volumes["data"].size: expected a number, found a bool"#
    );
    assert_eq!(msgpack_fault(&[0x80], &ty), "volumes: the attribute is missing");
    assert_eq!(json_fault("{}", &ty), "volumes: the attribute is missing");
    assert_eq!(json_fault(r#"{"x":1}"#, &ty), "x: there is no attribute of that name");
    let twice = r#"{"volumes":null,"volumes":null}"#;
    assert_eq!(json_fault(twice, &ty), "volumes: the name occurs twice");
    assert!(json_fault("{} x", &Type::object::<&str>([])).contains("left over"));
    assert!(msgpack_fault(&[0xc0, 0xc0], &ty).contains("left over"));
}

#[test]
fn lies_about_lengths_cost_nothing() {
    let list = Type::list(Type::Dynamic);
    assert!(msgpack_fault(&[0xdd, 0xff, 0xff, 0xff, 0xff], &list).contains("end inside"));
    let map = Type::map(Type::String);
    assert!(msgpack_fault(&[0xdf, 0xff, 0xff, 0xff, 0xff, 0xa0], &map).contains("end inside"));
    let text = [0xdb, 0xff, 0xff, 0xff, 0xff, b'x'];
    assert!(msgpack_fault(&text, &Type::String).contains("end inside"));
}

#[test]
fn limits_hold() {
    let nested = (0..200).fold(Type::Bool, |ty, _| Type::list(ty));
    let bytes = [vec![0x91; 200], vec![0xc3]].concat();
    assert!(msgpack_fault(&bytes, &nested).contains("deeper"));
    let text = format!("{}true{}", "[".repeat(200), "]".repeat(200));
    assert!(json_fault(&text, &nested).contains("deeper"));
    // Each level of dynamic repeats its type, so depth is reached by bytes, not by the type.
    let level = b"\x92\xc4\x09\"dynamic\"";
    let bytes = [level.repeat(200), vec![0xc0]].concat();
    assert!(msgpack_fault(&bytes, &Type::Dynamic).contains("deeper"));
    let many = u32::try_from(MAX_VALUES).unwrap() + 1;
    let mut bytes = vec![0xdd];
    bytes.extend(many.to_be_bytes());
    bytes.resize(bytes.len() + many as usize, 0xc0);
    assert!(msgpack_fault(&bytes, &Type::list(Type::Bool)).contains("more than"));
    assert!(msgpack_fault(&vec![0; MAX_BYTES + 1], &Type::Bool).contains("longer than"));
}

#[test]
fn lenient_json_forgives_what_upgrades_bring() {
    let ty = Type::object([("name", Type::String), ("port", Type::String), ("on", Type::Bool)]);
    let text = r#" {"gone": [1, {"x": "]"}], "port": 80, "on": "true" } "#;
    let value = json::decode_lenient(text.as_bytes(), &ty).unwrap();
    let expected =
        Value::object([("name", Value::Null), ("port", "80".into()), ("on", true.into())]);
    assert_eq!(value, expected);
}

#[test]
fn json_strings_are_read_to_the_letter() {
    let read = |text: &str| {
        json::decode(text.as_bytes(), &Type::String).map(|value| value.as_str().unwrap().to_owned())
    };
    assert_eq!(read(r#""a\n\"\u00e9\ud83d\ude00\/""#).unwrap(), "a\n\"é😀/");
    assert_eq!(read(r#""\ud83d!""#).unwrap(), "\u{fffd}!");
    for bad in [r#"""#, r#""\x""#, r#""\u12"#, "\"\n\"", r#""\u12g4""#, "'a'"] {
        assert!(read(bad).is_err(), "{bad}");
    }
    for bad in
        ["01", "1.", ".5", "+1", "1e", "--1", "NaN", "nul", "[1,]", "[1 2]", "{,}", "{\"a\"}"]
    {
        for ty in [Type::Number, Type::list(Type::Number), Type::map(Type::Number)] {
            assert!(json::decode(bad.as_bytes(), &ty).is_err(), "{bad} as {ty}");
        }
    }
}

#[test]
fn unknown_values_have_no_json() {
    let ty = Type::object([("a", Type::list(Type::String))]);
    let value = Value::object([("a", Value::list([Value::UNKNOWN]))]);
    let error = json::encode(&value, &ty).unwrap_err();
    assert_eq!(error.to_string(), "cannot encode a[0]: JSON cannot hold an unknown value");
    let error = msgpack::encode(&"x".into(), &ty).unwrap_err();
    assert!(error.to_string().contains("a string where object"), "{error}");
    let extra = Value::object([("b", Value::Null)]);
    assert!(msgpack::encode(&extra, &ty).is_err() && json::encode(&extra, &ty).is_err());
}

#[test]
fn dynamic_json_reads_in_either_order() {
    for text in [
        r#"{"type":["list","string"],"value":["a"]}"#,
        r#"{"value":["a"],"type":["list","string"]}"#,
    ] {
        let value = json::decode(text.as_bytes(), &Type::Dynamic).unwrap();
        let expected = Value::dynamic(Type::list(Type::String), Value::list(["a".into()]));
        assert_eq!(value, expected);
    }
    for bad in [r#"{"type":"bool"}"#, r#"{"type":"bool","value":1}"#, r#"{"type":1,"value":1}"#] {
        assert!(json::decode(bad.as_bytes(), &Type::Dynamic).is_err(), "{bad}");
    }
}
