//! Sites: where hosts stand.

use serde::{Deserialize, Serialize};

use crate::geo::Coordinates;

/// A place with one or more hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Unique short name (`fra1`).
    pub name: String,
    /// The town, for people.
    pub town: String,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: String,
    /// Region of the platform (`eu-central`).
    pub region: String,
    /// Where it is.
    pub coordinates: Coordinates,
}
