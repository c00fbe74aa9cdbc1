//! Reads the broker's way of naming a field (`boot_volume.size_gib`, `volumes["data"]`) as the
//! path of an attribute.

use tfplugin::AttributePath;

/// The path that `field` names, as far as it can be read.
pub fn of_field(field: &str) -> AttributePath {
    let field = field.strip_prefix("spec.").unwrap_or(field);
    let mut path = AttributePath::root();
    let mut rest = field;
    while !rest.is_empty() {
        let (next, left) = match step(rest) {
            Some(Step::Name(name, left)) => (path.clone().attribute(name), left),
            Some(Step::Key(key, left)) => (path.clone().key(key), left),
            Some(Step::Index(index, left)) => (path.clone().index(index), left),
            None => return path,
        };
        path = next;
        rest = left;
    }
    path
}

enum Step<'a> {
    Name(&'a str, &'a str),
    Key(String, &'a str),
    Index(usize, &'a str),
}

fn step(text: &str) -> Option<Step<'_>> {
    if let Some(inside) = text.strip_prefix('[') {
        if inside.starts_with('"') {
            let (key, used) = quoted(inside)?;
            return Some(Step::Key(key, inside[used..].strip_prefix(']')?));
        }
        let (index, left) = inside.split_once(']')?;
        return Some(Step::Index(index.parse().ok()?, left));
    }
    let text = text.strip_prefix('.').unwrap_or(text);
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, left) = text.split_at(end);
    (!name.is_empty()).then_some(Step::Name(name, left))
}

/// A text in quotes at the beginning, and how many bytes it takes with them.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut key = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((key, at + 1)),
            '\\' => key.push(characters.next()?.1),
            other => key.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_paths() {
        for field in ["name", "boot_volume.size_gib", "schedule[0].timezone", r#"volumes["a.b]"]"#]
        {
            assert_eq!(of_field(field).to_string(), field);
        }
        assert_eq!(of_field("spec.name").to_string(), "name");
        assert_eq!(of_field(r#"labels["a\"b"]"#), AttributePath::new("labels").key("a\"b"));
    }

    #[test]
    fn what_can_not_be_read_ends_the_path() {
        for (field, path) in [("a[", "a"), ("a[x]", "a"), ("a[\"b", "a"), ("a..b", "a")] {
            assert_eq!(of_field(field).to_string(), path, "{field}");
        }
        assert!(of_field("").is_root());
    }
}
