//! Calls on list resources.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Events, Server, call::Call, catalogue::find, config, resource::faults, settle, wire};
use crate::{
    Diagnostics, Provider, Type, Value,
    list::{Found, Outlet},
    plan,
    proto::tfplugin6::{self as pb, list_resource::Event},
    rules,
    schema::Schema,
};

const KIND: &str = "list resource";
/// How many found objects may wait for the client.
const AHEAD: usize = 64;

impl<P: Provider> Server<P> {
    pub(super) async fn validate_list_resource_config(
        &self,
        request: pb::validate_list_resource_config::Request,
    ) -> pb::validate_list_resource_config::Response {
        let mut call = self.call("ValidateListResourceConfig", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.lists, &request.type_name, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            config::check(&call, &entry.schema, &value)?;
            call.look(entry.handler.validate(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::validate_list_resource_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn list_resource(&self, request: pb::list_resource::Request) -> Events<Event> {
        let (events, receiver) = mpsc::channel(AHEAD);
        let server = self.clone();
        tokio::spawn(async move {
            let gone = events.clone();
            tokio::select! {
                diagnostic = server.find_all(request, &events) => {
                    if !diagnostic.is_empty() {
                        let _ = events.send(Ok(Event { diagnostic, ..Event::default() })).await;
                    }
                }
                () = gone.closed() => tracing::debug!("the client left a list"),
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn find_all(
        &self,
        request: pb::list_resource::Request,
        events: &mpsc::Sender<Result<Event, Status>>,
    ) -> Vec<pb::Diagnostic> {
        let mut call = self.call("ListResource", &request.type_name, None);
        let done: Result<(), Diagnostics> = async {
            let entry = find(&self.inner.catalogue.lists, &request.type_name, KIND)?;
            let listed = find(&self.inner.catalogue.resources, &request.type_name, "resource")?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            let ty = listed.schema.object_type();
            let identity = listed.identity.clone().unwrap_or_default();
            let identity_type = identity.ty();
            let answer = Answer {
                schema: &listed.schema,
                identity_type,
                include_object: request.include_resource_object,
                check: self.inner.check,
            };
            let (found, mut waiting) = mpsc::channel(1);
            let outlet = Outlet {
                ty: ty.clone(),
                identity,
                include_object: request.include_resource_object,
                // Without a limit, or with a senseless one, everything is wanted.
                left: u64::try_from(request.limit).ok().filter(|n| *n > 0).unwrap_or(u64::MAX),
                events: found,
            };
            let tell = async {
                while let Some(found) = waiting.recv().await {
                    let event = answer.event(&call, found);
                    let _ = events.send(Ok(event)).await;
                }
            };
            let work = call.guard(entry.handler.list(&call.cx, &value, outlet));
            let (done, ()) = tokio::join!(work, tell);
            done
        }
        .await;
        call.finish_wire(done.err())
    }
}

/// How found objects are answered: as those that are read.
struct Answer<'a> {
    schema: &'a Schema,
    identity_type: Type,
    include_object: bool,
    check: bool,
}

impl Answer<'_> {
    fn event<D>(&self, call: &Call<D>, found: Found) -> Event {
        let Found { display_name, identity, object } = found;
        // Also where it is not asked for: its name may hold them.
        call.hide(&self.schema.sensitive_strings(&object));
        let encoded = || {
            let object = self.include_object.then(|| self.object(call, object)).transpose()?;
            Ok((wire::encode(&identity, &self.identity_type)?, object))
        };
        let encoded: Result<_, Diagnostics> = encoded();
        let display_name = call.without_secrets(&display_name).unwrap_or(display_name);
        match encoded {
            Ok((identity, resource_object)) => Event {
                identity: Some(pb::ResourceIdentityData { identity_data: Some(identity) }),
                display_name,
                resource_object,
                diagnostic: Vec::new(),
            },
            Err(mut told) => {
                call.clean(&mut told);
                Event { display_name, diagnostic: told.into_wire(), ..Event::default() }
            }
        }
    }

    fn object<D>(&self, call: &Call<D>, object: Value) -> Result<pb::DynamicValue, Diagnostics> {
        const RPC: &str = "ListResource";
        let object = plan::null_write_only(self.schema, object);
        settle::refuse_unknown(RPC, call.type_name(), &object).into_result()?;
        if self.check {
            faults(RPC, rules::read(self.schema, &object))?;
        }
        wire::encode(&object, self.schema.object_type())
    }
}
