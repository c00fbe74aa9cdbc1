//! Accounts, roles and credentials. A credential's hash stays inside the broker.

use fairmazon_model::{
    DomainError,
    access::{Account, Credential, CredentialKind, Role},
};

use crate::v1;

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Customer => Self::Customer,
            Role::HostOperator => Self::HostOperator,
            Role::Host => Self::Host,
            Role::PlatformOperator => Self::PlatformOperator,
            Role::Auditor => Self::Auditor,
        }
    }
}

impl TryFrom<v1::Role> for Role {
    type Error = DomainError;

    fn try_from(role: v1::Role) -> Result<Self, DomainError> {
        Ok(match role {
            v1::Role::Unspecified => {
                return Err(DomainError::invalid("role", "it is missing, and has to be given"));
            }
            v1::Role::Customer => Self::Customer,
            v1::Role::HostOperator => Self::HostOperator,
            v1::Role::Host => Self::Host,
            v1::Role::PlatformOperator => Self::PlatformOperator,
            v1::Role::Auditor => Self::Auditor,
        })
    }
}

impl From<&Account> for v1::Account {
    fn from(account: &Account) -> Self {
        Self {
            id: account.id.to_string(),
            name: account.name.clone(),
            created_at_ms: account.created_at.0,
            revision: account.revision.0,
        }
    }
}

impl From<&Credential> for v1::Token {
    fn from(credential: &Credential) -> Self {
        let kind = match credential.kind {
            CredentialKind::Token => "token",
            CredentialKind::Certificate => "certificate",
        };
        Self {
            id: credential.id.to_string(),
            name: credential.name.clone(),
            role: v1::Role::from(credential.role).into(),
            kind: kind.to_owned(),
            created_at_ms: credential.created_at.0,
            expires_at_ms: credential.expires_at.map_or(0, |at| at.0),
            revoked_at_ms: credential.revoked_at.map_or(0, |at| at.0),
        }
    }
}
