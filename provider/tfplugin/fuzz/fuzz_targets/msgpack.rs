//! Decodes anything as msgpack of any type; what decodes must survive the way back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tfplugin::{Type, codec::msgpack};

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(ty) = Type::from_json(&input[..end]) else { return };
    let Ok(value) = msgpack::decode(&input[end + 1..], &ty) else { return };
    assert_eq!(value.conforms_to(&ty), Ok(()));
    let bytes = msgpack::encode(&value, &ty).expect("a decoded value has its type");
    // Promises too long for the wire are weakened once, and stay as they are from then on.
    let weakened = msgpack::decode(&bytes, &ty).expect("encoded bytes decode");
    let again = msgpack::encode(&weakened, &ty).expect("a decoded value has its type");
    assert_eq!(msgpack::decode(&again, &ty).expect("encoded bytes decode"), weakened);
    if value.is_wholly_known() {
        assert_eq!(weakened, value);
    }
});
