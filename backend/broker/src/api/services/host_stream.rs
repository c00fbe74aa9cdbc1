//! `HostStreamService`: hands a host's stream to its session and its volumes to who waits for
//! them, and ends both with its credential.

use std::{future::ready, sync::Arc};

use fairmazon_model::{
    DomainError,
    transfer::{Part, Taken, TransferId},
};
use fairmazon_proto::host::v1::{
    FromHost, SendVolumeResponse, ToHost, VolumeData, VolumePart, VolumeTaken,
    host_stream_service_server::HostStreamService,
};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Api, first};
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
        let host = context.host().map_err(|error| context.refuse(&error))?;
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

    async fn send_volume(
        &self,
        request: Request<Streaming<VolumePart>>,
    ) -> Result<Response<SendVolumeResponse>, Status> {
        let (context, messages) = Context::of(request)?;
        let open = context.open_stream()?;
        tokio::select! {
            error = context.end_of_stream(&open) => Err(context.refuse(&error)),
            answer = context.answer(self.take_volume(&context, messages)) => answer,
        }
    }

    type ReceiveVolumeStream = Answers<VolumeData>;

    async fn receive_volume(
        &self,
        request: Request<Streaming<VolumeTaken>>,
    ) -> Result<Response<Self::ReceiveVolumeStream>, Status> {
        let (context, mut messages) = Context::of(request)?;
        let begin = async {
            let host = context.host()?;
            let first = begun(&mut messages).await?;
            let transfer = TransferId::read(&first.transfer_id)?;
            let first = Taken::try_from(first)?;
            let (words, parts) = self.engine.give_volume(host, transfer)?;
            Ok((first, words, parts))
        };
        let (first, words, parts) = begin.await.map_err(|error| context.refuse(&error))?;
        // The words end with the connection, and the customer's call with them.
        let hand_on = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(word) = next {
                if words.send(word).await.is_err() {
                    return;
                }
                let message = messages.message().await.ok().flatten();
                next = message.and_then(|message| Taken::try_from(message).ok());
            }
        }));
        let data = stream::unfold((parts, hand_on), |(mut parts, hand_on)| async move {
            let data = parts.next().await?;
            Some((Ok(VolumeData { data }), (parts, hand_on)))
        });
        context.stream(data)
    }
}

/// The message that a transfer begins with.
async fn begun<T>(messages: &mut Streaming<T>) -> Result<T, DomainError> {
    let text = "a volume begins with its transfer's id";
    first(messages).await.ok_or_else(|| DomainError::invalid("message", text))
}

impl Api {
    async fn take_volume(
        &self,
        context: &Context,
        mut messages: Streaming<VolumePart>,
    ) -> Result<SendVolumeResponse, DomainError> {
        let host = context.host()?;
        let first = begun(&mut messages).await?;
        let transfer = TransferId::read(&first.transfer_id)?;
        // A connection that breaks ends the parts.
        let rest = messages
            .take_while(|message| ready(message.is_ok()))
            .filter_map(|message| ready(message.ok()));
        let parts = stream::once(ready(first)).chain(rest).map(Part::try_from);
        self.engine.take_volume(host, transfer, parts).await?;
        Ok(SendVolumeResponse {})
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
