//! One of everything else: a data source, a function, an ephemeral resource, a list, an action.

use serde::{Deserialize, Serialize};
use tfplugin::{
    Action, Attribute, Context, DataSource, Diagnostics, EphemeralResource, Function,
    FunctionError, ListResource, ListSink, Opened, Progress, Schema, Signature, Type, async_trait,
};

use crate::{jar::Model, shelf::Shelf};

/// What is on the shelf.
pub(crate) struct Inventory;

#[derive(Serialize, Deserialize)]
pub(crate) struct InventoryModel {
    names: Option<Vec<String>>,
}

#[async_trait]
impl DataSource for Inventory {
    type Data = Shelf;
    type Model = InventoryModel;

    fn name(&self) -> &'static str {
        "pantry_inventory"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::list("names", Type::String).computed()).build()
    }

    async fn read(
        &self,
        cx: &Context<Shelf>,
        _: InventoryModel,
    ) -> Result<InventoryModel, Diagnostics> {
        let jars = cx.data()?.all()?;
        Ok(InventoryModel { names: Some(jars.into_iter().map(|jar| jar.name).collect()) })
    }
}

/// What to write on a jar.
pub(crate) struct Label;

impl Function for Label {
    type Args = (String, u32);
    type Output = String;

    fn name(&self) -> &'static str {
        "label"
    }

    fn signature(&self) -> Signature {
        Signature::returning(Type::String, "What to write on a jar.")
            .parameter("name", Type::String, "What is in it.")
            .parameter("grams", Type::Number, "How much.")
    }

    fn call(&self, (name, grams): (String, u32)) -> Result<String, FunctionError> {
        if grams == 0 {
            return Err(FunctionError::argument(1, "An empty jar needs no label."));
        }
        Ok(format!("{name}, {grams} g"))
    }
}

/// The key to the pantry.
pub(crate) struct Key;

#[derive(Serialize, Deserialize)]
pub(crate) struct KeyModel {
    teeth: Option<String>,
}

#[async_trait]
impl EphemeralResource for Key {
    type Data = Shelf;
    type Model = KeyModel;

    fn name(&self) -> &'static str {
        "pantry_key"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("teeth").computed().sensitive()).build()
    }

    async fn open(&self, _: &Context<Shelf>, _: KeyModel) -> Result<Opened<KeyModel>, Diagnostics> {
        Ok(Opened::new(KeyModel { teeth: Some("WVWVVW".to_owned()) }))
    }
}

/// All jars.
pub(crate) struct Jars;

#[derive(Deserialize)]
pub(crate) struct JarsConfig {
    prefix: Option<String>,
}

#[async_trait]
impl ListResource for Jars {
    type Data = Shelf;
    type Config = JarsConfig;
    type Model = Model;

    fn name(&self) -> &'static str {
        "pantry_jar"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::string("prefix").optional()).build()
    }

    async fn list(
        &self,
        cx: &Context<Shelf>,
        config: JarsConfig,
        found: &mut ListSink<Model>,
    ) -> Result<(), Diagnostics> {
        let prefix = config.prefix.unwrap_or_default();
        for jar in cx.data()?.all()?.iter().filter(|jar| jar.name.starts_with(&prefix)) {
            if !found.put(&*jar.name, jar).await? {
                break;
            }
        }
        Ok(())
    }
}

/// Shakes a jar.
pub(crate) struct Shake;

#[derive(Deserialize)]
pub(crate) struct ShakeConfig {
    times: u32,
}

#[async_trait]
impl Action for Shake {
    type Data = Shelf;
    type Config = ShakeConfig;

    fn name(&self) -> &'static str {
        "pantry_shake"
    }

    fn schema(&self) -> Schema {
        Schema::builder().attribute(Attribute::integer("times").required()).build()
    }

    async fn invoke(
        &self,
        _: &Context<Shelf>,
        config: ShakeConfig,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        for time in 1..=config.times {
            progress.say(format!("shaken {time} of {}", config.times));
        }
        Ok(())
    }
}
