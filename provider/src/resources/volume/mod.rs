//! `fairmazon_volume`: a disk that outlives machines.

mod model;
mod resource;
mod schema;

pub use model::VolumeModel;
pub(crate) use model::of_row;
pub use resource::VolumeResource;
