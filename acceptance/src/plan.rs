//! Reads plans and states as `show -json` tells them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Failure, Outcome};

/// A saved plan.
#[derive(Debug)]
pub struct Plan(Value);

/// A state.
#[derive(Debug)]
pub struct State(Value);

/// Parses what `show -json` printed; it may print log lines around the one that counts.
fn json(what: &str, text: &str) -> Outcome<Value> {
    let line = text.lines().find(|line| line.starts_with('{')).unwrap_or(text);
    serde_json::from_str(line).map_err(|source| Failure::Json { what: what.into(), source })
}

impl Plan {
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        json("a plan", text).map(Self)
    }

    /// The whole document.
    pub fn document(&self) -> &Value {
        &self.0
    }

    /// The change of each managed resource that is not left as it is: address to actions.
    pub fn actions(&self) -> BTreeMap<String, Vec<String>> {
        self.changes()
            .filter_map(|(address, change)| {
                let actions: Vec<String> = strings(&change["actions"]);
                let idle = actions == ["no-op"] || actions == ["read"];
                (!idle).then(|| (address.to_owned(), actions))
            })
            .collect()
    }

    /// Whether it changes neither resources nor outputs.
    pub fn is_empty(&self) -> bool {
        let outputs_stay = self.0["output_changes"].as_object().is_none_or(|outputs| {
            outputs.values().all(|change| strings(&change["actions"]) == ["no-op"])
        });
        self.actions().is_empty() && outputs_stay
    }

    /// The values that are known already of one resource after the change.
    ///
    /// # Errors
    /// `Unexpected` when the plan does not name it.
    pub fn after(&self, address: &str) -> Outcome<&Value> {
        self.change(address).map(|change| &change["after"])
    }

    /// Which values of it are known only after the apply: `true` where one is.
    ///
    /// # Errors
    /// `Unexpected` when the plan does not name it.
    pub fn unknown(&self, address: &str) -> Outcome<&Value> {
        self.change(address).map(|change| &change["after_unknown"])
    }

    /// What is planned for an output, as far as it is known.
    pub fn output(&self, name: &str) -> &Value {
        &self.0["output_changes"][name]["after"]
    }

    fn changes(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["resource_changes"].as_array().into_iter().flatten().filter_map(|resource| {
            let managed = resource["mode"] == "managed";
            managed.then_some((resource["address"].as_str()?, &resource["change"]))
        })
    }

    fn change(&self, address: &str) -> Outcome<&Value> {
        self.changes().find(|(at, _)| *at == address).map(|(_, change)| change).ok_or_else(|| {
            let all: Vec<_> = self.changes().map(|(at, _)| at).collect();
            Failure::Unexpected(format!("the plan does not name {address}, only {all:?}"))
        })
    }
}

impl State {
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        json("a state", text).map(Self)
    }

    /// The values of one resource or data source.
    ///
    /// # Errors
    /// `Unexpected` when the state does not hold it.
    pub fn resource(&self, address: &str) -> Outcome<&Value> {
        self.resources().find(|(at, _)| *at == address).map(|(_, values)| values).ok_or_else(|| {
            let all: Vec<_> = self.resources().map(|(at, _)| at).collect();
            Failure::Unexpected(format!("the state does not hold {address}, only {all:?}"))
        })
    }

    /// Addresses and values of all that it holds.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["values"]["root_module"]["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|resource| Some((resource["address"].as_str()?, &resource["values"])))
    }

    /// The value of an output.
    pub fn output(&self, name: &str) -> &Value {
        &self.0["values"]["outputs"][name]["value"]
    }

    /// The whole document as text, to look for what must not be in it.
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"resource_changes":[
        {"address":"a.b","mode":"managed","change":{"actions":["no-op"],"after":{"x":1}}},
        {"address":"a.c","mode":"managed","change":{"actions":["delete","create"],
            "after":{"x":2},"after_unknown":{"id":true}}},
        {"address":"data.d","mode":"data","change":{"actions":["read"]}}],
        "output_changes":{"o":{"actions":["no-op"],"after":"v"}}}"#;

    #[test]
    fn plans_are_read() {
        let plan = Plan::parse(&PLAN.replace('\n', "")).unwrap();
        let expected = vec!["delete".to_owned(), "create".to_owned()];
        assert_eq!(plan.actions(), BTreeMap::from([("a.c".to_owned(), expected)]));
        assert!(!plan.is_empty());
        assert_eq!(plan.after("a.b").unwrap()["x"], 1);
        assert_eq!(plan.unknown("a.c").unwrap()["id"], true);
        assert_eq!(plan.output("o"), "v");
        assert!(plan.after("nothing").is_err());
    }

    #[test]
    fn a_changed_output_is_a_change() {
        let text = r#"{"output_changes":{"o":{"actions":["update"]}}}"#;
        assert!(!Plan::parse(text).unwrap().is_empty());
        assert!(Plan::parse("{}").unwrap().is_empty());
    }

    #[test]
    fn states_are_read() {
        let text = r#"{"values":{"outputs":{"o":{"value":[1]}},"root_module":{"resources":[
            {"address":"a.b","values":{"x":1}}]}}}"#;
        let state = State::parse(&text.replace('\n', "")).unwrap();
        assert_eq!(state.resource("a.b").unwrap()["x"], 1);
        assert_eq!(state.output("o")[0], 1);
    }
}
