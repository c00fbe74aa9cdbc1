//! Rules between the attributes of one object.

use std::fmt;
use std::sync::Arc;

use crate::validate::Problem;
use crate::value::Value;

/// A rule of the author's own over one object: what is wrong with it, paths from that object.
pub type AcrossFn = dyn Fn(&Value) -> Vec<Problem> + Send + Sync;

/// A rule between attributes beside each other. Unknown values never break one: they may turn
/// out null or not.
#[derive(Clone)]
pub enum Across {
    /// At most one is set.
    Conflicts(Vec<Arc<str>>),
    /// Exactly one is set.
    ExactlyOneOf(Vec<Arc<str>>),
    /// One or more are set.
    AtLeastOneOf(Vec<Arc<str>>),
    /// When the first is set, so are all the others.
    RequiredWith(Arc<str>, Vec<Arc<str>>),
    /// A rule of the author's own.
    Custom {
        /// Says what must hold, for the documentation.
        describe: Arc<str>,
        /// Finds what is wrong.
        check: Arc<AcrossFn>,
    },
}

impl Across {
    /// At most one of these is set.
    #[must_use]
    pub fn conflicts<N: Into<Arc<str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Conflicts(names.into_iter().map(Into::into).collect())
    }

    /// Exactly one of these is set.
    #[must_use]
    pub fn exactly_one_of<N: Into<Arc<str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::ExactlyOneOf(names.into_iter().map(Into::into).collect())
    }

    /// One or more of these are set.
    #[must_use]
    pub fn at_least_one_of<N: Into<Arc<str>>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::AtLeastOneOf(names.into_iter().map(Into::into).collect())
    }

    /// When `name` is set, so are all of `others`.
    #[must_use]
    pub fn required_with<N: Into<Arc<str>>>(
        name: impl Into<Arc<str>>,
        others: impl IntoIterator<Item = N>,
    ) -> Self {
        Self::RequiredWith(name.into(), others.into_iter().map(Into::into).collect())
    }

    /// A rule of the author's own. `describe` says what must hold.
    #[must_use]
    pub fn custom(
        describe: impl Into<Arc<str>>,
        check: impl Fn(&Value) -> Vec<Problem> + Send + Sync + 'static,
    ) -> Self {
        Self::Custom { describe: describe.into(), check: Arc::new(check) }
    }

    /// What must hold, as a sentence for the documentation.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Conflicts(names) => format!("At most one of {} may be set.", quoted(names)),
            Self::ExactlyOneOf(names) => format!("Exactly one of {} must be set.", quoted(names)),
            Self::AtLeastOneOf(names) => {
                format!("At least one of {} must be set.", quoted(names))
            }
            Self::RequiredWith(name, others) => {
                format!("When `{name}` is set, {} must be set as well.", quoted(others))
            }
            Self::Custom { describe, .. } => describe.to_string(),
        }
    }

    /// The attributes that the rule names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (first, names) = match self {
            Self::Conflicts(names) | Self::ExactlyOneOf(names) | Self::AtLeastOneOf(names) => {
                (None, names.as_slice())
            }
            Self::RequiredWith(name, others) => (Some(name), others.as_slice()),
            Self::Custom { .. } => (None, [].as_slice()),
        };
        first.into_iter().chain(names)
    }
}

/// `a`, `b` and `c`.
pub(crate) fn quoted(names: &[Arc<str>]) -> String {
    let mut text = String::new();
    for (position, name) in names.iter().enumerate() {
        if position > 0 {
            text.push_str(if position + 1 == names.len() { " and " } else { ", " });
        }
        text.push('`');
        text.push_str(name);
        text.push('`');
    }
    text
}

impl fmt::Debug for Across {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}
