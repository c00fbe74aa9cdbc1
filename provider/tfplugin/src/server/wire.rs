//! Between the wire's forms and ours: values and schemas.

use crate::{
    Attribute, Diagnostics, Explain as _, Type, Value, codec,
    proto::tfplugin6::{self as pb, schema as wire},
    schema::{Block, Body, Nesting, Schema},
};

/// Reads a value in either encoding. An absent one is null.
pub(super) fn decode(wire: Option<&pb::DynamicValue>, ty: &Type) -> Result<Value, Diagnostics> {
    let Some(wire) = wire else { return Ok(Value::Null) };
    if !wire.msgpack.is_empty() {
        codec::msgpack::decode(&wire.msgpack, ty).explain("Unable to read what the client sent")
    } else if !wire.json.is_empty() {
        codec::json::decode(&wire.json, ty).explain("Unable to read what the client sent")
    } else {
        Ok(Value::Null)
    }
}

/// Writes a value, as msgpack.
pub(super) fn encode(value: &Value, ty: &Type) -> Result<pb::DynamicValue, Diagnostics> {
    let msgpack = codec::msgpack::encode(value, ty).explain("Unable to write the answer")?;
    Ok(pb::DynamicValue { msgpack: msgpack.into(), json: bytes::Bytes::new() })
}

/// Takes a result apart into what goes into an answer and what goes into its diagnostics.
pub(super) fn split<T>(done: Result<T, Diagnostics>) -> (Option<T>, Option<Diagnostics>) {
    match done {
        Ok(done) => (Some(done), None),
        Err(told) => (None, Some(told)),
    }
}

/// The wire's form of a schema.
pub(super) fn schema(schema: &Schema) -> pb::Schema {
    let block = block(schema.body(), schema.description(), schema.deprecation());
    pb::Schema {
        version: schema.version(),
        block: Some(wire::Block { version: schema.version(), ..block }),
    }
}

fn block(body: &Body, description: &str, deprecation: Option<&str>) -> wire::Block {
    wire::Block {
        version: 0,
        attributes: body.attributes().iter().map(attribute).collect(),
        block_types: body.blocks().iter().map(nested_block).collect(),
        description: description.to_owned(),
        description_kind: pb::StringKind::Markdown.into(),
        deprecated: deprecation.is_some(),
        deprecation_message: deprecation.unwrap_or_default().to_owned(),
    }
}

fn attribute(attribute: &Attribute) -> wire::Attribute {
    let nested = attribute.nested_objects();
    wire::Attribute {
        name: attribute.name().to_owned(),
        r#type: match nested {
            None => attribute.ty().to_json().into(),
            Some(_) => bytes::Bytes::new(),
        },
        nested_type: nested.map(|(nesting, body)| nested_object(nesting, body)),
        description: attribute.description().to_owned(),
        required: attribute.is_required(),
        optional: attribute.is_optional(),
        computed: attribute.is_computed(),
        sensitive: attribute.is_sensitive(),
        description_kind: pb::StringKind::Markdown.into(),
        deprecated: attribute.deprecation().is_some(),
        write_only: attribute.is_write_only(),
        deprecation_message: attribute.deprecation().unwrap_or_default().to_owned(),
    }
}

fn nested_object(nesting: Nesting, body: &Body) -> wire::Object {
    use wire::object::NestingMode;
    let mode = match nesting {
        Nesting::Single | Nesting::Group => NestingMode::Single,
        Nesting::List => NestingMode::List,
        Nesting::Set => NestingMode::Set,
        Nesting::Map => NestingMode::Map,
    };
    wire::Object {
        attributes: body.attributes().iter().map(attribute).collect(),
        nesting: mode.into(),
        ..Default::default()
    }
}

fn nested_block(nested: &Block) -> wire::NestedBlock {
    use wire::nested_block::NestingMode;
    let mode = match nested.nesting() {
        Nesting::Single => NestingMode::Single,
        Nesting::Group => NestingMode::Group,
        Nesting::List => NestingMode::List,
        Nesting::Set => NestingMode::Set,
        Nesting::Map => NestingMode::Map,
    };
    wire::NestedBlock {
        type_name: nested.name().to_owned(),
        block: Some(block(nested.body(), nested.description(), nested.deprecation())),
        nesting: mode.into(),
        min_items: nested.items().0.into(),
        max_items: nested.items().1.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner() -> [Attribute; 1] {
        [Attribute::integer("port").required()]
    }

    fn block_of(of: &Schema) -> wire::Block {
        schema(of).block.expect("a schema has a block")
    }

    #[test]
    fn each_arrangement_of_blocks_has_its_number() {
        for (block, number) in [
            (Block::single("rule", inner()), 1),
            (Block::list("rule", inner()), 2),
            (Block::set("rule", inner()), 3),
            (Block::map("rule", inner()), 4),
            (Block::group("rule", inner()), 5),
        ] {
            let block = block.block(Block::set("deeper", inner())).min_items(1).max_items(3);
            let block = block.describe("What goes.").deprecated("Use doors.");
            let whole = block_of(&Schema::builder().version(7).block(block).build());
            assert!(whole.attributes.is_empty());
            let [rule] = &whole.block_types[..] else { panic!("not one block: {whole:?}") };
            assert_eq!((&*rule.type_name, rule.nesting), ("rule", number));
            assert_eq!((rule.min_items, rule.max_items), (1, 3));
            let inside = rule.block.as_ref().expect("a nested block has a block");
            assert_eq!(
                (&*inside.attributes[0].name, inside.attributes[0].required),
                ("port", true)
            );
            assert_eq!(inside.description, "What goes.");
            assert_eq!((inside.deprecated, &*inside.deprecation_message), (true, "Use doors."));
            let deeper = &inside.block_types[0];
            assert_eq!((&*deeper.type_name, deeper.nesting), ("deeper", 3));
            assert_eq!((deeper.min_items, deeper.max_items), (0, 0), "without limits");
            // The version is that of the stored state, which only the whole has.
            assert_eq!((whole.version, inside.version), (7, 0));
        }
    }

    #[test]
    fn each_arrangement_of_nested_attributes_has_its_number() {
        for (attribute, number) in [
            (Attribute::nested("rule", inner()), 1),
            (Attribute::nested_list("rule", inner()), 2),
            (Attribute::nested_set("rule", inner()), 3),
            (Attribute::nested_map("rule", inner()), 4),
        ] {
            let whole = block_of(&Schema::builder().attribute(attribute.optional()).build());
            assert!(whole.block_types.is_empty());
            let [rule] = &whole.attributes[..] else { panic!("not one attribute: {whole:?}") };
            assert_eq!((&*rule.name, rule.optional), ("rule", true));
            // A client takes one or the other, never both.
            assert!(rule.r#type.is_empty(), "{rule:?}");
            let objects = rule.nested_type.as_ref().expect("it has objects");
            assert_eq!(objects.nesting, number);
            let port = &objects.attributes[0];
            assert_eq!((&port.r#type[..], &port.nested_type), (&b"\"number\""[..], &None));
        }
    }
}
