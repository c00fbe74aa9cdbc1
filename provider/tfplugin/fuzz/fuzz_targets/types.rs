//! Reads anything as the JSON form of a type; what is one must survive the way back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tfplugin::Type;

fuzz_target!(|input: &[u8]| {
    let Ok(ty) = Type::from_json(input) else { return };
    assert_eq!(Type::from_json(&ty.to_json()).expect("a type's own form is a type"), ty);
});
