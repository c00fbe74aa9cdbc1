//! A configuration, plan or state as an author reads it: attribute by attribute, where any may
//! be unknown, or as a whole.

use serde::de::DeserializeOwned;

use crate::{Attr, AttributePath, Diagnostics, Value, from_value};

/// A look at an object whose attributes may be unknown.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    value: &'a Value,
}

impl<'a> View<'a> {
    /// A look at this object.
    #[must_use]
    pub const fn new(value: &'a Value) -> Self {
        Self { value }
    }

    /// The object itself.
    #[must_use]
    pub const fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether there is no object.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    /// The value at a path; null when there is none, unknown when something on the way is.
    #[must_use]
    pub fn at(&self, path: impl Into<AttributePath>) -> &'a Value {
        static UNKNOWN: Value = Value::UNKNOWN;
        static NULL: Value = Value::Null;
        let path = path.into();
        let mut value = self.value;
        for step in path.steps() {
            if value.is_unknown() {
                return &UNKNOWN;
            }
            let one = AttributePath::from(vec![step.clone()]);
            match value.at(&one) {
                Some(found) => value = found,
                None => return &NULL,
            }
        }
        value
    }

    /// One attribute as a Rust value, null or unknown.
    ///
    /// # Errors
    /// When it has another form, or something inside it is unknown that `T` has no room for.
    pub fn get<T: DeserializeOwned>(
        &self,
        path: impl Into<AttributePath>,
    ) -> Result<Attr<T>, Diagnostics> {
        let path = path.into();
        match from_value::<Attr<T>>(self.at(path.clone())) {
            Ok(found) => Ok(found),
            Err(error) => Err(Diagnostics::from(error).under(&path)),
        }
    }

    /// The whole object as a Rust value.
    ///
    /// # Errors
    /// When it has another form, or something is unknown that `M` has no room for.
    pub fn model<M: DeserializeOwned>(&self) -> Result<M, Diagnostics> {
        Ok(from_value(self.value)?)
    }
}
