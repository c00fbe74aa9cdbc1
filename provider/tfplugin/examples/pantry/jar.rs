//! The resource `pantry_jar`.

use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Attribute, Context, Diagnostics, IdentitySchema, ImportTarget, Planned, Resource, Schema,
    StateSink, Type, async_trait,
    schema::validators::{length, range},
};

use crate::shelf::Shelf;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Model {
    pub(crate) id: Attr<String>,
    pub(crate) name: String,
    pub(crate) grams: u32,
    pub(crate) note: Option<String>,
}

pub(crate) struct Jar;

#[async_trait]
impl Resource for Jar {
    type Data = Shelf;
    type Model = Model;

    fn name(&self) -> &'static str {
        "pantry_jar"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe("A jar on the shelf.")
            .attribute(Attribute::string("id").computed().use_state_for_unknown())
            .attribute(
                Attribute::string("name").required().requires_replace().validate(length(1..=30)),
            )
            .attribute(Attribute::integer("grams").default(500).validate(range(1..=5000)))
            .attribute(Attribute::string("note").optional())
            .build()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(IdentitySchema::new().required("id", Type::String, "The jar's id."))
    }

    async fn create(
        &self,
        cx: &Context<Shelf>,
        plan: Planned<'_, Model>,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        let id = format!("jar-{}", plan.name);
        let jar = Model { id: Attr::Value(id.clone()), ..plan.model };
        state.save(&jar)?;
        cx.data()?.put(&id, &jar)
    }

    async fn read(
        &self,
        cx: &Context<Shelf>,
        prior: Model,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        match cx.data()?.find(id_of(&prior))? {
            Some(jar) => state.save(&jar)?,
            None => state.gone(),
        }
        Ok(())
    }

    async fn update(
        &self,
        cx: &Context<Shelf>,
        prior: Model,
        plan: Planned<'_, Model>,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        cx.data()?.put(id_of(&prior), &plan.model)?;
        state.save(&plan.model)?;
        Ok(())
    }

    async fn delete(
        &self,
        cx: &Context<Shelf>,
        prior: Model,
        _: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        cx.data()?.take(id_of(&prior))
    }

    async fn import(
        &self,
        cx: &Context<Shelf>,
        target: ImportTarget,
        state: &mut StateSink<'_, Model>,
    ) -> Result<(), Diagnostics> {
        let id = target.text("id")?;
        match cx.data()?.find(id)? {
            Some(jar) => state.save(&jar),
            None => Err(Diagnostics::error("Unable to import", format!("There is no jar {id}."))),
        }
    }
}

fn id_of(jar: &Model) -> &str {
    jar.id.get().map_or("", String::as_str)
}
