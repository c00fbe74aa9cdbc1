//! `fairmazon_flavors`: the sizes of machines and their prices.

use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, Context, DataSource, Diagnostics, Schema, async_trait};

use crate::{diagnostics::Attempt, platform::Platform};

/// The data source.
pub struct Flavors;

/// What it holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct FlavorsModel {
    catalogue_version: Attr<u64>,
    flavors: Attr<Vec<Flavor>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Flavor {
    name: String,
    vcpus: u32,
    memory_mib: u64,
    price_per_hour: String,
    price_per_month: String,
    spot_price_per_hour: String,
}

#[async_trait]
impl DataSource for Flavors {
    type Data = Platform;
    type Model = FlavorsModel;

    fn name(&self) -> &'static str {
        "fairmazon_flavors"
    }

    fn schema(&self) -> Schema {
        let text = |name: &str, about: &str| Attribute::string(name).computed().describe(about);
        let number = |name: &str, about: &str| Attribute::integer(name).computed().describe(about);
        Schema::builder()
            .describe("The sizes that machines can have, the cheapest first.")
            .attribute(number(
                "catalogue_version",
                "Version of sizes and prices; grows. Images have their own.",
            ))
            .attribute(
                Attribute::nested_list(
                    "flavors",
                    [
                        text("name", "Name, for `flavor` of a machine."),
                        number("vcpus", "Virtual processors."),
                        number("memory_mib", "Memory in MiB."),
                        text("price_per_hour", "What an hour of running costs, in EUR."),
                        text("price_per_month", "What a month of 730 hours costs, in EUR."),
                        text(
                            "spot_price_per_hour",
                            "What an hour of running as spot costs, in EUR.",
                        ),
                    ],
                )
                .computed()
                .describe("The sizes."),
            )
            .build()
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        _: FlavorsModel,
    ) -> Result<FlavorsModel, Diagnostics> {
        let asked = cx.data()?.client()?.catalogue().await;
        let catalogue = asked.map_err(|error| Attempt::new("read", "catalogue").failed(&error))?;
        let flavors = catalogue.flavors.iter().map(|flavor| Flavor {
            name: flavor.name.clone(),
            vcpus: flavor.vcpus.0,
            memory_mib: flavor.memory.0,
            price_per_hour: flavor.hourly.to_string(),
            price_per_month: flavor.hourly.per_month().to_string(),
            spot_price_per_hour: flavor.spot_hourly.to_string(),
        });
        Ok(FlavorsModel {
            catalogue_version: Attr::Value(catalogue.version),
            flavors: Attr::Value(flavors.collect()),
        })
    }
}
