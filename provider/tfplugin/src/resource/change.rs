//! A planned change, as the author sees and refines it.

use std::ops::Deref;

use serde::Serialize;

use crate::{
    Attr, AttributePath, Diagnostics, Private, Type, Value, View, path::Step, schema::Schema,
    to_value,
};

/// What is going to happen to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It does not exist yet.
    Create,
    /// It exists; whether in place or by replacement is for the plan to say.
    Update,
    /// It is removed. Seen only by resources that ask for it.
    Delete,
}

/// A plan after the schema's rules, to be refined.
#[derive(Debug)]
pub struct Change<'a> {
    pub(crate) kind: ChangeKind,
    pub(crate) schema: &'a Schema,
    pub(crate) config: &'a Value,
    pub(crate) prior: &'a Value,
    pub(crate) planned: Value,
    pub(crate) requires_replace: Vec<AttributePath>,
    pub(crate) private: Private,
}

impl Change<'_> {
    /// What is going to happen.
    #[must_use]
    pub const fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// What the user wrote, write-only values included.
    #[must_use]
    pub const fn config(&self) -> View<'_> {
        View::new(self.config)
    }

    /// The object as it was read last; null on create.
    #[must_use]
    pub const fn prior(&self) -> View<'_> {
        View::new(self.prior)
    }

    /// The object as it shall be; null on delete.
    #[must_use]
    pub const fn planned(&self) -> View<'_> {
        View::new(&self.planned)
    }

    /// Whether anything is to be done at all.
    #[must_use]
    pub fn is_effective(&self) -> bool {
        self.prior != &self.planned
    }

    /// Whether the value at the path differs from what it was. A value that is unknown yet does.
    #[must_use]
    pub fn differs(&self, path: impl Into<AttributePath>) -> bool {
        let path = path.into();
        self.prior().at(path.clone()) != self.planned().at(path)
    }

    /// Whether the object has to be made anew.
    #[must_use]
    pub fn replaces(&self) -> bool {
        !self.requires_replace.is_empty()
    }

    /// Puts a value that is known already. Only what the user left to the provider may be put.
    ///
    /// # Errors
    /// When there is no such attribute, or it has another type.
    pub fn set<T: Serialize>(
        &mut self,
        path: impl Into<AttributePath>,
        value: &T,
    ) -> Result<(), Diagnostics> {
        let path = path.into();
        let ty = self.type_at(&path)?;
        let value = match to_value(value, &ty) {
            Ok(value) => value,
            Err(error) => return Err(Diagnostics::from(error).under(&path)),
        };
        self.put(&path, value)
    }

    /// Says that the value will be known only after apply.
    ///
    /// # Errors
    /// When there is no such attribute.
    pub fn set_unknown(&mut self, path: impl Into<AttributePath>) -> Result<(), Diagnostics> {
        self.put(&path.into(), Value::UNKNOWN)
    }

    /// Asks for a replacement because of this attribute. It has no effect on what is created or
    /// deleted anyway.
    pub fn require_replace(&mut self, path: impl Into<AttributePath>) {
        let path = path.into();
        if self.kind == ChangeKind::Update && !self.requires_replace.contains(&path) {
            self.requires_replace.push(path);
        }
    }

    /// Takes back that this attribute asks for a replacement: what is written differently may be
    /// the same thing.
    pub fn keep_in_place(&mut self, path: impl Into<AttributePath>) {
        let path = path.into();
        self.requires_replace.retain(|other| *other != path);
    }

    /// What the resource keeps for itself; handed on to apply.
    pub const fn private(&mut self) -> &mut Private {
        &mut self.private
    }

    fn put(&mut self, path: &AttributePath, value: Value) -> Result<(), Diagnostics> {
        let place = self.planned.at_mut(path).ok_or_else(|| no_such(path))?;
        *place = value;
        Ok(())
    }

    fn type_at(&self, path: &AttributePath) -> Result<Type, Diagnostics> {
        let mut ty = self.schema.object_type();
        for step in path.steps() {
            let inner = match (step, ty) {
                (Step::Attribute(name), Type::Object(object)) => object.get(name),
                (Step::Index(index), Type::Tuple(elements)) => elements.get(*index),
                (Step::Key(_), Type::Map(element)) | (Step::Index(_), Type::List(element)) => {
                    Some(&**element)
                }
                _ => None,
            };
            ty = inner.ok_or_else(|| no_such(path))?;
        }
        Ok(ty.clone())
    }
}

fn no_such(path: &AttributePath) -> Diagnostics {
    Diagnostics::error(
        "The provider planned a value that has no place",
        format!("There is no {path} in the planned object. Please report this to its authors."),
    )
}

/// What is to be made or changed, as it was planned.
#[derive(Debug)]
pub struct Planned<'a, M> {
    /// The planned object; computed values may be unknown. Write-only values are null here.
    pub model: M,
    /// What the user wrote: the only place where write-only values are.
    pub config: View<'a>,
}

impl<M> Planned<'_, M> {
    /// A write-only value, or any other, as the user wrote it.
    ///
    /// # Errors
    /// When it has another form.
    pub fn configured<T: serde::de::DeserializeOwned>(
        &self,
        path: impl Into<AttributePath>,
    ) -> Result<Attr<T>, Diagnostics> {
        self.config.get(path)
    }
}

impl<M> Deref for Planned<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}
