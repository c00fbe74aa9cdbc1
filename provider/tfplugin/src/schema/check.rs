//! Whether a schema is sound, before any client sees it.

use super::{Attribute, Block, Body, Nesting, OnUpdate, Schema};
use crate::path::{AttributePath, Step};
use crate::types::Type;

/// Names that the language keeps for itself at the top of a resource.
const RESERVED: [&str; 7] =
    ["connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioner"];

/// A fault of a schema, which only its author can mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct SchemaError {
    /// The attribute or block at fault.
    pub path: AttributePath,
    /// What is wrong with it.
    pub fault: String,
}

impl Schema {
    /// Checks that the schema makes sense.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn check(&self) -> Result<(), Vec<SchemaError>> {
        let mut faults = Faults { found: Vec::new(), path: AttributePath::root() };
        if self.version() < 0 {
            faults.add("the version must not be negative");
        }
        let place = Place { computed_only: false, in_set: false, in_collection: false };
        check_body(self.body(), place, &mut faults);
        let reserved = |name: &&str| RESERVED.contains(name);
        let attributes = self.attributes().iter().map(Attribute::name);
        for name in attributes.chain(self.blocks().iter().map(Block::name)).filter(reserved) {
            faults.within(name, |faults| faults.add("the language keeps this name for itself"));
        }
        if faults.found.is_empty() { Ok(()) } else { Err(faults.found) }
    }

    /// For tests of providers: stops the test when the schema is not sound.
    ///
    /// # Panics
    /// When [`Self::check`] finds a fault; the message lists all.
    pub fn assert_sound(&self) {
        let faults = self.check().err().unwrap_or_default();
        let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "the schema is not sound:\n{}", list.join("\n"));
    }
}

struct Faults {
    found: Vec<SchemaError>,
    path: AttributePath,
}

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.found.push(SchemaError { path: self.path.clone(), fault: fault.into() });
    }

    fn within(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        self.path.push(Step::Attribute(name.into()));
        visit(self);
        self.path.pop();
    }
}

/// What the place of a body imposes on its attributes.
#[derive(Clone, Copy)]
struct Place {
    computed_only: bool,
    in_set: bool,
    in_collection: bool,
}

impl Place {
    const fn inside(self, nesting: Nesting) -> Self {
        let collection = matches!(nesting, Nesting::List | Nesting::Set | Nesting::Map);
        Self {
            in_set: self.in_set || matches!(nesting, Nesting::Set),
            in_collection: self.in_collection || collection,
            ..self
        }
    }
}

fn check_body(body: &Body, place: Place, faults: &mut Faults) {
    let names = body.attributes().iter().map(Attribute::name);
    let mut names: Vec<&str> = names.chain(body.blocks().iter().map(Block::name)).collect();
    names.sort_unstable();
    for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
        faults.within(pair[0], |faults| faults.add("declared twice"));
    }
    for attribute in body.attributes() {
        faults.within(attribute.name(), |faults| {
            check_name(attribute.name(), faults);
            check_flags(attribute, place, faults);
            check_replace(attribute, place, faults);
            check_modifiers(attribute, body, faults);
            check_default(attribute, faults);
            check_type(attribute.ty(), place.in_collection, faults);
            if let Some((nesting, body)) = attribute.nested_objects() {
                let only = attribute.is_computed() && !attribute.is_optional();
                let inside = place.inside(nesting);
                let inside = Place { computed_only: place.computed_only || only, ..inside };
                check_body(body, inside, faults);
            }
        });
    }
    for block in body.blocks() {
        faults.within(block.name(), |faults| check_block(block, place, faults));
    }
    for rule in body.across() {
        for name in rule.names().filter(|name| !names.contains(&&***name)) {
            faults.add(format!("a rule names `{name}`, which is not declared"));
        }
    }
}

fn check_name(name: &str, faults: &mut Faults) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good)
    {
        faults.add("a name is lower-case letters, digits and underscores, no digit first");
    }
}

fn check_replace(attribute: &Attribute, place: Place, faults: &mut Faults) {
    if place.in_set && !attribute.replace().is_never() {
        faults.add("elements of a set are never changed: declare replacement on the set");
    }
}

fn check_flags(attribute: &Attribute, place: Place, faults: &mut Faults) {
    let (required, optional) = (attribute.is_required(), attribute.is_optional());
    if !required && !optional && !attribute.is_computed() {
        faults.add("must be required, optional or computed");
    }
    if required && optional {
        faults.add("cannot be required and optional");
    }
    if required && attribute.is_computed() {
        faults.add("cannot be required and computed");
    }
    if place.computed_only && (required || optional) {
        faults.add("nobody can set it: what it is nested in is computed only");
    }
    if attribute.is_write_only() {
        if attribute.is_computed() {
            faults.add("cannot be write-only and computed");
        }
        if place.in_set || matches!(attribute.nested_objects(), Some((Nesting::Set, _))) {
            faults.add("cannot be write-only in a set");
        }
    }
}

fn check_modifiers(attribute: &Attribute, body: &Body, faults: &mut Faults) {
    if !attribute.is_computed() && *attribute.on_update() != OnUpdate::Unknown {
        faults.add("is not computed, so an update has nothing to keep or to recompute");
    }
    if let OnUpdate::RecomputeWhen(names) = attribute.on_update() {
        let known = |name: &str| body.attribute(name).is_some() || body.block(name).is_some();
        for name in names.iter().filter(|name| !known(name)) {
            faults.add(format!("is recomputed when `{name}` changes, which is not declared"));
        }
    }
}

fn check_default(attribute: &Attribute, faults: &mut Faults) {
    let Some(default) = attribute.default_value() else { return };
    if let Err(mismatch) = default.conforms_to(attribute.ty()) {
        faults.add(format!("the default has the wrong type: {mismatch}"));
    }
    if !default.is_wholly_known() {
        faults.add("the default must be known");
    }
    if default.is_null() {
        faults.add("a default of null says nothing");
    }
    if attribute.is_write_only() {
        faults.add("cannot be write-only and have a default");
    }
}

/// Elements of one collection have one type, which a dynamic part would break.
fn check_type(ty: &Type, in_collection: bool, faults: &mut Faults) {
    let inside = ty.element().is_some_and(Type::has_dynamic);
    if inside || (in_collection && ty.has_dynamic()) {
        faults.add("a collection cannot hold values of dynamic type");
    }
}

fn check_block(block: &Block, place: Place, faults: &mut Faults) {
    check_name(block.name(), faults);
    let (min, max) = block.items();
    if max != 0 && min > max {
        faults.add(format!("at least {min} and at most {max} is never"));
    }
    let once = matches!(block.nesting(), Nesting::Single | Nesting::Group);
    if once && (min > 1 || max > 1) {
        faults.add("a block of this nesting is there at most once");
    }
    if matches!(block.nesting(), Nesting::Group | Nesting::Map) && (min, max) != (0, 0) {
        faults.add("a block of this nesting has no limits on its count");
    }
    check_body(block.body(), place.inside(block.nesting()), faults);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    fn faults(attribute: Attribute) -> Vec<String> {
        let schema = Schema::builder().attribute(attribute).build();
        let faults = schema.check().err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    fn string() -> Attribute {
        Attribute::string("a")
    }

    #[test]
    fn sound_attributes_pass() {
        for attribute in [
            string().required(),
            string().optional().computed().use_state_for_unknown(),
            string().default("x"),
            string().optional().write_only().sensitive(),
            Attribute::nested("a", [Attribute::dynamic("b").computed()]).computed().sensitive(),
        ] {
            let name = format!("{attribute:?}");
            assert_eq!(faults(attribute), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn each_fault_is_found() {
        for (attribute, fault) in [
            (string(), "must be required"),
            (string().required().optional(), "required and optional"),
            (string().required().computed(), "required and computed"),
            (string().optional().use_state_for_unknown(), "not computed"),
            (string().computed().recomputed_when(["b"]), "`b`"),
            (string().default(1), "wrong type"),
            (string().default(Value::UNKNOWN), "must be known"),
            (string().default(Value::Null), "null"),
            (string().computed().write_only(), "write-only and computed"),
            (Attribute::string("Name").required(), "lower-case"),
            (Attribute::string("1a").required(), "lower-case"),
            (Attribute::string("count").required(), "keeps this name"),
            (Attribute::list("a", Type::Dynamic).optional(), "dynamic"),
            (Attribute::nested("a", [string().required()]).computed(), "nobody can set"),
            (Attribute::nested_set("a", [string().optional().write_only()]).optional(), "in a set"),
            (
                Attribute::nested("a", [string().required(), string().required()]).optional(),
                "twice",
            ),
        ] {
            let found = faults(attribute);
            assert!(found.iter().any(|text| text.contains(fault)), "{fault}: {found:?}");
        }
    }

    #[test]
    fn blocks_and_rules_are_checked_too() {
        let block = Block::single("b", [string().required()]).min_items(3).max_items(2);
        let schema = Schema::builder().version(-1).block(block).conflicts(["b", "c"]).build();
        let found = schema.check().unwrap_err();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        for fault in ["negative", "is never", "at most once", "`c`"] {
            assert!(found.iter().any(|text| text.contains(fault)), "{fault}: {found:?}");
        }
    }
}
