//! Checks a configuration against the rules its schema declares.
//!
//! Refuses what is required and null, and what only the provider sets, at every depth: clients
//! look for arguments that are missing, not for null ones, and let anything be written to a
//! computed attribute. Then runs validators and the rules between attributes. Unknown values are
//! never wrong where a value may be; secret ones are never shown. Types are the client's part.

use std::sync::Arc;

use crate::path::{AttributePath, Step};
use crate::schema::{Across, Attribute, Body, Nesting, Schema};
use crate::value::Value;

/// Something wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: AttributePath,
    /// What is wrong, in a few words.
    pub summary: String,
    /// Why, and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem at a path.
    #[must_use]
    pub fn new(path: AttributePath, summary: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path, summary: summary.into(), detail: detail.into() }
    }
}

/// All that is wrong with `config`, an object of the schema.
#[must_use]
pub fn config(schema: &Schema, config: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_body(schema.body(), config, &mut AttributePath::root(), false, &mut problems);
    problems
}

fn check_body(
    body: &Body,
    value: &Value,
    path: &mut AttributePath,
    secret: bool,
    problems: &mut Vec<Problem>,
) {
    if value.is_null() || value.is_unknown() {
        return;
    }
    for attribute in body.attributes() {
        path.push(Step::Attribute(attribute.name_arc().clone()));
        let value = value.member(attribute.name());
        let secret = secret || attribute.is_sensitive() || attribute.is_write_only();
        let settable = attribute.is_required() || attribute.is_optional();
        if attribute.is_computed() && !settable {
            if !value.is_null() {
                problems.push(read_only(path));
            }
            path.pop();
            continue;
        }
        if attribute.is_required() && value.is_null() {
            problems.push(required(path));
        }
        check_attribute(attribute, value, path, secret, problems);
        if let Some((nesting, body)) = attribute.nested_objects() {
            check_nested(nesting, body, value, path, secret, problems);
        }
        path.pop();
    }
    for block in body.blocks() {
        path.push(Step::Attribute(block.name_arc().clone()));
        check_nested(
            block.nesting(),
            block.body(),
            value.member(block.name()),
            path,
            secret,
            problems,
        );
        path.pop();
    }
    problems.extend(body.across().iter().flat_map(|rule| check_across(rule, value, path)));
}

fn required(path: &AttributePath) -> Problem {
    let detail = "It is required and null. Give it a value.";
    Problem::new(path.clone(), format!("Missing value for {path}"), detail)
}

fn read_only(path: &AttributePath) -> Problem {
    let detail = "Only the provider sets it. Remove it from the configuration.";
    Problem::new(path.clone(), format!("Value for {path}, which can't be set"), detail)
}

fn check_nested(
    nesting: Nesting,
    body: &Body,
    value: &Value,
    path: &mut AttributePath,
    secret: bool,
    problems: &mut Vec<Problem>,
) {
    if matches!(nesting, Nesting::Single | Nesting::Group) {
        return check_body(body, value, path, secret, problems);
    }
    let is_set = matches!(value, Value::Set(_));
    for (index, element) in value.as_elements().unwrap_or_default().iter().enumerate() {
        path.push(if is_set { Step::Element } else { Step::Index(index) });
        check_element(body, element, path, secret, problems);
        path.pop();
    }
    for (key, element) in value.as_members().into_iter().flatten() {
        path.push(Step::Key(key.clone()));
        check_element(body, element, path, secret, problems);
        path.pop();
    }
}

fn check_element(
    body: &Body,
    element: &Value,
    path: &mut AttributePath,
    secret: bool,
    problems: &mut Vec<Problem>,
) {
    if element.is_null() {
        let detail = "It is null. Leave it out, or write the object.";
        problems.push(Problem::new(path.clone(), format!("Missing object for {path}"), detail));
    }
    check_body(body, element, path, secret, problems);
}

fn check_attribute(
    attribute: &Attribute,
    value: &Value,
    path: &AttributePath,
    secret: bool,
    problems: &mut Vec<Problem>,
) {
    if value.is_unknown() {
        return;
    }
    for validator in attribute.validators() {
        if value.is_null() && !validator.runs_on_null() {
            continue;
        }
        for invalid in validator.check(value) {
            let mut at = path.clone();
            invalid.path.steps().iter().for_each(|step| at.push(step.clone()));
            let summary = format!("Invalid value for {}", shown(&at, secret, path));
            // A reason may quote the value; what is expected never does.
            let detail = if secret {
                format!("The value must be {}.", invalid.expected)
            } else {
                // A reason that goes on after its first sentence ends in a full stop of its own.
                let reason = invalid.reason.trim_end_matches('.');
                format!("The value must be {}, but {reason}.", invalid.expected)
            };
            problems.push(Problem::new(at, summary, detail));
        }
    }
}

/// The path for a message; below a secret, map keys may be secret too.
fn shown(at: &AttributePath, secret: bool, outer: &AttributePath) -> String {
    if secret { outer.to_string() } else { at.to_string() }
}

fn check_across(rule: &Across, value: &Value, path: &AttributePath) -> Vec<Problem> {
    match rule {
        Across::Conflicts(names) => conflicts(rule, &Settings::of(names, value), path),
        Across::ExactlyOneOf(names) => {
            let settings = Settings::of(names, value);
            let mut problems = conflicts(rule, &settings, path);
            problems.extend(missing(rule, &settings, path));
            problems
        }
        Across::AtLeastOneOf(names) => {
            missing(rule, &Settings::of(names, value), path).into_iter().collect()
        }
        Across::RequiredWith(name, others) => required_with(rule, name, others, value, path),
        Across::Custom { check, .. } => check(value)
            .into_iter()
            .map(|mut problem| {
                let mut at = path.clone();
                problem.path.steps().iter().for_each(|step| at.push(step.clone()));
                problem.path = at;
                problem
            })
            .collect(),
    }
}

/// Which of the attributes that a rule names are set.
struct Settings<'a> {
    set: Vec<&'a Arc<str>>,
    any_unknown: bool,
}

impl<'a> Settings<'a> {
    fn of(names: &'a [Arc<str>], value: &Value) -> Self {
        let is_set = |name: &&Arc<str>| {
            let member = value.member(name);
            !member.is_null() && !member.is_unknown()
        };
        Self {
            set: names.iter().filter(is_set).collect(),
            any_unknown: names.iter().any(|name| value.member(name).is_unknown()),
        }
    }
}

fn conflicts(rule: &Across, settings: &Settings<'_>, path: &AttributePath) -> Vec<Problem> {
    let [first, others @ ..] = settings.set.as_slice() else { return Vec::new() };
    let others = others.iter().map(|name| {
        let detail = format!("{} `{first}` is set as well; remove one of them.", rule.describe());
        let at = path.clone().attribute(Arc::clone(name));
        Problem::new(at.clone(), format!("{at} conflicts with {first}"), detail)
    });
    others.collect()
}

fn missing(rule: &Across, settings: &Settings<'_>, path: &AttributePath) -> Option<Problem> {
    if !settings.set.is_empty() || settings.any_unknown {
        return None;
    }
    let detail = format!("{} None is.", rule.describe());
    Some(Problem::new(path.clone(), "Missing attribute", detail))
}

fn required_with(
    rule: &Across,
    name: &Arc<str>,
    others: &[Arc<str>],
    value: &Value,
    path: &AttributePath,
) -> Vec<Problem> {
    let given = value.member(name);
    if given.is_null() || given.is_unknown() {
        return Vec::new();
    }
    let missing = others.iter().filter(|other| value.member(other).is_null());
    let problems = missing.map(|other| {
        let at = path.clone().attribute(name.clone());
        let detail = format!("{} Set `{other}`, or remove `{name}`.", rule.describe());
        Problem::new(at, format!("Missing {other}"), detail)
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::validators::{custom, each, length, one_of};
    use crate::types::Type;

    fn paths(schema: &Schema, value: &Value) -> Vec<String> {
        config(schema, value).iter().map(|problem| problem.path.to_string()).collect()
    }

    #[test]
    fn faults_are_named_by_path() {
        let schema = Schema::builder()
            .attribute(Attribute::string("name").required().validate(length(1..=3)))
            .attribute(
                Attribute::nested_map(
                    "disks",
                    [Attribute::string("class").optional().validate(one_of(["hdd", "ssd"]))],
                )
                .optional(),
            )
            .attribute(Attribute::set("keys", Type::String).optional().validate(each(length(2..))))
            .build();
        let disk = |class: Value| Value::object([("class", class)]);
        let value = Value::object([
            ("name", "four".into()),
            ("disks", Value::map([("a", disk("tape".into())), ("b", disk(Value::UNKNOWN))])),
            ("keys", Value::set(["k".into(), "ok".into()])),
        ]);
        assert_eq!(paths(&schema, &value), ["name", r#"disks["a"].class"#, "keys[*]"]);
        let problem = &config(&schema, &value)[0];
        assert_eq!(problem.detail, "The value must be 1 to 3 long, but its length is 4.");
        let unknown = Value::object([
            ("name", Value::UNKNOWN),
            ("disks", Value::UNKNOWN),
            ("keys", Value::UNKNOWN),
        ]);
        assert_eq!(paths(&schema, &unknown), Vec::<String>::new());
        assert_eq!(paths(&schema, &Value::UNKNOWN), Vec::<String>::new());
    }

    #[test]
    fn null_is_checked_only_when_asked_for() {
        let refuse = || custom("present", |_| Err("it is not".to_owned()));
        let null = Value::object([("a", Value::Null)]);
        let quiet = Schema::builder().attribute(Attribute::string("a").validate(refuse())).build();
        assert!(config(&quiet, &null).is_empty());
        let attribute = Attribute::string("a").validate(refuse().also_on_null());
        let asking = Schema::builder().attribute(attribute).build();
        assert_eq!(config(&asking, &null).len(), 1);
    }

    #[test]
    fn what_is_required_or_read_only_is_found_at_every_depth() {
        let members = || [Attribute::string("id").required(), Attribute::string("made").computed()];
        let schema = Schema::builder()
            .attribute(Attribute::string("id").computed())
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::nested("one", members()).optional())
            .attribute(Attribute::nested_list("list", members()).optional())
            .attribute(Attribute::nested_map("map", members()).optional())
            .attribute(Attribute::nested_set("set", members()).optional())
            .attribute(Attribute::nested("seen", [Attribute::string("at").computed()]).computed())
            .build();
        let object = |id: Value, made: Value| Value::object([("id", id), ("made", made)]);
        let good = || object("x".into(), Value::Null);
        let bad = || object(Value::Null, "x".into());
        let value =
            |name: Value, id: Value, inner: &dyn Fn() -> Value, other: &dyn Fn() -> Value| {
                Value::object([
                    ("id", id.clone()),
                    ("name", name),
                    ("one", inner()),
                    ("list", Value::list([inner(), other()])),
                    ("map", Value::map([("a", inner()), ("b", other())])),
                    ("set", Value::set([inner()])),
                    ("seen", if id.is_null() { Value::Null } else { Value::object([("at", id)]) }),
                ])
            };
        let good = value("n".into(), Value::Null, &good, &good);
        assert_eq!(paths(&schema, &good), Vec::<String>::new());
        let unknown = || Value::UNKNOWN;
        let unknown = value(Value::UNKNOWN, Value::Null, &unknown, &unknown);
        assert_eq!(paths(&schema, &unknown), Vec::<String>::new());
        let bad = value(Value::Null, "x".into(), &bad, &|| Value::Null);
        let expected = [
            "id",
            "name",
            "one.id",
            "one.made",
            "list[0].id",
            "list[0].made",
            "list[1]",
            r#"map["a"].id"#,
            r#"map["a"].made"#,
            r#"map["b"]"#,
            "set[*].id",
            "set[*].made",
            "seen",
        ];
        assert_eq!(paths(&schema, &bad), expected);
    }

    #[test]
    fn secrets_are_not_shown() {
        let attribute =
            Attribute::nested("auth", [Attribute::string("kind").validate(one_of(["x"]))]);
        let schema = Schema::builder().attribute(attribute.optional().sensitive()).build();
        let auth = Value::object([("kind", "hunter2".into())]);
        let problems = config(&schema, &Value::object([("auth", auth)]));
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].detail.contains("hunter2"), "{}", problems[0].detail);
    }

    #[test]
    fn rules_between_attributes() {
        let names = ["a", "b", "c"];
        let attributes = || names.map(|name| Attribute::string(name).optional());
        let value = |a: Value, b: Value, c: Value| Value::object([("a", a), ("b", b), ("c", c)]);
        let s = || Value::from("s");
        let (n, u) = (Value::Null, Value::UNKNOWN);
        let one = Schema::builder().attributes(attributes()).exactly_one_of(names).build();
        assert!(paths(&one, &value(s(), n.clone(), n.clone())).is_empty());
        assert_eq!(paths(&one, &value(s(), n.clone(), s())), ["c"]);
        assert_eq!(paths(&one, &value(n.clone(), n.clone(), n.clone())), ["(the whole object)"]);
        assert!(paths(&one, &value(n.clone(), u.clone(), n.clone())).is_empty());
        assert!(paths(&one, &value(s(), u.clone(), n.clone())).is_empty());
        let with = Schema::builder().attributes(attributes()).required_with("a", ["b"]).build();
        assert_eq!(paths(&with, &value(s(), n.clone(), n.clone())), ["a"]);
        assert!(paths(&with, &value(s(), u, n.clone())).is_empty());
        assert!(paths(&with, &value(n.clone(), s(), n.clone())).is_empty());
        let some = Schema::builder().attributes(attributes()).at_least_one_of(names).build();
        assert_eq!(paths(&some, &value(n.clone(), n.clone(), n)).len(), 1);
    }

    #[test]
    fn rules_hold_in_nested_objects_too() {
        let source = Attribute::nested(
            "source",
            ["image", "snapshot"].map(|name| Attribute::string(name).optional()),
        )
        .optional()
        .rule(Across::exactly_one_of(["image", "snapshot"]));
        let schema = Schema::builder().attribute(source).build();
        let both = Value::object([("image", "i".into()), ("snapshot", "s".into())]);
        let value = Value::object([("source", both)]);
        assert_eq!(paths(&schema, &value), ["source.snapshot"]);
        assert!(paths(&schema, &Value::object([("source", Value::Null)])).is_empty());
    }
}
