//! What may be known about a value that is not known yet.

use super::{Number, Value};

/// Promises about an unknown value. What is promised at plan time must hold at apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refinements {
    /// It will not be null.
    pub not_null: bool,
    /// The string will start with this.
    pub string_prefix: Option<String>,
    /// The number will be at least this.
    pub number_min: Option<Bound>,
    /// The number will be at most this.
    pub number_max: Option<Bound>,
    /// The collection will have at least so many elements.
    pub length_min: Option<u64>,
    /// The collection will have at most so many elements.
    pub length_max: Option<u64>,
}

/// One end of a range of numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// The end.
    pub number: Number,
    /// Whether the end itself is in the range.
    pub inclusive: bool,
}

impl Refinements {
    /// A value that will not be null; the other promises may be added.
    #[must_use]
    pub fn not_null() -> Self {
        Self { not_null: true, ..Self::default() }
    }

    /// With the promise that the string will start with `prefix`, and so is not null.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.not_null = true;
        self.string_prefix = Some(prefix.into());
        self
    }

    /// Whether nothing is promised.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a value keeps every promise. An unknown value keeps them all as far as anybody
    /// can tell.
    #[must_use]
    pub fn admit(&self, value: &Value) -> bool {
        match value.undynamic() {
            Value::Unknown(_) | Value::Bool(_) | Value::Tuple(_) | Value::Object(_) => true,
            Value::Null => !self.not_null,
            Value::String(text) => {
                self.string_prefix.as_ref().is_none_or(|prefix| text.starts_with(prefix))
            }
            Value::Number(number) => self.admit_number(number),
            Value::List(elements) => self.admit_length(elements.len()),
            Value::Set(elements) => self.admit_length(elements.len()),
            Value::Map(members) => self.admit_length(members.len()),
            Value::Dynamic(typed) => self.admit(&typed.value),
        }
    }

    fn admit_number(&self, number: &Number) -> bool {
        let above = self
            .number_min
            .as_ref()
            .is_none_or(|min| number > &min.number || (min.inclusive && number == &min.number));
        let below = self
            .number_max
            .as_ref()
            .is_none_or(|max| number < &max.number || (max.inclusive && number == &max.number));
        above && below
    }

    fn admit_length(&self, length: usize) -> bool {
        let length = length as u64;
        self.length_min.is_none_or(|min| length >= min)
            && self.length_max.is_none_or(|max| length <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_checked() {
        assert!(!Refinements::not_null().admit(&Value::Null));
        assert!(Refinements::default().admit(&Value::Null));
        assert!(Refinements::default().prefix("vm-").admit(&"vm-1".into()));
        assert!(!Refinements::default().prefix("vm-").admit(&"web".into()));
        let bound = |number: i64, inclusive| Some(Bound { number: number.into(), inclusive });
        let range = Refinements {
            number_min: bound(1, true),
            number_max: bound(3, false),
            ..Refinements::default()
        };
        assert!(range.admit(&1.into()) && range.admit(&2.into()));
        assert!(!range.admit(&0.into()) && !range.admit(&3.into()));
        let length =
            Refinements { length_min: Some(1), length_max: Some(2), ..Refinements::default() };
        assert!(!length.admit(&Value::list([])));
        assert!(length.admit(&Value::set([1.into()])));
        assert!(!length.admit(&Value::list([1.into(), 1.into(), 1.into()])));
        assert!(range.admit(&Value::UNKNOWN));
    }
}
