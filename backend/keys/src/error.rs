//! Why a key can't be made, read, sealed or opened. Never holds a byte of one.

use fairmazon_model::id::{HostId, VolumeId};

/// What is wrong with a key, a seal or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system gave no random bytes.
    #[error("the system has no random bytes: {reason}")]
    NoRandomness {
        /// What it said.
        reason: String,
    },
    /// No identity in the text.
    #[error(
        "there is no age identity in it: a line that begins with AGE-SECRET-KEY-1 is expected, as \
         `fairmazon key init` writes it"
    )]
    NoIdentity,
    /// A line of the known hosts is not one.
    #[error(
        "line {line} is not a host and the fingerprint of its key, so it is damaged: put the file \
         back from a copy; without one, remove the line (or the file, if it has no other), and \
         compare the key of its host with its operator when it is noted again"
    )]
    BadKnownHost {
        /// Which line, from 1.
        line: usize,
    },
    /// A line that should be an identity is none.
    #[error("line {line} is not an age identity of X25519: {reason}")]
    BadIdentity {
        /// Which line, from 1.
        line: usize,
        /// Why not.
        reason: &'static str,
    },
    /// Not a recipient of age.
    #[error("this is not an age recipient of X25519 (age1…)")]
    BadRecipient,
    /// The host's sealing key is no point of the curve.
    #[error("this is not a sealing key of a host: it has to be 32 bytes of X25519")]
    BadSealingKey,
    /// Sealing failed.
    #[error("the key of {volume} can't be sealed for {host}: its sealing key is not usable")]
    NotSealed {
        /// Of which volume.
        volume: VolumeId,
        /// For which host.
        host: HostId,
    },
    /// The seal does not open.
    #[error(
        "the sealed key of {volume} does not open on {host}: it was changed on its way, or made for \
         another host, volume, purpose or version"
    )]
    NotOpened {
        /// Of which volume.
        volume: VolumeId,
        /// On which host.
        host: HostId,
    },
    /// The wrap does not open.
    #[error(
        "the wrapped key of {volume} does not open with this identity: it was wrapped for another \
         one, or was changed"
    )]
    NotUnwrapped {
        /// Of which volume.
        volume: VolumeId,
    },
    /// The wrap does not open, whichever volume it is of.
    #[error(
        "this wrapped key does not open with this identity: it was wrapped for another one, or was \
         changed"
    )]
    NotAWrappedKey,
    /// A host is known with another sealing key than it shows.
    #[error(
        "the sealing key of {host} has changed from {known} to {shown}: somebody may be trying to \
         read your data, or the host was set up anew"
    )]
    ChangedHost {
        /// Which host.
        host: HostId,
        /// The fingerprint that it is known with.
        known: String,
        /// The fingerprint that it shows.
        shown: String,
    },
    /// The host has no key that seals open with.
    #[error("{host} has not joined, so no seal opens there")]
    NotJoined {
        /// Which host.
        host: HostId,
    },
    /// A certificate is not a host's.
    #[error("this certificate says of no host, or of several, that it is theirs")]
    NoHost,
    /// A certificate that signatures should be checked by can't be read.
    #[error("the certificate of who has signed can't be read: {reason}")]
    BadSigner {
        /// Why.
        reason: String,
    },
    /// A signature is not of this, or not by this key.
    #[error("the signature does not match: something else was signed, or somebody else has signed")]
    BadSignature,
    /// A host's certificate has ended.
    #[error(
        "the certificate of {host} has expired: its agent renews it while it reaches the platform, \
         and the host joins anew with a token where it could not"
    )]
    ExpiredCertificate {
        /// Whose.
        host: HostId,
    },
    /// A host's certificate is not to be believed.
    #[error("the certificate of {host} is not to be trusted: {reason}")]
    BadCertificate {
        /// Whose.
        host: HostId,
        /// Why.
        reason: String,
    },
}
