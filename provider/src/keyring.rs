//! The customer's identity in the plugin, with the known hosts that are kept beside its file.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use fairmazon_keys::{Identity, KeyError, KnownHostsFile, read_identity_file};
use fairmazon_model::{
    DomainError,
    id::HostId,
    key::{GivenKey, KeyRequest},
    units::UnixMs,
};
use fairmazon_proto::v1;
use parking_lot::Mutex;

/// The customer's identity and the hosts that are known.
#[derive(Debug)]
pub struct Keyring {
    keys: Mutex<fairmazon_keys::Keyring>,
    known_hosts: KnownHostsFile,
}

/// Why no key can be given to a host.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyringError {
    /// A key, a seal or a certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A host is known with another key.
    #[error("{error}: if its operator confirms that, remove the line of {host} from {file}", file = file.display())]
    Changed {
        /// Which host, and how it was known.
        error: KeyError,
        /// Which host.
        host: HostId,
        /// Where it was kept.
        file: PathBuf,
    },
    /// The broker's request can't be read.
    #[error("the broker asks for a key in words that make no sense: {0}")]
    Request(#[from] DomainError),
    /// The identity can't be read.
    #[error("the identity in {file} can't be read: {reason}. {IDENTITY_ADVICE}", file = file.display())]
    Identity {
        /// Which file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The known hosts can't be read or kept.
    #[error("the known hosts in {file} can't be {verb}: {reason}", file = file.display())]
    KnownHosts {
        /// Which file.
        file: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        reason: String,
    },
}

/// What to do about an identity that can't be used.
const IDENTITY_ADVICE: &str = "Give the path of the file that `fairmazon key init` made, or put it \
    back from a copy. If it is lost, and no copy is left, the volumes that it was used for can't be \
    read any more by anybody";

impl Keyring {
    /// The identity in `file`, with the hosts that are known beside it. `authorities` sign for
    /// hosts, PEM.
    ///
    /// # Errors
    /// When there is no identity in the file, or one of the files is damaged, can't be read or may
    /// be changed by others.
    pub fn open(file: &Path, authorities: String) -> Result<Self, KeyringError> {
        let wrong = |reason: String| KeyringError::Identity { file: file.to_owned(), reason };
        let text = read_identity_file(file).map_err(|error| wrong(error.to_string()))?;
        let identity = Identity::read(&text).map_err(|error| wrong(error.to_string()))?;
        let known_hosts = KnownHostsFile::beside(file);
        let known = known_hosts.read().map_err(|error| failed(&known_hosts, "read", error))?;
        let keys = fairmazon_keys::Keyring::new(identity, authorities, &known)
            .map_err(|error| failed(&known_hosts, "used", error))?;
        Ok(Self { keys: Mutex::new(keys), known_hosts })
    }

    /// Makes the key that is asked for.
    ///
    /// # Errors
    /// When the host is not to be believed, or has another key than is known.
    pub fn answer(
        &self,
        request: v1::KeyRequest,
        now: UnixMs,
    ) -> Result<v1::GivenKey, KeyringError> {
        let request: KeyRequest = request.try_into()?;
        let answer = self.keys.lock().answer(&request, now).map_err(|error| match error {
            KeyError::ChangedHost { host, .. } => {
                KeyringError::Changed { error, host, file: self.known_hosts.path().into() }
            }
            error => error.into(),
        })?;
        if let Some(line) = answer.first_seen {
            let kept = self.known_hosts.note(&line);
            kept.map_err(|error| failed(&self.known_hosts, "kept", error))?;
        }
        let KeyRequest { volume, host, .. } = request;
        Ok(GivenKey { volume, host, key: answer.key }.into())
    }
}

fn failed(file: &KnownHostsFile, verb: &'static str, error: impl Display) -> KeyringError {
    KeyringError::KnownHosts { file: file.path().into(), verb, reason: error.to_string() }
}
