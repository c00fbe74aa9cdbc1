//! Plans, makes, reads, changes and removes placement groups. All of it is done at once, so there
//! are no timeouts.

use fairmazon_model::{DomainError, id::PlacementGroupId, limits, units::UnixMs};
use fairmazon_proto::v1;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Change, ChangeKind, Context, Diagnostics, IdentitySchema, ImportTarget, Planned,
    Resource, Schema, StateSink, View, async_trait,
};

use crate::{
    diagnostics::{self, Attempt},
    platform::Platform,
    resources::shared::{
        computed, confirm, described, identity,
        labels::{self, KnownLabels, Labels},
        name, rfc3339,
        stop::graceful,
        taken_over,
    },
};

const NOUN: &str = "placement group";

/// `fairmazon_placement_group`.
pub struct PlacementGroupResource;

/// The resource, one field an attribute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the schema describes each attribute")]
pub struct PlacementGroupModel {
    pub id: Attr<String>,
    pub name: Attr<String>,
    pub labels: Labels,
    pub effective_labels: Labels,
    pub created_at: Attr<String>,
}

type Sink<'a> = StateSink<'a, PlacementGroupModel>;

/// The resource for a group of the platform, knowing how it looked before.
pub(crate) fn of_row(
    before: &PlacementGroupModel,
    row: &v1::PlacementGroup,
    defaults: Option<&KnownLabels>,
) -> PlacementGroupModel {
    PlacementGroupModel {
        id: Attr::Value(row.id.clone()),
        name: Attr::Value(row.name.clone()),
        labels: labels::own(&before.labels, &before.effective_labels, &row.labels, defaults),
        effective_labels: labels::attr(&row.labels),
        created_at: Attr::Value(rfc3339(row.created_at_ms)),
    }
}

/// The state after an apply: what was planned, filled up with what the platform says.
fn after_apply(planned: &PlacementGroupModel, row: &v1::PlacementGroup) -> PlacementGroupModel {
    PlacementGroupModel { labels: planned.labels.clone(), ..of_row(planned, row, None) }
}

impl PlacementGroupModel {
    /// Name and labels as plain values.
    fn read(&self) -> Result<(String, KnownLabels), DomainError> {
        let mut complete = true;
        let own = labels::known(&self.labels, &mut complete)?;
        let all = labels::known(&self.effective_labels, &mut complete)?;
        let labels = if all.is_empty() { own } else { all };
        let name = match &self.name {
            Attr::Unknown => "unknown".to_owned(),
            name => name.get().cloned().unwrap_or_default(),
        };
        limits::check_name(&name)?;
        limits::check_labels(&labels)?;
        Ok((name, labels))
    }
}

#[async_trait]
impl Resource for PlacementGroupResource {
    type Data = Platform;
    type Model = PlacementGroupModel;

    fn name(&self) -> &'static str {
        "fairmazon_placement_group"
    }

    fn schema(&self) -> Schema {
        Schema::builder()
            .describe(described(
                "A name that machines gather around (`placement.with`) or keep apart by \
                 (`placement.not_with`). It can't be removed while a machine names it.",
                "group",
            ))
            .attribute(computed("id", "Id of the group."))
            .attribute(name("Name for people."))
            .attributes(labels::attributes())
            .attribute(computed("created_at", "When it was made, in UTC (RFC 3339)."))
            .build()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(identity("group"))
    }

    async fn validate(&self, _: &Context<Platform>, config: View<'_>) -> Result<(), Diagnostics> {
        let config: PlacementGroupModel = config.model()?;
        let checked = config.read().map(|_| ());
        checked.map_err(|error| diagnostics::invalid("Invalid placement group", &error))
    }

    async fn plan(
        &self,
        cx: &Context<Platform>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        if change.kind() == ChangeKind::Delete {
            return Ok(());
        }
        let mut planned: PlacementGroupModel = change.planned().model()?;
        planned.effective_labels = labels::effective(&planned.labels, platform.default_labels());
        change.set("effective_labels", &planned.effective_labels)?;
        planned.read().map_err(|error| diagnostics::invalid("Invalid placement group", &error))?;
        let id = change.prior().at("id").as_str().map(str::to_owned);
        if let (Some(id), Some(client)) = (id, platform.try_client()) {
            confirm::confirm(client, &id, false, change.private()).await;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context<Platform>,
        plan: Planned<'_, PlacementGroupModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let attempt = Attempt::new("create", NOUN);
        let (name, labels) = plan.model.read().map_err(|error| attempt.refused(&error))?;
        let created = graceful(cx, client.create_placement_group(name, labels)).await?;
        let row = created.map_err(|error| attempt.failed(&error))?;
        taken_over::warn(cx, client, NOUN, &row.id, UnixMs(row.created_at_ms));
        state.save(&after_apply(&plan.model, &row))
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        prior: PlacementGroupModel,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        // Without a known endpoint there is nobody to ask: what was known stays.
        let Some(client) = platform.try_client() else { return Ok(()) };
        let id = prior.id.get().cloned().unwrap_or_default();
        match client.placement_group(&id).await {
            Ok(row) => {
                confirm::confirm(client, &id, false, state.private()).await;
                state.save(&of_row(&prior, &row, platform.default_labels()))
            }
            Err(error) if error.is_not_found() => {
                state.gone();
                Ok(())
            }
            Err(error) => Err(Attempt::on("read", NOUN, &id).failed(&error)),
        }
    }

    async fn update(
        &self,
        cx: &Context<Platform>,
        prior: PlacementGroupModel,
        plan: Planned<'_, PlacementGroupModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("change", NOUN, &id);
        let (name, labels) = plan.model.read().map_err(|error| attempt.refused(&error))?;
        let changed = cx.unless_cancelled(client.update_placement_group(&id, name, labels)).await?;
        let row = changed.map_err(|error| attempt.failed(&error))?;
        state.save(&after_apply(&plan.model, &row))
    }

    async fn delete(
        &self,
        cx: &Context<Platform>,
        prior: PlacementGroupModel,
        _: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        match cx.unless_cancelled(client.delete_placement_group(&id)).await? {
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
        let form: Result<PlacementGroupId, _> = id.parse();
        form.map_err(|error| {
            Diagnostics::error("Unable to import the placement group", error.to_string())
        })?;
        let found = platform.client()?.placement_group_now(id).await;
        let row = found.map_err(|error| Attempt::on("import", NOUN, id).failed(&error))?;
        state.save(&of_row(&PlacementGroupModel::default(), &row, platform.default_labels()))
    }
}
