//! `fairmazon_instance`: a machine.

mod change;
mod model;
mod placement;
mod plan;
mod resource;
mod row;
mod schema;
mod wait;

pub use model::InstanceModel;
pub use resource::InstanceResource;
pub(crate) use row::{of_row, state};
