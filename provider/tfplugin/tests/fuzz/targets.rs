//! What each fuzz target does with its input. The tests beside this do the same with the seeds and
//! with what is made of them at random; the fuzz targets have it as their library.

use tfplugin::{
    Type,
    codec::{json, msgpack},
};

/// The type and the bytes of an input: the JSON form of a type, a line feed, and the rest.
fn parts(input: &[u8]) -> Option<(Type, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    Some((Type::from_json(&input[..end]).ok()?, &input[end + 1..]))
}

/// Decodes anything as JSON of any type; what decodes must survive the way back.
pub fn decode_json(input: &[u8]) {
    let Some((ty, bytes)) = parts(input) else { return };
    let lenient = json::decode_lenient(bytes, &ty);
    let Ok(value) = json::decode(bytes, &ty) else { return };
    assert_eq!(lenient.expect("leniency accepts more, not less"), value);
    assert_eq!(value.conforms_to(&ty), Ok(()));
    let bytes = json::encode(&value, &ty).expect("a decoded value has its type");
    assert_eq!(json::decode(&bytes, &ty).expect("encoded bytes decode"), value);
}

/// Decodes anything as msgpack of any type; what decodes must survive the way back.
pub fn decode_msgpack(input: &[u8]) {
    let Some((ty, bytes)) = parts(input) else { return };
    let Ok(value) = msgpack::decode(bytes, &ty) else { return };
    assert_eq!(value.conforms_to(&ty), Ok(()));
    let bytes = msgpack::encode(&value, &ty).expect("a decoded value has its type");
    // Promises too long for the wire are weakened once, and stay as they are from then on.
    let weakened = msgpack::decode(&bytes, &ty).expect("encoded bytes decode");
    let again = msgpack::encode(&weakened, &ty).expect("a decoded value has its type");
    assert_eq!(msgpack::decode(&again, &ty).expect("encoded bytes decode"), weakened);
    if value.is_wholly_known() {
        assert_eq!(weakened, value);
    }
}

/// Reads anything as the JSON form of a type; what is one must survive the way back.
pub fn read_type(input: &[u8]) {
    let Ok(ty) = Type::from_json(input) else { return };
    assert_eq!(Type::from_json(&ty.to_json()).expect("a type's own form is a type"), ty);
}
