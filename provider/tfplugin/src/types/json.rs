//! The JSON form of a type: `"string"`, `["list","string"]`, `["object",{...},["optional"]]`.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{ObjectType, Type};

/// The longest type that is read, in bytes. A type from the wire is parsed whole, so that its
/// size in memory is some dozens of times this.
const MAX_BYTES: usize = 1 << 20;

/// Why bytes are not a type. The message of each says what stood where a type should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// Past the limit.
    #[error("a type may take {MAX_BYTES} bytes")]
    TooLong,
    /// Not JSON, or nested deeper than 128 levels.
    #[error("a type must be JSON")]
    Json(#[from] serde_json::Error),
    /// A name that stands for no primitive type.
    #[error("`{0}` is no type; known are string, number, bool and dynamic")]
    UnknownName(String),
    /// A constructor that does not exist or has the wrong parts.
    #[error("a type must be a name or an array such as [\"list\", \"string\"]; found {0}")]
    Shape(String),
}

impl Type {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// When the bytes are not JSON, or not a type.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TypeError> {
        // The primitive types are nearly all there is: spare them the parser.
        match bytes {
            b"\"string\"" => Ok(Self::String),
            b"\"number\"" => Ok(Self::Number),
            b"\"bool\"" => Ok(Self::Bool),
            _ if bytes.len() > MAX_BYTES => Err(TypeError::TooLong),
            _ => parse(&serde_json::from_slice(bytes)?),
        }
    }

    /// Writes the JSON form, attributes in order of their names.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = String::new();
        write(self, &mut out);
        out.into_bytes()
    }
}

fn parse(json: &Json) -> Result<Type, TypeError> {
    match json {
        Json::String(name) => match name.as_str() {
            "string" => Ok(Type::String),
            "number" => Ok(Type::Number),
            "bool" => Ok(Type::Bool),
            "dynamic" => Ok(Type::Dynamic),
            other => Err(TypeError::UnknownName(shortened(other))),
        },
        Json::Array(parts) => parse_constructor(json, parts),
        _ => Err(shape(json)),
    }
}

fn parse_constructor(json: &Json, parts: &[Json]) -> Result<Type, TypeError> {
    match parts {
        [Json::String(name), element] if name == "list" => Ok(Type::list(parse(element)?)),
        [Json::String(name), element] if name == "set" => Ok(Type::set(parse(element)?)),
        [Json::String(name), element] if name == "map" => Ok(Type::map(parse(element)?)),
        [Json::String(name), Json::Array(elements)] if name == "tuple" => {
            let elements = elements.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
            Ok(Type::tuple(elements))
        }
        [Json::String(name), Json::Object(attributes), optional @ ..]
            if name == "object" && optional.len() <= 1 =>
        {
            let attributes = attributes
                .iter()
                .map(|(name, ty)| Ok((name.as_str(), parse(ty)?)))
                .collect::<Result<Vec<_>, TypeError>>()?;
            let object = ObjectType::new(attributes);
            let names = optional.first().map(|names| parse_names(json, names)).transpose()?;
            Ok(Type::Object(Arc::new(object.with_optional(names.unwrap_or_default()))))
        }
        _ => Err(shape(json)),
    }
}

fn parse_names<'a>(whole: &Json, names: &'a Json) -> Result<Vec<&'a str>, TypeError> {
    let names = names.as_array().ok_or_else(|| shape(whole))?;
    names.iter().map(|name| name.as_str().ok_or_else(|| shape(whole))).collect()
}

fn shape(json: &Json) -> TypeError {
    TypeError::Shape(shortened(&json.to_string()))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn write(ty: &Type, out: &mut String) {
    match ty {
        Type::String => out.push_str("\"string\""),
        Type::Number => out.push_str("\"number\""),
        Type::Bool => out.push_str("\"bool\""),
        Type::Dynamic => out.push_str("\"dynamic\""),
        Type::List(element) => write_collection("list", element, out),
        Type::Set(element) => write_collection("set", element, out),
        Type::Map(element) => write_collection("map", element, out),
        Type::Tuple(elements) => {
            out.push_str("[\"tuple\",[");
            separated(elements.iter(), out, write);
            out.push_str("]]");
        }
        Type::Object(object) => write_object(object, out),
    }
}

fn write_collection(name: &str, element: &Type, out: &mut String) {
    out.push_str("[\"");
    out.push_str(name);
    out.push_str("\",");
    write(element, out);
    out.push(']');
}

fn write_object(object: &ObjectType, out: &mut String) {
    out.push_str("[\"object\",{");
    separated(object.attributes.iter(), out, |(name, ty), out| {
        write_name(name, out);
        out.push(':');
        write(ty, out);
    });
    out.push('}');
    if !object.optional.is_empty() {
        out.push_str(",[");
        separated(object.optional.iter(), out, |name, out| write_name(name, out));
        out.push(']');
    }
    out.push(']');
}

fn write_name(name: &str, out: &mut String) {
    out.push_str(&Json::from(name).to_string());
}

fn separated<T>(
    items: impl Iterator<Item = T>,
    out: &mut String,
    mut each: impl FnMut(T, &mut String),
) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        each(item, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: &str) {
        let ty = Type::from_json(json.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(ty.to_json()).unwrap(), json);
    }

    #[test]
    fn every_form_survives() {
        for json in [
            r#""string""#,
            r#""number""#,
            r#""bool""#,
            r#""dynamic""#,
            r#"["list","string"]"#,
            r#"["set",["map","bool"]]"#,
            r#"["tuple",[]]"#,
            r#"["tuple",["string",["list","number"]]]"#,
            r#"["object",{}]"#,
            r#"["object",{"a":"string","b":["object",{"c":"dynamic"}]}]"#,
            r#"["object",{"a":"string","quo\"te":"bool"},["a"]]"#,
        ] {
            round_trip(json);
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for json in [
            "",
            "null",
            "1",
            r#""strin""#,
            "[]",
            r#"["list"]"#,
            r#"["list","string","string"]"#,
            r#"["tuple","string"]"#,
            r#"["object",["a"]]"#,
            r#"["object",{"a":1}]"#,
            r#"["object",{"a":"string"},"a"]"#,
            r#"["object",{"a":"string"},["a"],1]"#,
            r#""string" x"#,
        ] {
            assert!(Type::from_json(json.as_bytes()).is_err(), "{json} was accepted");
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let json = format!("{}\"string\"{}", "[\"list\",".repeat(100_000), "]".repeat(100_000));
        assert!(Type::from_json(json.as_bytes()).is_err());
    }

    #[test]
    fn optional_names_without_attribute_are_dropped() {
        let ty = Type::from_json(br#"["object",{"a":"string"},["a","b"]]"#).unwrap();
        let object = ty.as_object().unwrap();
        assert!(object.is_optional("a") && !object.is_optional("b"));
    }

    #[test]
    fn display_is_what_a_user_writes() {
        let ty =
            Type::from_json(br#"["map",["object",{"a":"string","b":["set","number"]},["b"]]]"#)
                .unwrap();
        assert_eq!(ty.to_string(), "map(object({a = string, b = optional(set(number))}))");
    }
}
