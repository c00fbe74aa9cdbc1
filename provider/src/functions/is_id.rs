//! `is_id`: whether a text is an id of a noun, for conditions.

use tfplugin::{Function, FunctionError, Signature, Type};

use super::parse_id::parse;

/// The function.
pub struct IsId;

const NOUNS: [&str; 7] =
    ["instance", "volume", "placement_group", "account", "token", "operation", "host"];

impl Function for IsId {
    type Args = (String, String);
    type Output = bool;

    fn name(&self) -> &'static str {
        "is_id"
    }

    fn signature(&self) -> Signature {
        Signature::returning(Type::Bool, "Whether a text is an id of this noun.")
            .parameter("text", Type::String, "Any text.")
            .parameter("noun", Type::String, "`instance`, `volume`, `placement_group`, …")
            .describe("For the conditions of variables. It does not ask whether the thing exists.")
    }

    fn call(&self, (text, noun): Self::Args) -> Result<bool, FunctionError> {
        if !NOUNS.contains(&noun.as_str()) {
            let all = NOUNS.join("`, `");
            return Err(FunctionError::argument(1, format!("A noun is one of `{all}`.")));
        }
        Ok(parse(&text).is_some_and(|(found, _)| found == noun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_are_told_apart() {
        let id = "ins-01jd0000000000000000000000".to_owned();
        assert_eq!(IsId.call((id.clone(), "instance".to_owned())), Ok(true));
        assert_eq!(IsId.call((id.clone(), "volume".to_owned())), Ok(false));
        assert_eq!(IsId.call(("web".to_owned(), "volume".to_owned())), Ok(false));
        assert!(IsId.call((id, "machine".to_owned())).is_err());
    }
}
