//! `fairmazon_instances`: the account's machines, whoever made them.

use std::collections::BTreeMap;

use fairmazon_model::price::NanoEur;
use fairmazon_proto::v1;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, Context, DataSource, Diagnostics, Schema, Type, async_trait};

use crate::{
    client::Pages,
    diagnostics::Attempt,
    platform::Platform,
    resources::{instance::state, shared::rfc3339},
};

/// The data source.
pub struct Instances;

/// What it holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct InstancesModel {
    labels: Attr<BTreeMap<String, String>>,
    instances: Attr<Vec<Instance>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Instance {
    id: String,
    name: String,
    flavor: String,
    image: String,
    state: String,
    state_reason: Option<String>,
    site: Option<String>,
    country: Option<String>,
    addresses: Vec<String>,
    labels: BTreeMap<String, String>,
    price_per_hour: String,
    price_per_month: String,
    created_at: String,
    confirmed: bool,
}

#[async_trait]
impl DataSource for Instances {
    type Data = Platform;
    type Model = InstancesModel;

    fn name(&self) -> &'static str {
        "fairmazon_instances"
    }

    fn schema(&self) -> Schema {
        let text = |name: &str, about: &str| Attribute::string(name).computed().describe(about);
        Schema::builder()
            .describe("The account's machines, whoever made them.")
            .attribute(
                Attribute::map("labels", Type::String)
                    .optional()
                    .describe("Only machines that have all of these labels."),
            )
            .attribute(
                Attribute::nested_list(
                    "instances",
                    [
                        text("id", "Id of the machine."),
                        text("name", "Its name."),
                        text("flavor", "The size it has."),
                        text("image", "The image it was made from."),
                        text("state", "What it does."),
                        text(
                            "state_reason",
                            "Why it is in that state, for people: what it waits for, why it \
                             failed, was interrupted or has not moved yet. Null where there is \
                             nothing to say.",
                        ),
                        text("site", "The site it runs at."),
                        text("country", "The country it runs in."),
                        Attribute::list("addresses", Type::String)
                            .computed()
                            .describe("The addresses it has."),
                        Attribute::map("labels", Type::String)
                            .computed()
                            .describe("All its labels."),
                        text("price_per_hour", "What an hour of running costs, in EUR."),
                        text("price_per_month", "What a month costs, in EUR."),
                        text("created_at", "When it was asked for, in UTC (RFC 3339)."),
                        Attribute::bool("confirmed").computed().describe(
                            "Whether a run has read it back from a state, as the next plan after \
                             its creation does. One that stays unconfirmed may be left from a run \
                             that was killed: import or delete it.",
                        ),
                    ],
                )
                .computed()
                .describe("The machines, by id, so the oldest first."),
            )
            .build()
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        config: InstancesModel,
    ) -> Result<InstancesModel, Diagnostics> {
        let client = cx.data()?.client()?;
        let labels = config.labels.get().cloned().unwrap_or_default();
        let mut found = Vec::new();
        let mut pages = Pages::new(|token| client.instances_page(token, labels.clone()));
        let attempt = Attempt::new("list", "instances");
        while let Some(rows) = pages.next().await.map_err(|error| attempt.failed(&error))? {
            found.extend(rows.into_iter().map(instance));
        }
        found.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(InstancesModel { labels: config.labels, instances: Attr::Value(found) })
    }
}

fn instance(row: v1::Instance) -> Instance {
    let text = |text: String| (!text.is_empty()).then_some(text);
    let state = state(row.state()).to_owned();
    let spec = row.spec.unwrap_or_default();
    Instance {
        id: row.id,
        name: spec.name,
        flavor: row.actual_flavor,
        image: spec.image,
        state,
        state_reason: text(row.state_reason),
        site: text(row.site),
        country: text(row.country),
        addresses: row.addresses,
        labels: spec.labels,
        price_per_hour: NanoEur(row.price_per_hour_nano_eur).to_string(),
        price_per_month: NanoEur(row.price_per_month_nano_eur).to_string(),
        created_at: rfc3339(row.created_at_ms),
        confirmed: !row.unconfirmed,
    }
}
