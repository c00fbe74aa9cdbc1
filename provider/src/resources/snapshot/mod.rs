//! `fairmazon_snapshot`: what a volume was at one moment.

mod model;
mod schema;

pub use model::SnapshotModel;
