//! Why a command failed, as it is told to who typed it.

use std::{error::Error, io, net::SocketAddr, path::PathBuf};

use fairmazon_model::{DomainError, ErrorKind};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// A file or folder can't be used.
    #[error("unable to {verb} {path}", path = path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the data folder does not hold what it should.
    #[error("{path} can't be read: {reason}; restore it from a backup, or start with another data folder", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that was named does not hold what it should.
    #[error("{path} can't be used: {reason}", path = path.display())]
    Given {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The store can't be opened or used.
    #[error("unable to use the store in {path}", path = path.display())]
    Store {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        #[source]
        source: fairmazon_store::StoreError,
    },
    /// The state in the store can't be loaded.
    #[error("unable to load the state in {path}: {reason}", path = path.display())]
    Load {
        /// Where it is.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// The customer's identity of an earlier start is gone.
    #[error(
        "{path} is gone, and it opens the volumes of this platform: put it back from a copy; to go \
         on without them, make another one with `fairmazon key init {path}`", path = path.display()
    )]
    NoIdentity {
        /// Where it was.
        path: PathBuf,
    },
    /// TLS can't be set up.
    #[error("unable to set up TLS")]
    Tls(#[source] fairmazon_broker::api::TlsError),
    /// The broker can't listen.
    #[error("unable to start the broker")]
    Server(#[source] fairmazon_broker::ServerError),
    /// The platform refuses.
    #[error("{what}")]
    Refused {
        /// What was attempted.
        what: String,
        /// Why not.
        #[source]
        source: Box<DomainError>,
    },
    /// The broker can't be reached.
    #[error(
        "unable to reach the broker at {endpoint}: check the endpoint, the CA certificate, and that the broker runs"
    )]
    Connect {
        /// Where it was looked for.
        endpoint: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The host agent ended with an error.
    #[error("the host agent can't run")]
    Agent(#[source] Box<dyn Error + Send + Sync>),
    /// The hypervisor can't be used.
    #[error("the hypervisor {kind} can't be used here")]
    Hypervisor {
        /// Which.
        kind: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The hosts of `fairmazon dev` have no hypervisor.
    #[error(
        "the hosts can't run machines; `fairmazon dev --hypervisor simulated` needs nothing for it"
    )]
    NoHosts(#[source] Box<Self>),
    /// An image is not made or taken.
    #[error("unable to {attempted}")]
    Image {
        /// What was attempted.
        attempted: &'static str,
        /// Why not.
        #[source]
        source: fairmazon_image::ImageError,
    },
    /// The hosts did not connect in time.
    #[error(
        "{connected} of {all} hosts have connected to {address}, the others have not; the log says why"
    )]
    Hosts {
        /// How many have.
        connected: usize,
        /// How many shall.
        all: usize,
        /// Where the broker listens.
        address: SocketAddr,
    },
    /// An exported volume is not opened.
    #[error("unable to open the volume: nothing was written")]
    Open(#[source] fairmazon_hypervisor_libvirt::qemu::OpenError),
    /// The host does not reach the level of the standard that was asked for.
    #[error("the host does not reach level {asked} of the host standard (it reaches {level})")]
    BelowStandard {
        /// What was asked for.
        asked: u8,
        /// What it reaches.
        level: String,
    },
    /// The host reaches no level of the standard.
    #[error(
        "the host has not joined: it does not reach level 0 of the host standard, which every host \
         has to; do what the list says and run this again"
    )]
    MayNotJoin,
    /// Something is still on a host that was to be emptied.
    #[error(
        "{machines} machines and {volumes} volumes are still on the host {host}; what stays \
         has to be stopped, copied or deleted by its customers"
    )]
    NotEmpty {
        /// Which host.
        host: String,
        /// How many machines.
        machines: usize,
        /// How many volumes.
        volumes: usize,
    },
    /// A signal came before everything was ready.
    #[error("ended before it was ready, as was asked for")]
    Interrupted,
    /// An argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// The operating system gives no runtime, signal or random numbers.
    #[error("the operating system does not give what is needed")]
    System(#[source] io::Error),
}

impl CommandError {
    /// A file or folder can't be used.
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }

    /// As `fairmazon dev` tells it, whose hosts are for trials and may be simulated as well. Those of
    /// an operator have customers' machines, and no other driver does for them.
    pub(crate) fn for_trials(self) -> Self {
        match self {
            Self::Hypervisor { .. } => Self::NoHosts(Box::new(self)),
            other => other,
        }
    }

    /// Whether the broker was away, or could not do it just then.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind == ErrorKind::Unavailable)
    }

    /// The platform refuses.
    pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(DomainError) -> Self {
        let what = what.into();
        move |source| Self::Refused { what, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_alone_are_told_of_simulated_machines() {
        let failed = || CommandError::Hypervisor { kind: "libvirt", source: "refused".into() };
        assert!(!failed().to_string().contains("simulated"));
        let told = failed().for_trials();
        assert!(told.to_string().contains("`fairmazon dev --hypervisor simulated`"), "{told}");
        assert_eq!(told.source().unwrap().to_string(), failed().to_string());
        assert!(matches!(CommandError::Interrupted.for_trials(), CommandError::Interrupted));
    }
}
