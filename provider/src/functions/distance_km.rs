//! `distance_km`: how far two places are apart.

use tfplugin::{Function, FunctionError, Signature, Type};

use super::{metres, place};

/// The function.
pub struct DistanceKm;

impl Function for DistanceKm {
    type Args = (f64, f64, f64, f64);
    type Output = f64;

    fn name(&self) -> &'static str {
        "distance_km"
    }

    fn signature(&self) -> Signature {
        Signature::returning(Type::Number, "How far two places are apart, in km.")
            .parameter("latitude_1", Type::Number, "Degrees north of the one place.")
            .parameter("longitude_1", Type::Number, "Degrees east of the one place.")
            .parameter("latitude_2", Type::Number, "Degrees north of the other place.")
            .parameter("longitude_2", Type::Number, "Degrees east of the other place.")
            .describe(
                "Along the surface of the earth (great circle), to a metre. The coordinates of \
                 sites are in the data source `fairmazon_sites`.",
            )
    }

    fn call(&self, (lat1, lon1, lat2, lon2): Self::Args) -> Result<f64, FunctionError> {
        Ok(metres(place(0, lat1, lon1)?.distance_km(place(2, lat2, lon2)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        let km = DistanceKm.call((50.1109, 8.6821, 48.8566, 2.3522)).unwrap();
        assert!((km - 478.6).abs() < 1.5, "{km}");
        let same = DistanceKm.call((1.0, 2.0, 1.0, 2.0)).unwrap();
        assert!(same.abs() < 0.001);
    }

    #[test]
    fn the_wrong_argument_is_blamed() {
        let error = DistanceKm.call((0.0, 0.0, 0.0, 181.0)).unwrap_err();
        assert_eq!(error, FunctionError::argument(3, error.to_string()));
        let error = DistanceKm.call((91.0, 0.0, 0.0, 0.0)).unwrap_err();
        assert_eq!(error, FunctionError::argument(0, error.to_string()));
    }
}
