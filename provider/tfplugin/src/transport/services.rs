//! The services that go-plugin expects beside the provider's own.

use std::pin::Pin;

use futures::Stream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::plugin::{
    ConnInfo, Empty, StdioData, grpc_broker_server::GrpcBroker,
    grpc_controller_server::GrpcController, grpc_stdio_server::GrpcStdio,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Ends the plugin when the client asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        tracing::debug!("the client asks the plugin to end");
        self.shutdown.cancel();
        Ok(Response::new(Empty {}))
    }
}

/// Would carry what the plugin prints. It prints nothing: the stream stays silent until the
/// plugin ends, because ending it sooner makes the client complain.
#[derive(Debug, Clone)]
pub(crate) struct Stdio {
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Answers<StdioData>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(silent_until(self.shutdown.clone())))
    }
}

/// Would open further connections. A provider needs none, so what the client says is read and
/// left unanswered.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = Answers<ConnInfo>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let shutdown = self.shutdown.clone().cancelled_owned();
        let unanswered = request.into_inner().filter_map(|_| None);
        Ok(Response::new(Box::pin(futures::StreamExt::take_until(unanswered, shutdown))))
    }
}

fn silent_until<T: Send + 'static>(shutdown: CancellationToken) -> Answers<T> {
    Box::pin(futures::StreamExt::take_until(futures::stream::pending(), shutdown.cancelled_owned()))
}
