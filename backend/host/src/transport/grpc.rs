//! The real transport: `fairmazon.host.v1` over TLS, always opened by the host.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use fairmazon_model::{
    DomainError,
    machine::DesiredSet,
    transfer::{Part, ReceiveVolume, SendVolume, Taken, TransferId},
    units::Generation,
};
use fairmazon_proto::{
    host::v1::{self, from_host, host_stream_service_client::HostStreamServiceClient, to_host},
    v1::{JoinHostRequest, hosts_service_client::HostsServiceClient},
};
use futures::{Stream, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use zeroize::Zeroizing;

use super::{BrokerEnd, Data, FromHost, Link, ToHost, Transport, TransportError, pair};

/// The largest message in either direction: a whole set of a large host.
const MESSAGE_MOST: usize = 64 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A broker that does not answer for this long is gone: half-open connections end.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Where the broker is and how to know it.
#[derive(Clone)]
pub struct GrpcConfig {
    /// `https://NAME:PORT`.
    pub address: String,
    /// The certificates that may vouch for the broker, as PEM.
    pub ca_pem: String,
    /// How the host shows who it is.
    pub credential: Credential,
}

/// How a host shows who it is.
#[derive(Clone)]
pub enum Credential {
    /// The token that it joins with, which opens nothing: it is shown for [`GrpcTransport::join`]
    /// alone.
    Token(String),
    /// The certificate that it joined for, PEM.
    Certificate {
        /// The certificate with its chain.
        pem: String,
        /// Its private key.
        key_pem: Zeroizing<String>,
    },
}

impl std::fmt::Debug for GrpcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcConfig").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Opens streams over TLS.
#[derive(Debug)]
pub struct GrpcTransport {
    address: String,
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
}

impl GrpcTransport {
    /// Checks the options; opens nothing yet.
    ///
    /// # Errors
    /// `Setup` with the option that is wrong.
    pub fn new(config: &GrpcConfig) -> Result<Self, TransportError> {
        let wrong = |what: String| TransportError::Setup { what };
        if !config.address.starts_with("https://") {
            let address = &config.address;
            return Err(wrong(format!("the address `{address}` has to begin with `https://`")));
        }
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&config.ca_pem));
        if let Credential::Certificate { pem, key_pem } = &config.credential {
            tls = tls.identity(Identity::from_pem(pem, key_pem.as_bytes()));
        }
        let endpoint = Endpoint::from_shared(config.address.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| wrong(format!("`{}`: {error}", config.address)))?
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(PROBE_EVERY)
            .keep_alive_timeout(PROBE_EVERY)
            .keep_alive_while_idle(true);
        let token = match &config.credential {
            Credential::Certificate { .. } => None,
            Credential::Token(token) => {
                let mut token: MetadataValue<Ascii> = format!("Bearer {token}")
                    .parse()
                    .map_err(|_| wrong("the token has characters that no token has".into()))?;
                token.set_sensitive(true);
                Some(token)
            }
        };
        Ok(Self { address: config.address.clone(), endpoint, token })
    }

    /// Has the platform sign for this host; answers the certificate with its chain, PEM: the first
    /// one when it is asked again with the same key.
    ///
    /// # Errors
    /// When the broker can't be reached or refuses.
    pub async fn join(
        &self,
        certificate_request: String,
        sealing_key: Vec<u8>,
        idempotency_key: String,
    ) -> Result<String, TransportError> {
        let mut client = HostsServiceClient::new(self.channel().await?);
        let mut request =
            Request::new(JoinHostRequest { certificate_request, sealing_key, idempotency_key });
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let answer = client.join_host(request).await.map_err(|status| refused(&status))?;
        Ok(answer.into_inner().certificate)
    }

    async fn channel(&self) -> Result<Channel, TransportError> {
        self.endpoint.connect().await.map_err(|error| TransportError::Unreachable {
            address: self.address.clone(),
            source: error.into(),
        })
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn connect(&self) -> Result<Link, TransportError> {
        let mut client = HostStreamServiceClient::new(self.channel().await?)
            .max_decoding_message_size(MESSAGE_MOST)
            .max_encoding_message_size(MESSAGE_MOST);
        let (link, BrokerEnd { sender, receiver }) = pair();
        let request = ReceiverStream::new(receiver).map(to_message);
        // The broker may answer only once it has heard Hello, which is sent on the link: so the
        // call runs beside it.
        tokio::spawn(async move {
            let ended = match client.open_stream(request).await {
                Ok(answer) => relay(answer.into_inner(), &sender).await,
                Err(status) => Some(refused(&status)),
            };
            if let Some(error) = ended {
                // The agent may have given the stream up already.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(link)
    }

    /// On a connection of its own: however slow it is, the stream does not wait for it.
    async fn send_volume(
        &self,
        transfer: TransferId,
        parts: BoxStream<'static, Part>,
    ) -> Result<(), TransportError> {
        let mut client = HostStreamServiceClient::new(self.channel().await?);
        let message = |part: Part, transfer_id| v1::VolumePart { transfer_id, ..part.into() };
        let request = Messages { transfer: transfer.0.to_vec(), parts, message };
        let answer = client.send_volume(request).await;
        answer.map(|_| ()).map_err(|status| refused(&status))
    }

    /// On a connection of its own, too.
    async fn receive_volume(
        &self,
        transfer: TransferId,
        words: BoxStream<'static, Taken>,
    ) -> Result<Data, TransportError> {
        let mut client = HostStreamServiceClient::new(self.channel().await?);
        let message = |taken: Taken, transfer_id| v1::VolumeTaken { transfer_id, ..taken.into() };
        let words = Messages { transfer: transfer.0.to_vec(), parts: words, message };
        let answer = client.receive_volume(words).await;
        let data = answer.map_err(|status| refused(&status))?.into_inner();
        let data = data.map(|part| part.map(|part| part.data).map_err(|status| refused(&status)));
        Ok(Box::pin(data))
    }
}

/// The messages of a transfer; the first names it.
struct Messages<T, M> {
    transfer: Vec<u8>,
    parts: BoxStream<'static, T>,
    /// The message of a part, with the transfer's id.
    message: fn(T, Vec<u8>) -> M,
}

impl<T, M> Stream for Messages<T, M> {
    type Item = M;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let part = ready!(self.parts.as_mut().poll_next(cx));
        let transfer = std::mem::take(&mut self.transfer);
        Poll::Ready(part.map(|part| (self.message)(part, transfer)))
    }
}

/// Hands messages on until the stream ends; why it ended, unless the agent has gone.
async fn relay(
    mut stream: impl Stream<Item = Result<v1::ToHost, Status>> + Unpin,
    sender: &mpsc::Sender<Result<ToHost, TransportError>>,
) -> Option<TransportError> {
    loop {
        let next = tokio::select! {
            next = stream.next() => next,
            () = sender.closed() => return None,
        };
        let message = match next {
            Some(Ok(v1::ToHost { message: Some(message) })) => from_message(message),
            // Of a later broker: it needs nothing that this agent has not said it does.
            Some(Ok(v1::ToHost { message: None })) => continue,
            None => {
                return Some(TransportError::Ended { reason: "the broker closed it".into() });
            }
            Some(Err(status)) => return Some(refused(&status)),
        };
        match message {
            Ok(message) => sender.send(Ok(message)).await.ok()?,
            Err(error) => return Some(error),
        }
    }
}

fn refused(status: &Status) -> TransportError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => {
            TransportError::Refused { reason }
        }
        code => TransportError::Ended { reason: format!("{code:?}: {reason}") },
    }
}

fn to_message(message: FromHost) -> v1::FromHost {
    let message = match message {
        FromHost::Hello(hello) => from_host::Message::Hello(v1::Hello {
            host_id: hello.host.to_string(),
            agent_version: hello.agent_version,
            hypervisor: hello.hypervisor,
            session: hello.session,
            generation: hello.generation.0,
            migration_address: hello.migration_address,
            accelerator: hello.accelerator,
            reads_consoles: hello.reads_consoles,
            conformity: hello.conformity.as_ref().map(Into::into),
        }),
        FromHost::Renew { sequence } => from_host::Message::Renew(v1::Renew { sequence }),
        FromHost::Observed { sequence, set } => {
            from_host::Message::Observed(v1::Observed { sequence, ..(&set).into() })
        }
        FromHost::Metered(batch) => from_host::Message::Metered((&batch).into()),
        FromHost::ConsoleRead(read) => from_host::Message::ConsoleRead(read.into()),
    };
    v1::FromHost { message: Some(message) }
}

fn from_message(message: to_host::Message) -> Result<ToHost, TransportError> {
    let garbled = |what: String| TransportError::Garbled { what };
    Ok(match message {
        to_host::Message::Welcome(welcome) => ToHost::Welcome {
            lease_term_ms: welcome.lease_term_ms,
            renew_every_ms: welcome.renew_every_ms,
            generation: Generation(welcome.generation),
        },
        to_host::Message::Renewed(renewed) => {
            ToHost::Renewed { sequence: renewed.sequence, lease_term_ms: renewed.lease_term_ms }
        }
        to_host::Message::Desired(desired) => ToHost::Desired(
            DesiredSet::try_from(desired).map_err(|error| garbled(error.to_string()))?,
        ),
        to_host::Message::MeteredThrough(through) => {
            let refused = through.refused.into_iter().map(TryInto::try_into);
            let refused = refused.collect::<Result<_, DomainError>>();
            ToHost::MeteredThrough {
                batch: through.batch,
                refused: refused.map_err(|error| garbled(error.to_string()))?,
            }
        }
        to_host::Message::Send(asked) => {
            ToHost::Send(SendVolume::try_from(asked).map_err(|error| garbled(error.to_string()))?)
        }
        to_host::Message::Receive(asked) => {
            let asked = ReceiveVolume::try_from(asked);
            ToHost::Receive(asked.map_err(|error| garbled(error.to_string()))?)
        }
        to_host::Message::ReadConsole(asked) => {
            let asked = asked.try_into();
            ToHost::ReadConsole(asked.map_err(|error: DomainError| garbled(error.to_string()))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use prost::Message as _;

    use super::*;

    #[tokio::test]
    async fn what_a_later_broker_says_is_passed_over_and_what_makes_no_sense_ends_the_stream() {
        // A field that no version has, with a message in it.
        let later = v1::ToHost::decode([0xfa, 0x3e, 0x02, 0x08, 0x01].as_slice()).unwrap();
        let renewed = v1::Renewed { sequence: 7, lease_term_ms: 1 };
        let renewed = v1::ToHost { message: Some(to_host::Message::Renewed(renewed)) };
        let odd = v1::Send { transfer_id: vec![1], ..Default::default() };
        let odd = v1::ToHost { message: Some(to_host::Message::Send(odd)) };
        let (sender, mut heard) = mpsc::channel(8);
        let said = stream::iter([later, renewed, odd].map(Ok));
        let ended = relay(said, &sender).await.unwrap();
        assert!(matches!(ended, TransportError::Garbled { .. }), "{ended}");
        let first = heard.try_recv().unwrap().unwrap();
        assert_eq!(first, ToHost::Renewed { sequence: 7, lease_term_ms: 1 });
        assert!(heard.try_recv().is_err());
    }
}
