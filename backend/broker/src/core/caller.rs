//! Who asks: the credential that was shown, whose it is and what it may do.
//!
//! Which role may call what is the API's table; here only the scope is decided: whose things
//! a caller sees and changes.

use fairmazon_model::{
    DomainError,
    access::{Credential, Role},
    id::{AccountId, HostId, TokenId},
};
use fairmazon_store::Actor;

/// An authenticated caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The credential; none for the platform itself.
    pub credential: Option<TokenId>,
    /// Whose it is; none for the platform itself.
    pub account: Option<AccountId>,
    /// What it may do.
    pub role: Role,
    /// The host that it speaks for, with [`Role::Host`].
    pub host: Option<HostId>,
}

impl Caller {
    /// The platform itself: set-up and the operator's commands on the broker's machine.
    pub const fn platform() -> Self {
        Self { credential: None, account: None, role: Role::PlatformOperator, host: None }
    }

    /// The holder of a credential that has been checked.
    pub const fn of(credential: &Credential) -> Self {
        Self {
            credential: Some(credential.id),
            account: Some(credential.account),
            role: credential.role,
            host: credential.host,
        }
    }

    /// Whether things of every account are shown to it.
    pub const fn sees_all(&self) -> bool {
        matches!(self.role, Role::PlatformOperator | Role::Auditor)
    }

    /// Whether things of this account are shown to it.
    pub fn sees(&self, account: AccountId) -> bool {
        self.sees_all() || self.account == Some(account)
    }

    /// Whether it may change things of this account.
    pub fn may_change(&self, account: AccountId) -> bool {
        self.account == Some(account) || (self.account.is_none() && self.sees_all())
    }

    /// The account that new things of this caller belong to.
    ///
    /// # Errors
    /// `Precondition` for the platform itself, which owns nothing.
    pub(crate) fn owner(&self) -> Result<AccountId, DomainError> {
        self.account.ok_or_else(|| {
            DomainError::new(
                fairmazon_model::ErrorKind::Precondition,
                "the platform itself owns nothing",
            )
            .advise("name an account, or use a token of one")
        })
    }

    pub(crate) const fn actor(&self) -> Actor {
        Actor { credential: self.credential, account: self.account }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_told_to_name_an_account() {
        assert!(Caller::platform().owner().unwrap_err().advice.contains("name an account"));
    }
}
