//! Errors and warnings as the user sees them.
//!
//! Owns [`Diagnostic`], [`Diagnostics`] and the ways into them. A handler returns
//! `Result<T, Diagnostics>`, so that `?` works with everything that knows how to explain itself;
//! any other error is given a summary by [`Explain::explain`]. There is no blanket conversion on
//! purpose: an error whose author did not say what was attempted helps no user.

use std::{error::Error, fmt};

use crate::{AttributePath, ConversionError, path::Step, proto::tfplugin6 as pb};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The operation did not succeed.
    Error,
    /// The operation succeeded, and there is something to know.
    Warning,
}

/// One thing to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    summary: String,
    detail: String,
    path: Option<AttributePath>,
}

impl Diagnostic {
    /// An error. The summary says what was attempted: "Unable to create the volume".
    #[must_use]
    pub fn error(summary: impl Into<String>) -> Self {
        Self::new(Severity::Error, summary)
    }

    /// A warning.
    #[must_use]
    pub fn warning(summary: impl Into<String>) -> Self {
        Self::new(Severity::Warning, summary)
    }

    fn new(severity: Severity, summary: impl Into<String>) -> Self {
        Self { severity, summary: summary.into(), detail: String::new(), path: None }
    }

    /// Says why, on which object, and what the user can do.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Names the attribute to blame.
    #[must_use]
    pub fn at(mut self, path: impl Into<AttributePath>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.severity
    }

    /// What was attempted.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Why, and what to do; empty when the summary says it all.
    #[must_use]
    pub fn detail_text(&self) -> &str {
        &self.detail
    }

    /// The attribute to blame.
    #[must_use]
    pub const fn path(&self) -> Option<&AttributePath> {
        self.path.as_ref()
    }

    /// Whether this is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Rewrites both texts.
    pub(crate) fn map_text(&mut self, rewrite: impl Fn(&str) -> Option<String>) {
        for text in [&mut self.summary, &mut self.detail] {
            if let Some(better) = rewrite(text) {
                *text = better;
            }
        }
    }

    pub(crate) fn into_wire(self) -> pb::Diagnostic {
        let severity = match self.severity {
            Severity::Error => pb::diagnostic::Severity::Error,
            Severity::Warning => pb::diagnostic::Severity::Warning,
        };
        pb::Diagnostic {
            severity: severity.into(),
            summary: self.summary,
            detail: self.detail,
            attribute: self.path.as_ref().and_then(path_to_wire),
        }
    }

    pub(crate) fn from_wire(wire: pb::Diagnostic) -> Self {
        let severity = if wire.severity == i32::from(pb::diagnostic::Severity::Warning) {
            Severity::Warning
        } else {
            Severity::Error
        };
        let path = wire.attribute.as_ref().map(path_from_wire);
        Self { severity, summary: wire.summary, detail: wire.detail, path }
    }
}

/// As a person reads it: "error: Unable to ... (at name): because ...".
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.is_error() { "error" } else { "warning" };
        write!(f, "{severity}: {}", self.summary)?;
        if let Some(path) = &self.path {
            write!(f, " (at {path})")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// Any number of things to tell the user; what a failing handler returns.
///
/// Deliberately no [`Error`] itself: it is the end of the chain, not a link in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Nothing to tell.
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// One error.
    pub fn error(summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Diagnostic::error(summary).detail(detail).into()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds what another collection, a single diagnostic or an iterator of them holds.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Diagnostic>) {
        self.list.extend(others);
    }

    /// All of them, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// How many there are, warnings included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether there is an error among them.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// Turns a collection into the end of a check: `Ok` when nothing was found.
    ///
    /// # Errors
    /// The collection itself, when there is anything in it.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Puts every diagnostic without a path at this one.
    pub fn at(mut self, path: impl Into<AttributePath>) -> Self {
        let path = path.into();
        for diagnostic in self.list.iter_mut().filter(|diagnostic| diagnostic.path.is_none()) {
            diagnostic.path = Some(path.clone());
        }
        self
    }

    /// Puts every diagnostic further in: its path then starts with this one.
    pub fn under(mut self, path: &AttributePath) -> Self {
        for diagnostic in &mut self.list {
            let inner = diagnostic.path.take().unwrap_or_default();
            let steps = path.steps().iter().chain(inner.steps()).cloned();
            diagnostic.path = Some(steps.collect::<Vec<_>>().into());
        }
        self
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Diagnostic> {
        self.list.iter_mut()
    }

    pub(crate) fn into_wire(self) -> Vec<pb::Diagnostic> {
        self.list.into_iter().map(Diagnostic::into_wire).collect()
    }

    pub(crate) fn from_wire(wire: Vec<pb::Diagnostic>) -> Self {
        wire.into_iter().map(Diagnostic::from_wire).collect()
    }
}

/// One a line.
impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { list: vec![diagnostic] }
    }
}

/// A model that does not fit the schema, or a value that does not fit the model: the author's
/// mistake, unless the attribute is of dynamic type.
impl From<ConversionError> for Diagnostics {
    fn from(error: ConversionError) -> Self {
        let told = Diagnostic::error("Unexpected value").detail(with_causes(&error));
        if error.path.is_root() { told.into() } else { told.at(error.path).into() }
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(diagnostics: I) -> Self {
        Self { list: diagnostics.into_iter().collect() }
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

/// Gives a foreign error the summary that makes it a diagnostic.
pub trait Explain<T> {
    /// Turns the error into a diagnostic: the summary says what was attempted, the detail is the
    /// error with everything that caused it.
    ///
    /// # Errors
    /// The same error, explained.
    fn explain(self, summary: impl Into<String>) -> Result<T, Diagnostics>;
}

impl<T, E: Error> Explain<T> for Result<T, E> {
    fn explain(self, summary: impl Into<String>) -> Result<T, Diagnostics> {
        self.map_err(|error| Diagnostics::error(summary, with_causes(&error)))
    }
}

/// An error and what caused it, in one text.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The wire's form; nothing for the whole object, which has no name there.
pub(crate) fn path_to_wire(path: &AttributePath) -> Option<pb::AttributePath> {
    use pb::attribute_path::{Step as WireStep, step::Selector};
    let steps: Vec<_> = path
        .wire_steps()
        .iter()
        .filter_map(|step| match step {
            Step::Attribute(name) => Some(Selector::AttributeName(name.as_ref().to_owned())),
            Step::Key(key) => Some(Selector::ElementKeyString(key.as_ref().to_owned())),
            Step::Index(index) => i64::try_from(*index).ok().map(Selector::ElementKeyInt),
            Step::Element => None,
        })
        .map(|selector| WireStep { selector: Some(selector) })
        .collect();
    (!steps.is_empty()).then_some(pb::AttributePath { steps })
}

/// The path that a wire path names; a step without a selector is passed over.
pub(crate) fn path_from_wire(path: &pb::AttributePath) -> AttributePath {
    use pb::attribute_path::step::Selector;
    let steps = path.steps.iter().filter_map(|step| match step.selector.as_ref()? {
        Selector::AttributeName(name) => Some(Step::Attribute(name.as_str().into())),
        Selector::ElementKeyString(key) => Some(Step::Key(key.as_str().into())),
        Selector::ElementKeyInt(index) => usize::try_from(*index).ok().map(Step::Index),
    });
    steps.collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full")]
    struct Full;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write the key")]
    struct NotWritten(#[source] Full);

    fn write() -> Result<(), Diagnostics> {
        Err(NotWritten(Full)).explain("Unable to save")
    }

    #[test]
    fn an_explained_error_tells_its_causes() {
        let told = write().expect_err("it always fails");
        assert_eq!(
            told.to_string(),
            "error: Unable to save: could not write the key: the disk is full"
        );
        assert!(told.has_errors());
    }

    #[test]
    fn the_wire_keeps_everything_before_a_set() {
        let path = AttributePath::new("a").key("k").index(3).attribute("b");
        let told = Diagnostic::warning("W").detail("d").at(path);
        assert_eq!(Diagnostic::from_wire(told.clone().into_wire()), told);
        let in_set = Diagnostic::error("E").at(AttributePath::new("s").element());
        let seen = Diagnostic::from_wire(in_set.into_wire());
        assert_eq!(seen.path(), Some(&AttributePath::new("s")));
        let whole = Diagnostic::error("E").at(AttributePath::root());
        assert_eq!(whole.into_wire().attribute, None);
    }

    #[test]
    fn a_path_is_given_only_where_there_is_none() {
        let both: Diagnostics =
            [Diagnostic::error("a").at("x"), Diagnostic::error("b")].into_iter().collect();
        let paths: Vec<_> = both.at("y").iter().filter_map(Diagnostic::path).cloned().collect();
        assert_eq!(paths, [AttributePath::new("x"), AttributePath::new("y")]);
    }
}
