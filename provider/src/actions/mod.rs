//! Actions, one file each.

mod migrate;
mod reboot;
mod snapshot;

use std::fmt::Display;

use fairmazon_model::id::{InstanceId, VolumeId};
use tfplugin::{Attribute, Progress, schema::validators};

pub use self::{migrate::Migrate, reboot::Reboot, snapshot::Snapshot};

/// The machine that an action is about.
fn instance_id() -> Attribute {
    id("instance_id", "the id of a machine", |text| text.parse::<InstanceId>())
        .describe("Id of the machine.")
}

/// The volume that an action is about.
fn volume_id() -> Attribute {
    id("volume_id", "the id of a volume", |text| text.parse::<VolumeId>())
}

fn id<T, E: Display>(
    name: &str,
    form: &str,
    parse: impl Fn(&str) -> Result<T, E> + Send + Sync + 'static,
) -> Attribute {
    let check = move |text: &str| parse(text).map(|_| ()).map_err(|error| error.to_string());
    Attribute::string(name).required().validate(validators::string(form, check))
}

/// Tells the user what an operation waits for.
fn waiting(progress: &Progress) -> impl Fn(&str) + Send + Sync {
    |what| {
        if !what.is_empty() {
            progress.say(format!("Waiting: {what}"));
        }
    }
}
