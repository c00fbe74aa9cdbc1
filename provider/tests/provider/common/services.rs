//! The services of the broker in this process.

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{InstanceId, OperationId, PlacementGroupId, VolumeId},
    instance::InstanceSpec,
    key::FIRST_KEY_VERSION,
    price,
    volume::VolumeSpec,
};
use fairmazon_proto::v1::{self, *};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, transport::server::Router};

use super::{Shared, State, TOKEN, following};

pub(super) type Answer<T> = Result<Response<T>, Status>;

/// All services over one state.
pub(crate) struct Services(Shared);

pub(crate) fn all(state: &Shared) -> Services {
    Services(state.clone())
}

impl Services {
    pub(crate) fn add_to(self, server: &mut tonic::transport::Server) -> Router {
        let one = || Fake(self.0.clone());
        server
            .add_service(catalogue_service_server::CatalogueServiceServer::new(one()))
            .add_service(sites_service_server::SitesServiceServer::new(one()))
            .add_service(instances_service_server::InstancesServiceServer::new(one()))
            .add_service(volumes_service_server::VolumesServiceServer::new(one()))
            .add_service(placement_groups_service_server::PlacementGroupsServiceServer::new(one()))
            .add_service(operations_service_server::OperationsServiceServer::new(one()))
            .add_service(tokens_service_server::TokensServiceServer::new(one()))
    }
}

pub(super) struct Fake(Shared);

fn status(error: &DomainError) -> Status {
    let code = match error.kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        _ => Code::Internal,
    };
    let detail = ErrorDetail { request_id: "req-1".to_owned(), ..ErrorDetail::from(error) };
    Status::with_details(code, error.to_string(), detail.to_status_details(code).into())
}

impl Fake {
    /// Counts a call and looks at its credential.
    pub(super) fn open<T>(
        &self,
        name: &'static str,
        request: Request<T>,
    ) -> Result<(parking_lot::MutexGuard<'_, State>, T), Status> {
        let mut state = self.0.lock();
        *state.calls.entry(name).or_default() += 1;
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        // A certificate was checked when it was shown.
        if given != Some(&format!("Bearer {TOKEN}")) && request.peer_certs().is_none() {
            let error = DomainError::new(ErrorKind::Unauthenticated, "the token is not known");
            return Err(status(&error));
        }
        if let Some(error) = state.refused.get(name) {
            return Err(status(error));
        }
        Ok((state, request.into_inner()))
    }
}

/// That a change which the broker also takes without a key has one.
fn has_key(key: &str) -> Result<(), Status> {
    let none = || status(&DomainError::invalid("idempotency_key", "every change needs a key"));
    if key.is_empty() { Err(none()) } else { Ok(()) }
}

pub(super) fn missing(noun: &str, id: &str) -> Status {
    status(&DomainError::not_found(noun, id))
}

fn protected(id: &str) -> Status {
    let error = DomainError::new(ErrorKind::Precondition, format!("{id} is protected"));
    status(&error.advise("switch deletion_protection off"))
}

/// What a create answers, with the time of the broker's clock.
fn created<T>(state: &State, row: T) -> Response<T> {
    let mut answer = Response::new(row);
    let now = jiff::Timestamp::from_millisecond(state.now_ms()).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    answer.metadata_mut().insert("date", date.unwrap().parse().unwrap());
    answer
}

fn operation(state: &mut State, kind: OperationKind, target: &str) -> Operation {
    let number = state.next();
    let error = state.fail.take();
    let waits_for_keys = state.asks.is_some();
    let end = match (&error, state.hold || waits_for_keys) {
        (Some(_), _) => OperationState::Failed,
        (None, true) => OperationState::Running,
        (None, false) => OperationState::Done,
    };
    Operation {
        id: OperationId::from_parts(state.now_ms().unsigned_abs(), number).to_string(),
        kind: kind.into(),
        target_id: target.to_owned(),
        state: end.into(),
        error,
        waiting_for: "its host".to_owned(),
        waits_for_keys,
        ..Operation::default()
    }
}

fn matches(filter: Option<&Filter>, labels: &std::collections::BTreeMap<String, String>) -> bool {
    filter.is_none_or(|filter| {
        filter.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// One page: the token is the last id of the page before.
fn page<T: Clone>(
    rows: impl Iterator<Item = (String, T)>,
    page: Option<Page>,
    most: usize,
) -> (Vec<T>, String) {
    let Page { size, token } = page.unwrap_or_default();
    let mut rows = rows.filter(|(id, _)| *id > token);
    let some: Vec<_> = rows.by_ref().take(most.min(size as usize)).collect();
    let more = rows.next().is_some();
    let next = some.last().filter(|_| more).map_or_else(String::new, |(id, _)| id.clone());
    (some.into_iter().map(|(_, row)| row).collect(), next)
}

fn bring_about(state: &State, row: &mut Instance) -> Result<(), Status> {
    let spec: InstanceSpec =
        row.spec.clone().unwrap_or_default().try_into().map_err(|error| status(&error))?;
    spec.check().map_err(|error| status(&error))?;
    if row.actual_flavor.is_empty() {
        row.actual_flavor.clone_from(&spec.flavor);
    }
    let price = price::instance(&state.catalogue, &spec, &row.actual_flavor);
    let price = price.map_err(|error| status(&error))?;
    row.price_per_hour_nano_eur = price.hourly.0;
    row.price_per_month_nano_eur = price.monthly.0;
    row.monthly_saving_nano_eur = price.monthly_saving.0;
    let on = matches!(spec.power, fairmazon_model::instance::Power::Running);
    let running = on && !state.off_hours;
    let now = if running { InstanceState::Running } else { InstanceState::Stopped };
    row.state = now.into();
    if state.no_place {
        row.state = InstanceState::Pending.into();
        row.state_reason = "no host fits".to_owned();
    }
    row.addresses = if running { vec!["10.0.0.1".to_owned()] } else { Vec::new() };
    let agent = state.agent.filter(|_| running);
    row.guest_agent = agent.is_some();
    row.cloud_init = agent.unwrap_or_default().into();
    row.site = "fra1".to_owned();
    row.country = "DE".to_owned();
    row.placement_reason = "the only one".to_owned();
    row.lease_epoch += 1;
    Ok(())
}

#[tonic::async_trait]
impl instances_service_server::InstancesService for Fake {
    type WatchInstanceStream = ReceiverStream<Result<Instance, Status>>;

    async fn create_instance(
        &self,
        request: Request<CreateInstanceRequest>,
    ) -> Answer<InstanceResponse> {
        let (mut state, request) = self.open("create_instance", request)?;
        let known = state.keys.get(&request.idempotency_key).cloned();
        let known = known.and_then(|id| state.instances.get(&id).cloned());
        if known.as_ref().is_some_and(|row| !row.unconfirmed) {
            let error = DomainError::new(ErrorKind::AlreadyExists, "this key is taken");
            let field = Some("idempotency_key".to_owned());
            return Err(status(&DomainError { field, ..error }));
        }
        let row = match known {
            Some(row) => row,
            None => {
                let number = state.next();
                let mut row = Instance {
                    id: InstanceId::from_parts(state.now_ms().unsigned_abs(), number).to_string(),
                    spec: request.spec,
                    created_at_ms: state.now_ms(),
                    boot_volume_id: VolumeId::from_parts(state.now_ms().unsigned_abs(), number)
                        .to_string(),
                    unconfirmed: true,
                    ..Instance::default()
                };
                bring_about(&state, &mut row)?;
                state.keys.insert(request.idempotency_key, row.id.clone());
                state.instances.insert(row.id.clone(), row.clone());
                row
            }
        };
        let operation = operation(&mut state, OperationKind::Create, &row.id);
        let response = InstanceResponse { instance: Some(row), operation: Some(operation) };
        Ok(created(&state, response))
    }

    async fn get_instance(&self, request: Request<GetInstanceRequest>) -> Answer<Instance> {
        let (state, request) = self.open("get_instance", request)?;
        let row = state.instances.get(&request.id);
        row.cloned().map(Response::new).ok_or_else(|| missing("instance", &request.id))
    }

    async fn watch_instance(
        &self,
        request: Request<WatchInstanceRequest>,
    ) -> Answer<Self::WatchInstanceStream> {
        let (state, request) = self.open("watch_instance", request)?;
        drop(state);
        Ok(Response::new(following::instance(self.0.clone(), request.id)))
    }

    async fn get_console(&self, request: Request<GetConsoleRequest>) -> Answer<Console> {
        let (state, _) = self.open("get_console", request)?;
        let text = state.console.clone().ok_or_else(|| Status::failed_precondition("it is off"))?;
        Ok(Response::new(Console { text }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Answer<ListInstancesResponse> {
        let (state, request) = self.open("list_instances", request)?;
        let all = state.instances.iter().filter(|(_, row)| {
            row.spec.as_ref().is_some_and(|spec| matches(request.filter.as_ref(), &spec.labels))
        });
        let all = all.map(|(id, row)| (id.clone(), row.clone()));
        let (instances, next_page_token) = page(all, request.page, state.page_rows);
        Ok(Response::new(ListInstancesResponse { instances, next_page_token, revision: 1 }))
    }

    async fn update_instance(
        &self,
        request: Request<UpdateInstanceRequest>,
    ) -> Answer<InstanceResponse> {
        let (mut state, request) = self.open("update_instance", request)?;
        let row = state.instances.get(&request.id).cloned();
        let mut row = row.ok_or_else(|| missing("instance", &request.id))?;
        let flavor =
            |spec: &Option<v1::InstanceSpec>| spec.as_ref().map(|spec| spec.flavor.clone());
        if flavor(&row.spec) != flavor(&request.spec) {
            row.actual_flavor.clear();
        }
        row.spec = request.spec;
        bring_about(&state, &mut row)?;
        state.instances.insert(row.id.clone(), row.clone());
        let operation = operation(&mut state, OperationKind::Update, &row.id);
        let response = InstanceResponse { instance: Some(row), operation: Some(operation) };
        Ok(Response::new(response))
    }

    async fn delete_instance(&self, request: Request<DeleteInstanceRequest>) -> Answer<Operation> {
        let (mut state, request) = self.open("delete_instance", request)?;
        let row = state.instances.get(&request.id);
        let row = row.ok_or_else(|| missing("instance", &request.id))?;
        if row.spec.as_ref().is_some_and(|spec| spec.deletion_protection) {
            return Err(protected(&request.id));
        }
        state.instances.remove(&request.id);
        Ok(Response::new(operation(&mut state, OperationKind::Delete, &request.id)))
    }

    async fn reboot_instance(&self, request: Request<RebootInstanceRequest>) -> Answer<Operation> {
        let (mut state, request) = self.open("reboot_instance", request)?;
        if !state.instances.contains_key(&request.id) {
            return Err(missing("instance", &request.id));
        }
        Ok(Response::new(operation(&mut state, OperationKind::Reboot, &request.id)))
    }

    async fn migrate_instance(
        &self,
        request: Request<MigrateInstanceRequest>,
    ) -> Answer<Operation> {
        let (mut state, request) = self.open("migrate_instance", request)?;
        if !state.instances.contains_key(&request.id) {
            return Err(missing("instance", &request.id));
        }
        Ok(Response::new(operation(&mut state, OperationKind::Migrate, &request.id)))
    }
}

fn price_volume(state: &State, row: &mut Volume) -> Result<(), Status> {
    let spec: VolumeSpec =
        row.spec.clone().unwrap_or_default().try_into().map_err(|error| status(&error))?;
    let hourly = price::volume(&state.catalogue, &spec).map_err(|error| status(&error))?;
    row.price_per_hour_nano_eur = hourly.0;
    row.price_per_month_nano_eur = hourly.per_month().0;
    row.state = VolumeState::Available.into();
    row.key_version = spec.key_version;
    row.key_fingerprint = format!("SHA256:key-{}", spec.key_version);
    Ok(())
}

#[tonic::async_trait]
impl volumes_service_server::VolumesService for Fake {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<VolumeResponse> {
        let (mut state, request) = self.open("create_volume", request)?;
        let known = state.keys.get(&request.idempotency_key).cloned();
        let known = known.and_then(|id| state.volumes.get(&id).cloned());
        let row = match known.filter(|row| row.unconfirmed) {
            Some(row) => row,
            None => {
                let number = state.next();
                let mut row = Volume {
                    id: VolumeId::from_parts(state.now_ms().unsigned_abs(), number).to_string(),
                    spec: request.spec,
                    created_at_ms: state.now_ms(),
                    unconfirmed: true,
                    ..Volume::default()
                };
                price_volume(&state, &mut row)?;
                state.keys.insert(request.idempotency_key, row.id.clone());
                state.volumes.insert(row.id.clone(), row.clone());
                row
            }
        };
        let operation = operation(&mut state, OperationKind::Create, &row.id);
        let response = VolumeResponse { volume: Some(row), operation: Some(operation) };
        Ok(created(&state, response))
    }

    async fn get_volume(&self, request: Request<GetVolumeRequest>) -> Answer<Volume> {
        let (state, request) = self.open("get_volume", request)?;
        let row = state.volumes.get(&request.id);
        row.cloned().map(Response::new).ok_or_else(|| missing("volume", &request.id))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Answer<ListVolumesResponse> {
        let (state, request) = self.open("list_volumes", request)?;
        let all = state.volumes.iter().map(|(id, row)| (id.clone(), row.clone()));
        let (volumes, next_page_token) = page(all, request.page, state.page_rows);
        Ok(Response::new(ListVolumesResponse { volumes, next_page_token, revision: 1 }))
    }

    async fn update_volume(&self, request: Request<UpdateVolumeRequest>) -> Answer<VolumeResponse> {
        let (mut state, request) = self.open("update_volume", request)?;
        let row = state.volumes.get(&request.id).cloned();
        let mut row = row.ok_or_else(|| missing("volume", &request.id))?;
        row.spec = request.spec;
        price_volume(&state, &mut row)?;
        state.volumes.insert(row.id.clone(), row.clone());
        let operation = operation(&mut state, OperationKind::Update, &row.id);
        Ok(Response::new(VolumeResponse { volume: Some(row), operation: Some(operation) }))
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<Operation> {
        let (mut state, request) = self.open("delete_volume", request)?;
        let row = state.volumes.get(&request.id);
        let row = row.ok_or_else(|| missing("volume", &request.id))?;
        if row.spec.as_ref().is_some_and(|spec| spec.deletion_protection) {
            return Err(protected(&request.id));
        }
        state.volumes.remove(&request.id);
        Ok(Response::new(operation(&mut state, OperationKind::Delete, &request.id)))
    }

    async fn list_key_requests(
        &self,
        request: Request<ListKeyRequestsRequest>,
    ) -> Answer<ListKeyRequestsResponse> {
        let (state, request) = self.open("list_key_requests", request)?;
        let row = state.instances.get(&request.instance_id);
        let asked = row.zip(state.asks.as_ref()).map(|(row, (host, certificate))| KeyRequest {
            volume_id: row.boot_volume_id.clone(),
            host_id: host.to_string(),
            version: FIRST_KEY_VERSION,
            host_certificate: certificate.clone(),
            key_version: FIRST_KEY_VERSION,
        });
        Ok(Response::new(ListKeyRequestsResponse {
            requests: asked.into_iter().collect(),
            ..ListKeyRequestsResponse::default()
        }))
    }

    async fn give_keys(&self, request: Request<GiveKeysRequest>) -> Answer<GiveKeysResponse> {
        let (state, request) = self.open("give_keys", request)?;
        has_key(&request.idempotency_key)?;
        state.given.send_modify(|given| given.extend(request.keys));
        Ok(Response::new(GiveKeysResponse {}))
    }

    async fn get_wrapped_key(
        &self,
        request: Request<GetWrappedKeyRequest>,
    ) -> Answer<GetWrappedKeyResponse> {
        drop(self.open("get_wrapped_key", request)?);
        Err(Status::unimplemented("no keys here"))
    }

    type ExportVolumeStream = ReceiverStream<Result<ExportVolumeResponse, Status>>;

    async fn export_volume(
        &self,
        request: Request<ExportVolumeRequest>,
    ) -> Answer<Self::ExportVolumeStream> {
        drop(self.open("export_volume", request)?);
        Err(Status::unimplemented("no files here"))
    }

    type ImportVolumeStream = ReceiverStream<Result<ImportVolumeResponse, Status>>;

    async fn import_volume(
        &self,
        _: Request<Streaming<ImportVolumeRequest>>,
    ) -> Answer<Self::ImportVolumeStream> {
        Err(Status::unimplemented("no files here"))
    }
}

#[tonic::async_trait]
impl placement_groups_service_server::PlacementGroupsService for Fake {
    async fn create_placement_group(
        &self,
        request: Request<CreatePlacementGroupRequest>,
    ) -> Answer<PlacementGroup> {
        let (mut state, request) = self.open("create_placement_group", request)?;
        let known = state.keys.get(&request.idempotency_key).cloned();
        if let Some(row) = known.and_then(|id| state.groups.get(&id).cloned()) {
            return Ok(created(&state, row));
        }
        let number = state.next();
        let row = PlacementGroup {
            id: PlacementGroupId::from_parts(state.now_ms().unsigned_abs(), number).to_string(),
            name: request.name,
            labels: request.labels,
            created_at_ms: state.now_ms(),
            ..PlacementGroup::default()
        };
        state.keys.insert(request.idempotency_key, row.id.clone());
        state.groups.insert(row.id.clone(), row.clone());
        Ok(created(&state, row))
    }

    async fn get_placement_group(
        &self,
        request: Request<GetPlacementGroupRequest>,
    ) -> Answer<PlacementGroup> {
        let (state, request) = self.open("get_placement_group", request)?;
        let row = state.groups.get(&request.id);
        row.cloned().map(Response::new).ok_or_else(|| missing("placement group", &request.id))
    }

    async fn list_placement_groups(
        &self,
        request: Request<ListPlacementGroupsRequest>,
    ) -> Answer<ListPlacementGroupsResponse> {
        let (state, request) = self.open("list_placement_groups", request)?;
        let all = state.groups.iter().map(|(id, row)| (id.clone(), row.clone()));
        let (placement_groups, next_page_token) = page(all, request.page, state.page_rows);
        let response =
            ListPlacementGroupsResponse { placement_groups, next_page_token, revision: 1 };
        Ok(Response::new(response))
    }

    async fn update_placement_group(
        &self,
        request: Request<UpdatePlacementGroupRequest>,
    ) -> Answer<PlacementGroup> {
        let (mut state, request) = self.open("update_placement_group", request)?;
        let row = state.groups.get_mut(&request.id);
        let row = row.ok_or_else(|| missing("placement group", &request.id))?;
        row.name = request.name;
        row.labels = request.labels;
        Ok(Response::new(row.clone()))
    }

    async fn delete_placement_group(
        &self,
        request: Request<DeletePlacementGroupRequest>,
    ) -> Answer<DeletePlacementGroupResponse> {
        let (mut state, request) = self.open("delete_placement_group", request)?;
        state.groups.remove(&request.id);
        Ok(Response::new(DeletePlacementGroupResponse {}))
    }
}

#[tonic::async_trait]
impl operations_service_server::OperationsService for Fake {
    type WaitOperationStream = ReceiverStream<Result<Operation, Status>>;

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        let (_, request) = self.open("get_operation", request)?;
        Err(missing("operation", &request.id))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        drop(self.open("list_operations", request)?);
        Ok(Response::new(ListOperationsResponse::default()))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Answer<Self::WaitOperationStream> {
        let (state, request) = self.open("wait_operation", request)?;
        Ok(Response::new(following::operation(&state, request.id)))
    }

    async fn confirm_created(
        &self,
        request: Request<ConfirmCreatedRequest>,
    ) -> Answer<ConfirmCreatedResponse> {
        let (mut state, request) = self.open("confirm_created", request)?;
        has_key(&request.idempotency_key)?;
        for id in request.ids {
            if let Some(row) = state.instances.get_mut(&id) {
                row.unconfirmed = false;
            }
            if let Some(row) = state.volumes.get_mut(&id) {
                row.unconfirmed = false;
            }
        }
        Ok(Response::new(ConfirmCreatedResponse {}))
    }
}
