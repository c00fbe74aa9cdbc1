//! The rules of planning, one by one and all together.

use proptest::prelude::*;

use super::*;
use crate::path::AttributePath;
use crate::rules;
use crate::schema::{Attribute, Block};
use crate::types::Type;

fn schema() -> Schema {
    let disk = || {
        [
            Attribute::integer("size").required(),
            Attribute::string("class").default("ssd"),
            Attribute::string("device").computed(),
            Attribute::string("serial").computed().use_state_for_unknown(),
        ]
    };
    Schema::builder()
        .attribute(Attribute::string("id").computed().use_state_for_unknown())
        .attribute(Attribute::string("name").required())
        .attribute(Attribute::string("zone").optional().computed().requires_replace())
        .attribute(Attribute::string("state").computed())
        .attribute(Attribute::string("flavor").default("small"))
        .attribute(Attribute::number("price").computed().recomputed_when(["flavor"]))
        .attribute(Attribute::number("yearly").computed().recomputed_when(["price"]))
        .attribute(Attribute::string("token_wo").optional().write_only())
        .attribute(
            Attribute::integer("size").optional().requires_replace_if("it shrinks", |it| {
                it.planned.as_number() < it.prior.as_number()
            }),
        )
        .attribute(Attribute::nested("boot", disk()).optional())
        .attribute(Attribute::nested_map("disks", disk()).optional())
        .attribute(Attribute::nested_list("queue", disk()).optional())
        .attribute(Attribute::nested_set("pool", disk()).optional())
        .attribute(Attribute::nested("status", [Attribute::string("text").computed()]).computed())
        .block(Block::list("rule", disk().map(replaced_with_class)))
        .build()
}

fn replaced_with_class(attribute: Attribute) -> Attribute {
    if attribute.name() == "class" { attribute.requires_replace() } else { attribute }
}

#[test]
fn the_schema_of_these_tests_is_sound() {
    schema().assert_sound();
}

/// An object of the schema in which only these attributes are not null.
fn object<const N: usize>(set: [(&'static str, Value); N]) -> Value {
    let schema = schema();
    let names = schema.object_type().as_object().unwrap().iter();
    let mut object = Value::object(names.map(|(name, _)| (name.clone(), Value::Null)));
    object.set_member("rule", Value::list([]));
    for (name, value) in set {
        object.set_member(name, value);
    }
    object
}

fn disk(size: i64, class: Value, device: Value, serial: Value) -> Value {
    Value::object([("size", size.into()), ("class", class), ("device", device), ("serial", serial)])
}

/// A disk as a configuration has it: what is computed is null.
fn bare(size: i64) -> Value {
    disk(size, Value::Null, Value::Null, Value::Null)
}

fn stored(size: i64, tag: &str) -> Value {
    disk(size, "ssd".into(), format!("dev-{tag}").into(), format!("ser-{tag}").into())
}

/// The resource after it was created from the configuration of `name` alone.
fn prior() -> Value {
    object([
        ("id", "i-1".into()),
        ("name", "web".into()),
        ("zone", "north".into()),
        ("state", "running".into()),
        ("flavor", "small".into()),
        ("price", 3.into()),
        ("yearly", 36.into()),
        ("status", Value::object([("text", "fine".into())])),
    ])
}

/// The prior state with these attributes instead.
fn with<const N: usize>(base: &Value, set: [(&'static str, Value); N]) -> Value {
    let mut value = base.clone();
    for (name, member) in set {
        value.set_member(name, member);
    }
    value
}

fn run(prior: &Value, proposed: &Value, config: &Value) -> Planned {
    let schema = schema();
    let planned = plan(&schema, prior, proposed, config);
    assert_eq!(planned.state.conforms_to(schema.object_type()), Ok(()));
    assert_eq!(rules::plan(&schema, prior, config, &planned.state), []);
    planned
}

fn paths(planned: &Planned) -> Vec<String> {
    planned.requires_replace.iter().map(ToString::to_string).collect()
}

#[test]
fn create_leaves_computed_values_open() {
    let config = object([("name", "web".into()), ("token_wo", "secret".into())]);
    let planned = run(&Value::Null, &config, &config);
    let expected = object([
        ("id", Value::UNKNOWN),
        ("name", "web".into()),
        ("zone", Value::UNKNOWN),
        ("state", Value::UNKNOWN),
        ("flavor", "small".into()),
        ("price", Value::UNKNOWN),
        ("yearly", Value::UNKNOWN),
        ("status", Value::UNKNOWN),
    ]);
    assert_eq!(planned.state, expected);
    assert_eq!(paths(&planned), [""; 0]);
}

#[test]
fn no_change_is_the_prior_state() {
    let config = object([("name", "web".into()), ("token_wo", "secret".into())]);
    let proposed = with(&prior(), [("token_wo", "secret".into())]);
    let planned = run(&prior(), &proposed, &config);
    assert_eq!(planned, Planned { state: prior(), requires_replace: Vec::new() });
}

#[test]
fn destroy_plans_nothing() {
    let planned = run(&prior(), &Value::Null, &Value::Null);
    assert_eq!(planned, Planned { state: Value::Null, requires_replace: Vec::new() });
}

#[test]
fn a_small_update_is_quiet() {
    let config = object([("name", "new".into())]);
    let proposed = with(&prior(), [("name", "new".into())]);
    let planned = run(&prior(), &proposed, &config);
    let expected = with(
        &proposed,
        [("state", Value::UNKNOWN), ("zone", Value::UNKNOWN), ("status", Value::UNKNOWN)],
    );
    assert_eq!(planned.state, expected);
    // The zone only may change; that is no reason to replace anything.
    assert_eq!(paths(&planned), [""; 0]);
}

#[test]
fn recomputing_spreads() {
    let config = object([("name", "web".into()), ("flavor", "large".into())]);
    let proposed = with(&prior(), [("flavor", "large".into())]);
    let planned = run(&prior(), &proposed, &config);
    assert!(planned.state.member("price").is_unknown());
    assert!(planned.state.member("yearly").is_unknown());
    assert_eq!(planned.state.member("id"), &"i-1".into());
}

#[test]
fn a_default_comes_back_when_the_setting_goes() {
    let large = with(&prior(), [("flavor", "large".into())]);
    // The client proposes the prior value for what is optional and computed.
    let planned = run(&large, &large, &object([("name", "web".into())]));
    assert_eq!(planned.state.member("flavor"), &"small".into());
}

#[test]
fn replacement_follows_the_schema() {
    let config = object([("name", "web".into()), ("zone", "south".into()), ("size", 5.into())]);
    let base = with(&prior(), [("size", 7.into())]);
    let proposed = with(&base, [("zone", "south".into()), ("size", 5.into())]);
    assert_eq!(paths(&run(&base, &proposed, &config)), ["zone", "size"]);
    let grown = with(&base, [("size", 9.into())]);
    let config = object([("name", "web".into()), ("size", 9.into())]);
    assert_eq!(paths(&run(&base, &grown, &config)), [""; 0]);
    let config = object([("name", "web".into()), ("zone", Value::UNKNOWN), ("size", 7.into())]);
    let unknown = with(&base, [("zone", Value::UNKNOWN)]);
    assert_eq!(paths(&run(&base, &unknown, &config)), ["zone"]);
}

#[test]
fn nested_objects_follow_their_own_rules() {
    let config = object([
        ("name", "web".into()),
        ("boot", bare(20)),
        ("disks", Value::map([("a", bare(1)), ("new", bare(2))])),
        ("queue", Value::list([bare(1), bare(2)])),
        ("rule", Value::list([disk(1, "hdd".into(), Value::Null, Value::Null)])),
    ]);
    let base = with(
        &prior(),
        [
            ("boot", stored(10, "boot")),
            ("disks", Value::map([("a", stored(1, "a")), ("gone", stored(1, "gone"))])),
            ("queue", Value::list([stored(1, "q")])),
            ("rule", Value::list([stored(1, "r")])),
        ],
    );
    let proposed = with(
        &base,
        [
            ("boot", stored(20, "boot")),
            ("disks", Value::map([("a", stored(1, "a")), ("new", bare(2))])),
            ("queue", Value::list([stored(1, "q"), bare(2)])),
            ("rule", Value::list([disk(1, "hdd".into(), "dev-r".into(), "ser-r".into())])),
        ],
    );
    let planned = run(&base, &proposed, &config);
    let kept =
        |size, tag: &str| disk(size, "ssd".into(), Value::UNKNOWN, format!("ser-{tag}").into());
    let new = |size| disk(size, "ssd".into(), Value::UNKNOWN, Value::UNKNOWN);
    let state = &planned.state;
    assert_eq!(state.member("boot"), &kept(20, "boot"));
    assert_eq!(state.member("disks"), &Value::map([("a", kept(1, "a")), ("new", new(2))]));
    assert_eq!(state.member("queue"), &Value::list([kept(1, "q"), new(2)]));
    assert_eq!(paths(&planned), ["rule[0].class"]);
}

#[test]
fn elements_of_a_set_are_told_by_what_is_not_computed() {
    let config = object([("name", "web".into()), ("pool", Value::set([bare(1), bare(2)]))]);
    let base = with(&prior(), [("pool", Value::set([stored(1, "z"), stored(9, "a")]))]);
    let proposed = with(&base, [("pool", Value::set([stored(1, "z"), bare(2)]))]);
    let planned = run(&base, &proposed, &config);
    let expected = Value::set([
        disk(1, "ssd".into(), Value::UNKNOWN, "ser-z".into()),
        disk(2, "ssd".into(), Value::UNKNOWN, Value::UNKNOWN),
    ]);
    assert_eq!(planned.state.member("pool"), &expected);
}

#[test]
fn unknown_configuration_stays_unknown() {
    let config = object([
        ("name", Value::UNKNOWN),
        ("boot", Value::UNKNOWN),
        ("disks", Value::map([("a", Value::UNKNOWN)])),
        ("rule", Value::UNKNOWN),
    ]);
    let planned = run(&Value::Null, &config, &config);
    for name in ["name", "boot", "rule"] {
        assert!(planned.state.member(name).is_unknown(), "{name}");
    }
    assert!(planned.state.member("disks").member("a").is_unknown());
}

#[test]
fn write_only_values_leave_no_trace() {
    let schema = Schema::builder()
        .attribute(Attribute::nested_list(
            "users",
            [Attribute::string("password_wo").optional().write_only()],
        ))
        .build();
    let user = |password: Value| Value::object([("password_wo", password)]);
    let users = |password| Value::object([("users", Value::list([user(password)]))]);
    assert_eq!(null_write_only(&schema, users("p".into())), users(Value::Null));
    let paths = write_only_paths(&schema, &users(Value::UNKNOWN));
    assert_eq!(paths, [AttributePath::new("users").index(0).attribute("password_wo")]);
    assert_eq!(write_only_paths(&schema, &users(Value::Null)), []);
}

#[test]
fn defaults_without_a_plan() {
    let config = object([("name", "web".into()), ("boot", bare(1))]);
    let filled = with_defaults(&schema(), &config);
    assert_eq!(filled.member("flavor"), &"small".into());
    assert_eq!(filled.member("boot").member("class"), &"ssd".into());
    assert_eq!(filled.member("id"), &Value::Null);
}

prop_compose! {
    fn any_disk()(size in 1_i64..3, class in prop_oneof![Just(Value::Null), Just("hdd".into())]) -> Value {
        disk(size, class, Value::Null, Value::Null)
    }
}

prop_compose! {
    fn any_config()(
        name in prop_oneof![Just(Value::UNKNOWN), "[ab]".prop_map(Value::from)],
        zone in prop_oneof![Just(Value::Null), Just("north".into()), Just(Value::UNKNOWN)],
        flavor in prop_oneof![Just(Value::Null), Just("large".into())],
        boot in prop_oneof![Just(Value::Null), any_disk(), Just(Value::UNKNOWN)],
        disks in proptest::collection::btree_map("[ab]", any_disk(), 0..3),
        queue in proptest::collection::vec(any_disk(), 0..3),
        pool in proptest::collection::vec(any_disk(), 0..3),
    ) -> Value {
        object([
            ("name", name),
            ("zone", zone),
            ("flavor", flavor),
            ("boot", boot),
            ("disks", Value::map(disks)),
            ("queue", Value::list(queue)),
            ("pool", Value::set(pool)),
        ])
    }
}

/// Stands in for an apply: everything unknown becomes something.
fn settle(value: &Value, ty: &Type) -> Value {
    match (value, ty) {
        (Value::Unknown(_), Type::String) => "settled".into(),
        (Value::Unknown(_), Type::Number) => 7.into(),
        (Value::Unknown(_), Type::Object(object)) => Value::object(
            object.iter().map(|(name, ty)| (name.clone(), settle(&Value::UNKNOWN, ty))),
        ),
        (Value::Object(members), Type::Object(object)) => Value::object(
            members
                .iter()
                .map(|(name, value)| (name.clone(), settle(value, object.get(name).unwrap()))),
        ),
        (Value::List(elements), Type::List(ty)) => {
            Value::list(elements.iter().map(|value| settle(value, ty)))
        }
        (Value::Set(elements), Type::Set(ty)) => {
            Value::set(elements.iter().map(|value| settle(value, ty)))
        }
        (Value::Map(members), Type::Map(ty)) => {
            Value::map(members.iter().map(|(key, value)| (key.clone(), settle(value, ty))))
        }
        _ => value.clone(),
    }
}

proptest! {
    #[test]
    fn any_create_is_consistent(config in any_config()) {
        let schema = schema();
        let planned = run(&Value::Null, &config, &config).state;
        let applied = settle(&planned, schema.object_type());
        prop_assert_eq!(rules::apply(&schema, &planned, &applied), []);
        // Planning again from the plan's own values changes nothing.
        prop_assert_eq!(rules::replan(&schema, &planned, &applied), []);
    }

    #[test]
    fn a_second_plan_is_empty(config in any_config()) {
        let ty = schema().object_type().clone();
        let config = settle(&config, &ty);
        let state = settle(&run(&Value::Null, &config, &config).state, &ty);
        let planned = run(&state, &state, &config);
        prop_assert_eq!(planned, Planned { state, requires_replace: Vec::new() });
    }
}
