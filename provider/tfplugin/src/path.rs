//! Where a value stands inside an object: `boot_volume.size_gib`, `volumes["data"]`.

use std::fmt;
use std::sync::Arc;

/// One step of an [`AttributePath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Into an attribute of an object, or a block.
    Attribute(Arc<str>),
    /// Into the element of a map with this key.
    Key(Arc<str>),
    /// Into the element of a list or tuple at this index, from zero.
    Index(usize),
    /// Into some element of a set. Elements have no name but themselves, which may be secret,
    /// so the step does not say which, and the wire cannot carry it.
    Element,
}

/// The way from an object to a value inside it. The empty path is the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributePath {
    steps: Vec<Step>,
}

impl AttributePath {
    /// The object itself.
    #[must_use]
    pub const fn root() -> Self {
        Self { steps: Vec::new() }
    }

    /// An attribute of the object.
    #[must_use]
    pub fn new(attribute: impl Into<Arc<str>>) -> Self {
        Self::root().attribute(attribute)
    }

    /// The path one attribute further in.
    #[must_use]
    pub fn attribute(self, name: impl Into<Arc<str>>) -> Self {
        self.step(Step::Attribute(name.into()))
    }

    /// The path to the element of a map.
    #[must_use]
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// The path to the element of a list or tuple.
    #[must_use]
    pub fn index(self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The path to some element of a set.
    #[must_use]
    pub fn element(self) -> Self {
        self.step(Step::Element)
    }

    /// The path one step further in.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// All steps, outermost first.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps that the wire can carry: those before the first step into a set.
    #[must_use]
    pub fn wire_steps(&self) -> &[Step] {
        let end = self.steps.iter().position(|step| *step == Step::Element);
        &self.steps[..end.unwrap_or(self.steps.len())]
    }

    /// Whether this is the object itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether `other` is this path or leads further into it.
    #[must_use]
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        other.steps.starts_with(&self.steps)
    }

    /// Steps into the path for the time of one visit: callers pair it with [`Self::pop`], so
    /// that a walk over a large value keeps one buffer.
    pub(crate) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Undoes the last [`Self::push`].
    pub(crate) fn pop(&mut self) {
        self.steps.pop();
    }

    /// Puts a step before all others; for errors that travel outwards.
    pub(crate) fn prepend(&mut self, step: Step) {
        self.steps.insert(0, step);
    }
}

impl From<Vec<Step>> for AttributePath {
    fn from(steps: Vec<Step>) -> Self {
        Self { steps }
    }
}

impl From<&str> for AttributePath {
    /// The path of one attribute; the text is a name, not a path to be parsed.
    fn from(attribute: &str) -> Self {
        Self::new(attribute)
    }
}

impl fmt::Display for AttributePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("(the whole object)");
        }
        for (position, step) in self.steps.iter().enumerate() {
            match step {
                Step::Attribute(name) if position == 0 => f.write_str(name)?,
                Step::Attribute(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Element => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_reads_like_a_reference() {
        let path = AttributePath::new("boot_volume").attribute("size_gib");
        assert_eq!(path.to_string(), "boot_volume.size_gib");
        assert_eq!(AttributePath::new("volumes").key("da\"ta").to_string(), r#"volumes["da\"ta"]"#);
        let path = AttributePath::new("rules").index(2).attribute("ports").element();
        assert_eq!(path.to_string(), "rules[2].ports[*]");
        assert_eq!(AttributePath::root().to_string(), "(the whole object)");
    }

    #[test]
    fn the_wire_stops_at_a_set() {
        let path = AttributePath::new("keys").element().attribute("name");
        assert_eq!(path.wire_steps(), AttributePath::new("keys").steps());
        let path = AttributePath::new("a").index(0);
        assert_eq!(path.wire_steps(), path.steps());
    }

    #[test]
    fn prefixes() {
        let outer = AttributePath::new("a");
        assert!(outer.is_prefix_of(&outer));
        assert!(outer.is_prefix_of(&AttributePath::new("a").index(1)));
        assert!(!outer.is_prefix_of(&AttributePath::new("b")));
        assert!(AttributePath::root().is_prefix_of(&outer));
    }
}
