//! libvirt's messages: a length, a header of six numbers, and arguments in XDR.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the length and the header.
const HEAD: usize = 28;

/// The program that all calls of a connection belong to.
pub(super) const REMOTE: u32 = 0x2000_8086;
/// The program of signs of life.
pub(super) const KEEP_ALIVE: u32 = 0x6b65_6570;
/// What the message is: a call, its answer, or one that wants none.
pub(super) const CALL: u32 = 0;
pub(super) const REPLY: u32 = 1;
pub(super) const MESSAGE: u32 = 2;
/// The status of a call, and of an answer that is not an error.
pub(super) const OK: u32 = 0;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) program: u32,
    pub(super) version: u32,
    pub(super) procedure: u32,
    pub(super) kind: u32,
    pub(super) serial: u32,
    pub(super) status: u32,
}

impl Message {
    /// Reads the next message; none at the end of the connection.
    pub(super) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        longest: usize,
    ) -> io::Result<Option<Self>> {
        let mut head = [0_u8; HEAD];
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        let mut head = Xdr::new(&head);
        let mut next = || head.number().unwrap_or_default();
        let length = usize::try_from(next()).unwrap_or(usize::MAX);
        let head = Head {
            program: next(),
            version: next(),
            procedure: next(),
            kind: next(),
            serial: next(),
            status: next(),
        };
        if !(HEAD..=longest).contains(&length) {
            let why = format!("a message of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut body = vec![0; length - HEAD];
        from.read_exact(&mut body).await?;
        Ok(Some(Self { head, body }))
    }

    /// The message as it goes over the connection.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.body.len());
        let length = u32::try_from(HEAD + self.body.len()).unwrap_or(u32::MAX);
        let Head { program, version, procedure, kind, serial, status } = self.head;
        for number in [length, program, version, procedure, kind, serial, status] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(&self.body);
        bytes
    }
}

/// Reads values of XDR, as far as there are any.
#[derive(Debug)]
pub(super) struct Xdr<'a> {
    rest: &'a [u8],
}

impl<'a> Xdr<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether all was read.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*number))
    }

    /// Bytes with their length before them, filled up to a multiple of four.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let filled = length.checked_next_multiple_of(4)?;
        let (bytes, rest) = self.rest.split_at_checked(filled)?;
        self.rest = rest;
        bytes.get(..length)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A text that may be left out.
    pub(super) fn optional_text(&mut self) -> Option<Option<&'a str>> {
        match self.number()? {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }

    /// A list of names and texts, which is what libvirt's typed parameters are when they have no
    /// other type.
    pub(super) fn texts(&mut self) -> Option<Vec<(&'a str, &'a str)>> {
        const STRING: u32 = 7;
        let mut texts = Vec::new();
        for _ in 0..self.number()? {
            let name = self.text()?;
            if self.number()? != STRING {
                return None;
            }
            texts.push((name, self.text()?));
        }
        Some(texts)
    }
}

/// Writes values of XDR.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn number(&mut self, number: u32) {
        self.bytes.extend(number.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn texts(&mut self, texts: &[(&str, &str)]) {
        self.number(u32::try_from(texts.len()).unwrap_or(u32::MAX));
        for (name, text) in texts {
            self.bytes(name.as_bytes());
            self.number(7);
            self.bytes(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(
            numbers in any::<[u32; 6]>(),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let [program, version, procedure, kind, serial, status] = numbers;
            let head = Head { program, version, procedure, kind, serial, status };
            let message = Message { head, body };
            let bytes = message.bytes();
            let read = runtime().block_on(Message::read(&mut bytes.as_slice(), 1 << 10));
            prop_assert_eq!(read.unwrap().unwrap(), message);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = runtime().block_on(Message::read(&mut bytes.as_slice(), 1 << 10));
            let mut xdr = Xdr::new(&bytes);
            let _ = (xdr.texts(), xdr.optional_text(), xdr.bytes(), xdr.number());
        }

        #[test]
        fn texts_are_read_as_they_were_written(texts in prop::collection::vec(any::<(String, String)>(), 0..5)) {
            let texts: Vec<_> = texts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let mut writer = Writer::default();
            writer.texts(&texts);
            let mut xdr = Xdr::new(&writer.bytes);
            prop_assert_eq!(xdr.texts().unwrap(), texts);
            prop_assert!(xdr.is_empty());
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_waited_for() {
        let read = |length: u32| {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(HEAD, 0);
            runtime().block_on(Message::read(&mut bytes.as_slice(), 1 << 10))
        };
        assert!(read(27).is_err() && read(1025).is_err() && read(u32::MAX).is_err());
        assert!(read(28).unwrap().is_some());
    }
}
