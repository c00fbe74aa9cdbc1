//! Which changes make a new resource.

use crate::path::{AttributePath, Step};
use crate::schema::{Attribute, Body, Nesting, Replace, ReplaceContext, Schema};
use crate::value::Value;

/// The paths of changed attributes that require replacement. `planned` is the plan before
/// computed values become unknown: what only may change is no reason to replace.
pub(super) fn paths(schema: &Schema, prior: &Value, planned: &Value) -> Vec<AttributePath> {
    let mut search = Search {
        prior_state: prior,
        planned_state: planned,
        path: AttributePath::root(),
        found: Vec::new(),
    };
    search.object(schema.body(), prior, planned);
    search.found
}

struct Search<'a> {
    prior_state: &'a Value,
    planned_state: &'a Value,
    path: AttributePath,
    found: Vec<AttributePath>,
}

impl Search<'_> {
    fn object(&mut self, body: &Body, prior: &Value, planned: &Value) {
        // Only an object that is there before and after can be changed.
        if !matches!((prior, planned), (Value::Object(_), Value::Object(_))) {
            return;
        }
        for attribute in body.attributes() {
            let (prior, planned) =
                (prior.member(attribute.name()), planned.member(attribute.name()));
            if prior == planned {
                continue;
            }
            self.path.push(Step::Attribute(attribute.name_arc().clone()));
            if self.is_replaced(attribute, prior, planned) {
                self.found.push(self.path.clone());
            } else if let Some((nesting, body)) = attribute.nested_objects() {
                self.nested(nesting, body, prior, planned);
            }
            self.path.pop();
        }
        for block in body.blocks() {
            self.path.push(Step::Attribute(block.name_arc().clone()));
            let (prior, planned) = (prior.member(block.name()), planned.member(block.name()));
            self.nested(block.nesting(), block.body(), prior, planned);
            self.path.pop();
        }
    }

    fn nested(&mut self, nesting: Nesting, body: &Body, prior: &Value, planned: &Value) {
        match (nesting, prior, planned) {
            (Nesting::Single | Nesting::Group, ..) => self.object(body, prior, planned),
            (_, Value::List(priors), Value::List(planned)) => {
                for (index, (prior, planned)) in priors.iter().zip(planned).enumerate() {
                    self.path.push(Step::Index(index));
                    self.object(body, prior, planned);
                    self.path.pop();
                }
            }
            (_, Value::Map(priors), Value::Map(planned)) => {
                for (key, planned) in planned {
                    let Some(prior) = priors.get(key) else { continue };
                    self.path.push(Step::Key(key.clone()));
                    self.object(body, prior, planned);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn is_replaced(&self, attribute: &Attribute, prior: &Value, planned: &Value) -> bool {
        match attribute.replace() {
            Replace::Never => false,
            Replace::Always => true,
            Replace::When { test, .. } => test(&ReplaceContext {
                path: &self.path,
                prior,
                planned,
                prior_state: self.prior_state,
                planned_state: self.planned_state,
            }),
        }
    }
}
