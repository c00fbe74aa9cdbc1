//! What a handler knows of the request beside its message: who asks, and under which id.

use std::{future::Future, pin::Pin, sync::Arc};

use fairmazon_model::{DomainError, ErrorKind, id::HostId};
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    limits::{OpenStream, Use, Uses},
    request_id::RequestId,
    status,
};
use crate::core::Caller;

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Rung when the broker ends.
#[derive(Debug, Clone)]
pub(crate) struct Ending(pub(crate) CancellationToken);

/// Put into each admitted request by the gate; not for public methods.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Who asks.
    pub(crate) caller: Caller,
    /// Which request it is.
    pub(crate) request_id: RequestId,
    /// When the credential ends by itself, on tokio's clock.
    pub(crate) ends_at: Option<Instant>,
    /// What the credential has in use.
    pub(crate) used: Arc<Use>,
    /// What all have in use.
    pub(crate) uses: Arc<Uses>,
    /// Rung when the broker ends.
    pub(crate) ending: Ending,
}

impl Context {
    /// Takes a request apart.
    ///
    /// # Errors
    /// `Internal` when the request did not pass the gate, which would be a fault of the wiring.
    pub(crate) fn of<T>(request: Request<T>) -> Result<(Self, T), Status> {
        let (_, mut extensions, message) = request.into_parts();
        match extensions.remove::<Self>() {
            Some(context) => Ok((context, message)),
            None => {
                let error = DomainError::internal("a request has come around the gate");
                Err(status::of(&error, RequestId(0)))
            }
        }
    }

    /// The host whose agent asks.
    ///
    /// # Errors
    /// `Internal` when a host's credential names none, which would be a fault of the broker.
    pub(crate) fn host(&self) -> Result<HostId, DomainError> {
        let named = self.caller.host;
        named.ok_or_else(|| DomainError::internal("a host's credential names no host"))
    }

    /// The outcome of a handler as the caller gets it.
    pub(crate) async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, DomainError>>,
    ) -> Result<Response<T>, Status> {
        work.await.map(Response::new).map_err(|error| self.refuse(&error))
    }

    /// The status for an error.
    pub(crate) fn refuse(&self, error: &DomainError) -> Status {
        status::of(error, self.request_id)
    }

    /// Counts a stream of this caller.
    ///
    /// # Errors
    /// When the caller holds too many.
    pub(crate) fn open_stream(&self) -> Result<OpenStream, Status> {
        self.uses.open_stream(&self.used).map_err(|error| self.refuse(&error))
    }

    /// Ends when a stream of this caller must: the credential is revoked or ends by itself,
    /// or the broker ends. Says which.
    pub(crate) fn end_of_stream(
        &self,
        open: &OpenStream,
    ) -> impl Future<Output = DomainError> + Send + 'static {
        let (revoked, ends_at, ending) = (open.ended(), self.ends_at, self.ending.0.clone());
        async move {
            let expired = async {
                match ends_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let how = tokio::select! {
                () = ending.cancelled() => {
                    return DomainError::new(ErrorKind::Unavailable, "the broker is ending")
                        .advise("connect again");
                }
                () = revoked.cancelled() => "has been revoked",
                () = expired => "has ended",
            };
            DomainError::new(ErrorKind::Unauthenticated, format!("the credential {how}"))
                .advise("use a valid credential")
        }
    }

    /// The stream as the caller gets it: counted, and cut off with the credential.
    pub(crate) fn stream<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, DomainError>> + Send + 'static,
    ) -> Result<Response<Answers<T>>, Status> {
        let open = self.open_stream()?;
        let end = Box::pin(self.end_of_stream(&open));
        let request_id = self.request_id;
        let start = Some((Box::pin(answers), end, open));
        let all = stream::unfold(start, move |parts| async move {
            let (mut answers, mut end, open) = parts?;
            let item = tokio::select! {
                biased;
                error = &mut end => Err(error),
                item = answers.next() => item?,
            };
            match item {
                Ok(answer) => Some((Ok(answer), Some((answers, end, open)))),
                Err(error) => Some((Err(status::of(&error, request_id)), None)),
            }
        });
        Ok(Response::new(Box::pin(all)))
    }
}
