//! One page: its front matter, and the description of attributes.

use std::fmt::Write as _;

use tfplugin::{
    Type, Value,
    schema::{Attribute, Body, Nesting, Replace},
};

/// A page to be written.
pub(crate) struct Page {
    /// Below the folder of the documentation.
    pub(crate) path: String,
    /// Its whole text.
    pub(crate) text: String,
}

/// A page in the making.
pub(crate) struct Writer {
    path: String,
    text: String,
}

impl Writer {
    /// Begins a page. The first paragraph of the description stands in lists of pages.
    pub(crate) fn new(path: String, title: &str, kind: &str, description: &str) -> Self {
        let short = description.split("\n\n").next().unwrap_or_default();
        let mut text = String::new();
        let _ = writeln!(
            text,
            "---\npage_title: {:?}\ndescription: |-\n  {short}\n---\n\n# {title}{kind}\n\n{description}",
            format!("{title}{kind}")
        );
        Self { path, text }
    }

    /// Adds a paragraph, list or heading, after an empty line.
    pub(crate) fn part(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push('\n');
            self.text.push_str(text.trim_end());
            self.text.push('\n');
        }
    }

    /// Adds an example, when there is one.
    pub(crate) fn example(&mut self, title: &str, language: &str, code: Option<&str>) {
        if let Some(code) = code {
            self.part(&format!("## {title}\n\n```{language}\n{}\n```", code.trim_end()));
        }
    }

    /// Describes all attributes: first those that must be set, then those that may be, then
    /// those that are only read; nested ones below.
    pub(crate) fn attributes(&mut self, body: &Body) {
        self.part("## Schema");
        let mut nested = Vec::new();
        self.groups(body, "", &mut nested);
        let mut at = 0;
        while let Some((path, body)) = nested.get(at).cloned() {
            self.part(&format!("<a id=\"{}\"></a>\n### `{path}`", anchor(&path)));
            self.groups(&body, &path, &mut nested);
            at += 1;
        }
    }

    fn groups(&mut self, body: &Body, above: &str, nested: &mut Vec<(String, Body)>) {
        type Test = fn(&Attribute) -> bool;
        let groups: [(&str, Test); 3] = [
            ("Required", |attribute| attribute.is_required()),
            ("Optional", |attribute| attribute.is_optional()),
            ("Read-only", |attribute| !attribute.is_required() && !attribute.is_optional()),
        ];
        let heading = if above.is_empty() { "###" } else { "####" };
        for (title, belongs) in groups {
            let mut some: Vec<_> =
                body.attributes().iter().filter(|attribute| belongs(attribute)).collect();
            some.sort_by_key(|attribute| attribute.name().to_owned());
            if some.is_empty() {
                continue;
            }
            let mut list = format!("{heading} {title}\n\n");
            for attribute in some {
                let path = match above {
                    "" => attribute.name().to_owned(),
                    above => format!("{above}.{}", attribute.name()),
                };
                let _ = writeln!(list, "{}", line(attribute, &path));
                if let Some((_, body)) = attribute.nested_objects() {
                    nested.push((path, body.clone()));
                }
            }
            self.part(&list);
        }
    }

    /// The finished page.
    pub(crate) fn finish(self) -> Page {
        Page { path: self.path, text: self.text }
    }
}

fn anchor(path: &str) -> String {
    format!("nested--{}", path.replace('.', "--"))
}

fn line(attribute: &Attribute, path: &str) -> String {
    let mut kinds = vec![match attribute.nested_objects() {
        Some((nesting, _)) => format!("{} ([below](#{}))", objects(nesting), anchor(path)),
        None => type_name(attribute.ty()),
    }];
    if attribute.is_sensitive() {
        kinds.push("sensitive".to_owned());
    }
    let mut text =
        format!("- `{}` ({}) {}", attribute.name(), kinds.join(", "), attribute.description());
    if let Some(default) = attribute.default_value() {
        let _ = write!(text, " Default `{}`.", value(default));
    }
    match attribute.replace() {
        Replace::Never => {}
        Replace::Always => text.push_str(" A change makes a new resource."),
        Replace::When { describe, .. } => {
            let _ = write!(text, " A change makes a new resource when {describe}.");
        }
    }
    text
}

const fn objects(nesting: Nesting) -> &'static str {
    match nesting {
        Nesting::Single | Nesting::Group => "object",
        Nesting::List => "list of objects",
        Nesting::Set => "set of objects",
        Nesting::Map => "map of objects",
    }
}

/// A type as people read it.
pub(crate) fn type_name(ty: &Type) -> String {
    match ty {
        Type::String => "string".to_owned(),
        Type::Number => "number".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Dynamic => "any".to_owned(),
        Type::List(element) => format!("list of {}", type_name(element)),
        Type::Set(element) => format!("set of {}", type_name(element)),
        Type::Map(element) => format!("map of {}", type_name(element)),
        Type::Tuple(_) => "tuple".to_owned(),
        Type::Object(object) => {
            let parts: Vec<_> =
                object.iter().map(|(name, ty)| format!("{name} = {}", type_name(ty))).collect();
            format!("object({{ {} }})", parts.join(", "))
        }
    }
}

/// A default as it would be written.
fn value(value: &Value) -> String {
    let elements = |all: &[Value]| all.iter().map(self::value).collect::<Vec<_>>().join(", ");
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Set(all) => format!("[{}]", elements(all)),
        Value::List(all) => format!("[{}]", elements(all)),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        other => other.to_string(),
    }
}
