//! Each rule, broken once.

use super::*;
use crate::schema::{Attribute, Block};
use crate::types::Type;
use crate::value::Refinements;

fn schema() -> Schema {
    Schema::builder()
        .attribute(Attribute::string("id").computed())
        .attribute(Attribute::string("name").required())
        .attribute(Attribute::string("zone").optional().computed())
        .attribute(Attribute::string("note").optional())
        .attribute(Attribute::string("token").optional().sensitive())
        .attribute(Attribute::string("token_wo").optional().write_only())
        .attribute(Attribute::set("tags", Type::String).optional())
        .attribute(
            Attribute::nested_map(
                "disks",
                [Attribute::integer("size").required(), Attribute::string("serial").computed()],
            )
            .optional(),
        )
        .block(Block::list("rule", [Attribute::integer("port").required()]).max_items(1))
        .build()
}

fn object<const N: usize>(set: [(&'static str, Value); N]) -> Value {
    let schema = schema();
    let names = schema.object_type().as_object().unwrap().iter();
    let mut object = Value::object(names.map(|(name, _)| (name.clone(), Value::Null)));
    object.set_member("rule", Value::list([]));
    set.into_iter().for_each(|(name, value)| object.set_member(name, value));
    object
}

fn disks(size: i64, serial: Value) -> Value {
    let disk = Value::object([("size", size.into()), ("serial", serial)]);
    Value::map([("a", disk)])
}

fn report(violations: &[Violation]) -> Vec<(String, Rule)> {
    violations.iter().map(|it| (it.path.to_string(), it.rule)).collect()
}

fn one(violations: &[Violation], path: &str, rule: Rule) {
    assert_eq!(report(violations), [(path.to_owned(), rule)], "{violations:?}");
}

#[test]
fn a_plan_follows_the_configuration() {
    let schema = schema();
    let config = object([("name", "a".into()), ("disks", disks(1, Value::Null))]);
    let planned = |set: (&'static str, Value)| {
        let mut planned = config.clone();
        planned.set_member("id", Value::UNKNOWN);
        planned.set_member(set.0, set.1);
        plan(&schema, &Value::Null, &config, &planned)
    };
    assert_eq!(planned(("zone", "chosen".into())), []);
    assert_eq!(planned(("disks", disks(1, "s".into()))), []);
    one(&planned(("name", "b".into())), "name", Rule::ConfiguredValue);
    one(&planned(("name", Value::UNKNOWN)), "name", Rule::ConfiguredValue);
    one(&planned(("note", "invented".into())), "note", Rule::NotComputed);
    one(&planned(("disks", disks(2, Value::Null))), r#"disks["a"].size"#, Rule::ConfiguredValue);
    one(&planned(("disks", Value::Null)), "disks", Rule::ConfiguredValue);
    one(&planned(("token_wo", "x".into())), "token_wo", Rule::WriteOnly);
    one(&planned(("name", 1.into())), "name", Rule::Type);
}

#[test]
fn a_plan_may_keep_the_users_older_spelling() {
    let schema = schema();
    let prior = object([("name", "A".into()), ("id", "1".into())]);
    let config = object([("name", "a".into())]);
    assert_eq!(plan(&schema, &prior, &config, &prior), []);
    // What is not configured any more is not kept.
    let noted = object([("name", "A".into()), ("note", "n".into())]);
    one(&plan(&schema, &noted, &config, &noted), "note", Rule::NotComputed);
}

#[test]
fn existence_is_as_configured() {
    let schema = schema();
    let config = object([("name", "a".into())]);
    let whole = "(the whole object)";
    one(&plan(&schema, &config, &Value::Null, &config), whole, Rule::Existence);
    one(&plan(&schema, &config, &config, &Value::Null), whole, Rule::Existence);
    assert_eq!(plan(&schema, &config, &Value::Null, &Value::Null), []);
    one(&upgrade(&schema, &Value::Null), whole, Rule::Existence);
    assert_eq!(read(&schema, &Value::Null), []);
    one(&apply(&schema, &config, &Value::Null), whole, Rule::PlannedValue);
    one(&apply(&schema, &Value::Null, &config), whole, Rule::PlannedValue);
}

#[test]
fn an_unknown_configuration_is_planned_unknown() {
    let schema = schema();
    let config = object([("name", Value::UNKNOWN)]);
    let refined = Value::unknown(Refinements::not_null());
    assert_eq!(plan(&schema, &Value::Null, &config, &object([("name", refined)])), []);
    let known = object([("name", "guess".into())]);
    one(&plan(&schema, &Value::Null, &config, &known), "name", Rule::ConfiguredValue);
}

#[test]
fn an_apply_keeps_the_plan() {
    let schema = schema();
    let planned = object([
        ("id", Value::unknown(Refinements::default().prefix("i-"))),
        ("name", "a".into()),
        ("tags", Value::set(["x".into(), Value::UNKNOWN])),
        ("disks", disks(1, Value::UNKNOWN)),
    ]);
    let applied = |set: (&'static str, Value)| {
        let mut applied = object([
            ("id", "i-1".into()),
            ("name", "a".into()),
            ("tags", Value::set(["x".into(), "y".into()])),
            ("disks", disks(1, "s".into())),
        ]);
        applied.set_member(set.0, set.1);
        apply(&schema, &planned, &applied)
    };
    assert_eq!(applied(("id", "i-2".into())), []);
    assert_eq!(applied(("tags", Value::set(["x".into()]))), []);
    one(&applied(("id", "x-1".into())), "id", Rule::Refinement);
    one(&applied(("id", Value::Null)), "id", Rule::Refinement);
    one(&applied(("name", "b".into())), "name", Rule::PlannedValue);
    one(&applied(("zone", "z".into())), "zone", Rule::PlannedValue);
    one(&applied(("disks", disks(2, "s".into()))), r#"disks["a"].size"#, Rule::PlannedValue);
    one(&applied(("disks", disks(1, Value::UNKNOWN))), r#"disks["a"].serial"#, Rule::Known);
    one(&applied(("disks", Value::map::<&str>([]))), r#"disks["a"]"#, Rule::PlannedValue);
    one(&applied(("tags", Value::set(["z".into()]))), "tags", Rule::PlannedValue);
    let secret = object([("name", "a".into()), ("token_wo", "t".into())]);
    one(&read(&schema, &secret), "token_wo", Rule::WriteOnly);
}

#[test]
fn a_second_plan_says_the_same() {
    let schema = schema();
    let first = object([("name", "a".into()), ("id", Value::UNKNOWN)]);
    let second = object([("name", "a".into()), ("id", "known".into())]);
    assert_eq!(replan(&schema, &first, &second), []);
    one(&replan(&schema, &second, &first), "id", Rule::PlannedValue);
}

#[test]
fn a_data_source_keeps_its_configuration() {
    let schema = schema();
    let config = object([("name", "a".into())]);
    let good = object([("name", "a".into()), ("id", "1".into()), ("zone", "z".into())]);
    assert_eq!(data(&schema, &config, &good), []);
    let renamed = object([("name", "b".into())]);
    one(&data(&schema, &config, &renamed), "name", Rule::PlannedValue);
    let noted = object([("name", "a".into()), ("note", "n".into())]);
    one(&data(&schema, &config, &noted), "note", Rule::PlannedValue);
}

#[test]
fn secrets_are_not_shown() {
    let schema = schema();
    let config = object([("name", "a".into()), ("token", "hunter2".into())]);
    let planned = object([("name", "a".into()), ("token", "hunter3".into())]);
    let violations = plan(&schema, &Value::Null, &config, &planned);
    one(&violations, "token", Rule::ConfiguredValue);
    assert!(!violations[0].to_string().contains("hunter"), "{}", violations[0]);
    let gone = apply(&schema, &config, &Value::Null);
    assert!(!gone[0].to_string().contains("hunter"), "{}", gone[0]);
}

#[test]
fn replacement_names_attributes() {
    let schema = schema();
    let good = [
        AttributePath::new("name"),
        AttributePath::new("disks").key("a").attribute("size"),
        AttributePath::new("rule").index(0).attribute("port"),
    ];
    assert_eq!(requires_replace(&schema, &good), []);
    let bad = [AttributePath::new("disks").key("a").attribute("nope"), AttributePath::root()];
    assert_eq!(requires_replace(&schema, &bad).len(), 2);
}

#[test]
fn blocks_are_counted() {
    let schema = schema();
    assert_eq!(config(&schema, &object([("name", Value::UNKNOWN)])), []);
    let rule = || Value::object([("port", 1.into())]);
    let set = object([("name", "a".into()), ("rule", Value::list([rule(), rule()]))]);
    one(&config(&schema, &set), "rule", Rule::BlockCount);
}
