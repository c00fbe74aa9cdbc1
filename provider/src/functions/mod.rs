//! Functions: pure, without a broker and without credentials.

mod distance_km;
mod is_id;
mod nearest;
mod parse_id;

pub use distance_km::DistanceKm;
pub use is_id::IsId;
pub use nearest::Nearest;
pub use parse_id::ParseId;

use fairmazon_model::geo::Coordinates;
use tfplugin::FunctionError;

/// A place from two arguments, the latitude being the one at `first`.
fn place(first: usize, latitude: f64, longitude: f64) -> Result<Coordinates, FunctionError> {
    Coordinates::new(latitude, longitude).map_err(|error| {
        let second = usize::from(error.field.as_deref() == Some("longitude"));
        FunctionError::argument(first + second, error.message)
    })
}

/// To a metre: more digits would claim what the formula does not know.
fn metres(km: f64) -> f64 {
    (km * 1_000.0).round() / 1_000.0
}
