//! What host and broker say to each other, in the model's types, and its translation to and
//! from the messages of `fairmazon.host.v1`.

use fairmazon_model::{
    DomainError,
    conformity::Proof,
    console::{ConsoleRead, ReadConsole},
    id::HostId,
    machine::{DesiredSet, ObservedSet},
    transfer::{ReceiveVolume, SendVolume},
    units::Generation,
    usage::{RefusedWindow, WindowBatch},
};
use fairmazon_proto::host::v1;

/// What a host says first on every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host.
    pub host: HostId,
    /// The agent's version.
    pub agent_version: String,
    /// The kind of its hypervisor.
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

/// What a host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSays {
    /// First on every stream.
    Hello(Hello),
    /// Asks for another term of its lease.
    Renew {
        /// Ascending within the stream.
        sequence: u64,
    },
    /// All that it has.
    Observed {
        /// Ascending within the session of the agent.
        sequence: u64,
        /// The set.
        set: ObservedSet,
    },
    /// What was used.
    Metered(WindowBatch),
    /// Answers [`BrokerSays::ReadConsole`].
    ConsoleRead(ConsoleRead),
}

/// What the broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerSays {
    /// Answers Hello.
    Welcome {
        /// How long a lease lasts, in ms.
        lease_term_ms: u64,
        /// How often to renew, in ms.
        renew_every_ms: u64,
        /// The generation of the set that follows. A host with a higher one takes the sets of
        /// this stream all the same: the broker was restored.
        generation: Generation,
    },
    /// Answers Renew: the lease lasts from when that was sent.
    Renewed {
        /// Of the Renew.
        sequence: u64,
        /// How long, in ms.
        lease_term_ms: u64,
    },
    /// All that the host shall bring about.
    Desired(DesiredSet),
    /// Answers Metered, once the windows are in the store, but for those that are refused.
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

impl TryFrom<v1::FromHost> for HostSays {
    type Error = DomainError;

    /// # Errors
    /// `Invalid` with the field that can't be read.
    fn try_from(message: v1::FromHost) -> Result<Self, DomainError> {
        let missing = || {
            DomainError::invalid("message", "it says nothing that is known")
                .advise("update the broker: the host's agent is newer")
        };
        match message.message.ok_or_else(missing)? {
            v1::from_host::Message::Hello(hello) => Ok(Self::Hello(Hello {
                host: hello
                    .host_id
                    .parse()
                    .map_err(|error| DomainError::invalid("hello.host_id", format!("{error}")))?,
                agent_version: hello.agent_version,
                hypervisor: hello.hypervisor,
                session: hello.session,
                generation: Generation(hello.generation),
                migration_address: hello.migration_address,
                accelerator: hello.accelerator,
                reads_consoles: hello.reads_consoles,
                conformity: hello
                    .conformity
                    .map(TryInto::try_into)
                    .transpose()
                    .map_err(|error: DomainError| error.below("hello"))?,
            })),
            v1::from_host::Message::Renew(renew) => Ok(Self::Renew { sequence: renew.sequence }),
            v1::from_host::Message::Observed(observed) => {
                let sequence = observed.sequence;
                let set = observed.try_into();
                let set = set.map_err(|error: DomainError| error.below("observed"))?;
                Ok(Self::Observed { sequence, set })
            }
            v1::from_host::Message::Metered(metered) => {
                let batch = metered.try_into();
                Ok(Self::Metered(batch.map_err(|error: DomainError| error.below("metered"))?))
            }
            v1::from_host::Message::ConsoleRead(read) => {
                let read = read.try_into();
                let read = read.map_err(|error: DomainError| error.below("console_read"))?;
                Ok(Self::ConsoleRead(read))
            }
        }
    }
}

impl From<&BrokerSays> for v1::ToHost {
    fn from(says: &BrokerSays) -> Self {
        use v1::to_host::Message;
        let message = match says {
            BrokerSays::Welcome { lease_term_ms, renew_every_ms, generation } => {
                Message::Welcome(v1::Welcome {
                    lease_term_ms: *lease_term_ms,
                    renew_every_ms: *renew_every_ms,
                    generation: generation.0,
                })
            }
            BrokerSays::Renewed { sequence, lease_term_ms } => {
                Message::Renewed(v1::Renewed { sequence: *sequence, lease_term_ms: *lease_term_ms })
            }
            BrokerSays::Desired(set) => Message::Desired(set.into()),
            BrokerSays::MeteredThrough { batch, refused } => {
                Message::MeteredThrough(v1::MeteredThrough {
                    batch: *batch,
                    refused: refused.iter().map(Into::into).collect(),
                })
            }
            BrokerSays::Send(asked) => Message::Send(asked.into()),
            BrokerSays::Receive(asked) => Message::Receive(asked.into()),
            BrokerSays::ReadConsole(asked) => Message::ReadConsole(asked.into()),
        };
        Self { message: Some(message) }
    }
}
