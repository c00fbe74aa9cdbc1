//! Labels: a resource's own ones over the provider's default ones.

use std::collections::BTreeMap;

use fairmazon_model::DomainError;
use tfplugin::{Attr, Attribute, Type};

/// Labels as they stand in a configuration, a plan or a state.
pub type Labels = Attr<BTreeMap<String, Attr<String>>>;
/// Labels that are known.
pub type KnownLabels = BTreeMap<String, String>;

/// The two attributes of every resource.
pub fn attributes() -> [Attribute; 2] {
    [
        Attribute::map("labels", Type::String)
            .optional()
            .describe("Labels, for filters and for people."),
        Attribute::map("effective_labels", Type::String)
            .computed()
            .use_state_for_unknown()
            .describe("The labels together with the provider's `default_labels`."),
    ]
}

/// All labels that a resource shall have. `defaults` is nothing while it is not known yet.
pub fn effective(own: &Labels, defaults: Option<&KnownLabels>) -> Labels {
    let Some(defaults) = defaults else { return Attr::Unknown };
    let mut all: BTreeMap<_, _> =
        defaults.iter().map(|(key, value)| (key.clone(), Attr::Value(value.clone()))).collect();
    match own {
        Attr::Unknown => return Attr::Unknown,
        Attr::Null => {}
        Attr::Value(own) => all.extend(own.iter().map(|(key, value)| (key.clone(), value.clone()))),
    }
    Attr::Value(all)
}

/// The labels as plain values; those not known yet are left out, and `complete` is false.
///
/// # Errors
/// When one is null.
pub fn known(labels: &Labels, complete: &mut bool) -> Result<KnownLabels, DomainError> {
    let Attr::Value(labels) = labels else {
        *complete &= !matches!(labels, Attr::Unknown);
        return Ok(KnownLabels::new());
    };
    let mut known = KnownLabels::new();
    for (key, value) in labels {
        match value {
            Attr::Value(value) => {
                known.insert(key.clone(), value.clone());
            }
            Attr::Unknown => *complete = false,
            Attr::Null => {
                return Err(DomainError::invalid(
                    format!("labels[{key:?}]"),
                    "a label needs a value",
                )
                .advise("leave it out, or write \"\""));
            }
        }
    }
    Ok(known)
}

/// Labels of the platform as an attribute.
pub fn attr(labels: &KnownLabels) -> Labels {
    Attr::Value(
        labels.iter().map(|(key, value)| (key.clone(), Attr::Value(value.clone()))).collect(),
    )
}

/// A resource's own labels, found in all that it has: those it had of its own before, and those
/// that are not the provider's. `all_before` are all that it had: a label in it that was not its
/// own is a default of then, which may have changed since.
pub fn own(
    before: &Labels,
    all_before: &Labels,
    all: &KnownLabels,
    defaults: Option<&KnownLabels>,
) -> Labels {
    let had = |key: &String| matches!(before, Attr::Value(before) if before.contains_key(key));
    let default = |key: &String, value: &String| {
        let was = all_before.get().and_then(|all| all.get(key)).and_then(Attr::get);
        defaults.and_then(|defaults| defaults.get(key)) == Some(value) || was == Some(value)
    };
    let own: BTreeMap<_, _> = all
        .iter()
        .filter(|(key, value)| had(key) || !default(key, value))
        .map(|(key, value)| (key.clone(), Attr::Value(value.clone())))
        .collect();
    if own.is_empty() && !matches!(before, Attr::Value(before) if before.is_empty()) {
        return Attr::Null;
    }
    Attr::Value(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> KnownLabels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn plain(labels: &Labels) -> Option<KnownLabels> {
        let mut complete = true;
        matches!(labels, Attr::Value(_)).then(|| known(labels, &mut complete).unwrap())
    }

    #[test]
    fn own_labels_win_and_come_back() {
        let defaults = map(&[("team", "a"), ("env", "prod")]);
        let own_labels = attr(&map(&[("env", "test"), ("role", "web")]));
        let all = effective(&own_labels, Some(&defaults));
        let all = plain(&all).unwrap();
        assert_eq!(all, map(&[("team", "a"), ("env", "test"), ("role", "web")]));
        let back = own(&own_labels, &attr(&all), &all, Some(&defaults));
        assert_eq!(plain(&back), plain(&own_labels));
        assert_eq!(
            plain(&own(&Attr::Null, &Attr::Null, &all, Some(&defaults))),
            plain(&own_labels)
        );
    }

    #[test]
    fn a_default_of_before_is_no_label_of_its_own() {
        let all = map(&[("team", "a"), ("role", "web"), ("by", "hand")]);
        let before = map(&[("team", "a"), ("role", "web")]);
        let own_before = attr(&map(&[("role", "web")]));
        for defaults in [map(&[("team", "b")]), map(&[])] {
            let now = own(&own_before, &attr(&before), &all, Some(&defaults));
            assert_eq!(plain(&now), Some(map(&[("role", "web"), ("by", "hand")])));
        }
        let drifted = map(&[("team", "c")]);
        let now = own(&Attr::Null, &attr(&before), &drifted, Some(&map(&[("team", "a")])));
        assert_eq!(plain(&now), Some(drifted), "another value is drift");
    }

    #[test]
    fn null_and_empty_keep_their_spelling() {
        let defaults = map(&[("team", "a")]);
        assert_eq!(plain(&own(&Attr::Null, &Attr::Null, &defaults, Some(&defaults))), None);
        let empty = attr(&map(&[]));
        assert_eq!(plain(&own(&empty, &Attr::Null, &defaults, Some(&defaults))), Some(map(&[])));
    }

    #[test]
    fn what_is_unknown_stays_unknown() {
        assert!(matches!(effective(&Attr::Unknown, Some(&map(&[]))), Attr::Unknown));
        assert!(matches!(effective(&Attr::Null, None), Attr::Unknown));
        let half = Attr::Value(BTreeMap::from([("a".to_owned(), Attr::Unknown)]));
        let mut complete = true;
        assert!(known(&half, &mut complete).unwrap().is_empty() && !complete);
    }
}
