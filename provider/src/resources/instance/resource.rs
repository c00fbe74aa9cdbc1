//! Makes, reads, changes and removes machines.

use std::time::Duration;

use fairmazon_model::{id::InstanceId, units::UnixMs};
use fairmazon_proto::v1;
use tfplugin::{
    Change, ChangeKind, Context, Diagnostic, Diagnostics, IdentitySchema, ImportTarget, Planned,
    Resource, Schema, StateSink, View, async_trait,
};

use super::{
    InstanceModel, change, plan, row, schema,
    wait::{self, is_off},
};
use crate::{
    client::{Client, ClientError},
    diagnostics::{self, Attempt},
    platform::Platform,
    resources::shared::{
        confirm, identity,
        keys::{require_identity, warn_without_identity},
        stop::graceful,
        taken_over,
        timeouts::{self, Limit},
        unfinished::{self, Unfinished, Waited},
    },
};

const NOUN: &str = "instance";
/// How long a machine that is not waited for may take to find a host that asks for its keys.
const KEYS_WITHIN: Duration = Duration::from_secs(10);
/// How long the platform may take to say why something took too long.
const REASON_WITHIN: Duration = Duration::from_secs(2);

/// `fairmazon_instance`.
pub struct InstanceResource;

type Sink<'a> = StateSink<'a, InstanceModel>;

#[async_trait]
impl Resource for InstanceResource {
    type Data = Platform;
    type Model = InstanceModel;

    fn name(&self) -> &'static str {
        "fairmazon_instance"
    }

    fn schema(&self) -> Schema {
        schema::schema()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        Some(identity("machine"))
    }

    fn plans_destroy(&self) -> bool {
        true
    }

    async fn validate(&self, _: &Context<Platform>, config: View<'_>) -> Result<(), Diagnostics> {
        let config: InstanceModel = config.model()?;
        let checked = config.read(None).and_then(|spec| spec.check());
        checked.map_err(|error| diagnostics::invalid("Invalid instance", &error))
    }

    async fn plan(
        &self,
        cx: &Context<Platform>,
        change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        if change.kind() != ChangeKind::Delete {
            plan::plan(platform, change).await?;
        }
        if change.kind() == ChangeKind::Create {
            warn_without_identity(cx, platform);
        }
        if let Some(warning) = plan::consequences(platform, change).await? {
            cx.warn(warning);
        }
        let id = change.prior().at("id").as_str().map(str::to_owned);
        if let (Some(id), Some(client)) = (id, platform.try_client()) {
            confirm::confirm(client, &id, false, change.private()).await;
        }
        Ok(())
    }

    async fn create(
        &self,
        cx: &Context<Platform>,
        plan: Planned<'_, InstanceModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let attempt = Attempt::new("create", NOUN);
        let spec = plan.model.read(None).map_err(|error| attempt.refused(&error))?;
        require_identity(client, attempt)?;
        let created = graceful(cx, client.create_instance((&spec).into())).await?;
        let (row, operation) = created.map_err(|error| attempt.failed(&error))?;
        // From here on there is something real: its id is kept before anything slow.
        state.save(&row::after_apply(&plan.model, &row))?;
        taken_over::warn(cx, client, NOUN, &row.id, UnixMs(row.created_at_ms));
        let conditions = wait::conditions(&plan.model);
        let work = async {
            if conditions.is_empty() {
                // Its host can do nothing without the keys, and nobody else makes them later.
                let handed = tokio::time::timeout(KEYS_WITHIN, client.hand_keys(&operation)).await;
                handed.unwrap_or(Ok(()))?;
            } else {
                follow(client, &operation).await?;
            }
            wait::for_guest(client, &row.id, &conditions).await
        };
        let limit = timeouts::limit(&plan.model.timeouts, Limit::Create);
        let what = format!("the instance {} to be as asked for", row.id);
        let done = cx.within(limit, &what, Box::pin(work)).await;
        let stopped = cx.cancellation().is_cancelled();
        // Otherwise it was the broker that went away or heard no more of us, which says nothing about
        // the machine.
        let out_of_time = done.is_err() && !stopped;
        match unfinished::told(done, NOUN, &row.id)? {
            Waited::Done(row) => {
                state.save(&row::after_apply(&plan.model, &row))?;
                // It may have ended while its guest was waited for.
                let ended = row.state() == v1::InstanceState::Failed && !conditions.is_empty();
                let trouble = wait::trouble(&row, &conditions);
                if !ended && trouble.is_none() {
                    return Ok(());
                }
                let mut why = Unfinished::of(NOUN, &row.id);
                why.because(&row.state_reason);
                why.lacks(trouble.unwrap_or_default());
                why.said(&wait::last_on_console(client, &row.id).await);
                Err(why.error(if ended { "failed" } else { "runs, and its cloud-init has failed" }))
            }
            Waited::Unfinished(mut why) => {
                let now = tokio::time::timeout(REASON_WITHIN, client.instance_now(&row.id)).await;
                let Ok(Ok(now)) = now else {
                    cx.warn(why.warning());
                    return Ok(());
                };
                why.because(&now.state_reason);
                let lacks = wait::lacks(&now, &conditions);
                why.lacks(&lacks);
                if now.state() != v1::InstanceState::Pending {
                    why.said(&wait::last_on_console(client, &row.id).await);
                }
                state.save(&row::after_apply(&plan.model, &now))?;
                match now.state() {
                    v1::InstanceState::Failed => Err(why.error("failed")),
                    // It never was on a host, so nothing is lost by making it anew.
                    v1::InstanceState::Pending if out_of_time => {
                        Err(why.error("has found no place"))
                    }
                    // What comes after it counts on what was waited for.
                    _ if out_of_time && !lacks.is_empty() => {
                        Err(why.error("runs, and has not brought what `wait_for` names"))
                    }
                    // It exists and is well: an error would have it destroyed and made anew.
                    _ => {
                        cx.warn(why.warning());
                        Ok(())
                    }
                }
            }
        }
    }

    async fn read(
        &self,
        cx: &Context<Platform>,
        prior: InstanceModel,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let platform = cx.data()?;
        // Without a known endpoint there is nobody to ask: what was known stays.
        let Some(client) = platform.try_client() else { return Ok(()) };
        let id = prior.id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("read", NOUN, &id);
        let limit = timeouts::limit(&prior.timeouts, Limit::Read);
        let row = match cx.within(limit, "the broker's answer", client.instance(&id)).await? {
            Ok(row) => row,
            Err(error) if error.is_not_found() => {
                state.gone();
                return Ok(());
            }
            Err(error) => return Err(attempt.failed(&error)),
        };
        let model = row::of_row(&prior, &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        confirm::confirm(client, &id, !row.unconfirmed, state.private()).await;
        state.save(&model)
    }

    async fn update(
        &self,
        cx: &Context<Platform>,
        prior: InstanceModel,
        plan: Planned<'_, InstanceModel>,
        state: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        let attempt = Attempt::on("change", NOUN, &id);
        let old = prior.read(None).ok();
        let new = plan.model.read(None).map_err(|error| attempt.refused(&error))?;
        let work = async {
            if old.as_ref() != Some(&new) {
                let allow_rebuild = plan.model.rebuilds();
                let (_, operation) =
                    client.update_instance(&id, (&new).into(), allow_rebuild).await?;
                follow(client, &operation).await?;
            }
            let now = client.instance_now(&id).await?;
            if !change::reboots(&prior, &plan.model) || is_off(now.state()) {
                return Ok(now);
            }
            follow(client, &client.reboot_instance(&id).await?).await?;
            client.instance_now(&id).await
        };
        let limit = timeouts::limit(&plan.model.timeouts, Limit::Update);
        let what = format!("the instance {id} to change");
        let done = or_reason(cx.within(limit, &what, Box::pin(work)).await, client, &id).await?;
        let row = done.map_err(|error| attempt.failed(&error))?;
        state.save(&row::after_apply(&plan.model, &row))
    }

    async fn delete(
        &self,
        cx: &Context<Platform>,
        prior: InstanceModel,
        _: &mut Sink<'_>,
    ) -> Result<(), Diagnostics> {
        let client = cx.data()?.client()?;
        let id = prior.id.get().cloned().unwrap_or_default();
        let work = async { follow(client, &client.delete_instance(&id).await?).await };
        let limit = timeouts::limit(&prior.timeouts, Limit::Delete);
        match cx.within(limit, &format!("the instance {id} to be gone"), work).await? {
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
        let form: Result<InstanceId, _> = id.parse();
        form.map_err(|error| {
            Diagnostics::error("Unable to import the instance", error.to_string())
        })?;
        let found = platform.client()?.instance_now(id).await;
        let row = found.map_err(|error| attempt.failed(&error))?;
        let model = row::of_row(&InstanceModel::default(), &row, platform.default_labels())
            .map_err(|error| attempt.refused(&error))?;
        state.save(&model)
    }
}

/// Waits for an operation, and logs what it waits for.
async fn follow(client: &Client, operation: &v1::Operation) -> Result<(), ClientError> {
    let id = &operation.id;
    client.wait(operation, |what| tracing::info!(operation = id, what, "waiting")).await
}

/// Where the time was up: adds what the platform says the instance waits for.
async fn or_reason<T>(
    done: Result<T, Diagnostics>,
    client: &Client,
    id: &str,
) -> Result<T, Diagnostics> {
    let Err(mut late) = done else { return done };
    let asked = tokio::time::timeout(REASON_WITHIN, client.instance_now(id)).await;
    if let Ok(Ok(row)) = asked
        && !row.state_reason.is_empty()
    {
        late.push(Diagnostic::error(format!("The instance {id} waits")).detail(row.state_reason));
    }
    Err(late)
}
