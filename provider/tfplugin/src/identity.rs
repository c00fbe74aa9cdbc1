//! The attributes that tell one remote object from all others, for import and for lists.

use std::sync::Arc;

use crate::{Type, Value, proto::tfplugin6 as pb};

/// One part of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAttribute {
    /// Its name; unless the resource says otherwise, its value is the state's attribute of the
    /// same name.
    pub name: Arc<str>,
    /// Its type: a string, number or bool, or a list of one of them.
    pub ty: Type,
    /// Whether an import by identity must give it; otherwise it may.
    pub required_for_import: bool,
    /// What it is.
    pub description: String,
}

/// The identity of a resource type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySchema {
    version: i64,
    attributes: Vec<IdentityAttribute>,
}

impl IdentitySchema {
    /// An identity without attributes, of version 0.
    #[must_use]
    pub const fn new() -> Self {
        Self { version: 0, attributes: Vec::new() }
    }

    /// Grows when stored identities have to be rewritten, which
    /// [`Resource::identity_upgraders`](crate::Resource::identity_upgraders) do.
    #[must_use]
    pub const fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    /// Adds an attribute that an import must give.
    #[must_use]
    pub fn required(self, name: &str, ty: Type, description: &str) -> Self {
        self.with(name, ty, description, true)
    }

    /// Adds an attribute that an import may give.
    #[must_use]
    pub fn optional(self, name: &str, ty: Type, description: &str) -> Self {
        self.with(name, ty, description, false)
    }

    fn with(mut self, name: &str, ty: Type, description: &str, required_for_import: bool) -> Self {
        let description = description.to_owned();
        self.attributes.push(IdentityAttribute {
            name: name.into(),
            ty,
            required_for_import,
            description,
        });
        self
    }

    /// The version.
    #[must_use]
    pub const fn schema_version(&self) -> i64 {
        self.version
    }

    /// Its parts, in the order they were added.
    #[must_use]
    pub fn attributes(&self) -> &[IdentityAttribute] {
        &self.attributes
    }

    /// The type of an identity as a whole.
    #[must_use]
    pub fn ty(&self) -> Type {
        Type::object(self.attributes.iter().map(|part| (Arc::clone(&part.name), part.ty.clone())))
    }

    /// The identity that stands in a state, when every required part is known there.
    pub(crate) fn of_state(&self, state: &Value) -> Option<Value> {
        let part = |part: &IdentityAttribute| {
            let value = state.member(&part.name);
            let missing = value.is_unknown() || (part.required_for_import && value.is_null());
            (!missing).then(|| (Arc::clone(&part.name), value.clone()))
        };
        let parts: Option<Vec<_>> = self.attributes.iter().map(part).collect();
        parts.map(Value::object)
    }

    pub(crate) fn to_wire(&self) -> pb::ResourceIdentitySchema {
        let attributes =
            self.attributes.iter().map(|part| pb::resource_identity_schema::IdentityAttribute {
                name: part.name.as_ref().to_owned(),
                r#type: part.ty.to_json().into(),
                required_for_import: part.required_for_import,
                optional_for_import: !part.required_for_import,
                description: part.description.clone(),
            });
        pb::ResourceIdentitySchema {
            version: self.version,
            identity_attributes: attributes.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_complete_or_absent() {
        let schema = IdentitySchema::new().required("id", Type::String, "The id.").optional(
            "zone",
            Type::String,
            "The zone.",
        );
        let state = |id: Value| Value::object([("id", id), ("name", "n".into())]);
        let found = schema.of_state(&state("i".into()));
        assert_eq!(found, Some(Value::object([("id", "i".into()), ("zone", Value::Null)])));
        assert_eq!(schema.of_state(&state(Value::Null)), None);
        assert_eq!(schema.of_state(&state(Value::UNKNOWN)), None);
        assert_eq!(schema.of_state(&Value::Null), None);
    }
}
