//! Data sources, one file each.

mod flavors;
mod images;
mod instances;
mod sites;

pub use flavors::Flavors;
pub use images::Images;
pub use instances::Instances;
pub use sites::Sites;
