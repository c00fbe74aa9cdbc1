//! Plans, makes, reads, changes and removes volumes.

use fairmazon_model::{DomainError, id::VolumeId, impact, price};
use tfplugin::{
    Attr, Change, ChangeKind, Context, Diagnostics, IdentitySchema, ImportTarget, Planned,
    Resource, Schema, StateSink, View, async_trait,
};

use super::{VolumeModel, model, schema};
use crate::{
    client::{Client, ClientError},
    diagnostics::{self, Attempt},
    platform::Platform,
    resources::shared::{
        confirm, identity, labels,
        planned_before::planned_before,
        protection::protected,
        stop::graceful,
        timeouts::{self, Limit},
        unfinished::{self, Waited},
    },
};

const NOUN: &str = "volume";
const INVALID: &str = "Invalid volume";

/// `fairmazon_volume`.
pub struct VolumeResource;

type Sink<'a> = StateSink<'a, VolumeModel>;

#[async_trait]
impl Resource for VolumeResource {
    type Data = Platform;
    type Model = VolumeModel;

    fn name(&self) -> &'static str {
        "fairmazon_volume"
    }

    fn schema(&self) -> Schema {
        schema::schema()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(identity("volume"))
    }

    fn plans_destroy(&self) -> bool {
        true
    }

    async fn validate(&self, _: &Context<Platform>, config: View<'_>) -> Result<(), Diagnostics> {
        let config: VolumeModel = config.model()?;
        let checked = config.read(None).and_then(|spec| spec.check());
        checked.map_err(|error| diagnostics::invalid(INVALID, &error))
    }

    async fn plan(
        &self,
        cx: &Context<Platform>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let id = change.prior().at("id").as_str().map(str::to_owned);
        refuse_protected(change, id.as_deref())?;
        if change.kind() != ChangeKind::Delete {
            plan(platform, change, id.as_deref()).await?;
        }
        if let (Some(id), Some(client)) = (id, platform.try_client()) {
            confirm::confirm(client, &id, false, change.private()).await;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context<Platform>,
        plan: Planned<'_, VolumeModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let attempt = Attempt::new("create", NOUN);
        let spec = plan.model.read(None).map_err(|error| attempt.refused(&error))?;
        let created = graceful(cx, client.create_volume((&spec).into())).await?;
        let (row, operation) = created.map_err(|error| attempt.failed(&error))?;
        // From here on there is something real: its id is kept before anything slow.
        state.save(&model::after_apply(&plan.model, &row))?;
        let work = async {
            client.wait(&operation, |_| {}).await?;
            client.volume_now(&row.id).await
        };
        let limit = timeouts::limit(&plan.model.timeouts, Limit::Create);
        let done = cx.within(limit, &format!("the volume {} to be there", row.id), work).await;
        let row = match unfinished::told(done, NOUN, &row.id)? {
            Waited::Done(row) => row,
            Waited::Unfinished(why) => {
                // It exists and is well: an error would have it destroyed and made anew.
                cx.warn(why.warning());
                row
            }
        };
        state.save(&model::after_apply(&plan.model, &row))
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        prior: VolumeModel,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        // Without a known endpoint there is nobody to ask: what was known stays.
        let Some(client) = platform.try_client() else { return Ok(()) };
        let id = prior.id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("read", NOUN, &id);
        let limit = timeouts::limit(&prior.timeouts, Limit::Read);
        let row = match cx.within(limit, "the broker's answer", client.volume(&id)).await? {
            Ok(row) => row,
            Err(error) if error.is_not_found() => {
                state.gone();
                return Ok(());
            }
            Err(error) => return Err(attempt.failed(&error)),
        };
        let model = model::of_row(&prior, &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        confirm::confirm(client, &id, !row.unconfirmed, state.private()).await;
        state.save(&model)
    }

    async fn update(
        &self,
        cx: &Context<Platform>,
        prior: VolumeModel,
        plan: Planned<'_, VolumeModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("change", NOUN, &id);
        let old = prior.read(None).ok();
        let new = plan.model.read(None).map_err(|error| attempt.refused(&error))?;
        let work = async {
            if old.as_ref() != Some(&new) {
                let (_, operation) = client.update_volume(&id, (&new).into()).await?;
                client.wait(&operation, |_| {}).await?;
            }
            client.volume_now(&id).await
        };
        let limit = timeouts::limit(&plan.model.timeouts, Limit::Update);
        let done = cx.within(limit, &format!("the volume {id} to change"), work).await?;
        let row = done.map_err(|error| attempt.failed(&error))?;
        state.save(&model::after_apply(&plan.model, &row))
    }

    async fn delete(
        &self,
        cx: &Context<Platform>,
        prior: VolumeModel,
        _: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        let limit = timeouts::limit(&prior.timeouts, Limit::Delete);
        match cx.within(limit, &format!("the volume {id} to be gone"), remove(client, &id)).await? {
            Err(error) if !error.is_not_found() => {
                Err(Attempt::on("destroy", NOUN, &id).failed(&error))
            }
            _ => Ok(()),
        }
    }

    async fn import(
        &self,
        cx: &Context<Platform>,
        target: ImportTarget,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        let id = target.text("id")?;
        let attempt = Attempt::on("import", NOUN, id);
        let form: Result<VolumeId, _> = id.parse();
        form.map_err(|error| Diagnostics::error("Unable to import the volume", error.to_string()))?;
        let found = platform.client()?.volume_now(id).await;
        let row = found.map_err(|error| attempt.failed(&error))?;
        let model = model::of_row(&VolumeModel::default(), &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        state.save(&model)
    }
}

async fn remove(client: &Client, id: &str) -> Result<(), ClientError> {
    let operation = client.delete_volume(id).await?;
    client.wait(&operation, |_| {}).await
}

fn refuse_protected(change: &Change<'_>, id: Option<&str>) -> Result<(), Diagnostics> {
    let protection = change.prior().at("deletion_protection").as_bool();
    let destroys = change.kind() == ChangeKind::Delete || change.replaces();
    if !destroys || protection != Some(true) {
        return Ok(());
    }
    let verb = if change.replaces() { "replace" } else { "destroy" };
    Err(Attempt::on(verb, NOUN, id.unwrap_or_default()).refused(&protected()))
}

/// Refines what the schema's rules planned.
async fn plan(
    platform: &Platform,
    change: &mut Change<'_>,
    id: Option<&str>,
) -> Result<(), Diagnostics> {
    let invalid = |error: DomainError| diagnostics::invalid(INVALID, &error);
    let mut planned: VolumeModel = change.planned().model()?;
    planned.effective_labels = labels::effective(&planned.labels, platform.default_labels());
    change.set("effective_labels", &planned.effective_labels)?;
    let old = match change.kind() {
        ChangeKind::Create => None,
        _ => change.prior().model::<VolumeModel>()?.read(None).ok(),
    };
    let spec = planned.read(old.as_ref()).map_err(invalid)?;
    spec.check().map_err(invalid)?;
    if let Some(old) = &old
        && !change.replaces()
    {
        impact::check_volume_change(old, &spec).map_err(invalid)?;
    }
    let catalogue = platform.catalogue().await?;
    let size_and_class_known = planned.size_gib.is_known() && planned.class.is_known();
    let hourly = match &catalogue {
        Some(catalogue) if size_and_class_known => {
            Some(price::volume(catalogue, &spec).map_err(|error| {
                let names: Vec<_> =
                    catalogue.storage_classes.iter().map(|class| class.name.as_str()).collect();
                invalid(error.advise(format!("it has {}", names.join(", "))))
            })?)
        }
        _ => None,
    };
    if old.is_none() || change.differs("size_gib") || change.differs("class") {
        let text = |amount: Option<price::NanoEur>| {
            amount.map_or(Attr::Unknown, |amount| Attr::Value(amount.to_string()))
        };
        change.set("price_per_hour", &text(hourly))?;
        change.set("price_per_month", &text(hourly.map(price::NanoEur::per_month)))?;
    }
    let id = planned_before(change, id.map(str::to_owned))?;
    match hourly {
        Some(hourly) if !change.replaces() => platform.budget().add(id.as_deref(), hourly),
        _ => Ok(()),
    }
}
