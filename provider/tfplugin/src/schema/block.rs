//! Nested blocks, for providers that must keep the older form. New ones use nested attributes.

use std::sync::Arc;

use super::{Across, Attribute, Body, Nesting};
use crate::types::Type;

/// A block that a configuration may hold, once or many times.
#[derive(Clone, Debug)]
pub struct Block {
    name: Arc<str>,
    nesting: Nesting,
    body: Body,
    ty: Type,
    description: String,
    deprecation: Option<String>,
    min_items: u32,
    max_items: u32,
}

impl Block {
    /// A block that is there at most once, and null otherwise.
    pub fn single(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Attribute>) -> Self {
        Self::new(name.into(), Nesting::Single, of.into_iter().collect(), Vec::new())
    }

    /// A block that counts as there even when nobody wrote it.
    pub fn group(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Attribute>) -> Self {
        Self::new(name.into(), Nesting::Group, of.into_iter().collect(), Vec::new())
    }

    /// A block that may be repeated, in order.
    pub fn list(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Attribute>) -> Self {
        Self::new(name.into(), Nesting::List, of.into_iter().collect(), Vec::new())
    }

    /// A block that may be repeated, without order.
    pub fn set(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Attribute>) -> Self {
        Self::new(name.into(), Nesting::Set, of.into_iter().collect(), Vec::new())
    }

    /// A block that may be repeated, each with a label.
    pub fn map(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Attribute>) -> Self {
        Self::new(name.into(), Nesting::Map, of.into_iter().collect(), Vec::new())
    }

    fn new(
        name: Arc<str>,
        nesting: Nesting,
        attributes: Vec<Attribute>,
        blocks: Vec<Self>,
    ) -> Self {
        let body = Body::new(attributes, blocks);
        let ty = nesting.wrap(body.object_type().clone());
        Self {
            name,
            nesting,
            body,
            ty,
            description: String::new(),
            deprecation: None,
            min_items: 0,
            max_items: 0,
        }
    }

    /// Adds a block inside this one.
    pub fn block(mut self, inner: Self) -> Self {
        let Body { attributes, mut blocks, across, .. } = self.body;
        blocks.push(inner);
        self.body = Body::new(attributes, blocks);
        self.body.across = across;
        self.ty = self.nesting.wrap(self.body.object_type().clone());
        self
    }

    /// Adds a rule between the attributes inside.
    pub fn rule(mut self, rule: Across) -> Self {
        self.body.push_across(rule);
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

    /// How often it must be there at least.
    pub const fn min_items(mut self, count: u32) -> Self {
        self.min_items = count;
        self
    }

    /// How often it may be there at most; zero is without limit.
    pub const fn max_items(mut self, count: u32) -> Self {
        self.max_items = count;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, shared.
    #[must_use]
    pub const fn name_arc(&self) -> &Arc<str> {
        &self.name
    }

    /// How the objects are arranged.
    #[must_use]
    pub const fn nesting(&self) -> Nesting {
        self.nesting
    }

    /// What each object holds.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// The type of the objects in their arrangement.
    #[must_use]
    pub const fn ty(&self) -> &Type {
        &self.ty
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

    /// The limits on how often it is there: at least, and at most (zero is without limit).
    #[must_use]
    pub const fn items(&self) -> (u32, u32) {
        (self.min_items, self.max_items)
    }
}
