//! `nearest`: places ordered by their distance.

use std::collections::BTreeMap;

use serde::Deserialize;
use tfplugin::{Function, FunctionError, Signature, Type};

use super::place;

/// The function.
pub struct Nearest;

/// One place of the map.
#[derive(Deserialize)]
pub struct Place {
    latitude: f64,
    longitude: f64,
}

impl Function for Nearest {
    type Args = (f64, f64, BTreeMap<String, Place>);
    type Output = Vec<String>;

    fn name(&self) -> &'static str {
        "nearest"
    }

    fn signature(&self) -> Signature {
        let place = Type::object([("latitude", Type::Number), ("longitude", Type::Number)]);
        Signature::returning(Type::list(Type::String), "Names of places, the nearest first.")
            .parameter("latitude", Type::Number, "Degrees north of where you are.")
            .parameter("longitude", Type::Number, "Degrees east of where you are.")
            .parameter("places", Type::map(place), "Places by name, with latitude and longitude.")
            .describe(
                "Orders places by their distance along the surface of the earth. Places at the \
                 same distance are ordered by name.",
            )
    }

    fn call(
        &self,
        (latitude, longitude, places): Self::Args,
    ) -> Result<Vec<String>, FunctionError> {
        let here = place(0, latitude, longitude)?;
        let mut found = Vec::with_capacity(places.len());
        for (name, there) in places {
            let there = place(2, there.latitude, there.longitude).map_err(|error| {
                FunctionError::argument(2, format!("The place {name:?}: {error}"))
            })?;
            found.push((here.distance_km(there), name));
        }
        found.sort_by(|one, other| one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1)));
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first() {
        let at = |latitude, longitude| Place { latitude, longitude };
        let places = BTreeMap::from([
            ("far".to_owned(), at(60.17, 24.94)),
            ("near".to_owned(), at(50.11, 8.68)),
            ("also near".to_owned(), at(50.11, 8.68)),
        ]);
        let order = Nearest.call((50.0, 8.0, places)).unwrap();
        assert_eq!(order, ["also near", "near", "far"]);
        let wrong = BTreeMap::from([("x".to_owned(), at(99.0, 0.0))]);
        assert!(Nearest.call((0.0, 0.0, wrong)).unwrap_err().to_string().contains("\"x\""));
    }
}
