//! A resource without its Rust types, so that all of them stand in one list.

use async_trait::async_trait;

use super::{Change, ImportTarget, MoveSource, Planned, Resource, Slot, StateSink, Upgrader};
use crate::{Context, Diagnostics, IdentitySchema, Value, View, from_value, schema::Schema};

/// The same as [`Resource`], on values.
#[async_trait]
pub(crate) trait AnyResource<D>: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    fn identity(&self) -> Option<IdentitySchema>;
    fn upgraders(&self) -> Vec<Upgrader>;
    fn identity_upgraders(&self) -> Vec<Upgrader>;
    fn plans_destroy(&self) -> bool;
    fn moves_state(&self) -> bool;

    async fn validate(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn plan(&self, cx: &Context<D>, change: &mut Change<'_>) -> Result<(), Diagnostics>;
    async fn create(
        &self,
        cx: &Context<D>,
        planned: &Value,
        config: &Value,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics>;
    async fn read(&self, cx: &Context<D>, slot: &mut Slot) -> Result<(), Diagnostics>;
    async fn update(
        &self,
        cx: &Context<D>,
        planned: &Value,
        config: &Value,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics>;
    async fn delete(&self, cx: &Context<D>, slot: &mut Slot) -> Result<(), Diagnostics>;
    async fn import(
        &self,
        cx: &Context<D>,
        target: ImportTarget,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics>;
    async fn move_state(
        &self,
        cx: &Context<D>,
        source: MoveSource,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics>;
}

struct Erased<R>(R);

/// Takes the types off a resource.
pub(crate) fn erase<R: Resource>(resource: R) -> Box<dyn AnyResource<R::Data>> {
    Box::new(Erased(resource))
}

fn planned_model<'a, R: Resource>(
    planned: &Value,
    config: &'a Value,
) -> Result<Planned<'a, R::Model>, Diagnostics> {
    Ok(Planned { model: from_value(planned)?, config: View::new(config) })
}

#[async_trait]
impl<R: Resource> AnyResource<R::Data> for Erased<R> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        self.0.identity()
    }

    fn upgraders(&self) -> Vec<Upgrader> {
        self.0.upgraders()
    }

    fn identity_upgraders(&self) -> Vec<Upgrader> {
        self.0.identity_upgraders()
    }

    fn plans_destroy(&self) -> bool {
        self.0.plans_destroy()
    }

    fn moves_state(&self) -> bool {
        self.0.moves_state()
    }

    async fn validate(&self, cx: &Context<R::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.validate(cx, View::new(config)).await
    }

    async fn plan(
        &self,
        cx: &Context<R::Data>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        self.0.plan(cx, change).await
    }

    async fn create(
        &self,
        cx: &Context<R::Data>,
        planned: &Value,
        config: &Value,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics> {
        let plan = planned_model::<R>(planned, config)?;
        self.0.create(cx, plan, &mut StateSink::new(slot)).await
    }

    async fn read(&self, cx: &Context<R::Data>, slot: &mut Slot) -> Result<(), Diagnostics> {
        let prior = from_value(&slot.value)?;
        self.0.read(cx, prior, &mut StateSink::new(slot)).await
    }

    async fn update(
        &self,
        cx: &Context<R::Data>,
        planned: &Value,
        config: &Value,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics> {
        let prior = from_value(&slot.value)?;
        let plan = planned_model::<R>(planned, config)?;
        self.0.update(cx, prior, plan, &mut StateSink::new(slot)).await
    }

    async fn delete(&self, cx: &Context<R::Data>, slot: &mut Slot) -> Result<(), Diagnostics> {
        let prior = from_value(&slot.value)?;
        self.0.delete(cx, prior, &mut StateSink::new(slot)).await
    }

    async fn import(
        &self,
        cx: &Context<R::Data>,
        target: ImportTarget,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics> {
        self.0.import(cx, target, &mut StateSink::new(slot)).await
    }

    async fn move_state(
        &self,
        cx: &Context<R::Data>,
        source: MoveSource,
        slot: &mut Slot,
    ) -> Result<(), Diagnostics> {
        self.0.move_state(cx, source, &mut StateSink::new(slot)).await
    }
}
