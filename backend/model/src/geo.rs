//! Places on the earth and the distance between them.

use serde::{Deserialize, Serialize};

use crate::DomainError;

/// A place in degrees: latitude −90 to 90 (north positive), longitude −180 to 180 (east positive).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coordinates {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// Mean radius of the earth in km (IUGG R1).
const EARTH_RADIUS_KM: f64 = 6371.0088;

impl Coordinates {
    /// A place.
    ///
    /// # Errors
    /// `Invalid` when a value is not finite or out of range.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, DomainError> {
        if !(-90.0..=90.0).contains(&latitude) {
            return Err(DomainError::invalid(
                "latitude",
                format!("it has to be -90 to 90 degrees, and is {latitude}"),
            ));
        }
        if !(-180.0..=180.0).contains(&longitude) {
            return Err(DomainError::invalid(
                "longitude",
                format!("it has to be -180 to 180 degrees, and is {longitude}"),
            ));
        }
        Ok(Self { latitude, longitude })
    }

    /// Great-circle distance in km by the haversine formula (R. W. Sinnott, 1984).
    pub fn distance_km(self, other: Self) -> f64 {
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_lat = ((lat2 - lat1) / 2.0).sin();
        let half_lon = ((other.longitude - self.longitude).to_radians() / 2.0).sin();
        let chord = half_lat * half_lat + lat1.cos() * lat2.cos() * half_lon * half_lon;
        2.0 * EARTH_RADIUS_KM * chord.sqrt().min(1.0).asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances_hold() {
        let frankfurt = Coordinates::new(50.1109, 8.6821).unwrap();
        let paris = Coordinates::new(48.8566, 2.3522).unwrap();
        assert!((frankfurt.distance_km(paris) - 478.6).abs() < 1.5);
        assert!(frankfurt.distance_km(frankfurt) < 1e-9);
        let (a, b) = (Coordinates::new(0.0, 0.0).unwrap(), Coordinates::new(0.0, 180.0).unwrap());
        assert!((a.distance_km(b) - 20015.1).abs() < 0.2);
    }

    #[test]
    fn out_of_range_names_the_field() {
        assert_eq!(Coordinates::new(91.0, 0.0).unwrap_err().field.as_deref(), Some("latitude"));
        assert_eq!(
            Coordinates::new(0.0, f64::NAN).unwrap_err().field.as_deref(),
            Some("longitude")
        );
    }
}
