//! Reads attributes as plain values, with a stand-in where one is not known yet, so that one
//! check serves validation, plan and apply.

use fairmazon_model::DomainError;
use tfplugin::Attr;

/// Remembers whether anything was unknown.
#[derive(Debug, Default)]
pub struct Reader {
    unknown: bool,
}

impl Reader {
    /// Whether everything that was read is known.
    pub const fn is_complete(&self) -> bool {
        !self.unknown
    }

    /// Says that something was left out because it is unknown.
    pub const fn note_unknown(&mut self) {
        self.unknown = true;
    }

    /// The value; `absent` where there is none, `unknown` where it is not known yet.
    pub fn value<T: Clone>(&mut self, attr: &Attr<T>, absent: T, unknown: T) -> T {
        match attr {
            Attr::Value(value) => value.clone(),
            Attr::Null => absent,
            Attr::Unknown => {
                self.unknown = true;
                unknown
            }
        }
    }

    /// The object; nothing where there is none or it is not known yet.
    pub const fn object<'a, T>(&mut self, attr: &'a Attr<T>) -> Option<&'a T> {
        match attr {
            Attr::Value(value) => Some(value),
            Attr::Null => None,
            Attr::Unknown => {
                self.unknown = true;
                None
            }
        }
    }

    /// The known elements of a list or set.
    ///
    /// # Errors
    /// When one is null; `field` is to blame.
    pub fn elements(
        &mut self,
        field: &str,
        attr: &Attr<Vec<Attr<String>>>,
    ) -> Result<Vec<String>, DomainError> {
        let Some(elements) = self.object(attr) else { return Ok(Vec::new()) };
        let mut known = Vec::with_capacity(elements.len());
        for element in elements {
            match element {
                Attr::Value(text) => known.push(text.clone()),
                Attr::Unknown => self.unknown = true,
                Attr::Null => {
                    return Err(DomainError::invalid(field, "an entry is null")
                        .advise("leave it out, or give it a value"));
                }
            }
        }
        Ok(known)
    }

    /// One of a closed set of words.
    ///
    /// # Errors
    /// When it is another word; `field` is to blame.
    pub fn word<T: Copy>(
        &mut self,
        field: &str,
        attr: &Attr<String>,
        words: &[(&str, T)],
        absent: T,
        unknown: T,
    ) -> Result<T, DomainError> {
        let Some(text) = self.object(attr) else {
            return Ok(if matches!(attr, Attr::Null) { absent } else { unknown });
        };
        find_word(field, text, words)
    }
}

/// What a word of a closed set means.
///
/// # Errors
/// When it is none of them; `field` is to blame.
pub fn find_word<T: Copy>(field: &str, text: &str, words: &[(&str, T)]) -> Result<T, DomainError> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let all: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let text = text.escape_debug();
        DomainError::invalid(field, format!("`{text}` is not one of {}", all.join(", ")))
    })
}

/// The word for a meaning.
pub fn word_for<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> &'static str {
    words.iter().find(|(_, other)| other == meaning).map_or("", |(word, _)| word)
}
