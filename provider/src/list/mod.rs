//! List resources: what exists in the account, for `terraform query`.

mod instance;
mod placement_group;
mod volume;

pub use instance::InstanceList;
pub use placement_group::PlacementGroupList;
pub use volume::VolumeList;

use std::collections::BTreeMap;

use serde::Deserialize;
use tfplugin::{Attribute, Schema, Type};

/// What a list can be narrowed by.
#[derive(Debug, Default, Deserialize)]
pub struct ListConfig {
    labels: Option<BTreeMap<String, String>>,
}

/// What one of the list is called. One that nobody has confirmed to keep is in no state, or was made
/// by a run that has not been followed by another yet: it costs money, and its owner may not know.
fn display_name(name: String, unconfirmed: bool) -> String {
    if unconfirmed { format!("{name} (not confirmed)") } else { name }
}

fn schema(nouns: &str) -> Schema {
    Schema::builder()
        .describe(format!("The account's {nouns}, whoever made them."))
        .attribute(
            Attribute::map("labels", Type::String)
                .optional()
                .describe(format!("Only {nouns} that have all of these labels.")),
        )
        .build()
}
