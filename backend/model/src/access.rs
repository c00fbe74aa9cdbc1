//! Accounts, credentials and roles.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AccountId, HostId, TokenId},
    units::{Revision, UnixMs},
};

/// A customer, an operator of hosts, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// For people.
    pub name: String,
    /// When it was opened.
    pub created_at: UnixMs,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

/// What a credential may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything with the account's own instances, volumes and groups.
    Customer,
    /// The account's own hosts.
    HostOperator,
    /// One host's stream; made when a host is joined.
    Host,
    /// Accounts, and reading everything of the platform.
    PlatformOperator,
    /// Reading everything and the audit log; changing nothing.
    Auditor,
}

/// How a credential is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A bearer token; the platform keeps its SHA-256 only.
    Token,
    /// A client certificate; the platform keeps the SHA-256 of its DER.
    Certificate,
}

/// A credential of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id.
    pub id: TokenId,
    /// Whose it is.
    pub account: AccountId,
    /// Token or certificate.
    pub kind: CredentialKind,
    /// SHA-256 of the secret or of the certificate, in hex.
    pub sha256: String,
    /// What it may do.
    pub role: Role,
    /// The host that it speaks for; only with [`Role::Host`].
    #[serde(default)]
    pub host: Option<HostId>,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMs,
    /// From when on it is no longer valid.
    #[serde(default)]
    pub expires_at: Option<UnixMs>,
    /// When it was revoked.
    #[serde(default)]
    pub revoked_at: Option<UnixMs>,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}
