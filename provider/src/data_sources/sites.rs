//! `fairmazon_sites`: where hosts stand.

use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Attribute, Context, DataSource, Diagnostics, Schema, async_trait};

use crate::{diagnostics::Attempt, platform::Platform};

/// The data source.
pub struct Sites;

/// What it holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SitesModel {
    sites: Attr<Vec<Site>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Site {
    name: String,
    town: String,
    country: String,
    region: String,
    latitude: f64,
    longitude: f64,
    hosts_available: u32,
}

#[async_trait]
impl DataSource for Sites {
    type Data = Platform;
    type Model = SitesModel;

    fn name(&self) -> &'static str {
        "fairmazon_sites"
    }

    fn schema(&self) -> Schema {
        let text = |name: &str, about: &str| Attribute::string(name).computed().describe(about);
        let number = |name: &str, about: &str| Attribute::number(name).computed().describe(about);
        Schema::builder()
            .describe("Where hosts stand, as of now.")
            .attribute(
                Attribute::nested_list(
                    "sites",
                    [
                        text("name", "Name of the site."),
                        text("town", "The town."),
                        text("country", "The country, as two capital letters."),
                        text("region", "The region, for `placement.regions`."),
                        number("latitude", "Degrees north."),
                        number("longitude", "Degrees east."),
                        number("hosts_available", "Hosts that take new machines now."),
                    ],
                )
                .computed()
                .describe("The sites."),
            )
            .build()
    }

    async fn read(&self, cx: &Context<Platform>, _: SitesModel) -> Result<SitesModel, Diagnostics> {
        let asked = cx.data()?.client()?.sites().await;
        let rows = asked.map_err(|error| Attempt::new("read", "sites").failed(&error))?;
        let sites = rows.into_iter().map(|row| Site {
            name: row.name,
            town: row.town,
            country: row.country,
            region: row.region,
            latitude: row.latitude,
            longitude: row.longitude,
            hosts_available: row.hosts_available,
        });
        Ok(SitesModel { sites: Attr::Value(sites.collect()) })
    }
}
