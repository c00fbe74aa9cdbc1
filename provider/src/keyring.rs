//! The customer's identity in the plugin, with the known hosts that are kept beside its file.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fairmazon_keys::{Identity, KeyError};
use fairmazon_model::{
    id::{HostId, VolumeId},
    key::KeyRequest,
    units::UnixMs,
};
use fairmazon_proto::v1;
use parking_lot::Mutex;

/// The customer's identity and the hosts that are known.
#[derive(Debug)]
pub struct Keyring {
    keys: Mutex<fairmazon_keys::Keyring>,
    known_hosts: PathBuf,
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
    #[error("the broker asks for a key of {what:?}, which is no id")]
    Request {
        /// What it named.
        what: String,
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

impl Keyring {
    /// The identity that the text of `file` holds, with the hosts that are known beside it.
    /// `authorities` sign for hosts, PEM.
    ///
    /// # Errors
    /// When the text holds no identity, or the known hosts can't be read.
    pub fn new(file: &Path, text: &str, authorities: String) -> Result<Self, KeyringError> {
        let identity = Identity::read(text)?;
        let mut known_hosts = file.as_os_str().to_owned();
        known_hosts.push(".hosts");
        let known_hosts = PathBuf::from(known_hosts);
        let known = match std::fs::read_to_string(&known_hosts) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| failed(&known_hosts, "read", &error))?,
        };
        let keys = Mutex::new(fairmazon_keys::Keyring::new(identity, authorities, &known));
        Ok(Self { keys, known_hosts })
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
        let odd = |what: &str| KeyringError::Request { what: what.to_owned() };
        let volume: VolumeId = request.volume_id.parse().map_err(|_| odd(&request.volume_id))?;
        let host: HostId = request.host_id.parse().map_err(|_| odd(&request.host_id))?;
        let version = request.version;
        let request = KeyRequest { volume, host, version, certificate: request.host_certificate };
        let answer = self.keys.lock().answer(&request, now).map_err(|error| match error {
            KeyError::ChangedHost { host, .. } => {
                KeyringError::Changed { error, host, file: self.known_hosts.clone() }
            }
            error => error.into(),
        })?;
        if let Some(line) = answer.first_seen {
            self.keep(&line).map_err(|error| failed(&self.known_hosts, "kept", &error))?;
        }
        let key = answer.key;
        Ok(v1::GivenKey {
            volume_id: volume.to_string(),
            host_id: host.to_string(),
            version: key.version,
            fingerprint: key.fingerprint,
            sealed: key.sealed.0,
            wrapped: key.wrapped.0,
        })
    }

    fn keep(&self, line: &str) -> io::Result<()> {
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&self.known_hosts)?;
        // One write, so that lines of runs at the same time do not mix.
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

fn failed(file: &Path, verb: &'static str, error: &io::Error) -> KeyringError {
    KeyringError::KnownHosts { file: file.to_owned(), verb, reason: error.to_string() }
}
