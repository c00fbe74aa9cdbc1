//! Reads JSON piece by piece. Knows the grammar, nothing of types, and never recurses.

use std::borrow::Cow;

use super::super::error::DecodeFault;

/// What a value begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a bool",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A position in JSON text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) const fn fault(&self, what: &'static str) -> DecodeFault {
        DecodeFault::Syntax { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// What the next value is.
    pub(super) fn kind(&mut self) -> Result<Kind, DecodeFault> {
        self.skip_space();
        match self.peek().ok_or(DecodeFault::End)? {
            b'n' => Ok(Kind::Null),
            b't' | b'f' => Ok(Kind::Bool),
            b'-' | b'0'..=b'9' => Ok(Kind::Number),
            b'"' => Ok(Kind::String),
            b'[' => Ok(Kind::Array),
            b'{' => Ok(Kind::Object),
            _ => Err(self.fault("no value begins with this character")),
        }
    }

    /// Passes over one character of punctuation.
    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), DecodeFault> {
        if self.accept(byte) {
            return Ok(());
        }
        if self.peek().is_none() { Err(DecodeFault::End) } else { Err(self.fault(what)) }
    }

    /// Passes over one character of punctuation, if it is the next.
    pub(super) fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &'static str) -> Result<(), DecodeFault> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.fault("expected null, true or false"))
    }

    pub(super) fn null(&mut self) -> Result<(), DecodeFault> {
        self.word("null")
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeFault> {
        if self.peek() == Some(b't') {
            self.word("true").map(|()| true)
        } else {
            self.word("false").map(|()| false)
        }
    }

    /// The text of a number.
    pub(super) fn number(&mut self) -> Result<&'a str, DecodeFault> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let leading_zero = self.peek() == Some(b'0');
        if self.digits()? > 1 && leading_zero {
            return Err(self.fault("a number does not begin with a zero"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<usize, DecodeFault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("expected a digit")) } else { Ok(self.at - start) }
    }

    /// A string, borrowed when nothing in it is escaped.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, DecodeFault> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        self.plain()?;
        let mut text = Cow::Borrowed(&self.text[start..self.at]);
        while self.peek() == Some(b'\\') {
            self.at += 1;
            text.to_mut().push(self.escape()?);
            let start = self.at;
            self.plain()?;
            text.to_mut().push_str(&self.text[start..self.at]);
        }
        self.at += 1;
        Ok(text)
    }

    /// Passes over characters that stand for themselves, up to a quote or backslash.
    fn plain(&mut self) -> Result<(), DecodeFault> {
        loop {
            match self.peek().ok_or(DecodeFault::End)? {
                b'"' | b'\\' => return Ok(()),
                0..0x20 => return Err(self.fault("a control character must be escaped")),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeFault> {
        let byte = self.peek().ok_or(DecodeFault::End)?;
        let simple = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.code_point();
            }
            _ => return Err(self.fault("unknown escape")),
        };
        self.at += 1;
        Ok(simple)
    }

    /// The character of `\u....`, with its second half where it has one. A half alone becomes
    /// the replacement character, as the clients have it.
    fn code_point(&mut self) -> Result<char, DecodeFault> {
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let before = self.at;
        self.at += 2;
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            self.at = before;
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, DecodeFault> {
        let end = self.at + 4;
        let digits = self.text.as_bytes().get(self.at..end).ok_or(DecodeFault::End)?;
        let code = digits.iter().try_fold(0, |code, byte| {
            char::from(*byte).to_digit(16).map(|digit| code * 16 + digit)
        });
        let code = code.ok_or_else(|| self.fault("expected four hexadecimal digits"))?;
        self.at = end;
        Ok(code)
    }

    /// The text of the next value, passed over. Brackets are only counted: what is kept is
    /// checked when it is read, and what is dropped need not be right inside.
    pub(super) fn raw(&mut self) -> Result<&'a str, DecodeFault> {
        self.skip_space();
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.kind_or_punctuation()? {
                b'[' | b'{' => {
                    depth += 1;
                    self.at += 1;
                }
                b']' | b'}' => {
                    depth = depth.checked_sub(1).ok_or_else(|| self.fault("unexpected bracket"))?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'"' => drop(self.string()?),
                b'n' => self.null()?,
                b't' | b'f' => drop(self.bool()?),
                b'-' | b'0'..=b'9' => drop(self.number()?),
                _ => return Err(self.fault("no value begins with this character")),
            }
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    fn kind_or_punctuation(&mut self) -> Result<u8, DecodeFault> {
        self.skip_space();
        self.peek().ok_or(DecodeFault::End)
    }

    /// Makes sure that nothing is left.
    pub(super) fn finish(mut self) -> Result<(), DecodeFault> {
        self.skip_space();
        match self.text.len() - self.at {
            0 => Ok(()),
            left => Err(DecodeFault::Trailing(left)),
        }
    }
}
