//! The walk over an object to the attributes that are marked: secret ones, write-only ones.

use super::{Attribute, Block, Body, Nesting};
use crate::path::{AttributePath, Step};
use crate::value::Value;

/// What an attribute can be marked as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// Not to be shown: sensitive or write-only.
    Secret,
    /// Never in a state.
    WriteOnly,
}

impl Mark {
    pub(crate) const fn is_on(self, attribute: &Attribute) -> bool {
        match self {
            Self::Secret => attribute.is_sensitive() || attribute.is_write_only(),
            Self::WriteOnly => attribute.is_write_only(),
        }
    }
}

/// Whether objects of a body can hold anything marked, found once: every call asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    secret: bool,
    write_only: bool,
}

impl Marks {
    pub(super) fn of(attributes: &[Attribute], blocks: &[Block]) -> Self {
        let any = |mark: Mark| {
            attributes.iter().any(|attribute| {
                mark.is_on(attribute) || attribute.body().is_some_and(|body| body.can_hold(mark))
            }) || blocks.iter().any(|block| block.body().can_hold(mark))
        };
        Self { secret: any(Mark::Secret), write_only: any(Mark::WriteOnly) }
    }
}

impl Body {
    /// Whether objects of this body can hold anything marked.
    pub(crate) const fn can_hold(&self, mark: Mark) -> bool {
        match mark {
            Mark::Secret => self.marks.secret,
            Mark::WriteOnly => self.marks.write_only,
        }
    }
}

/// Calls `found` with the path and value of each marked attribute of `value` that is not null,
/// unknown ones included. What lies below a marked attribute is part of it.
pub(crate) fn each_marked(
    body: &Body,
    value: &Value,
    mark: Mark,
    found: &mut dyn FnMut(&AttributePath, &Value),
) {
    Walk { mark, at: AttributePath::root(), found }.object(body, value);
}

struct Walk<'a> {
    mark: Mark,
    at: AttributePath,
    found: &'a mut dyn FnMut(&AttributePath, &Value),
}

impl Walk<'_> {
    fn object(&mut self, body: &Body, value: &Value) {
        if !body.can_hold(self.mark) {
            return;
        }
        for attribute in body.attributes() {
            let value = value.member(attribute.name());
            self.at.push(Step::Attribute(attribute.name_arc().clone()));
            if self.mark.is_on(attribute) {
                if !value.is_null() {
                    (self.found)(&self.at, value);
                }
            } else if let Some((nesting, body)) = attribute.nested_objects() {
                self.nested(nesting, body, value);
            }
            self.at.pop();
        }
        for block in body.blocks() {
            self.at.push(Step::Attribute(block.name_arc().clone()));
            self.nested(block.nesting(), block.body(), value.member(block.name()));
            self.at.pop();
        }
    }

    fn nested(&mut self, nesting: Nesting, body: &Body, value: &Value) {
        if value.is_null() || value.is_unknown() {
            return;
        }
        if matches!(nesting, Nesting::Single | Nesting::Group) {
            return self.object(body, value);
        }
        let is_set = matches!(value, Value::Set(_));
        for (index, element) in value.as_elements().unwrap_or_default().iter().enumerate() {
            self.at.push(if is_set { Step::Element } else { Step::Index(index) });
            self.object(body, element);
            self.at.pop();
        }
        for (key, element) in value.as_members().into_iter().flatten() {
            self.at.push(Step::Key(key.clone()));
            self.object(body, element);
            self.at.pop();
        }
    }
}
