//! What an author declares about a resource: attributes, blocks, and the rules on them.
//!
//! Owns the declaration and what follows from it alone (the object type, whether it is sound,
//! which values are secret). What it means for a plan is in [`crate::plan`], for a
//! configuration in [`crate::validate`], for the client in [`crate::rules`].
//!
//! ```
//! use tfplugin::schema::{Attribute, Schema, validators};
//!
//! let schema = Schema::builder()
//!     .describe("A machine.")
//!     .attribute(Attribute::string("id").computed().use_state_for_unknown())
//!     .attribute(
//!         Attribute::string("name")
//!             .required()
//!             .describe("What people call it.")
//!             .validate(validators::length(1..=63)),
//!     )
//!     .attribute(
//!         Attribute::nested(
//!             "boot_volume",
//!             [
//!                 Attribute::integer("size_gib").required().validate(validators::range(1..=4096)),
//!                 Attribute::string("class").default("ssd").requires_replace(),
//!             ],
//!         )
//!         .optional(),
//!     )
//!     .build();
//! schema.assert_sound();
//! ```

mod across;
mod attribute;
mod block;
mod check;
mod marked;
mod modifier;
mod sensitive;
pub mod validators;

use std::sync::Arc;

pub use across::{Across, AcrossFn};
pub use attribute::{Attribute, Kind};
pub use block::Block;
pub use check::SchemaError;
pub(crate) use marked::{Mark, each_marked};
pub use modifier::{OnUpdate, Replace, ReplaceContext};
pub use validators::{Invalid, Validator};

use crate::path::{AttributePath, Step};
use crate::types::{ObjectType, Type};

/// How the objects of a nested attribute or block are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nesting {
    /// One object or null.
    Single,
    /// A list of objects.
    List,
    /// A set of objects.
    Set,
    /// Objects by key.
    Map,
    /// One object that is there even when nobody wrote it. Blocks only.
    Group,
}

impl Nesting {
    /// The type that holds objects of type `object` in this arrangement.
    #[must_use]
    pub fn wrap(self, object: Type) -> Type {
        match self {
            Self::Single | Self::Group => object,
            Self::List => Type::list(object),
            Self::Set => Type::set(object),
            Self::Map => Type::map(object),
        }
    }
}

/// The attributes and blocks of one object, and the rules between them.
#[derive(Clone, Debug)]
pub struct Body {
    attributes: Vec<Attribute>,
    blocks: Vec<Block>,
    across: Vec<Across>,
    ty: Type,
    marks: marked::Marks,
}

impl Body {
    /// A body of these attributes and blocks.
    #[must_use]
    pub fn new(attributes: Vec<Attribute>, blocks: Vec<Block>) -> Self {
        let members = attributes.iter().map(|attribute| (attribute.name_arc(), attribute.ty()));
        let nested = blocks.iter().map(|block| (block.name_arc(), block.ty()));
        let members = members.chain(nested).map(|(name, ty)| (name.clone(), ty.clone()));
        let ty = Type::Object(Arc::new(ObjectType::new(members)));
        let marks = marked::Marks::of(&attributes, &blocks);
        Self { attributes, blocks, across: Vec::new(), ty, marks }
    }

    /// All attributes, as declared.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// All blocks, as declared.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The rules between attributes.
    #[must_use]
    pub fn across(&self) -> &[Across] {
        &self.across
    }

    /// The type of the object.
    #[must_use]
    pub fn object_type(&self) -> &Type {
        &self.ty
    }

    /// The attribute of this name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name() == name)
    }

    /// The block of this name.
    #[must_use]
    pub fn block(&self, name: &str) -> Option<&Block> {
        self.blocks.iter().find(|block| block.name() == name)
    }

    pub(crate) fn push_across(&mut self, rule: Across) {
        self.across.push(rule);
    }
}

/// The declaration of a provider, resource, data source or anything else with a configuration.
#[derive(Clone, Debug)]
pub struct Schema {
    version: i64,
    description: String,
    deprecation: Option<String>,
    body: Body,
}

impl Schema {
    /// Begins a schema: version 0, empty.
    pub fn builder() -> SchemaBuilder {
        SchemaBuilder::default()
    }

    /// The version of the stored state, raised when its form changes.
    #[must_use]
    pub const fn version(&self) -> i64 {
        self.version
    }

    /// What it is, in Markdown.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What to use instead, when it should not be used any more.
    #[must_use]
    pub fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// The attributes, blocks and rules.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// All attributes, as declared.
    #[must_use]
    pub fn attributes(&self) -> &[Attribute] {
        self.body.attributes()
    }

    /// All blocks, as declared.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        self.body.blocks()
    }

    /// The type of the whole object.
    #[must_use]
    pub fn object_type(&self) -> &Type {
        self.body.object_type()
    }

    /// The attribute that a path leads to or into: the last one on its way. `None` when the
    /// path ends at a block or names nothing.
    #[must_use]
    pub fn attribute_at(&self, path: &AttributePath) -> Option<&Attribute> {
        let mut body = Some(&self.body);
        let mut found = None;
        for step in path.steps() {
            let Step::Attribute(name) = step else { continue };
            let Some(here) = body else { return found };
            if let Some(attribute) = here.attribute(name) {
                found = Some(attribute);
                body = attribute.body();
            } else {
                found = None;
                body = Some(here.block(name)?.body());
            }
        }
        found
    }
}

/// A schema in the making.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SchemaBuilder {
    version: i64,
    description: String,
    deprecation: Option<String>,
    attributes: Vec<Attribute>,
    blocks: Vec<Block>,
    across: Vec<Across>,
}

impl SchemaBuilder {
    /// Sets the version of the stored state.
    pub const fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// Says what it is, in Markdown.
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Marks it as one that should not be used any more, with what to use instead.
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecation = Some(message.into());
        self
    }

    /// Adds an attribute.
    pub fn attribute(mut self, attribute: Attribute) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Adds attributes.
    pub fn attributes(mut self, attributes: impl IntoIterator<Item = Attribute>) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// Adds a block.
    pub fn block(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }

    /// Adds a rule between attributes.
    pub fn rule(mut self, rule: Across) -> Self {
        self.across.push(rule);
        self
    }

    /// At most one of these attributes may be set.
    pub fn conflicts<N: Into<Arc<str>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.rule(Across::conflicts(names))
    }

    /// Exactly one of these attributes must be set.
    pub fn exactly_one_of<N: Into<Arc<str>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.rule(Across::exactly_one_of(names))
    }

    /// At least one of these attributes must be set.
    pub fn at_least_one_of<N: Into<Arc<str>>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.rule(Across::at_least_one_of(names))
    }

    /// When `name` is set, all of `others` must be set as well.
    pub fn required_with<N: Into<Arc<str>>>(
        self,
        name: impl Into<Arc<str>>,
        others: impl IntoIterator<Item = N>,
    ) -> Self {
        self.rule(Across::required_with(name, others))
    }

    /// The schema. Whether it is sound is asked with [`Schema::check`].
    #[must_use]
    pub fn build(self) -> Schema {
        let mut body = Body::new(self.attributes, self.blocks);
        body.across = self.across;
        Schema {
            version: self.version,
            description: self.description,
            deprecation: self.deprecation,
            body,
        }
    }
}
