//! Checks of one configured value, ready-made and of the author's own.
//!
//! The caller ([`crate::validate`]) keeps unknown values away from them, and null ones from
//! those that do not ask for them, and hides values of sensitive attributes.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::path::{AttributePath, Step};
use crate::value::{Number, Value};

/// A check of one value.
pub trait Validator: Send + Sync {
    /// What the value must be; completes "must be ...".
    fn describe(&self) -> String;

    /// What is wrong with the value: nothing, or one entry a fault. The value is never unknown
    /// itself, and null only when [`Self::runs_on_null`] says so; what is inside may be both.
    fn check(&self, value: &Value) -> Vec<Invalid>;

    /// Whether the check wants to see null values as well.
    fn runs_on_null(&self) -> bool {
        false
    }

    /// The only values that pass, when there is such a list.
    fn allowed_values(&self) -> Option<&[String]> {
        None
    }
}

impl std::fmt::Debug for dyn Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

/// One fault that a validator found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where, seen from the value that was checked.
    pub path: AttributePath,
    /// Completes "must be ...".
    pub expected: String,
    /// Why it is not; shown unless the value is secret.
    pub reason: String,
}

impl Invalid {
    /// A fault of the value itself.
    #[must_use]
    pub fn here(expected: impl Into<String>, reason: impl Into<String>) -> Self {
        let path = AttributePath::root();
        Self { path, expected: expected.into(), reason: reason.into() }
    }
}

type Test = Arc<dyn Fn(&Value) -> Result<(), String> + Send + Sync>;

/// A check made of a sentence and a function.
#[derive(Clone)]
#[must_use]
pub struct Check {
    expected: String,
    test: Test,
    on_null: bool,
    allowed: Option<Vec<String>>,
}

impl Check {
    fn new(
        expected: impl Into<String>,
        test: impl Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { expected: expected.into(), test: Arc::new(test), on_null: false, allowed: None }
    }

    /// Lets the check see null values as well.
    pub const fn also_on_null(mut self) -> Self {
        self.on_null = true;
        self
    }
}

impl Validator for Check {
    fn describe(&self) -> String {
        self.expected.clone()
    }

    fn check(&self, value: &Value) -> Vec<Invalid> {
        match (self.test)(value) {
            Ok(()) => Vec::new(),
            Err(reason) => vec![Invalid::here(self.expected.clone(), reason)],
        }
    }

    fn runs_on_null(&self) -> bool {
        self.on_null
    }

    fn allowed_values(&self) -> Option<&[String]> {
        self.allowed.as_deref()
    }
}

/// A check of the author's own. `expected` completes "must be ..."; the error says why it is
/// not.
pub fn custom(
    expected: impl Into<String>,
    test: impl Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
) -> Check {
    Check::new(expected, test)
}

/// A check of the author's own for strings; other values pass.
pub fn string(
    expected: impl Into<String>,
    test: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
) -> Check {
    Check::new(expected, move |value| value.as_str().map_or(Ok(()), &test))
}

/// A number without a fractional part.
pub fn whole() -> Check {
    Check::new("a whole number", |value| match value.as_number() {
        Some(number) if !number.is_integer() => Err(format!("{number} is not whole")),
        _ => Ok(()),
    })
}

/// A number in a range, ends included: `range(1..=10)`, `range(0..)`.
pub fn range<N: Into<Number> + Clone>(range: impl RangeBounds<N>) -> Check {
    let min = end(range.start_bound()).map(Into::into);
    let max = end(range.end_bound()).map(Into::into);
    let exclusive = matches!(range.end_bound(), Bound::Excluded(_));
    let expected = match (&min, &max) {
        (Some(min), Some(max)) if exclusive => format!("at least {min} and less than {max}"),
        (Some(min), Some(max)) => format!("between {min} and {max}"),
        (Some(min), None) => format!("{min} or more"),
        (None, Some(max)) if exclusive => format!("less than {max}"),
        (None, Some(max)) => format!("{max} or less"),
        (None, None) => "any number".to_owned(),
    };
    Check::new(expected, move |value| {
        let Some(number) = value.as_number() else { return Ok(()) };
        let low: bool = min.as_ref().is_some_and(|min: &Number| number < min);
        let high = max
            .as_ref()
            .is_some_and(|max: &Number| if exclusive { number >= max } else { number > max });
        if low || high { Err(format!("it is {number}")) } else { Ok(()) }
    })
}

/// A length in a range: characters of a string, elements of a collection.
pub fn length(range: impl RangeBounds<usize>) -> Check {
    let min = end(range.start_bound()).unwrap_or(0);
    let max = match range.end_bound() {
        Bound::Included(max) => *max,
        Bound::Excluded(max) => max.saturating_sub(1),
        Bound::Unbounded => usize::MAX,
    };
    let expected = match (min, max) {
        (1, usize::MAX) => "not empty".to_owned(),
        (_, usize::MAX) => format!("at least {min} long"),
        (0, _) => format!("at most {max} long"),
        _ => format!("{min} to {max} long"),
    };
    Check::new(expected, move |value| {
        let (least, most) = lengths(value);
        if most < min {
            Err(format!("its length is {most}"))
        } else if least > max {
            Err(format!("its length is {least}"))
        } else {
            Ok(())
        }
    })
}

/// The least and the most that the length can turn out to be: unknown elements of a set may
/// turn out equal to others.
fn lengths(value: &Value) -> (usize, usize) {
    match value.undynamic() {
        Value::String(text) => {
            let length = text.chars().count();
            (length, length)
        }
        Value::Set(elements) => {
            let known = elements.iter().filter(|element| element.is_wholly_known()).count();
            (known.max(usize::from(!elements.is_empty())), elements.len())
        }
        Value::List(elements) | Value::Tuple(elements) => (elements.len(), elements.len()),
        Value::Map(members) => (members.len(), members.len()),
        _ => (0, usize::MAX),
    }
}

/// Not empty: a string or collection with at least one character or element.
pub fn not_empty() -> Check {
    length(1..)
}

/// One of these strings.
pub fn one_of<S: Into<String>>(values: impl IntoIterator<Item = S>) -> Check {
    let allowed: Vec<String> = values.into_iter().map(Into::into).collect();
    let listed = allowed.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(", ");
    let known = allowed.clone();
    let mut check = Check::new(format!("one of {listed}"), move |value| match value.as_str() {
        Some(text) if !known.iter().any(|value| value == text) => Err(format!("it is {value}")),
        _ => Ok(()),
    });
    check.allowed = Some(allowed);
    check
}

/// A name as hosts have it: lower-case letters, digits and hyphens, a letter first, no hyphen
/// last, at most `max` characters.
pub fn name(max: usize) -> Check {
    let expected = format!(
        "1 to {max} characters: lower-case letters, digits and hyphens, beginning with a letter \
         and not ending with a hyphen"
    );
    string(expected, move |text| name_fault(text, max).map_or(Ok(()), Err))
}

fn name_fault(text: &str, max: usize) -> Option<String> {
    let wrong = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
    if text.is_empty() {
        Some("it is empty".to_owned())
    } else if let Some(c) = text.chars().find(wrong) {
        Some(format!("it contains {c:?}"))
    } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        Some("it does not begin with a letter".to_owned())
    } else if text.ends_with('-') {
        Some("it ends with a hyphen".to_owned())
    } else {
        (text.len() > max).then(|| format!("it has {} characters", text.len()))
    }
}

/// A check of each element of a collection.
#[must_use]
pub fn each(validator: impl Validator + 'static) -> impl Validator {
    Each(validator)
}

struct Each<V>(V);

impl<V: Validator> Validator for Each<V> {
    fn describe(&self) -> String {
        format!("a collection of which each element is {}", self.0.describe())
    }

    fn check(&self, value: &Value) -> Vec<Invalid> {
        let mut found = Vec::new();
        let mut visit = |step: Step, element: &Value| {
            if element.is_unknown() || (element.is_null() && !self.0.runs_on_null()) {
                return;
            }
            found.extend(self.0.check(element).into_iter().map(|mut invalid| {
                invalid.path.prepend(step.clone());
                invalid
            }));
        };
        match value.undynamic() {
            Value::List(elements) | Value::Tuple(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    visit(Step::Index(index), element);
                }
            }
            Value::Set(elements) => {
                elements.iter().for_each(|element| visit(Step::Element, element));
            }
            Value::Map(members) => {
                for (key, element) in members {
                    visit(Step::Key(key.clone()), element);
                }
            }
            _ => {}
        }
        found
    }
}

/// A check of each key of a map.
#[must_use]
pub fn keys(validator: impl Validator + 'static) -> impl Validator {
    Keys(validator)
}

struct Keys<V>(V);

impl<V: Validator> Validator for Keys<V> {
    fn describe(&self) -> String {
        format!("a map of which each key is {}", self.0.describe())
    }

    fn check(&self, value: &Value) -> Vec<Invalid> {
        let Value::Map(members) = value.undynamic() else { return Vec::new() };
        let keys = members.keys().flat_map(|key| {
            self.0.check(&Value::from(&**key)).into_iter().map(|mut invalid| {
                invalid.path.prepend(Step::Key(key.clone()));
                invalid.expected = format!("under a key that is {}", invalid.expected);
                invalid
            })
        });
        keys.collect()
    }
}

fn end<T: Clone>(bound: Bound<&T>) -> Option<T> {
    match bound {
        Bound::Included(value) | Bound::Excluded(value) => Some(value.clone()),
        Bound::Unbounded => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(validator: &dyn Validator, value: impl Into<Value>) -> bool {
        validator.check(&value.into()).is_empty()
    }

    #[test]
    fn ranges() {
        let check = range(1..=10);
        assert!(passes(&check, 1) && passes(&check, 10));
        assert!(!passes(&check, 0) && !passes(&check, 11));
        assert_eq!(check.describe(), "between 1 and 10");
        assert!(!passes(&range(..10), 10) && passes(&range(..10), 9));
        assert_eq!(range(5..).check(&3.into())[0].reason, "it is 3");
    }

    #[test]
    fn lengths_count_characters_and_elements() {
        assert!(passes(&length(1..=3), "äöü") && !passes(&length(1..=3), "äöüß"));
        assert!(!passes(&not_empty(), Value::list([])));
        assert!(passes(&length(..3), Value::list([1.into(), 2.into()])));
    }

    #[test]
    fn unknown_elements_of_a_set_may_collapse() {
        let set = Value::set([Value::UNKNOWN, Value::UNKNOWN, 1.into()]);
        assert!(passes(&length(..=1), set.clone()));
        assert!(passes(&length(3..), set.clone()));
        assert!(!passes(&length(4..), set));
    }

    #[test]
    fn choices_are_listed() {
        let check = one_of(["running", "stopped"]);
        assert!(passes(&check, "running") && !passes(&check, "paused"));
        assert_eq!(check.allowed_values(), Some(&["running".to_owned(), "stopped".to_owned()][..]));
        assert_eq!(check.describe(), r#"one of "running", "stopped""#);
    }

    #[test]
    fn names() {
        for good in ["a", "web-1", "a1"] {
            assert!(passes(&name(10), good), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "Web", "wéb", "a_b", "abcdefghijk"] {
            assert!(!passes(&name(10), bad), "{bad}");
        }
    }

    #[test]
    fn elements_and_keys_are_named() {
        let list = Value::list(["ok".into(), Value::UNKNOWN, Value::Null, "".into()]);
        let found = each(not_empty()).check(&list);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, AttributePath::root().index(3));
        let map = Value::map([("Bad", 1.into()), ("good", 2.into())]);
        let found = keys(name(9)).check(&map);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, AttributePath::root().key("Bad"));
        assert!(passes(&whole(), 3) && !passes(&whole(), "0.5".parse::<Number>().unwrap()));
    }
}
