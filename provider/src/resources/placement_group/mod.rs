//! `fairmazon_placement_group`: a name that machines gather around or keep apart by.

mod resource;

pub(crate) use resource::of_row;
pub use resource::{PlacementGroupModel, PlacementGroupResource};
