//! Calls on actions.

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::Status;

use super::{Events, Server, catalogue::find, config};
use crate::{
    Diagnostics, Provider,
    action::Progress,
    proto::tfplugin6::{
        self as pb,
        invoke_action::{Event, event},
    },
};

const KIND: &str = "action";

impl<P: Provider> Server<P> {
    pub(super) async fn validate_action_config(
        &self,
        request: pb::validate_action_config::Request,
    ) -> pb::validate_action_config::Response {
        let mut call = self.call("ValidateActionConfig", &request.type_name, None);
        let done = async {
            let entry = find(&self.inner.catalogue.actions, &request.type_name, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            config::check(&call, &entry.schema, &value)?;
            call.look(entry.handler.validate(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::validate_action_config::Response { diagnostics: call.finish_wire(failed) }
    }

    pub(super) async fn plan_action(
        &self,
        request: pb::plan_action::Request,
    ) -> pb::plan_action::Response {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("PlanAction", &request.action_type, client);
        let done = async {
            let entry = find(&self.inner.catalogue.actions, &request.action_type, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            call.look(entry.handler.plan(&call.cx, &value)).await
        };
        let failed = done.await.err();
        pb::plan_action::Response { diagnostics: call.finish_wire(failed), deferred: None }
    }

    pub(super) async fn invoke_action(&self, request: pb::invoke_action::Request) -> Events<Event> {
        let (events, receiver) = mpsc::unbounded_channel();
        let server = self.clone();
        tokio::spawn(async move {
            let gone = events.clone();
            tokio::select! {
                diagnostics = server.invoke(request, &events) => {
                    let completed = event::Completed { diagnostics };
                    let _ = events.send(Ok(event(event::Type::Completed(completed))));
                }
                () = gone.closed() => tracing::debug!("the client left an action"),
            }
        });
        Box::pin(UnboundedReceiverStream::new(receiver))
    }

    async fn invoke(
        &self,
        request: pb::invoke_action::Request,
        events: &mpsc::UnboundedSender<Result<Event, Status>>,
    ) -> Vec<pb::Diagnostic> {
        let client = request.client_capabilities.as_ref();
        let mut call = self.call("InvokeAction", &request.action_type, client);
        let done: Result<(), Diagnostics> = async {
            let entry = find(&self.inner.catalogue.actions, &request.action_type, KIND)?;
            let value = config::decode(&mut call, &entry.schema, request.config.as_ref())?;
            let (messages, said) = mpsc::unbounded_channel();
            let progress = Progress { messages };
            let work = async {
                let done = call.guard(entry.handler.invoke(&call.cx, &value, &progress)).await;
                drop(progress);
                done
            };
            let tell = async {
                let mut said = UnboundedReceiverStream::new(said);
                while let Some(message) = said.next().await {
                    let message = call.without_secrets(&message).unwrap_or(message);
                    let progress = event::Progress { message };
                    let _ = events.send(Ok(event(event::Type::Progress(progress))));
                }
            };
            let (done, ()) = tokio::join!(work, tell);
            done
        }
        .await;
        call.finish_wire(done.err())
    }
}

const fn event(what: event::Type) -> Event {
    Event { r#type: Some(what) }
}
