//! Decodes anything as JSON of any type; what decodes must survive the way back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tfplugin::{Type, codec::json};

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(ty) = Type::from_json(&input[..end]) else { return };
    let lenient = json::decode_lenient(&input[end + 1..], &ty);
    let Ok(value) = json::decode(&input[end + 1..], &ty) else { return };
    assert_eq!(lenient.expect("leniency accepts more, not less"), value);
    assert_eq!(value.conforms_to(&ty), Ok(()));
    let bytes = json::encode(&value, &ty).expect("a decoded value has its type");
    assert_eq!(json::decode(&bytes, &ty).expect("encoded bytes decode"), value);
});
