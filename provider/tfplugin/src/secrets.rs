//! The texts that are secret in this process, for as long as it lives: what a provider says is
//! one, and every sensitive or write-only value that was seen in a call.
//!
//! Owns which of them are remembered, and taking them out of a text. What the fields are called
//! that hold them does not matter here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

use parking_lot::RwLock;

/// What stands where a secret was.
const HIDDEN: &str = "(sensitive value)";
/// The shortest text that is hidden wherever it stands. Shorter ones would tear holes into
/// harmless words, and are hidden where they stand alone.
const SHORTEST: usize = 4;
/// The shortest text that is hidden at all. A single character is guessed at once, and every text
/// is full of them.
const SHORTEST_WORD: usize = 2;
/// The shortest line of a longer secret that is hidden also where it stands alone.
const SHORTEST_LINE: usize = 12;
/// How many bytes of secrets are remembered at least of those that calls brought, the latest
/// first. What was forgotten is known again with the next call that holds it.
const REMEMBERED: usize = 4 << 20;

static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

/// Hides a text in every line of the log from now on, whoever writes it and whatever its field
/// is called.
///
/// Sensitive and write-only values of schemas are hidden without being told. This is for what a
/// provider gets elsewhere: a token from the environment, a key from a file, an answer of the
/// service. Of a text of many lines, such as a key in PEM form, each longer line is hidden too.
/// Texts of two or three bytes are hidden only where they stand alone, as a word does, and shorter
/// ones are not.
pub fn keep_secret(text: &str) {
    let mut known = KNOWN.write();
    forms(text, |form| known.kept.put(form));
}

/// Hides what a call brought.
pub(crate) fn note(secrets: &[String]) {
    if secrets.is_empty() {
        return;
    }
    let mut known = KNOWN.write();
    for secret in secrets {
        forms(secret, |form| known.note(form));
    }
}

/// The text without the secrets that are known; nothing when there are none in it.
pub(crate) fn without(text: &str) -> Option<String> {
    KNOWN.read().without(text)
}

/// The text without any of these secrets; nothing when there are none in it.
fn without_all(all: &[&Texts], text: &str) -> Option<String> {
    if all.iter().all(|texts| texts.bytes == 0) {
        return None;
    }
    let mut clean = String::new();
    let (mut done, mut at) = (0, 0);
    while at < text.len() {
        let longest = all.iter().filter_map(|texts| texts.longest_at(text, at)).max();
        match longest {
            Some(length) => {
                clean.push_str(&text[done..at]);
                clean.push_str(HIDDEN);
                at += length;
                done = at;
            }
            None => at += 1,
        }
    }
    (done > 0).then(|| clean + &text[done..])
}

/// Every form in which a secret may stand in a text: as it is, as `{:?}` and JSON write it, and
/// its lines.
fn forms(secret: &str, mut found: impl FnMut(&str)) {
    let whole = secret.trim();
    found(whole);
    let inner = |quoted: &str| quoted.get(1..quoted.len().saturating_sub(1)).map(str::to_owned);
    let escaped = [Some(format!("{whole:?}")), serde_json::to_string(whole).ok()];
    for form in escaped.into_iter().flatten().filter_map(|quoted| inner(&quoted)) {
        if form != whole {
            found(&form);
        }
    }
    if whole.contains('\n') {
        // The first and last lines of PEM are the same for all keys.
        let lines = whole.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
        lines.filter(|line| line.len() >= SHORTEST_LINE).for_each(found);
    }
}

#[derive(Default)]
struct Known {
    /// What the provider said.
    kept: Texts,
    /// What calls brought lately.
    recent: Texts,
    /// What they brought before that.
    older: Texts,
}

impl Known {
    fn without(&self, text: &str) -> Option<String> {
        without_all(&[&self.kept, &self.recent, &self.older], text)
    }

    fn note(&mut self, text: &str) {
        self.recent.put(text);
        if self.recent.bytes > REMEMBERED {
            self.older = std::mem::take(&mut self.recent);
        }
    }
}

type Start = [u8; SHORTEST];

/// Secrets, found by their first bytes, so that a search does not go through all of them.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    by_start: HashMap<Start, BTreeSet<Box<str>>>,
    /// The short ones.
    words: BTreeSet<Box<str>>,
    bytes: usize,
}

impl Texts {
    /// Adds a secret in every form in which it may stand in a text.
    pub(crate) fn add(&mut self, secret: &str) {
        forms(secret, |form| self.put(form));
    }

    /// The text without these secrets; nothing when there are none in it.
    pub(crate) fn without(&self, text: &str) -> Option<String> {
        without_all(&[self], text)
    }

    fn put(&mut self, text: &str) {
        let texts = match text.as_bytes().first_chunk() {
            Some(start) => self.by_start.entry(*start).or_default(),
            None if text.len() >= SHORTEST_WORD => &mut self.words,
            None => return,
        };
        if !texts.contains(text) {
            texts.insert(text.into());
            self.bytes += text.len();
        }
    }

    /// How long the longest of them is that stands at this place.
    fn longest_at(&self, text: &str, at: usize) -> Option<usize> {
        let rest = text.get(at..)?;
        let start = rest.as_bytes().first_chunk::<SHORTEST>();
        let texts = start.and_then(|start| self.by_start.get(start));
        let here = texts.into_iter().flatten().filter(|secret| rest.starts_with(&***secret));
        here.map(|secret| secret.len()).max().or_else(|| self.word_at(text, at))
    }

    fn word_at(&self, text: &str, at: usize) -> Option<usize> {
        (SHORTEST_WORD..SHORTEST).rev().find(|length| {
            let word = text.get(at..at + length);
            word.is_some_and(|word| self.words.contains(word) && alone(text, at, at + length))
        })
    }
}

/// Whether what stands between these places is no part of a longer word, name or number.
fn alone(text: &str, from: usize, to: usize) -> bool {
    let joins = |next: Option<char>, after: Option<char>| match next {
        Some('_' | '-') => true,
        // The rest of a decimal, and not the end of a sentence.
        Some('.') => after.is_some_and(|after| after.is_ascii_digit()),
        next => next.is_some_and(char::is_alphanumeric),
    };
    let (mut before, mut after) = (text[..from].chars().rev(), text[to..].chars());
    !joins(before.next(), before.next()) && !joins(after.next(), after.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAgEGCCqG\n\
                       -----END PRIVATE KEY-----\n";

    fn knowing(secrets: &[&str]) -> Texts {
        let mut known = Texts::default();
        secrets.iter().for_each(|secret| known.add(secret));
        known
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands() {
        let known = knowing(&["hunter2", "hunter22", "ключ", "a\"b\\c", "abc"]);
        for (text, clean) in [
            ("it is hunter2", Some("it is *")),
            ("hunter2hunter22", Some("**")),
            ("hunter", None),
            ("мой ключ!", Some("мой *!")),
            ("plain a\"b\\c", Some("plain *")),
            ("Some(\"a\\\"b\\\\c\")", Some("Some(\"*\")")),
            (
                "abc is short, abcd and x-abc are others",
                Some("* is short, abcd and x-abc are others"),
            ),
            ("it is (abc).", Some("it is (*).")),
            ("", None),
        ] {
            let clean = clean.map(|clean| clean.replace('*', HIDDEN));
            assert_eq!(known.without(text), clean, "{text}");
        }
        assert_eq!(Texts::default().without("hunter2"), None);
    }

    #[test]
    fn a_short_number_is_hidden_where_it_is_no_part_of_another() {
        let known = knowing(&["73", "7", "on"]);
        for (text, clean) in [
            ("73", Some("*")),
            ("pin 73.", Some("pin *.")),
            ("{\"pin\":73}", Some("{\"pin\":*}")),
            ("after 173 of 730 and 0.73 and 73.5", None),
            ("the call 1f-73 went on in 7 steps", Some("the call 1f-73 went * in 7 steps")),
        ] {
            let clean = clean.map(|clean| clean.replace('*', HIDDEN));
            assert_eq!(known.without(text), clean, "{text}");
        }
    }

    #[test]
    fn a_key_is_hidden_whole_in_quotes_and_by_the_line() {
        let known = knowing(&[KEY]);
        let line = "MIGHAgEAMBMGByqGSM49";
        let json = serde_json::to_string(KEY).expect("a text is JSON");
        for text in [KEY.to_owned(), format!("{KEY:?}"), json, format!("bad line {line}")] {
            let clean = known.without(&text).expect("it holds the key");
            assert!(!clean.contains(line) && !clean.contains("AgEGCCqG"), "{clean}");
        }
        assert_eq!(known.without("-----BEGIN PRIVATE KEY-----"), None);
    }

    #[test]
    fn what_calls_bring_is_bounded_and_the_latest_is_known() {
        // Of a KiB each.
        const COUNT: usize = 3 * (REMEMBERED >> 10);
        let mut known = Known::default();
        known.kept.put("kept by the provider");
        let text = |number: usize| format!("{number:05}{}", "x".repeat(1 << 10));
        for number in 0..COUNT {
            known.note(&text(number));
            known.note("seen with every call");
            assert!(known.recent.bytes + known.older.bytes <= 2 * (REMEMBERED + 2048));
        }
        let last = text(COUNT - 1);
        for known_still in ["kept by the provider", "seen with every call", &last] {
            assert!(known.without(known_still).is_some());
        }
        assert_eq!(known.without(&text(0)), None);
    }
}
