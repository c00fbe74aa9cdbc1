//! Serial consoles: asking a host for what a guest has written last, and what a customer reads of
//! it. Guests write what they like: nothing of it may move a cursor or hide a text.

use std::{fmt, iter::Peekable, str::Chars};

use crate::{DomainError, id::InstanceId};

/// What is kept of a console, in bytes: its end.
pub const CONSOLE_MAX: usize = 64 * 1024;

/// One question for a console: random, of one host, one machine and one caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadId(pub [u8; 16]);

impl ReadId {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid` for what is not 16 bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, DomainError> {
        let wrong = |_| DomainError::invalid("read_id", "it has to be 16 bytes");
        bytes.try_into().map(Self).map_err(wrong)
    }
}

impl fmt::Debug for ReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever has all of it may answer it.
        write!(f, "ReadId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// What a host is asked for. It may be lost: the customer asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadConsole {
    /// The question.
    pub read: ReadId,
    /// Whose console.
    pub instance: InstanceId,
}

/// What a host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleRead {
    /// The question.
    pub read: ReadId,
    /// The end of the console, at most [`CONSOLE_MAX`] bytes; or why it can't be read, for the
    /// customer.
    pub last: Result<Vec<u8>, String>,
}

/// What a customer gets of a failure at most. It fits into what is kept of a failure with room for its reason.
const LINES: usize = 8;
const BYTES: usize = 700;
/// What stands between two lines.
const BETWEEN: &str = " | ";

/// The lines that say something, without escape sequences and control characters.
pub fn plain_lines(console: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(console);
    let plain = without_escapes(&text);
    let lines = plain.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// The last of the lines that say something, as one short line.
pub fn last_lines(console: &[u8]) -> String {
    let lines = plain_lines(console);
    let lines: Vec<_> = lines.iter().map(|line| line.trim_start()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(BETWEEN);
    let mut from = last.len().saturating_sub(BYTES);
    while !last.is_char_boundary(from) {
        from += 1;
    }
    last[from..].trim().to_owned()
}

/// What ended with its last lines, where there are some.
pub fn with_last_lines(what: &str, lines: &str) -> String {
    if lines.is_empty() {
        return what.to_owned();
    }
    format!("{what}; the last on its serial console: {lines}")
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '\x1b' => skip_escape(&mut rest),
            '\n' | '\r' => plain.push(character),
            '\t' => plain.push(' '),
            _ if character.is_control() || reorders(character) => {}
            _ => plain.push(character),
        }
    }
    plain
}

/// Skips what follows the escape character: a command up to its letter, a text up to its end, or
/// one character.
fn skip_escape(rest: &mut Peekable<Chars<'_>>) {
    // No sequence goes over the end of a line: one that is cut off hides nothing after it.
    let mut next = || rest.next_if(|&character| !matches!(character, '\n' | '\r'));
    match next() {
        Some('[') => while next().is_some_and(|character| !('@'..='~').contains(&character)) {},
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while next().is_some_and(|character| !matches!(character, '\x07' | '\\' | '\u{9c}')) {}
        }
        Some('(' | ')' | '#') => drop(next()),
        _ => {}
    }
}

/// Characters without a shape that change the order or the place of others.
const fn reorders(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_lines_are_plain() {
        let said = b"one\r\n\r\n\x1b[1;31mred\x1b[0m \x1b]0;title\x07two\tx\x08\r\n\x1b(Bthree \xff\n\x1b[2";
        assert_eq!(last_lines(said), "one | red two x | three \u{fffd}");
        assert_eq!(plain_lines(b"  one\t \n\n two\r\n"), ["  one", " two"]);
        let many: String = (0..20).map(|number| format!("line {number}\n")).collect();
        assert!(last_lines(many.as_bytes()).starts_with("line 12 | line 13"));
        assert_eq!(last_lines(&[0xc3; 5_000]).len(), 699, "whole characters of three bytes");
        assert_eq!(with_last_lines("it ended", ""), "it ended");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_writes_is_short_and_harmless(said in any::<Vec<u8>>(), times in 1_usize..50) {
            let lines = last_lines(&said.repeat(times));
            prop_assert!(lines.len() <= BYTES);
            let harmless = |line: &str| !line.chars().any(|c| c.is_control() || reorders(c));
            prop_assert!(harmless(&lines));
            prop_assert!(plain_lines(&said).iter().all(|line| harmless(line) && !line.is_empty()));
        }
    }
}
