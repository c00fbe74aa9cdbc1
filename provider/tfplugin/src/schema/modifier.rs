//! What an attribute declares for plans. Applied in [`crate::plan`].

use std::fmt;
use std::sync::Arc;

use crate::path::AttributePath;
use crate::value::Value;

/// What an update that changes something does to a computed value nobody configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnUpdate {
    /// It becomes unknown: any change may change it.
    #[default]
    Unknown,
    /// It stays as it is in the state.
    KeepState,
    /// It stays as it is unless one of these attributes beside it changes.
    RecomputeWhen(Vec<Arc<str>>),
}

/// Whether a change of the attribute makes a new resource.
#[derive(Clone, Default)]
pub enum Replace {
    /// It is changed in place.
    #[default]
    Never,
    /// Always.
    Always,
    /// When the test says so.
    When {
        /// Completes "makes a new resource when ...".
        describe: Arc<str>,
        /// The test.
        test: Arc<dyn Fn(&ReplaceContext<'_>) -> bool + Send + Sync>,
    },
}

impl Replace {
    pub(super) fn when(
        describe: String,
        test: impl Fn(&ReplaceContext<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::When { describe: describe.into(), test: Arc::new(test) }
    }

    /// Whether no change ever makes a new resource.
    #[must_use]
    pub const fn is_never(&self) -> bool {
        matches!(self, Self::Never)
    }
}

impl fmt::Debug for Replace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("Never"),
            Self::Always => f.write_str("Always"),
            Self::When { describe, .. } => write!(f, "When({describe:?})"),
        }
    }
}

/// What a test for replacement may look at. The attribute differs between state and plan.
#[derive(Clone, Copy, Debug)]
pub struct ReplaceContext<'a> {
    /// Where the attribute stands.
    pub path: &'a AttributePath,
    /// Its value in the state.
    pub prior: &'a Value,
    /// Its planned value.
    pub planned: &'a Value,
    /// The whole state.
    pub prior_state: &'a Value,
    /// The whole plan, before computed values become unknown.
    pub planned_state: &'a Value,
}
