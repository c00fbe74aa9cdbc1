//! Sets, kept sorted so that equal sets are equal slices.

use std::ops::Deref;

use super::Value;

/// The elements of a set: sorted, each known one only once.
///
/// Elements with something unknown inside are never merged: they may turn out different.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetValue(Vec<Value>);

impl SetValue {
    /// The elements, to be changed and collected anew.
    #[must_use]
    pub fn into_vec(self) -> Vec<Value> {
        self.0
    }
}

impl From<Vec<Value>> for SetValue {
    fn from(mut elements: Vec<Value>) -> Self {
        elements.sort_unstable();
        elements.dedup_by(|a, b| a == b && a.is_wholly_known());
        Self(elements)
    }
}

impl FromIterator<Value> for SetValue {
    fn from_iter<I: IntoIterator<Item = Value>>(elements: I) -> Self {
        elements.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for SetValue {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.0
    }
}

impl IntoIterator for SetValue {
    type Item = Value;
    type IntoIter = std::vec::IntoIter<Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
