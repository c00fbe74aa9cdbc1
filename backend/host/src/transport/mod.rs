//! How the agent reaches the broker: a stream of messages each way, behind a trait, so that a
//! simulated world runs without a network.

mod grpc;
mod joined;

use async_trait::async_trait;
use fairmazon_model::{
    conformity::Proof,
    console::{ConsoleRead, ReadConsole},
    id::HostId,
    machine::{DesiredSet, ObservedSet},
    transfer::{Part, ReceiveVolume, SendVolume, Taken, TransferId},
    units::Generation,
    usage::{RefusedWindow, WindowBatch},
};
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use grpc::{Credential, GrpcConfig, GrpcTransport};
pub use joined::JoinedTransport;

/// Messages that may wait in a direction of a stream.
const QUEUED_MOST: usize = 8;

/// What a host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromHost {
    /// First on every stream.
    Hello(Hello),
    /// Asks for another term of the lease.
    Renew {
        /// Ascending within the stream.
        sequence: u64,
    },
    /// All that the host has.
    Observed {
        /// Ascending within the session.
        sequence: u64,
        /// The set.
        set: ObservedSet,
    },
    /// What was used.
    Metered(WindowBatch),
    /// Answers a [`ToHost::ReadConsole`].
    ConsoleRead(ConsoleRead),
}

/// Who opens the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host.
    pub host: HostId,
    /// The agent's version.
    pub agent_version: String,
    /// The hypervisor's kind.
    pub hypervisor: String,
    /// Another one at each start of the agent.
    pub session: String,
    /// The highest generation that the host has.
    pub generation: Generation,
    /// Where its agent takes machines from other hosts, as `NAME:PORT`; empty when it takes none.
    pub migration_address: String,
    /// What runs its guests, where one that runs can't go on by another; empty where all hosts of its
    /// kind are alike, or it does not say.
    pub accelerator: String,
    /// Whether it answers for consoles.
    pub reads_consoles: bool,
    /// What it proves of the host standard; none before its first look.
    pub conformity: Option<Proof>,
}

/// What the broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// Answers Hello.
    Welcome {
        /// How long a lease lasts, in ms.
        lease_term_ms: u64,
        /// How often to renew, in ms.
        renew_every_ms: u64,
        /// The broker's generation for this host; one below the host's own means that the broker
        /// was restored, and its sets count from here on.
        generation: Generation,
    },
    /// Answers Renew.
    Renewed {
        /// Of the Renew.
        sequence: u64,
        /// How long the lease lasts from when that was sent, in ms.
        lease_term_ms: u64,
    },
    /// All that the host shall bring about.
    Desired(DesiredSet),
    /// Answers Metered: the windows are in the store, but for these.
    MeteredThrough {
        /// Of the batch.
        batch: u64,
        /// Those that are refused for good.
        refused: Vec<RefusedWindow>,
    },
    /// A customer waits for a volume's file.
    Send(SendVolume),
    /// A customer has a volume's file.
    Receive(ReceiveVolume),
    /// A customer waits for what a guest has written last.
    ReadConsole(ReadConsole),
}

/// One open stream. It has ended when the receiver gives none; an error before that says why.
#[derive(Debug)]
pub struct Link {
    /// To the broker.
    pub sender: mpsc::Sender<FromHost>,
    /// From the broker.
    pub receiver: mpsc::Receiver<Result<ToHost, TransportError>>,
}

/// The broker's end of an in-process stream.
#[derive(Debug)]
pub struct BrokerEnd {
    /// To the host.
    pub sender: mpsc::Sender<Result<ToHost, TransportError>>,
    /// From the host.
    pub receiver: mpsc::Receiver<FromHost>,
}

/// Both ends of an in-process stream.
pub fn pair() -> (Link, BrokerEnd) {
    let (to_broker, from_host) = mpsc::channel(QUEUED_MOST);
    let (to_host, from_broker) = mpsc::channel(QUEUED_MOST);
    (
        Link { sender: to_broker, receiver: from_broker },
        BrokerEnd { sender: to_host, receiver: from_host },
    )
}

/// Opens streams to the broker.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Opens a stream; the agent says Hello on it.
    ///
    /// # Errors
    /// When the broker can't be reached or refuses.
    async fn connect(&self) -> Result<Link, TransportError>;

    /// Keeps the way open beside the streams until `stop`, whether there is one or not: what the
    /// host shows of itself is renewed before it ends. Returns at once where nothing ever ends.
    async fn tend(&self, _stop: CancellationToken) {}

    /// Sends a volume's file for a [`ToHost::Send`], beside the stream and not on it; ends when
    /// all was taken, or nobody waits for it any more.
    ///
    /// # Errors
    /// When the broker can't be reached or takes no more.
    async fn send_volume(
        &self,
        _: TransferId,
        _: BoxStream<'static, Part>,
    ) -> Result<(), TransportError> {
        Err(TransportError::Setup { what: "this way to the broker has no transfers".into() })
    }

    /// Takes a volume's file for a [`ToHost::Receive`], beside the stream and not on it. What is
    /// said of it is sent as it comes, and the parts come as they are taken; they end when the
    /// broker has heard that all was stored, or that it failed.
    ///
    /// # Errors
    /// When the broker can't be reached.
    async fn receive_volume(
        &self,
        _: TransferId,
        _: BoxStream<'static, Taken>,
    ) -> Result<Data, TransportError> {
        Err(TransportError::Setup { what: "this way to the broker has no transfers".into() })
    }
}

/// The parts of a file, as they come.
pub type Data = BoxStream<'static, Result<Vec<u8>, TransportError>>;

/// A transport within the process: hands the broker's end of each new stream to a channel.
#[async_trait]
impl Transport for mpsc::Sender<BrokerEnd> {
    async fn connect(&self) -> Result<Link, TransportError> {
        let (link, end) = pair();
        let gone = |_| TransportError::Ended { reason: "the broker is gone".into() };
        self.send(end).await.map_err(gone)?;
        Ok(link)
    }
}

/// Why a stream did not come about, or ended.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// An option of the connection is wrong; repeating does not help.
    #[error("the connection to the broker is set up wrongly: {what}")]
    Setup {
        /// Which option, and what it has to be.
        what: String,
    },
    /// Nobody answers, or not as a broker.
    #[error("the broker at {address} can't be reached")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The broker does not let this host in.
    #[error(
        "the broker refuses this host ({reason}): check the host's token, or have its operator make a new one"
    )]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The host's own keys or certificate can't be used.
    #[error("the host's identity can't be used")]
    Identity(#[source] Box<crate::identity::IdentityError>),
    /// The stream ended.
    #[error("the stream to the broker ended: {reason}")]
    Ended {
        /// Why, as far as it is known.
        reason: String,
    },
    /// The broker said something that makes no sense.
    #[error("the broker sent a message that can't be understood: {what}")]
    Garbled {
        /// What is wrong with it.
        what: String,
    },
}
