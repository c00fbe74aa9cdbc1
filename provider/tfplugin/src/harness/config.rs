//! Configurations as tests write them: JSON, with a mark for what is unknown.

use serde_json::{Value as Json, json};

use crate::{
    AttributePath, Diagnostic, Diagnostics, Explain as _, Value, codec, path::Step, rules,
    schema::Schema,
};

const MARK: &str = "(unknown value)";

/// Stands for a value that is not known at plan time.
#[must_use]
pub fn unknown() -> Json {
    json!({ MARK: true })
}

/// Reads a configuration. Attributes that are left out are null; ones that the schema does not
/// have are refused, as the real client does.
pub(super) fn read(schema: &Schema, mut json: Json) -> Result<Value, Diagnostics> {
    if let Some(name) = json.as_object().and_then(|members| {
        members.keys().find(|name| {
            schema.body().attribute(name).is_none() && schema.body().block(name).is_none()
        })
    }) {
        return Err(Diagnostic::error("Unsupported argument")
            .detail(format!("There is no attribute {name:?}."))
            .into());
    }
    let mut unknowns = Vec::new();
    take_marks(&mut json, &AttributePath::root(), &mut unknowns);
    let mut value = codec::json::decode_lenient(json.to_string().as_bytes(), schema.object_type())
        .explain("The configuration does not fit the schema")?;
    for path in unknowns {
        mark(&mut value, &path).ok_or_else(|| {
            Diagnostic::error("The harness can't mark a part of an element of a set as unknown")
                .at(path)
        })?;
    }
    Ok(value)
}

/// Makes unknown what stands there. JSON does not tell objects from maps: a step by name leads into
/// either.
fn mark(value: &mut Value, path: &AttributePath) -> Option<()> {
    if let Some(place) = value.at_mut(path) {
        *place = Value::UNKNOWN;
        return Some(());
    }
    let (_, outer) = path.steps().split_last()?;
    let Value::Set(elements) = value.at_mut(&outer.to_vec().into())? else { return None };
    let mut changed = std::mem::take(elements).into_vec();
    // In a set marks have no place: they were read as nulls, which are one.
    changed.retain(|element| !element.is_null());
    changed.push(Value::UNKNOWN);
    *elements = changed.into();
    Some(())
}

/// Checks what the client checks before it asks the provider.
pub(super) fn check(schema: &Schema, value: &Value) -> Result<(), Diagnostics> {
    let told = rules::config(schema, value).into_iter().map(|violation| {
        Diagnostic::error("Invalid configuration").detail(violation.detail).at(violation.path)
    });
    told.collect::<Diagnostics>().into_result()
}

fn take_marks(json: &mut Json, path: &AttributePath, found: &mut Vec<AttributePath>) {
    match json {
        Json::Object(members) if members.contains_key(MARK) => {
            found.push(path.clone());
            *json = Json::Null;
        }
        Json::Object(members) => {
            for (name, member) in members {
                let step = Step::Key(name.as_str().into());
                take_marks(member, &path.clone().step(step), found);
            }
        }
        Json::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                take_marks(element, &path.clone().index(index), found);
            }
        }
        _ => {}
    }
}
