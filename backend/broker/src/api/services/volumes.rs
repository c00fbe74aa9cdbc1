//! `VolumesService`.

use std::future::ready;

use fairmazon_model::{DomainError, ErrorKind, key::GivenKey};
use fairmazon_proto::{
    chunk,
    v1::{
        self, CreateVolumeRequest, DeleteVolumeRequest, ExportHeader, ExportVolumeRequest,
        ExportVolumeResponse, GetVolumeRequest, GetWrappedKeyRequest, GetWrappedKeyResponse,
        GiveKeysRequest, GiveKeysResponse, ImportBegin, ImportStored, ImportVolumeRequest,
        ImportVolumeResponse, ListKeyRequestsRequest, ListKeyRequestsResponse, ListVolumesRequest,
        ListVolumesResponse, Operation, UpdateVolumeRequest, VolumeResponse,
        export_volume_response, import_volume_request, import_volume_response,
        volumes_service_server::VolumesService,
    },
};
use futures::{StreamExt, stream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Api, cut, first, id, page, place, required};
use crate::{
    api::context::{Answers, Context},
    core::{KeysOf, VolumeChange, VolumeState, VolumeUpdate, VolumeView},
};

#[async_trait]
impl VolumesService for Api {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<VolumeResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let spec = required("spec", message.spec)?.try_into()?;
            let key = &message.idempotency_key;
            self.engine.create_volume(&context.caller, spec, key).await.map(changed)
        };
        context.answer(work).await
    }

    async fn get_volume(
        &self,
        request: Request<GetVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let view = self.engine.volume(&context.caller, id("id", &message.id)?)?;
            Ok(volume(&view))
        };
        context.answer(work).await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let labels = message.filter.unwrap_or_default().labels;
            let found = self.engine.volumes(&context.caller, page(message.page)?, &labels);
            let (volumes, next_page_token) = cut(&found, |view| view.row.id, volume);
            Ok(ListVolumesResponse { volumes, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn update_volume(
        &self,
        request: Request<UpdateVolumeRequest>,
    ) -> Result<Response<VolumeResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let update = VolumeUpdate {
                id: id("id", &message.id)?,
                spec: required("spec", message.spec)?.try_into()?,
                expected_revision: message.expected_revision,
            };
            let key = &message.idempotency_key;
            self.engine.update_volume(&context.caller, update, key).await.map(changed)
        };
        context.answer(work).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<Operation>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let operation = self.engine.delete_volume(&context.caller, target, key).await?;
            Ok(operation.as_ref().into())
        };
        context.answer(work).await
    }

    async fn list_key_requests(
        &self,
        request: Request<ListKeyRequestsRequest>,
    ) -> Result<Response<ListKeyRequestsResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let of = match (message.instance_id.as_str(), message.volume_id.as_str()) {
                ("", "") => KeysOf::All,
                (instance, "") => KeysOf::Instance(id("instance_id", instance)?),
                ("", volume) => KeysOf::Volume(id("volume_id", volume)?),
                _ => {
                    let both = "name an instance or a volume, not both";
                    return Err(DomainError::invalid("volume_id", both));
                }
            };
            let found = self.engine.key_requests(&context.caller, of, page(message.page)?)?;
            let (requests, next_page_token) =
                cut(&found, |request| request.volume, |request| request.clone().into());
            Ok(ListKeyRequestsResponse { requests, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn give_keys(
        &self,
        request: Request<GiveKeysRequest>,
    ) -> Result<Response<GiveKeysResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let keys = message.keys.into_iter().enumerate().map(|(index, key)| {
                key.try_into().map_err(|error: DomainError| error.below(&format!("keys[{index}]")))
            });
            let keys = keys.collect::<Result<Vec<GivenKey>, _>>()?;
            self.engine.give_keys(&context.caller, &keys, &message.idempotency_key).await?;
            Ok(GiveKeysResponse {})
        };
        context.answer(work).await
    }

    type ExportVolumeStream = Answers<ExportVolumeResponse>;

    async fn export_volume(
        &self,
        request: Request<ExportVolumeRequest>,
    ) -> Result<Response<Self::ExportVolumeStream>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let volume = id("volume_id", &message.volume_id)?;
            self.engine.export_volume(&context.caller, volume, message.offset).await
        };
        let export = work.await.map_err(|error| context.refuse(&error))?;
        let header = export_volume_response::Part::Header(ExportHeader {
            total_bytes: export.bytes,
            key_version: export.key.version,
            key_fingerprint: export.key.fingerprint,
            wrapped_key: export.key.wrapped.0,
        });
        let data = export.data.map(|data| data.map(export_volume_response::Part::Data));
        let parts = stream::once(ready(Ok(header))).chain(data);
        context.stream(parts.map(|part| part.map(|part| ExportVolumeResponse { part: Some(part) })))
    }

    type ImportVolumeStream = Answers<ImportVolumeResponse>;

    async fn import_volume(
        &self,
        request: Request<Streaming<ImportVolumeRequest>>,
    ) -> Result<Response<Self::ImportVolumeStream>, Status> {
        let (context, mut messages) = Context::of(request)?;
        let work = async {
            let Some(ImportVolumeRequest {
                part: Some(import_volume_request::Part::VolumeId(volume)),
                idempotency_key: key,
            }) = first(&mut messages).await
            else {
                return Err(DomainError::invalid("volume_id", "an import has to begin with it"));
            };
            let volume = id("volume_id", &volume)?;
            self.engine.import_volume(&context.caller, volume, &key).await
        };
        let importing = work.await.map_err(|error| context.refuse(&error))?;
        let (offset, total_bytes) = (importing.offset, importing.bytes);
        let begin = import_volume_response::Part::Begin(ImportBegin { offset, total_bytes });
        // Of its own accord, as a customer who takes no answer holds the places otherwise.
        let taking = tokio::spawn(importing.take(messages.map(sent)));
        let taking = AbortOnDropHandle::new(taking);
        let stored = async move {
            taking.await.unwrap_or_else(|error| {
                tracing::error!(%error, "taking the file of a volume failed");
                Err(DomainError::new(ErrorKind::Internal, "the import failed"))
            })?;
            Ok(import_volume_response::Part::Stored(ImportStored {}))
        };
        let parts = stream::once(ready(Ok(begin))).chain(stream::once(stored));
        context.stream(parts.map(|part| part.map(|part| ImportVolumeResponse { part: Some(part) })))
    }

    async fn get_wrapped_key(
        &self,
        request: Request<GetWrappedKeyRequest>,
    ) -> Result<Response<GetWrappedKeyResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let volume = id("volume_id", &message.volume_id)?;
            let view = self.engine.volume(&context.caller, volume)?;
            let key = view.row.key().ok_or_else(|| {
                DomainError::new(ErrorKind::Precondition, format!("{volume} has no key yet"))
                    .advise("a volume gets its key when it is first attached")
            })?;
            let next = view.row.host.and_then(|host| view.row.next_key(host));
            Ok(GetWrappedKeyResponse {
                version: key.version,
                fingerprint: key.fingerprint.clone(),
                wrapped: key.wrapped.0.clone(),
                next: next.map(|next| v1::WrappedKey {
                    version: next.version,
                    fingerprint: next.fingerprint.clone(),
                    wrapped: next.wrapped.0.clone(),
                }),
            })
        };
        context.answer(work).await
    }
}

/// The bytes of a message of an import.
fn sent(message: Result<ImportVolumeRequest, Status>) -> Result<Vec<u8>, DomainError> {
    let broken = |_| {
        let text = "the connection broke before all was sent";
        DomainError::new(ErrorKind::Unavailable, text).advise("ask again")
    };
    match message.map_err(broken)?.part {
        Some(import_volume_request::Part::Data(data)) => chunk(data),
        _ => Err(DomainError::invalid("data", "an import has to go on with its file's bytes")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as the last step of a call")]
fn changed(change: VolumeChange) -> VolumeResponse {
    VolumeResponse {
        volume: Some(volume(&change.volume)),
        operation: Some(change.operation.as_ref().into()),
    }
}

fn volume(view: &VolumeView) -> v1::Volume {
    let row = &view.row;
    let (site, country) = place(view.site.as_ref());
    v1::Volume {
        id: row.id.to_string(),
        account_id: row.account.to_string(),
        revision: row.revision.0,
        spec: Some((&row.spec).into()),
        state: state(view.state).into(),
        state_reason: view.reason.clone(),
        site,
        country,
        attached_to: row.attached_to.map(|id| id.to_string()).unwrap_or_default(),
        price_per_hour_nano_eur: view.price_per_hour.0,
        price_per_month_nano_eur: view.price_per_hour.per_month().0,
        created_at_ms: row.created_at.0,
        unconfirmed: row.unconfirmed,
        key_fingerprint: row.key().map(|key| key.fingerprint.clone()).unwrap_or_default(),
        key_version: row.key().map_or(row.spec.key_version, |key| key.made_for),
    }
}

const fn state(state: VolumeState) -> v1::VolumeState {
    match state {
        VolumeState::Available => v1::VolumeState::Available,
        VolumeState::Creating => v1::VolumeState::Creating,
        VolumeState::Ready => v1::VolumeState::Ready,
        VolumeState::Failed => v1::VolumeState::Failed,
        VolumeState::Deleting => v1::VolumeState::Deleting,
        VolumeState::Unknown => v1::VolumeState::Unknown,
    }
}
