//! `HostsService`.

use fairmazon_model::{DomainError, ErrorKind};
use fairmazon_proto::v1::{
    self, CancelDrainRequest, Drain, DrainHostRequest, GetDrainRequest, GetHostRequest, Host,
    JoinHostRequest, JoinHostResponse, ListHostsRequest, ListHostsResponse, RegisterHostRequest,
    RegisterHostResponse, RemoveHostRequest, RemoveHostResponse, RotateHostTokenRequest,
    RotateHostTokenResponse, UpdateHostRequest, WatchDrainRequest,
    hosts_service_server::HostsService,
};
use futures::StreamExt;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, id, page, required};
use crate::{
    api::context::{Answers, Context},
    core::{DrainItem, DrainState, DrainView, HostImage, HostView, Standing},
};

#[async_trait]
impl HostsService for Api {
    type WatchDrainStream = Answers<Drain>;

    async fn register_host(
        &self,
        request: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let spec = required("spec", message.spec)?.try_into()?;
            let key = &message.idempotency_key;
            let (view, token) = self.engine.register_host(&context.caller, spec, key).await?;
            Ok(RegisterHostResponse { host: Some(host(&view)), token: token.secret })
        };
        context.answer(work).await
    }

    async fn get_host(&self, request: Request<GetHostRequest>) -> Result<Response<Host>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let view = self.engine.host(&context.caller, id("id", &message.id)?)?;
            Ok(host(&view))
        };
        context.answer(work).await
    }

    async fn list_hosts(
        &self,
        request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let found = self.engine.hosts(&context.caller, page(message.page)?);
            let (hosts, next_page_token) = cut(&found, |view| view.row.id, host);
            Ok(ListHostsResponse { hosts, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn update_host(
        &self,
        request: Request<UpdateHostRequest>,
    ) -> Result<Response<Host>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let target = id("id", &message.id)?;
            let spec = required("spec", message.spec)?.try_into()?;
            let key = &message.idempotency_key;
            let view = self.engine.update_host(&context.caller, target, spec, key).await?;
            Ok(host(&view))
        };
        context.answer(work).await
    }

    async fn rotate_host_token(
        &self,
        request: Request<RotateHostTokenRequest>,
    ) -> Result<Response<RotateHostTokenResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let (view, token) = self.engine.rotate_host_token(&context.caller, target, key).await?;
            Ok(RotateHostTokenResponse { host: Some(host(&view)), token: token.secret })
        };
        context.answer(work).await
    }

    async fn join_host(
        &self,
        request: Request<JoinHostRequest>,
    ) -> Result<Response<JoinHostResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let host = context.host()?;
            let authority = self.host_authority.as_ref().ok_or_else(|| {
                DomainError::new(ErrorKind::Precondition, "this broker signs for no hosts")
                    .advise("ask the platform's operator, who has to give it an authority")
            })?;
            let (serial, now) = (self.engine.serial_number(), self.engine.now());
            let request = &message.certificate_request;
            let made = authority.sign(request, &message.sealing_key, host, serial, now)?;
            let key = &message.idempotency_key;
            let made = self.engine.join_host(&context.caller, made, key).await?;
            Ok(JoinHostResponse {
                host_id: host.to_string(),
                certificate: made.sealing.certificate,
                expires_at_ms: made.expires_at.0,
            })
        };
        context.answer(work).await
    }

    async fn drain_host(
        &self,
        request: Request<DrainHostRequest>,
    ) -> Result<Response<Host>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let within = message.deadline_ms;
            let view = self.engine.drain_host(&context.caller, target, within, key).await?;
            Ok(host(&view))
        };
        context.answer(work).await
    }

    async fn cancel_drain(
        &self,
        request: Request<CancelDrainRequest>,
    ) -> Result<Response<Host>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let view = self.engine.cancel_drain(&context.caller, target, key).await?;
            Ok(host(&view))
        };
        context.answer(work).await
    }

    async fn get_drain(
        &self,
        request: Request<GetDrainRequest>,
    ) -> Result<Response<Drain>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let view = self.engine.drain(&context.caller, id("id", &message.id)?)?;
            Ok(drain(&view))
        };
        context.answer(work).await
    }

    async fn watch_drain(
        &self,
        request: Request<WatchDrainRequest>,
    ) -> Result<Response<Self::WatchDrainStream>, Status> {
        let (context, message) = Context::of(request)?;
        let changes = id("id", &message.id)
            .and_then(|id| self.engine.watch_drain(&context.caller, id))
            .map_err(|error| context.refuse(&error))?;
        context.stream(changes.map(|view| view.map(|view| drain(&view))))
    }

    async fn remove_host(
        &self,
        request: Request<RemoveHostRequest>,
    ) -> Result<Response<RemoveHostResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let stays = self.engine.remove_host(&context.caller, target, message.lost, key).await?;
            Ok(RemoveHostResponse { stays })
        };
        context.answer(work).await
    }
}

fn drain(view: &DrainView) -> Drain {
    let item = |item: &DrainItem| v1::DrainItem {
        id: item.id.clone(),
        name: item.name.clone(),
        state: match item.state {
            DrainState::Waiting => v1::DrainState::Waiting,
            DrainState::Migrating => v1::DrainState::Migrating,
            DrainState::Staying => v1::DrainState::Staying,
        }
        .into(),
        reason: item.reason.clone(),
    };
    Drain {
        since_ms: view.draining.since.0,
        deadline_at_ms: view.draining.deadline.0,
        is_over: view.is_over,
        machines: view.machines.iter().map(item).collect(),
        volumes: view.volumes.iter().map(item).collect(),
        reason: view.reason.clone(),
    }
}

fn host(view: &HostView) -> Host {
    let (row, usage) = (&view.row, &view.usage);
    Host {
        id: row.id.to_string(),
        account_id: row.account.to_string(),
        revision: row.revision.0,
        spec: Some((&row.spec).into()),
        connected: view.standing == Standing::Connected,
        last_seen_at_ms: view.last_seen.map_or(0, |at| at.0),
        desired_generation: view.desired_generation.0,
        observed_generation: view.observed_generation.0,
        machines: usage.machines,
        vcpus_used: usage.vcpus.0,
        memory_mib_used: usage.memory.0,
        storage_gib_used: usage
            .storage
            .iter()
            .map(|(class, size)| (class.clone(), size.0))
            .collect(),
        draining: row.draining.is_some(),
        conformity: row.conformity.as_ref().map(Into::into),
        level: view.level.map(u32::from),
        drain_reason: row.drain_reason().unwrap_or_default(),
        lost: row.lost_at.is_some(),
        images: view
            .images
            .as_ref()
            .map(|images| v1::HostImages { images: images.iter().map(image).collect() }),
    }
}

fn image(view: &HostImage) -> v1::HostImage {
    v1::HostImage {
        id: view.id.clone(),
        sha256: view.sha256.map(|sha256| sha256.to_string()).unwrap_or_default(),
        current: view.is_current,
    }
}
