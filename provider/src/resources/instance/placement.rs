//! `placement` of a machine: the constraints that volumes have as well, and preferences.

use fairmazon_model::{
    DomainError,
    placement::{Placement, Prefer, Preferences},
};
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, schema::validators};

use crate::resources::shared::{
    placement::{self, PlacementModel},
    reader::{Reader, word_for},
};

/// What may be preferred; the first is what holds where nothing is said.
const PREFER: [(&str, Prefer); 3] =
    [("price", Prefer::Price), ("spread", Prefer::Spread), ("pack", Prefer::Pack)];

/// The attribute's value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachinePlacementModel {
    pub countries: Attr<Vec<Attr<String>>>,
    pub regions: Attr<Vec<Attr<String>>>,
    pub not_with: Attr<Vec<Attr<String>>>,
    pub with: Attr<Vec<Attr<String>>>,
    pub min_conformity: Attr<u8>,
    pub confidential: Attr<bool>,
    pub prefer: Attr<String>,
    pub near: Attr<String>,
}

/// The attribute.
pub(super) fn attribute() -> Attribute {
    placement::attribute_with(
        "Constraints on where the machine may be, today and after every move, and what is better \
         among the hosts that obey them. The host is never named. When constraints change to what \
         its host does not obey, the machine moves to a host that does, with its volumes: without a \
         restart while it runs, and as it is while it is off. Where none will do the change is \
         refused.",
        [
            Attribute::string("prefer")
                .optional()
                .validate(validators::one_of(PREFER.map(|(word, _)| word)))
                .describe(
                    "What is better among the hosts that will do: `price` (the cheapest; as \
                     without it), `spread` (the emptiest) or `pack` (the fullest that has room). \
                     It counts whenever a host is chosen, also when a host is emptied; a change \
                     of it moves nothing at once.",
                ),
            Attribute::string("near").optional().describe(
                "Name of a site or a region (`fairmazon_sites`): among the hosts that will do the \
                 machine goes to the closest, before `prefer` counts. It refuses nothing, and a \
                 change of it moves nothing at once.",
            ),
        ],
    )
}

impl MachinePlacementModel {
    fn constraints(&self) -> PlacementModel {
        PlacementModel {
            countries: self.countries.clone(),
            regions: self.regions.clone(),
            not_with: self.not_with.clone(),
            with: self.with.clone(),
            min_conformity: self.min_conformity,
            confidential: self.confidential,
        }
    }

    fn of(constraints: PlacementModel, preferences: &Preferences) -> Self {
        let PlacementModel { countries, regions, not_with, with, min_conformity, confidential } =
            constraints;
        let prefer = word_for(&PREFER, &preferences.prefer).to_owned();
        Self {
            countries,
            regions,
            not_with,
            with,
            min_conformity,
            confidential,
            prefer: Some(prefer).filter(|word| word != PREFER[0].0).into(),
            near: preferences.near.clone().into(),
        }
    }
}

/// Constraints and preferences of an attribute that may be absent or not known yet.
///
/// # Errors
/// When one has the wrong form, with its path.
pub(super) fn read(
    attr: &Attr<MachinePlacementModel>,
    reader: &mut Reader,
) -> Result<(Placement, Preferences), DomainError> {
    let Some(model) = reader.object(attr) else { return Ok(Default::default()) };
    let prefer =
        reader.word("placement.prefer", &model.prefer, &PREFER, Prefer::Price, Prefer::Price)?;
    let near = reader.value(&model.near, String::new(), String::new());
    let near = Some(near).filter(|_| matches!(model.near, Attr::Value(_)));
    Ok((model.constraints().read(reader)?, Preferences { prefer, near }))
}

/// The constraints alone, as [`read`] reads them.
///
/// # Errors
/// As of [`read`].
pub(super) fn constraints(
    attr: &Attr<MachinePlacementModel>,
    reader: &mut Reader,
) -> Result<Placement, DomainError> {
    let model = reader.object(attr);
    model.map_or_else(|| Ok(Placement::default()), |model| model.constraints().read(reader))
}

/// The attribute for what the platform has; the user's own spelling where it means the same.
pub(super) fn attr(
    before: &Attr<MachinePlacementModel>,
    placement: &Placement,
    preferences: &Preferences,
) -> Attr<MachinePlacementModel> {
    let meaning = read(before, &mut Reader::default());
    if meaning.is_ok_and(|(old, preferred)| old == *placement && preferred == *preferences) {
        return before.clone();
    }
    let constraints = placement::model(placement);
    Attr::Value(MachinePlacementModel::of(constraints, preferences))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_spelling_stays_while_it_means_the_same() {
        let written = Attr::Value(MachinePlacementModel {
            regions: Attr::Value(Vec::new()),
            prefer: Attr::Value("price".to_owned()),
            ..MachinePlacementModel::default()
        });
        let (placement, preferences) = read(&written, &mut Reader::default()).unwrap();
        assert_eq!((&placement, &preferences), (&Placement::default(), &Preferences::default()));
        let Attr::Value(back) = attr(&written, &placement, &preferences) else { panic!("gone") };
        assert!(matches!(back.prefer, Attr::Value(word) if word == "price"));
        assert!(matches!(attr(&Attr::Null, &placement, &preferences), Attr::Null));
        let other = Preferences { prefer: Prefer::Pack, near: Some("fra1".to_owned()) };
        let back = attr(&written, &placement, &other);
        assert_eq!(read(&back, &mut Reader::default()).unwrap().1, other);
        let Attr::Value(back) = back else { panic!("gone") };
        assert!(matches!(back.regions, Attr::Null), "nothing is asked for that means nothing");
    }

    #[test]
    fn what_is_not_known_yet_is_noted_and_nonsense_is_named() {
        let unknown = MachinePlacementModel { near: Attr::Unknown, ..Default::default() };
        let mut reader = Reader::default();
        assert_eq!(read(&Attr::Value(unknown), &mut reader).unwrap().1.near, None);
        assert!(!reader.is_complete());
        let wrong =
            MachinePlacementModel { prefer: Attr::Value("best".into()), ..Default::default() };
        let error = read(&Attr::Value(wrong), &mut Reader::default()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("placement.prefer"));
    }
}
