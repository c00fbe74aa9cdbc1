//! A configuration for an existing state: what a user would have written.
//!
//! Left out is what only the provider sets, what equals its default, what is deprecated, secret
//! or write-only, and the timeouts, which say nothing about the object.

use crate::{
    Attribute, Value,
    schema::{Body, Nesting, Schema},
};

/// The configuration, as an object of the schema.
pub(super) fn config(schema: &Schema, state: &Value) -> Value {
    object(schema.body(), state)
}

fn object(body: &Body, value: &Value) -> Value {
    if value.is_null() || value.is_unknown() {
        return Value::Null;
    }
    let attributes = body.attributes().iter().map(|attribute| {
        (attribute.name_arc().clone(), written(attribute, value.member(attribute.name())))
    });
    let blocks = body.blocks().iter().map(|block| {
        let inner = nested(block.nesting(), block.body(), value.member(block.name()));
        (block.name_arc().clone(), inner)
    });
    Value::object(attributes.chain(blocks))
}

fn written(attribute: &Attribute, value: &Value) -> Value {
    let by_provider = !attribute.is_required() && !attribute.is_optional();
    let secret = attribute.is_sensitive() || attribute.is_write_only();
    let as_default = attribute.default_value() == Some(value);
    let unneeded = as_default || attribute.deprecation().is_some();
    let own_id = attribute.name() == "id" && attribute.is_computed();
    let leave_out = by_provider || unneeded || own_id || attribute.name() == "timeouts";
    if secret || (leave_out && !attribute.is_required()) {
        return Value::Null;
    }
    match attribute.nested_objects() {
        Some((nesting, body)) => nested(nesting, body, value),
        None => value.clone(),
    }
}

fn nested(nesting: Nesting, body: &Body, value: &Value) -> Value {
    let each = |element: &Value| object(body, element);
    match (nesting, value) {
        (Nesting::Single | Nesting::Group, value) => object(body, value),
        (_, Value::List(elements)) => Value::list(elements.iter().map(each)),
        (_, Value::Set(elements)) => Value::set(elements.iter().map(each)),
        (_, Value::Map(members)) => {
            Value::map(members.iter().map(|(key, element)| (key.clone(), each(element))))
        }
        (_, other) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_user_would_write_is_left() {
        let schema = Schema::builder()
            .attribute(Attribute::string("id").computed())
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("class").default("ssd"))
            .attribute(Attribute::string("zone").optional().computed())
            .attribute(Attribute::string("token").optional().sensitive())
            .attribute(
                Attribute::nested_map(
                    "disks",
                    [Attribute::integer("size").required(), Attribute::string("path").computed()],
                )
                .optional(),
            )
            .build();
        let disk = |path: Value| Value::object([("size", 3.into()), ("path", path)]);
        let object = |id: Value, class: Value, token: Value, path: Value| {
            Value::object([
                ("id", id),
                ("name", "n".into()),
                ("class", class),
                ("zone", "z".into()),
                ("token", token),
                ("disks", Value::map([("a", disk(path))])),
            ])
        };
        let state = object("i".into(), "ssd".into(), "t".into(), "/dev/a".into());
        let written = object(Value::Null, Value::Null, Value::Null, Value::Null);
        assert_eq!(config(&schema, &state), written);
        let state = object("i".into(), "hdd".into(), "t".into(), "/dev/a".into());
        let written = object(Value::Null, "hdd".into(), Value::Null, Value::Null);
        assert_eq!(config(&schema, &state), written);
    }
}
