//! `fairmazon_volume`: a disk that outlives machines.

mod model;
mod resource;
mod schema;

pub use model::{SourceModel, VolumeModel};
pub use resource::{VolumeKind, Volumes};
