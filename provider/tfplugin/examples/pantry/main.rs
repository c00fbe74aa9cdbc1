//! A small but whole provider: jars on a shelf, where the shelf is a folder and each jar a file.
//!
//! It shows one of everything that a provider can offer, and needs no service to try it.

mod jar;
mod others;
mod shelf;

use std::process::ExitCode;

use tfplugin::{
    Attribute, Context, Diagnostic, Diagnostics, Offers, Provider, Schema, View, async_trait,
};

use shelf::Shelf;

struct Pantry;

#[async_trait]
impl Provider for Pantry {
    type Data = Shelf;

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe("Jars on a shelf.")
            .attribute(
                Attribute::string("folder")
                    .optional()
                    .describe("Where the jars are; `PANTRY_FOLDER` when it is not set."),
            )
            .build()
    }

    fn offers(&self) -> Offers<Shelf> {
        Offers::new()
            .crud(jar::Jar)
            .data_source(others::Inventory)
            .function(others::Label)
            .ephemeral(others::Key)
            .list(others::Jars)
            .action(others::Shake)
    }

    async fn configure(&self, _: &Context<()>, config: View<'_>) -> Result<Shelf, Diagnostics> {
        let folder = config.get::<String>("folder")?;
        let folder = folder.known().or_else(|| std::env::var("PANTRY_FOLDER").ok());
        let folder = folder.ok_or_else(|| {
            Diagnostic::error("No folder")
                .detail("Set `folder` in the provider block or PANTRY_FOLDER in the environment.")
                .at("folder")
        })?;
        Ok(Shelf::new(folder))
    }
}

fn main() -> ExitCode {
    tfplugin::serve(Pantry, "registry.terraform.io/example/pantry")
}
