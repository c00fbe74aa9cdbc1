//! `timeouts`: how long the provider waits for the platform.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, schema::validators};

/// The attribute's value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TimeoutsModel {
    create: Attr<String>,
    read: Attr<String>,
    update: Attr<String>,
    delete: Attr<String>,
}

/// How long each may take where nothing is set.
const DEFAULT: Duration = Duration::from_secs(10 * 60);

/// The attribute. `late` completes "The platform goes on with what it began:" with what becomes of
/// one that takes longer to create.
pub fn attribute(late: &str) -> Attribute {
    let one = |name: &str, what: &str| {
        Attribute::string(name)
            .optional()
            .validate(validators::string("a duration such as \"30m\"", |text| {
                tfplugin::timeouts::parse(text).map(|_| ())
            }))
            .describe(format!("How long {what} may take, such as `30m`. Default `10m`."))
    };
    Attribute::nested(
        "timeouts",
        [
            one("create", "making it"),
            one("read", "reading it"),
            one("update", "changing it"),
            one("delete", "removing it"),
        ],
    )
    .optional()
    .describe(format!(
        "How long the provider waits. The platform goes on with what it began: {late} A change or \
         a removal that takes longer is an error, and the next plan reads what came of it."
    ))
}

/// Which of the limits.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// For create.
    Create,
    /// For read.
    Read,
    /// For update.
    Update,
    /// For delete.
    Delete,
}

/// The limit that is set, or the usual one. What is set was validated before.
pub fn limit(attr: &Attr<TimeoutsModel>, which: Limit) -> Duration {
    let Attr::Value(model) = attr else { return DEFAULT };
    let text = match which {
        Limit::Create => &model.create,
        Limit::Read => &model.read,
        Limit::Update => &model.update,
        Limit::Delete => &model.delete,
    };
    match text {
        Attr::Value(text) => tfplugin::timeouts::parse(text).unwrap_or(DEFAULT),
        _ => DEFAULT,
    }
}
