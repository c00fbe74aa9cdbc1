//! `placement`: constraints on where something runs.

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

use fairmazon_model::{DomainError, placement::Placement};
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, Type, schema::validators};

use super::reader::Reader;

/// The attribute's value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PlacementModel {
    /// ISO 3166-1 alpha-2.
    pub countries: Attr<Vec<Attr<String>>>,
    /// Regions of the platform.
    pub regions: Attr<Vec<Attr<String>>>,
    /// Group ids.
    pub not_with: Attr<Vec<Attr<String>>>,
    /// Group ids.
    pub with: Attr<Vec<Attr<String>>>,
    /// 0 to 3.
    pub min_conformity: Attr<u8>,
    /// SEV-SNP or TDX.
    pub confidential: Attr<bool>,
}

/// The attribute; `what` is the thing that is placed, and `change` what becomes of one that is where
/// its new constraints don't allow it to be.
pub fn attribute(what: &str, change: &str) -> Attribute {
    let text = format!(
        "Constraints on where the {what} may be, today and after every move. The host is never \
         named. {change}"
    );
    attribute_with(&text, [])
}

/// The attribute with more in it than constraints.
pub fn attribute_with(text: &str, more: impl IntoIterator<Item = Attribute>) -> Attribute {
    let set = |name: &str, text: &str| Attribute::set(name, Type::String).optional().describe(text);
    let constraints = [
        set("countries", "Countries it may be in, as two capital letters (`DE`)."),
        set("regions", "Regions it may be in (`eu-central`)."),
        set(
            "not_with",
            "Placement group ids: never on a host with a machine of one of these groups. The \
                 machine joins the groups itself.",
        ),
        set(
            "with",
            "Placement group ids: on the host that the groups' machines are on. When one of them has \
             to leave it, all go to one other host, one after the other.",
        ),
        Attribute::integer("min_conformity")
            .optional()
            .validate(validators::range(0..=3))
            .describe("Lowest host standard level that will do, 0 (any) to 3."),
        Attribute::bool("confidential")
            .optional()
            .describe("Only on hosts that encrypt memory (SEV-SNP or TDX)."),
    ];
    let all: Vec<_> = constraints.into_iter().chain(more).collect();
    Attribute::nested("placement", all).optional().describe(text)
}

impl PlacementModel {
    /// The constraints; entries that are not known yet are left out.
    ///
    /// # Errors
    /// When one has the wrong form, with its path below `placement`.
    pub fn read(&self, reader: &mut Reader) -> Result<Placement, DomainError> {
        Ok(Placement {
            countries: reader
                .elements("placement.countries", &self.countries)?
                .into_iter()
                .collect(),
            regions: reader.elements("placement.regions", &self.regions)?.into_iter().collect(),
            not_with: ids("placement.not_with", &self.not_with, reader)?,
            with: ids("placement.with", &self.with, reader)?,
            min_conformity: reader.value(&self.min_conformity, 0, 0),
            confidential: reader.value(&self.confidential, false, false),
        })
    }
}

fn ids<T>(
    field: &str,
    attr: &Attr<Vec<Attr<String>>>,
    reader: &mut Reader,
) -> Result<BTreeSet<T>, DomainError>
where
    T: FromStr<Err: Display> + Ord,
{
    let texts = reader.elements(field, attr)?;
    let parse = |text: String| {
        text.parse().map_err(|error: T::Err| DomainError::invalid(field, error.to_string()))
    };
    texts.into_iter().map(parse).collect()
}

/// The constraints of an attribute that may be absent or not known yet.
///
/// # Errors
/// When one has the wrong form.
pub fn read(attr: &Attr<PlacementModel>, reader: &mut Reader) -> Result<Placement, DomainError> {
    reader.object(attr).map_or_else(|| Ok(Placement::default()), |model| model.read(reader))
}

/// The attribute for constraints of the platform; the user's own spelling where it means the same.
pub fn attr(before: &Attr<PlacementModel>, now: &Placement) -> Attr<PlacementModel> {
    let same = read(before, &mut Reader::default()).is_ok_and(|before| before == *now);
    if same {
        return before.clone();
    }
    Attr::Value(model(now))
}

/// The model of constraints, without what constrains nothing.
pub fn model(now: &Placement) -> PlacementModel {
    let set = |texts: Vec<String>| {
        if texts.is_empty() {
            Attr::Null
        } else {
            Attr::Value(texts.into_iter().map(Attr::Value).collect())
        }
    };
    PlacementModel {
        countries: set(now.countries.iter().cloned().collect()),
        regions: set(now.regions.iter().cloned().collect()),
        not_with: set(now.not_with.iter().map(ToString::to_string).collect()),
        with: set(now.with.iter().map(ToString::to_string).collect()),
        min_conformity: (now.min_conformity > 0).then_some(now.min_conformity).into(),
        confidential: now.confidential.then_some(true).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Attr<PlacementModel> {
        Attr::Value(PlacementModel {
            countries: Attr::Value(vec![Attr::Value("DE".to_owned())]),
            regions: Attr::Value(Vec::new()),
            min_conformity: Attr::Value(0),
            ..PlacementModel::default()
        })
    }

    #[test]
    fn the_users_spelling_stays_while_it_means_the_same() {
        let meaning = read(&written(), &mut Reader::default()).unwrap();
        let Attr::Value(back) = attr(&written(), &meaning) else { panic!("it is gone") };
        assert!(matches!(back.min_conformity, Attr::Value(0)));
        let moved = Placement { confidential: true, ..meaning };
        let Attr::Value(back) = attr(&written(), &moved) else { panic!("it is gone") };
        assert!(matches!(back.min_conformity, Attr::Null));
        assert!(matches!(back.confidential, Attr::Value(true)));
        assert!(matches!(attr(&Attr::Null, &Placement::default()), Attr::Null));
    }

    #[test]
    fn a_wrong_group_names_its_place() {
        let model = PlacementModel {
            not_with: Attr::Value(vec![Attr::Unknown, Attr::Value("ins-1".to_owned())]),
            ..PlacementModel::default()
        };
        let mut reader = Reader::default();
        let error = model.read(&mut reader).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("placement.not_with"));
        assert!(!reader.is_complete());
    }
}
