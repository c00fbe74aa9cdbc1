//! Accounts, credentials and roles.

use serde::{Deserialize, Serialize};

use crate::{
    id::{AccountId, HostId, TokenId},
    key::Blob,
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

/// Whether what a credential is shown by could be registered again, once the platform has forgotten
/// it. A revocation is kept for as long as it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurs {
    /// Never: a secret that the platform has made at random.
    Never,
    /// Until then: a certificate, which ends by itself.
    Until(UnixMs),
    /// At any time: a secret that was made elsewhere, or nobody knows where.
    #[default]
    Always,
}

/// The public keys that a host has joined with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedWith {
    /// SHA-256 of the key for TLS, in hex.
    pub tls_key_sha256: String,
    /// What volume keys are sealed to.
    pub sealing_key: Blob,
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
    /// Whether it could come again.
    #[serde(default)]
    pub recurs: Recurs,
    /// The keys that it joined a host with, and joins it with from then on; only of a host's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_with: Option<JoinedWith>,
    /// Set by the store at each change.
    #[serde(default)]
    pub revision: Revision,
}

impl Credential {
    /// From when on it is of no use to know of it: it is not valid, and what it was shown by can't
    /// become valid again. None as long as that is not known.
    pub fn useless_from(&self) -> Option<UnixMs> {
        let Some(revoked) = self.revoked_at else { return self.expires_at };
        match self.recurs {
            Recurs::Never => Some(self.expires_at.map_or(revoked, |ends| ends.min(revoked))),
            Recurs::Until(ends) => Some(ends.max(revoked)),
            Recurs::Always => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(expires: Option<i64>, revoked: Option<i64>, recurs: Recurs) -> Credential {
        Credential {
            id: TokenId::from_parts(1, 1),
            account: AccountId::from_parts(1, 1),
            kind: CredentialKind::Token,
            sha256: String::new(),
            role: Role::Customer,
            host: None,
            name: String::new(),
            created_at: UnixMs(0),
            expires_at: expires.map(UnixMs),
            revoked_at: revoked.map(UnixMs),
            recurs,
            joined_with: None,
            revision: Revision(0),
        }
    }

    #[test]
    fn a_revocation_is_kept_while_the_same_could_come_again() {
        use Recurs::{Always, Never, Until};
        for (expires, revoked, recurs, useless) in [
            (None, None, Never, None),
            (Some(5), None, Never, Some(5)),
            (Some(5), None, Always, Some(5)),
            (None, Some(3), Never, Some(3)),
            (Some(5), Some(3), Never, Some(3)),
            (Some(5), Some(7), Never, Some(5)),
            // A certificate that was registered for a shorter time than it lasts.
            (Some(5), Some(3), Until(UnixMs(9)), Some(9)),
            (Some(9), Some(12), Until(UnixMs(9)), Some(12)),
            (None, Some(3), Always, None),
            (Some(5), Some(3), Always, None),
        ] {
            let row = credential(expires, revoked, recurs);
            assert_eq!(row.useless_from(), useless.map(UnixMs), "{row:?}");
        }
    }

    #[test]
    fn of_a_credential_of_an_earlier_version_nothing_is_assumed() {
        let mut row = serde_json::to_value(credential(None, Some(3), Recurs::Never)).unwrap();
        row.as_object_mut().unwrap().remove("recurs").unwrap();
        assert!(row.get("joined_with").is_none(), "{row}");
        let row: Credential = serde_json::from_value(row).unwrap();
        assert_eq!((row.recurs, row.joined_with), (Recurs::Always, None));
    }
}
