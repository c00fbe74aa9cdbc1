//! The proposed new state: what the client hands to the provider's plan, made of the
//! configuration and the prior state.
//!
//! What the user set is taken from the configuration; what the user left to the provider is
//! taken from the prior state. Elements of nested lists are matched by index, of maps by key,
//! of sets by what the user set in them.

use crate::{
    Attribute, Value,
    schema::{Body, Nesting, Schema},
};

/// The proposed state. Without a prior state everything left to the provider is null.
pub(super) fn state(schema: &Schema, prior: &Value, config: &Value) -> Value {
    object(schema.body(), prior, config)
}

fn object(body: &Body, prior: &Value, config: &Value) -> Value {
    if config.is_null() || config.is_unknown() {
        return config.clone();
    }
    let attributes = body.attributes().iter().map(|attribute| {
        let name = attribute.name();
        let value = proposed(attribute, prior.member(name), config.member(name));
        (attribute.name_arc().clone(), value)
    });
    let blocks = body.blocks().iter().map(|block| {
        let name = block.name();
        let value = nested(block.nesting(), block.body(), prior.member(name), config.member(name));
        (block.name_arc().clone(), value)
    });
    Value::object(attributes.chain(blocks))
}

fn proposed(attribute: &Attribute, prior: &Value, config: &Value) -> Value {
    if attribute.is_computed() && config.is_null() {
        return prior.clone();
    }
    match attribute.nested_objects() {
        Some((nesting, body)) => nested(nesting, body, prior, config),
        None => config.clone(),
    }
}

fn nested(nesting: Nesting, body: &Body, prior: &Value, config: &Value) -> Value {
    if config.is_null() || config.is_unknown() {
        return config.clone();
    }
    match (nesting, config) {
        (Nesting::Single | Nesting::Group, _) => object(body, prior, config),
        (_, Value::List(elements)) => {
            let before = prior.as_elements().unwrap_or_default();
            Value::list(elements.iter().enumerate().map(|(index, element)| {
                object(body, before.get(index).unwrap_or(&Value::Null), element)
            }))
        }
        (_, Value::Map(members)) => Value::map(
            members
                .iter()
                .map(|(key, element)| (key.clone(), object(body, prior.member(key), element))),
        ),
        (_, Value::Set(elements)) => set(body, prior, elements),
        (_, other) => other.clone(),
    }
}

fn set(body: &Body, prior: &Value, elements: &[Value]) -> Value {
    let mut before: Vec<&Value> = prior.as_elements().unwrap_or_default().iter().collect();
    Value::set(elements.iter().map(|element| {
        let same = before.iter().position(|old| object(body, old, element) == **old);
        match same.map(|index| before.swap_remove(index)) {
            Some(old) => object(body, old, element),
            None => object(body, &Value::Null, element),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let member = || [Attribute::string("name").required(), Attribute::string("id").computed()];
        Schema::builder()
            .attribute(Attribute::string("id").computed())
            .attribute(Attribute::string("name").optional())
            .attribute(Attribute::nested_set("set", member()).optional())
            .attribute(Attribute::nested_map("map", member()).optional())
            .build()
    }

    fn member(name: &str, id: Value) -> Value {
        Value::object([("name", name.into()), ("id", id)])
    }

    fn of(id: Value, name: Value, set: Value, map: Value) -> Value {
        Value::object([("id", id), ("name", name), ("set", set), ("map", map)])
    }

    #[test]
    fn what_is_left_to_the_provider_stays() {
        let prior = of(
            "i".into(),
            "old".into(),
            Value::set([member("a", "1".into()), member("b", "2".into())]),
            Value::map([("x", member("a", "3".into()))]),
        );
        let config = of(
            Value::Null,
            "new".into(),
            Value::set([member("b", Value::Null), member("c", Value::Null)]),
            Value::map([("x", member("z", Value::Null)), ("y", member("q", Value::Null))]),
        );
        let expected = of(
            "i".into(),
            "new".into(),
            Value::set([member("b", "2".into()), member("c", Value::Null)]),
            Value::map([("x", member("z", "3".into())), ("y", member("q", Value::Null))]),
        );
        assert_eq!(state(&schema(), &prior, &config), expected);
    }

    #[test]
    fn without_a_prior_state_it_is_the_configuration() {
        let config = of(Value::Null, "n".into(), Value::UNKNOWN, Value::Null);
        assert_eq!(state(&schema(), &Value::Null, &config), config);
    }
}
