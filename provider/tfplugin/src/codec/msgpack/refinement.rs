//! Unknown values: an extension, with or without promises about the value to come.

use rmp::Marker;

use super::super::error::DecodeFault;
use super::encode;
use super::reader::Reader;
use crate::value::{Bound, Refinements, Value};

/// The extension code of an unknown value with promises.
const REFINED: i8 = 12;
/// Clients refuse longer payloads.
const MAX_PAYLOAD_BYTES: usize = 1024;
/// Clients cut string prefixes to this length as well; a shorter promise is still true.
const MAX_PREFIX_BYTES: usize = 256;

const NOT_NULL: u64 = 1;
const STRING_PREFIX: u64 = 2;
const NUMBER_MIN: u64 = 3;
const NUMBER_MAX: u64 = 4;
const LENGTH_MIN: u64 = 5;
const LENGTH_MAX: u64 = 6;

/// The unknown value that an extension stands for.
pub(super) fn read(code: i8, payload: &[u8]) -> Result<Value, DecodeFault> {
    if code != REFINED {
        return Ok(Value::UNKNOWN);
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(DecodeFault::TooLarge);
    }
    let mut reader = Reader::new(payload);
    let marker = reader.marker()?;
    let entries = reader.map_len(marker)?;
    let mut refinements = Refinements::default();
    for _ in 0..entries {
        let marker = reader.marker()?;
        match reader.number(marker)?.as_u64() {
            Some(NOT_NULL) => refinements.not_null = reader.marker()? == Marker::False,
            Some(STRING_PREFIX) => {
                let marker = reader.marker()?;
                refinements.string_prefix = Some(reader.text(marker)?.to_owned());
            }
            Some(NUMBER_MIN) => refinements.number_min = Some(read_bound(&mut reader)?),
            Some(NUMBER_MAX) => refinements.number_max = Some(read_bound(&mut reader)?),
            Some(LENGTH_MIN) => refinements.length_min = Some(read_length(&mut reader)?),
            Some(LENGTH_MAX) => refinements.length_max = Some(read_length(&mut reader)?),
            // Promises of a later protocol: not needed to be right.
            _ => reader.skip()?,
        }
    }
    Ok(Value::unknown(refinements))
}

fn read_bound(reader: &mut Reader<'_>) -> Result<Bound, DecodeFault> {
    let marker = reader.marker()?;
    let found = reader.array_len(marker)?;
    if found != 2 {
        return Err(DecodeFault::Length { expected: 2, found });
    }
    let marker = reader.marker()?;
    let number = reader.number(marker)?;
    Ok(Bound { number, inclusive: reader.marker()? == Marker::True })
}

fn read_length(reader: &mut Reader<'_>) -> Result<u64, DecodeFault> {
    let marker = reader.marker()?;
    let expected = DecodeFault::Expected { expected: "a length", found: "another number" };
    reader.number(marker)?.as_u64().ok_or(expected)
}

/// Writes an unknown value.
pub(super) fn write(refinements: Option<&Refinements>, out: &mut Vec<u8>) {
    let payload = refinements.map(encode_payload).unwrap_or_default();
    // What does not fit is not promised: an unrefined unknown is always true.
    if payload.is_empty() || payload.len() > MAX_PAYLOAD_BYTES {
        out.extend([Marker::FixExt1.to_u8(), 0, 0]);
    } else {
        encode::extension(REFINED, &payload, out);
    }
}

fn encode_payload(refinements: &Refinements) -> Vec<u8> {
    let mut entries = 0_u32;
    let mut body = Vec::new();
    let mut key = |key: u64, body: &mut Vec<u8>| {
        entries += 1;
        encode::uint(key, body);
    };
    if refinements.not_null {
        key(NOT_NULL, &mut body);
        encode::bool(false, &mut body);
    }
    if let Some(prefix) = &refinements.string_prefix {
        key(STRING_PREFIX, &mut body);
        encode::text(&prefix[..prefix.floor_char_boundary(MAX_PREFIX_BYTES)], &mut body);
    }
    let bounds = [(NUMBER_MIN, &refinements.number_min), (NUMBER_MAX, &refinements.number_max)];
    for (code, bound) in bounds {
        if let Some(bound) = bound {
            key(code, &mut body);
            encode::array_len(2, &mut body);
            encode::number(&bound.number, &mut body);
            encode::bool(bound.inclusive, &mut body);
        }
    }
    let lengths = [(LENGTH_MIN, refinements.length_min), (LENGTH_MAX, refinements.length_max)];
    for (code, length) in lengths {
        if let Some(length) = length {
            key(code, &mut body);
            encode::uint(length, &mut body);
        }
    }
    let mut payload = Vec::new();
    if entries > 0 {
        encode::map_len(entries, &mut payload);
        payload.append(&mut body);
    }
    payload
}
