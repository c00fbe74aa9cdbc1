//! `HostStreamService`: hands a host's stream to its session, and ends it with its credential.

use std::{future::ready, sync::Arc};

use fairmazon_model::DomainError;
use fairmazon_proto::host::v1::{FromHost, ToHost, host_stream_service_server::HostStreamService};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Api;
use crate::{
    api::context::{Answers, Context},
    session::HostSays,
};

/// Messages to a host that may wait for it.
const QUEUE: usize = 8;

#[async_trait]
impl HostStreamService for Api {
    type OpenStreamStream = Answers<ToHost>;

    async fn open_stream(
        &self,
        request: Request<Streaming<FromHost>>,
    ) -> Result<Response<Self::OpenStreamStream>, Status> {
        let (context, messages) = Context::of(request)?;
        let host = context.caller.host.ok_or_else(|| {
            context.refuse(&DomainError::internal("a host's credential names no host"))
        })?;
        self.engine.has_joined(&context.caller).await.map_err(|error| context.refuse(&error))?;
        let (engine, failure) = (self.engine.clone(), Failure::default());
        let inbound = Box::pin(read(messages, failure.clone()));
        let (sender, receiver) = mpsc::channel(QUEUE);
        let session = AbortOnDropHandle::new(tokio::spawn(async move {
            engine.host_stream(host, inbound, sender).await
        }));
        let ended = async move {
            let ended = session.await;
            match (failure.0.lock().take(), ended) {
                (Some(error), _) | (None, Ok(Err(error))) => Some(Err(error)),
                (None, Ok(Ok(()))) => None,
                (None, Err(error)) => Some(Err(DomainError::internal(error.to_string()))),
            }
        };
        let answers = ReceiverStream::new(receiver)
            .map(|says| Ok(ToHost::from(&says)))
            .chain(stream::once(ended).filter_map(ready));
        context.stream(answers)
    }
}

/// Why the host's messages can't be read any more.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<DomainError>>>);

/// The host's messages up to the first that can't be read.
fn read(messages: Streaming<FromHost>, failure: Failure) -> impl Stream<Item = HostSays> + Send {
    messages
        .map(move |message| match message.map(HostSays::try_from) {
            Ok(Ok(says)) => Some(says),
            Ok(Err(error)) => {
                *failure.0.lock() = Some(error);
                None
            }
            // The connection has ended; there is nobody to tell.
            Err(_) => None,
        })
        .take_while(|says| ready(says.is_some()))
        .filter_map(ready)
}
