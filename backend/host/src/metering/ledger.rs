//! What a ledger of windows is: it signs them, keeps them until the broker has them, and keeps
//! what the meter has to know again after a restart.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use fairmazon_model::{
    id::HostId,
    key::Blob,
    usage::{SignedWindow, UsageWindow},
};
use parking_lot::Mutex;

use super::meter::Memory;
use crate::identity::{HostIdentity, IdentityError};

/// Signs in the host's name.
pub trait Signer: Send + Sync + 'static {
    /// Signs with ECDSA, P-256 and SHA-256; the signature in ASN.1 DER.
    ///
    /// # Errors
    /// When the key can't be used.
    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError>;

    /// What tells the key that signs from every other one.
    fn key(&self) -> String;

    /// The certificate that says whose signature it is, with its chain, PEM; none before the host
    /// has joined.
    ///
    /// # Errors
    /// When it can't be read.
    fn certificate(&self) -> Result<Option<String>, IdentityError>;
}

impl Signer for HostIdentity {
    fn key(&self) -> String {
        self.tls_key_sha256()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Self::sign(self, bytes)
    }

    fn certificate(&self) -> Result<Option<String>, IdentityError> {
        Ok(Self::certificate(self)?.map(|joined| joined.pem))
    }
}

/// What was found at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// What the meter is to know.
    pub memory: Memory,
    /// The last window of each series among those that are kept.
    pub last: Vec<UsageWindow>,
    /// What could not be read, and where it was put aside.
    pub put_aside: Option<String>,
}

/// Windows for one message to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The certificate that says whose signatures they have, with its chain, PEM.
    pub certificate: String,
    /// The oldest that the broker has not acknowledged, in their order.
    pub windows: Vec<SignedWindow>,
}

/// Keeps windows.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// What was kept. What is damaged is put aside, never deleted and never a failure.
    ///
    /// # Errors
    /// When the place itself can't be used.
    async fn load(&self) -> Result<Found, LedgerError>;

    /// Signs the windows and keeps them; when this returns they outlive a crash of the machine.
    ///
    /// # Errors
    /// When they could not be made durable: then none of them is kept.
    async fn append(&self, windows: Vec<UsageWindow>) -> Result<(), LedgerError>;

    /// Keeps what the meter has to know again.
    ///
    /// # Errors
    /// When it could not be made durable; what was kept before still is.
    async fn remember(&self, memory: Memory) -> Result<(), LedgerError>;

    /// The oldest windows, at most this many; none without any, or without a certificate.
    ///
    /// # Errors
    /// When they can't be read.
    async fn next(&self, most: usize) -> Result<Option<Batch>, LedgerError>;

    /// The broker has the first `count` windows of the last [`next`](Self::next).
    ///
    /// # Errors
    /// When they could not be removed; they are told again after a restart, which does no harm.
    async fn acknowledged(&self, count: usize) -> Result<(), LedgerError>;

    /// Whether there is room for more.
    fn has_room(&self) -> bool;
}

/// Why windows could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading or writing failed.
    #[error("could not {attempted} {}: check the disk's room and the folder's rights", path.display())]
    Io {
        /// What was tried, as a verb.
        attempted: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The host's key or certificate can't be used.
    #[error("windows can't be signed")]
    Sign(#[source] IdentityError),
}

/// Signs windows in the name of the host.
pub(super) fn signed(
    host: HostId,
    signer: &dyn Signer,
    windows: Vec<UsageWindow>,
) -> Result<Vec<SignedWindow>, LedgerError> {
    let sign = |window: UsageWindow| {
        let signature = signer.sign(&window.signed_bytes(host)).map_err(LedgerError::Sign)?;
        Ok(SignedWindow { window, signature: Blob(signature) })
    };
    windows.into_iter().map(sign).collect()
}

/// Windows in memory, for simulated agents: outlives the agent, not the process.
pub struct MemoryLedger {
    host: HostId,
    signer: Arc<dyn Signer>,
    kept: Mutex<(Memory, VecDeque<SignedWindow>)>,
}

impl MemoryLedger {
    /// An empty one.
    pub fn new(host: HostId, signer: Arc<dyn Signer>) -> Self {
        Self { host, signer, kept: Mutex::default() }
    }

    /// How many windows wait for the broker.
    pub fn waiting(&self) -> usize {
        self.kept.lock().1.len()
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn load(&self) -> Result<Found, LedgerError> {
        let kept = self.kept.lock();
        // All of them will do: of each series the last one counts.
        let last = kept.1.iter().map(|signed| signed.window.clone()).collect();
        Ok(Found { memory: kept.0.clone(), last, put_aside: None })
    }

    async fn append(&self, windows: Vec<UsageWindow>) -> Result<(), LedgerError> {
        let windows = signed(self.host, &*self.signer, windows)?;
        self.kept.lock().1.extend(windows);
        Ok(())
    }

    async fn remember(&self, memory: Memory) -> Result<(), LedgerError> {
        self.kept.lock().0 = memory;
        Ok(())
    }

    async fn next(&self, most: usize) -> Result<Option<Batch>, LedgerError> {
        let windows: Vec<_> = self.kept.lock().1.iter().take(most).cloned().collect();
        let certificate = self.signer.certificate().map_err(LedgerError::Sign)?;
        Ok(certificate
            .filter(|_| !windows.is_empty())
            .map(|certificate| Batch { certificate, windows }))
    }

    async fn acknowledged(&self, count: usize) -> Result<(), LedgerError> {
        let windows = &mut self.kept.lock().1;
        let count = count.min(windows.len());
        windows.drain(..count);
        Ok(())
    }

    fn has_room(&self) -> bool {
        true
    }
}
