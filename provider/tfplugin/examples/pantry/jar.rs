//! The resource `pantry_jar`.

use serde::{Deserialize, Serialize};
use tfplugin::schema::validators::{length, range};
use tfplugin::{Attr, Attribute, Context, Crud, Diagnostics, Schema, async_trait};

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
impl Crud for Jar {
    type Data = Shelf;
    type Model = Model;

    fn name(&self) -> &'static str {
        "pantry_jar"
    }

    fn schema(&self) -> Schema {
        let name = Attribute::string("name").required().requires_replace();
        Schema::builder()
            .describe("A jar on the shelf.")
            .attribute(Attribute::string("id").computed().use_state_for_unknown())
            .attribute(name.validate(length(1..=30)))
            .attribute(Attribute::integer("grams").default(500).validate(range(1..=5000)))
            .attribute(Attribute::string("note").optional())
            .build()
    }

    async fn create(&self, cx: &Context<Shelf>, plan: Model) -> Result<Model, Diagnostics> {
        let id = format!("jar-{}", plan.name);
        cx.data()?.put(&id, Model { id: Attr::Value(id.clone()), ..plan })
    }

    async fn read(&self, cx: &Context<Shelf>, id: &str) -> Result<Option<Model>, Diagnostics> {
        cx.data()?.find(id)
    }

    async fn update(
        &self,
        cx: &Context<Shelf>,
        id: &str,
        plan: Model,
    ) -> Result<Model, Diagnostics> {
        cx.data()?.put(id, plan)
    }

    async fn delete(&self, cx: &Context<Shelf>, id: &str) -> Result<(), Diagnostics> {
        cx.data()?.take(id)
    }
}
