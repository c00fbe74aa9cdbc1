//! The walk over an object to the attributes that are marked: secret ones, write-only ones.

use super::{Attribute, Body, Nesting};
use crate::path::{AttributePath, Step};
use crate::value::Value;

/// Whether objects of this body can hold anything marked.
pub(crate) fn can_hold(body: &Body, is_marked: fn(&Attribute) -> bool) -> bool {
    let holds = |attribute: &Attribute| {
        is_marked(attribute) || attribute.body().is_some_and(|body| can_hold(body, is_marked))
    };
    body.attributes().iter().any(holds)
        || body.blocks().iter().any(|block| can_hold(block.body(), is_marked))
}

/// Calls `found` with the path and value of each marked attribute of `value` that is not null,
/// unknown ones included. What lies below a marked attribute is part of it.
pub(crate) fn each_marked(
    body: &Body,
    value: &Value,
    is_marked: fn(&Attribute) -> bool,
    found: &mut dyn FnMut(&AttributePath, &Value),
) {
    Walk { is_marked, at: AttributePath::root(), found }.object(body, value);
}

struct Walk<'a> {
    is_marked: fn(&Attribute) -> bool,
    at: AttributePath,
    found: &'a mut dyn FnMut(&AttributePath, &Value),
}

impl Walk<'_> {
    fn object(&mut self, body: &Body, value: &Value) {
        if !can_hold(body, self.is_marked) {
            return;
        }
        for attribute in body.attributes() {
            let value = value.member(attribute.name());
            self.at.push(Step::Attribute(attribute.name_arc().clone()));
            if (self.is_marked)(attribute) {
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
