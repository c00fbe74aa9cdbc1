//! `InstancesService`.

use fairmazon_model::machine::CloudInit;
use fairmazon_proto::v1::{
    self, Console, CreateInstanceRequest, DeleteInstanceRequest, GetConsoleRequest,
    GetInstanceRequest, InstanceResponse, ListInstancesRequest, ListInstancesResponse,
    MigrateInstanceRequest, Operation, RebootInstanceRequest, UpdateInstanceRequest,
    WatchInstanceRequest, instances_service_server::InstancesService,
};
use futures::StreamExt;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, id, page, place, required};
use crate::{
    api::context::{Answers, Context},
    core::{InstanceChange, InstanceState, InstanceUpdate, InstanceView},
};

#[async_trait]
impl InstancesService for Api {
    type WatchInstanceStream = Answers<v1::Instance>;

    async fn create_instance(
        &self,
        request: Request<CreateInstanceRequest>,
    ) -> Result<Response<InstanceResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let spec = required("spec", message.spec)?.try_into()?;
            let key = &message.idempotency_key;
            self.engine.create_instance(&context.caller, spec, key).await.map(changed)
        };
        context.answer(work).await
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let view = self.engine.instance(&context.caller, id("id", &message.id)?)?;
            Ok(instance(&view))
        };
        context.answer(work).await
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let labels = message.filter.unwrap_or_default().labels;
            let found = self.engine.instances(&context.caller, page(message.page)?, &labels);
            let (instances, next_page_token) = cut(&found, |view| view.row.id, instance);
            Ok(ListInstancesResponse { instances, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn watch_instance(
        &self,
        request: Request<WatchInstanceRequest>,
    ) -> Result<Response<Self::WatchInstanceStream>, Status> {
        let (context, message) = Context::of(request)?;
        let changes = id("id", &message.id)
            .and_then(|id| self.engine.watch_instance(&context.caller, id))
            .map_err(|error| context.refuse(&error))?;
        context.stream(changes.map(|view| view.map(|view| instance(&view))))
    }

    async fn get_console(
        &self,
        request: Request<GetConsoleRequest>,
    ) -> Result<Response<Console>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let target = id("id", &message.id)?;
            let text = self.engine.console(&context.caller, target).await?;
            Ok(Console { text })
        };
        context.answer(work).await
    }

    async fn update_instance(
        &self,
        request: Request<UpdateInstanceRequest>,
    ) -> Result<Response<InstanceResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let update = InstanceUpdate {
                id: id("id", &message.id)?,
                spec: required("spec", message.spec)?.try_into()?,
                expected_revision: message.expected_revision,
                allow_rebuild: message.allow_rebuild,
            };
            let key = &message.idempotency_key;
            self.engine.update_instance(&context.caller, update, key).await.map(changed)
        };
        context.answer(work).await
    }

    async fn delete_instance(
        &self,
        request: Request<DeleteInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let operation = self.engine.delete_instance(&context.caller, target, key).await?;
            Ok(operation.as_ref().into())
        };
        context.answer(work).await
    }

    async fn reboot_instance(
        &self,
        request: Request<RebootInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let operation = self.engine.reboot_instance(&context.caller, target, key).await?;
            Ok(operation.as_ref().into())
        };
        context.answer(work).await
    }

    async fn migrate_instance(
        &self,
        request: Request<MigrateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let operation = self.engine.migrate_instance(&context.caller, target, key).await?;
            Ok(operation.as_ref().into())
        };
        context.answer(work).await
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as the last step of a call")]
fn changed(change: InstanceChange) -> InstanceResponse {
    InstanceResponse {
        instance: Some(instance(&change.instance)),
        operation: Some(change.operation.as_ref().into()),
    }
}

fn instance(view: &InstanceView) -> v1::Instance {
    let row = &view.row;
    let (site, country) = place(view.site.as_ref());
    let decision = row.decision.as_ref();
    v1::Instance {
        id: row.id.to_string(),
        account_id: row.account.to_string(),
        revision: row.revision.0,
        spec: Some((&row.spec).into()),
        state: state(view.state).into(),
        state_reason: view.reason.clone(),
        site,
        country,
        placement_reason: decision.map(|decision| decision.reason.clone()).unwrap_or_default(),
        actual_flavor: row.actual_flavor().to_owned(),
        addresses: row.observed.addresses.clone(),
        lease_epoch: decision.map_or(0, |decision| decision.epoch.0),
        boot_volume_id: row.boot_volume_id.to_string(),
        price_per_hour_nano_eur: view.price.map_or(0, |price| price.hourly.0),
        price_per_month_nano_eur: view.price.map_or(0, |price| price.monthly.0),
        monthly_saving_nano_eur: view.price.map_or(0, |price| price.monthly_saving.0),
        created_at_ms: row.created_at.0,
        unconfirmed: row.unconfirmed,
        interruption_at_ms: row.interruption.as_ref().map_or(0, |it| it.ends_at().0),
        guest_agent: row.observed.guest.agent,
        cloud_init: cloud_init(row.observed.guest.cloud_init).into(),
    }
}

const fn cloud_init(seen: CloudInit) -> v1::CloudInit {
    match seen {
        CloudInit::Unknown => v1::CloudInit::Unspecified,
        CloudInit::Done => v1::CloudInit::Done,
        CloudInit::Failed => v1::CloudInit::Failed,
    }
}

const fn state(state: InstanceState) -> v1::InstanceState {
    match state {
        InstanceState::Pending => v1::InstanceState::Pending,
        InstanceState::Starting => v1::InstanceState::Starting,
        InstanceState::Running => v1::InstanceState::Running,
        InstanceState::Stopping => v1::InstanceState::Stopping,
        InstanceState::Stopped => v1::InstanceState::Stopped,
        InstanceState::Failed => v1::InstanceState::Failed,
        InstanceState::Deleting => v1::InstanceState::Deleting,
        InstanceState::Unknown => v1::InstanceState::Unknown,
    }
}
