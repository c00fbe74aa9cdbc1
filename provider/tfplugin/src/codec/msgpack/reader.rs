//! Reads msgpack piece by piece from a slice. Knows the grammar, nothing of types.

use rmp::Marker;

use super::super::error::DecodeFault;
use crate::value::Number;

/// A position in encoded bytes.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn marker(&mut self) -> Result<Marker, DecodeFault> {
        Ok(Marker::from_u8(self.array::<1>()?[0]))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeFault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeFault::End)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeFault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeFault::End)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<usize, DecodeFault> {
        Ok(usize::from(self.array::<1>()?[0]))
    }

    fn u16(&mut self) -> Result<usize, DecodeFault> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn u32(&mut self) -> Result<usize, DecodeFault> {
        let length = u32::from_be_bytes(self.array()?);
        usize::try_from(length).map_err(|_| DecodeFault::End)
    }

    /// The text that `marker` begins, from a string or binary.
    pub(super) fn text(&mut self, marker: Marker) -> Result<&'a str, DecodeFault> {
        let bytes = self.bytes(marker)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeFault::Utf8)
    }

    /// The bytes that `marker` begins, from a string or binary.
    pub(super) fn bytes(&mut self, marker: Marker) -> Result<&'a [u8], DecodeFault> {
        let length = match marker {
            Marker::FixStr(length) => usize::from(length),
            Marker::Str8 | Marker::Bin8 => self.u8()?,
            Marker::Str16 | Marker::Bin16 => self.u16()?,
            Marker::Str32 | Marker::Bin32 => self.u32()?,
            other => return Err(expected("a string", other)),
        };
        self.take(length)
    }

    /// The number that `marker` begins.
    pub(super) fn number(&mut self, marker: Marker) -> Result<Number, DecodeFault> {
        let number = match marker {
            Marker::FixPos(int) => int.into(),
            Marker::FixNeg(int) => int.into(),
            Marker::U8 => u8::from_be_bytes(self.array()?).into(),
            Marker::U16 => u16::from_be_bytes(self.array()?).into(),
            Marker::U32 => u32::from_be_bytes(self.array()?).into(),
            Marker::U64 => u64::from_be_bytes(self.array()?).into(),
            Marker::I8 => i8::from_be_bytes(self.array()?).into(),
            Marker::I16 => i16::from_be_bytes(self.array()?).into(),
            Marker::I32 => i32::from_be_bytes(self.array()?).into(),
            Marker::I64 => i64::from_be_bytes(self.array()?).into(),
            Marker::F32 => {
                let float = f32::from_be_bytes(self.array()?);
                Number::from_f64_exact(f64::from(float)).map_err(DecodeFault::Number)?
            }
            Marker::F64 => {
                let float = f64::from_be_bytes(self.array()?);
                Number::from_f64_exact(float).map_err(DecodeFault::Number)?
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                self.text(marker)?.parse().map_err(DecodeFault::Number)?
            }
            other => return Err(expected("a number", other)),
        };
        Ok(number)
    }

    /// The length of the array that `marker` begins. Each element takes a byte at least, so a
    /// length past the bytes left is refused.
    pub(super) fn array_len(&mut self, marker: Marker) -> Result<usize, DecodeFault> {
        let length = match marker {
            Marker::FixArray(length) => usize::from(length),
            Marker::Array16 => self.u16()?,
            Marker::Array32 => self.u32()?,
            other => return Err(expected("an array", other)),
        };
        if length > self.left() { Err(DecodeFault::End) } else { Ok(length) }
    }

    /// The number of entries of the map that `marker` begins, checked like that of an array.
    pub(super) fn map_len(&mut self, marker: Marker) -> Result<usize, DecodeFault> {
        let length = match marker {
            Marker::FixMap(length) => usize::from(length),
            Marker::Map16 => self.u16()?,
            Marker::Map32 => self.u32()?,
            other => return Err(expected("a map", other)),
        };
        if length > self.left() / 2 { Err(DecodeFault::End) } else { Ok(length) }
    }

    /// The code and payload of the extension that `marker` begins; `None` when it begins none.
    pub(super) fn extension(
        &mut self,
        marker: Marker,
    ) -> Result<Option<(i8, &'a [u8])>, DecodeFault> {
        let length = match marker {
            Marker::FixExt1 => 1,
            Marker::FixExt2 => 2,
            Marker::FixExt4 => 4,
            Marker::FixExt8 => 8,
            Marker::FixExt16 => 16,
            Marker::Ext8 => self.u8()?,
            Marker::Ext16 => self.u16()?,
            Marker::Ext32 => self.u32()?,
            _ => return Ok(None),
        };
        let code = i8::from_be_bytes(self.array()?);
        Ok(Some((code, self.take(length)?)))
    }

    /// Passes over one whole value. Keeps count instead of recursing, so depth costs nothing.
    pub(super) fn skip(&mut self) -> Result<(), DecodeFault> {
        let mut due = 1_usize;
        while due > 0 {
            due -= 1;
            let marker = self.marker()?;
            match marker {
                Marker::Null | Marker::True | Marker::False => {}
                Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                    due = due.saturating_add(self.array_len(marker)?);
                }
                Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                    due = due.saturating_add(self.map_len(marker)?.saturating_mul(2));
                }
                Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                    self.bytes(marker)?;
                }
                Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                    self.bytes(marker)?;
                }
                Marker::FixPos(_) | Marker::FixNeg(_) => {}
                Marker::U8 | Marker::I8 => drop(self.take(1)?),
                Marker::U16 | Marker::I16 => drop(self.take(2)?),
                Marker::U32 | Marker::I32 | Marker::F32 => drop(self.take(4)?),
                Marker::U64 | Marker::I64 | Marker::F64 => drop(self.take(8)?),
                Marker::Reserved => return Err(expected("a value", marker)),
                _ => drop(self.extension(marker)?),
            }
        }
        Ok(())
    }
}

/// The fault of finding `marker` where something else should begin.
pub(super) const fn expected(expected: &'static str, marker: Marker) -> DecodeFault {
    DecodeFault::Expected { expected, found: name(marker) }
}

const fn name(marker: Marker) -> &'static str {
    match marker {
        Marker::Null => "null",
        Marker::True | Marker::False => "a bool",
        Marker::FixPos(_) | Marker::FixNeg(_) => "a number",
        Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => "a number",
        Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => "a number",
        Marker::F32 | Marker::F64 => "a number",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a string",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "binary data",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "an array",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        Marker::Reserved => "a byte that begins no value",
        _ => "an unknown value",
    }
}
