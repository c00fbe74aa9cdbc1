//! The last lines of a serial console, for a customer who reads why a machine ended. Guests write
//! what they like: nothing of it may move a cursor or hide a text, and a failure is one line.

use std::{iter::Peekable, str::Chars};

/// What a customer gets at most. It fits into what is kept of a failure with room for its reason.
const LINES: usize = 8;
const BYTES: usize = 700;
/// What stands between two lines.
const BETWEEN: &str = " | ";

/// The last lines that say something, as one line without escape sequences and control characters.
pub(super) fn last_lines(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let plain = without_escapes(&text);
    let lines = plain.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(BETWEEN);
    let mut from = last.len().saturating_sub(BYTES);
    while !last.is_char_boundary(from) {
        from += 1;
    }
    last[from..].trim().to_owned()
}

/// What ended with its last lines, where there are some.
pub(super) fn with_last_lines(what: &str, lines: &str) -> String {
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
            prop_assert!(!lines.chars().any(|c| c.is_control() || reorders(c)));
        }
    }
}
