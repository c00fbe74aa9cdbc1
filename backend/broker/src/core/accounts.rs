//! Commands and reads of accounts and their credentials.
//!
//! A secret is answered once, when it is made; only its SHA-256 is kept.

use std::sync::Arc;

use fairmazon_model::{
    DomainError, ErrorKind,
    access::{Account, Credential, CredentialKind, Recurs, Role},
    id::{AccountId, HostId, TokenId},
    limits,
    units::{Revision, UnixMs},
};
use fairmazon_store::Noun;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use super::{
    answers::{Again, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    instances::scope,
    rules,
    state::State,
    table::{Page, PageRequest},
    world::Holder,
};

/// What every token begins with, so that a leaked one is recognised.
pub const TOKEN_PREFIX: &str = "fmz_";

/// A credential and its secret, which is never shown again.
#[derive(Clone)]
pub struct NewToken {
    /// The row.
    pub credential: Arc<Credential>,
    /// The bearer token.
    pub secret: String,
}

/// A credential that is asked for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// For people.
    pub name: String,
    /// What it shall be able to do.
    pub role: Role,
    /// How long it is valid; none until it is revoked.
    pub lifetime_ms: Option<i64>,
    /// Whose it shall be; the caller's own without.
    pub account: Option<AccountId>,
}

/// An account as its owner sees it.
#[derive(Debug, Clone)]
pub struct AccountView {
    /// The row.
    pub row: Arc<Account>,
    /// How many instances it has.
    pub instances: u64,
    /// How many volumes it has, boot volumes included.
    pub volumes: u64,
}

/// The SHA-256 of a secret, in hex, as credentials keep it.
pub fn hash_secret(secret: &[u8]) -> String {
    hex::encode(Sha256::digest(secret))
}

/// Puts a new credential into a draft, with its entry in the audit log.
pub(super) fn insert_token(draft: &mut Draft, caller: &Caller, at: UnixMs, made: &Credential) {
    draft.audit(audit::entry(caller, at, "token.create", &made.id, None, Some(made)));
    draft.insert(made.clone());
}

/// Revokes a credential in a draft, with its entry in the audit log; how it is then.
pub(super) fn revoke(
    draft: &mut Draft,
    caller: &Caller,
    at: UnixMs,
    old: &Credential,
) -> Credential {
    let new = Credential { revoked_at: Some(at), ..old.clone() };
    draft.audit(audit::entry(caller, at, "token.revoke", &old.id, Some(old), Some(&new)));
    draft.update(new.clone());
    new
}

impl Engine {
    /// Opens an account, with a first token of a customer.
    ///
    /// # Errors
    /// `Invalid`; `AlreadyExists` for a repetition, as the secret can't be shown again.
    pub async fn create_account(
        &self,
        caller: &Caller,
        name: &str,
        key: &str,
    ) -> Result<(Arc<Account>, NewToken), DomainError> {
        limits::check_name(name)?;
        let account = Account {
            id: self.new_id(AccountId::from_parts),
            name: name.to_owned(),
            created_at: self.now(),
            revision: Revision(0),
        };
        // Keys are kept per account: those of the platform's own callers under a new one's id
        // would never be found again, so they stand under the caller's.
        let request = match caller.account {
            Some(own) => Some(Request::new(own, "accounts.create", key, &name)?),
            None => None,
        };
        let token = self.token(account.id, Role::Customer, "first token", None, None);
        let plan = |_: &mut State, request: Option<&Request>| {
            let mut draft = Draft::default();
            let (at, id) = (self.now(), account.id);
            draft.audit(audit::entry(caller, at, "account.create", &id, None, Some(&account)));
            draft.answer(request.and_then(|request| request.record(self, &id, None)));
            draft.insert(account.clone());
            insert_token(&mut draft, caller, at, &token.credential);
            Ok(Planned { draft, answer: () })
        };
        self.once_if_named(request, plan, |_, _, _| shown_once("the account")).await?;
        Ok((Arc::new(account), token))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// `Invalid`, `Forbidden` for more rights than the caller's, `LimitExceeded`;
    /// `AlreadyExists` for a repetition, as the secret can't be shown again.
    pub async fn create_token(
        &self,
        caller: &Caller,
        wanted: &TokenRequest,
        key: &str,
    ) -> Result<NewToken, DomainError> {
        let account = self.check_token_request(caller, wanted)?;
        let expires_at =
            wanted.lifetime_ms.map(|lifetime| UnixMs(self.now().0.saturating_add(lifetime)));
        let expires_at = self.within_lifetime(caller, wanted.role, expires_at);
        let token = self.token(account, wanted.role, &wanted.name, expires_at, None);
        let content = (account, wanted.role, &wanted.name, wanted.lifetime_ms);
        self.add_credential(caller, &token.credential, "tokens.create", &content, key).await?;
        Ok(token)
    }

    /// Registers a client certificate by the SHA-256 of its DER, in hex.
    ///
    /// # Errors
    /// As [`Engine::create_token`]; a repetition is told that it was registered.
    pub async fn register_certificate(
        &self,
        caller: &Caller,
        wanted: &TokenRequest,
        sha256: &str,
        expires_at: UnixMs,
        key: &str,
    ) -> Result<Arc<Credential>, DomainError> {
        let account = self.check_token_request(caller, wanted)?;
        let content = (account, wanted.role, &wanted.name, sha256, expires_at);
        let recurs = Recurs::Until(expires_at);
        let expires_at = self.within_lifetime(caller, wanted.role, Some(expires_at));
        let made = self.token(account, wanted.role, &wanted.name, expires_at, None);
        let credential = Arc::new(Credential {
            kind: CredentialKind::Certificate,
            sha256: sha256.to_owned(),
            recurs,
            ..Credential::clone(&made.credential)
        });
        let method = "certificates.register";
        self.add_credential(caller, &credential, method, &content, key).await?;
        Ok(credential)
    }

    /// Makes a valid credential for this secret, unless it is there: for set-up, where the
    /// operator keeps the secret.
    ///
    /// # Errors
    /// When the store can't write, `Conflict` when the secret is somebody else's.
    pub async fn ensure_token(
        &self,
        account: AccountId,
        role: Role,
        name: &str,
        secret: &str,
    ) -> Result<Arc<Credential>, DomainError> {
        let sha256 = hash_secret(secret.as_bytes());
        if let Some(row) = self.credential_by_hash(&sha256) {
            let fits = row.account == account && row.role == role && row.revoked_at.is_none();
            let error = || DomainError::new(ErrorKind::Conflict, "this token is in use elsewhere");
            return if fits { Ok(row) } else { Err(error()) };
        }
        let made = self.token(account, role, name, None, None);
        let recurs = Recurs::Always;
        let credential = Credential { sha256, recurs, ..Credential::clone(&made.credential) };
        let plan = |_: &mut State| {
            let mut draft = Draft::default();
            insert_token(&mut draft, &Caller::platform(), self.now(), &credential);
            Ok(Planned { draft, answer: () })
        };
        self.run(plan).await?;
        Ok(Arc::new(credential))
    }

    /// Revokes a credential at once; one that is revoked stays as it is. Those of one's own role and
    /// account; operators of hosts those of their hosts, the platform's operators any.
    ///
    /// # Errors
    /// `NotFound` when the caller has no such credential, also once it is forgotten.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        id: TokenId,
        key: &str,
    ) -> Result<Arc<Credential>, DomainError> {
        let may = |row: &Credential| {
            let of_own_role = row.role == caller.role
                || (caller.role == Role::HostOperator && row.role == Role::Host);
            caller.role == Role::PlatformOperator || (of_own_role && caller.may_change(row.account))
        };
        let find = |state: &State| {
            let row = state.world.credentials.get(id).filter(|row| may(row));
            row.cloned().ok_or_else(|| DomainError::not_found("token", id))
        };
        let account = find(&self.state())?.account;
        let account = caller.account.unwrap_or(account);
        let request = Request::new(account, "tokens.revoke", key, &id)?;
        self.once(
            request,
            |state, request| {
                let old = find(state)?;
                let mut draft = Draft::default();
                draft.answer(request.record(self, &id, None));
                if old.revoked_at.is_some() {
                    return Ok(Planned { draft, answer: old });
                }
                let new = revoke(&mut draft, caller, self.now(), &old);
                Ok(Planned { draft, answer: Arc::new(new) })
            },
            |_, _, _| Ok(Again::Same(find(&self.state())?)),
        )
        .await
    }

    /// The credential with this hash, valid or not.
    pub fn credential_by_hash(&self, sha256: &str) -> Option<Arc<Credential>> {
        self.state().world.credential_by_hash(sha256).cloned()
    }

    /// The credential with this id, valid or not.
    pub fn credential(&self, id: TokenId) -> Option<Arc<Credential>> {
        self.state().world.credentials.get(id).cloned()
    }

    /// Tells of every credential that is revoked from now on.
    pub fn revocations(&self) -> broadcast::Receiver<Arc<Credential>> {
        self.state().revoked.subscribe()
    }

    /// A page of the account's credentials; of all for those who see everything.
    pub fn tokens(
        &self,
        caller: &Caller,
        page: PageRequest<TokenId>,
    ) -> Page<Arc<Credential>, TokenId> {
        let state = self.state();
        let (items, more) =
            state.world.credentials.page(scope(caller), page.after, page.size(), |_| true);
        let next = if more { items.last().map(|row| row.id) } else { None };
        Page { items, next, revision: state.world.revision }
    }

    /// An account with its counts.
    ///
    /// # Errors
    /// `NotFound` when there is none that the caller sees.
    pub fn account(&self, caller: &Caller, id: AccountId) -> Result<AccountView, DomainError> {
        let state = self.state();
        let row = state.world.accounts.get(id).filter(|_| caller.sees(id));
        let row = row.cloned().ok_or_else(|| DomainError::not_found("account", id))?;
        let instances = state.world.machines_of(id);
        Ok(AccountView { row, instances, volumes: state.world.volumes.count_of(id) })
    }

    /// A page of the accounts that the caller sees.
    pub fn accounts(
        &self,
        caller: &Caller,
        page: PageRequest<AccountId>,
    ) -> Page<Arc<Account>, AccountId> {
        let state = self.state();
        let (items, more) =
            state.world.accounts.page(scope(caller), page.after, page.size(), |_| true);
        let next = if more { items.last().map(|row| row.id) } else { None };
        Page { items, next, revision: state.world.revision }
    }

    /// The account of this name, the oldest one if there are several: for set-up.
    pub fn account_named(&self, name: &str) -> Option<Arc<Account>> {
        self.state().world.accounts.iter().find(|row| row.name == name).cloned()
    }

    /// A new bearer token, not yet stored.
    pub(crate) fn token(
        &self,
        account: AccountId,
        role: Role,
        name: &str,
        expires_at: Option<UnixMs>,
        host: Option<HostId>,
    ) -> NewToken {
        let secret = format!("{TOKEN_PREFIX}{}", self.inner.random.secret());
        let credential = Arc::new(Credential {
            id: self.new_id(TokenId::from_parts),
            account,
            kind: CredentialKind::Token,
            sha256: hash_secret(secret.as_bytes()),
            role,
            host,
            name: name.to_owned(),
            created_at: self.now(),
            expires_at,
            revoked_at: None,
            recurs: Recurs::Never,
            joined_with: None,
            revision: Revision(0),
        });
        NewToken { credential, secret }
    }

    fn check_token_request(
        &self,
        caller: &Caller,
        wanted: &TokenRequest,
    ) -> Result<AccountId, DomainError> {
        limits::check_name(&wanted.name)?;
        if wanted.role == Role::Host {
            return Err(DomainError::invalid(
                "role",
                "a host gets its token when it is registered",
            )
            .advise("register it with `fairmazon host register`, or name another role"));
        }
        if wanted.lifetime_ms.is_some_and(|lifetime| lifetime <= 0) {
            return Err(DomainError::invalid("lifetime_seconds", "a lifetime must be above zero"));
        }
        let for_any = caller.role == Role::PlatformOperator;
        let account = match wanted.account {
            Some(account) if for_any || caller.account == Some(account) => account,
            Some(_) => {
                return Err(DomainError::new(
                    ErrorKind::Forbidden,
                    "only the platform's operators make tokens for other accounts",
                )
                .advise("leave the account out, or ask the platform's operator"));
            }
            None => caller.owner()?,
        };
        if !for_any && wanted.role != caller.role {
            return Err(DomainError::new(
                ErrorKind::Forbidden,
                "a token may do no more than the one that it is made with",
            )
            .advise("ask the platform's operator for a token of another role"));
        }
        if self.state().world.accounts.get(account).is_none() {
            return Err(DomainError::not_found("account", account));
        }
        Ok(account)
    }

    /// When a credential ends that is asked for with an end, or none: not after the one that
    /// it is made with, or a short-lived one could make itself eternal. A platform operator's
    /// work is to make those of customers and operators of hosts, which are no more than theirs.
    fn within_lifetime(
        &self,
        caller: &Caller,
        role: Role,
        wanted: Option<UnixMs>,
    ) -> Option<UnixMs> {
        let is_for_others = caller.role == Role::PlatformOperator
            && matches!(role, Role::Customer | Role::HostOperator);
        let own = caller.credential.and_then(|id| self.credential(id));
        match own.and_then(|row| row.expires_at) {
            Some(own) if !is_for_others => Some(wanted.map_or(own, |wanted| wanted.min(own))),
            _ => wanted,
        }
    }

    async fn add_credential(
        &self,
        caller: &Caller,
        credential: &Arc<Credential>,
        method: &str,
        content: &(impl Serialize + Sync),
        key: &str,
    ) -> Result<(), DomainError> {
        let owner = caller.account.unwrap_or(credential.account);
        let request = Request::new(owner, method, key, content)?;
        self.once(
            request,
            |state, request| self.plan_credential(state, request, caller, credential),
            |_, _, _| shown_once("the token"),
        )
        .await
    }

    fn plan_credential(
        &self,
        state: &State,
        request: &Request,
        caller: &Caller,
        credential: &Credential,
    ) -> Result<Planned<()>, PlanError> {
        let (account, at) = (credential.account, self.now());
        let valid = |row: &Credential| {
            row.revoked_at.is_none() && row.expires_at.is_none_or(|expires| expires > at)
        };
        // Those of hosts are bounded by the hosts that an account may have.
        let own = state.world.credentials_of(Holder::Account(account));
        let there = own.filter(|row| valid(row)).count();
        let there = there as u64 + state.holds.coming(account, Noun::Credential);
        rules::check_count("tokens", there, self.config().tokens_per_account)?;
        let mut draft = Draft::default();
        draft.answer(request.record(self, &credential.id, None));
        insert_token(&mut draft, caller, at, credential);
        Ok(Planned { draft, answer: () })
    }
}

/// A repetition of a request whose answer held a secret.
pub(crate) fn shown_once<T>(what: &str) -> Result<Again<T>, DomainError> {
    Err(DomainError::new(
        ErrorKind::AlreadyExists,
        format!("{what} was made by an earlier request with this key; a secret is shown only once"),
    )
    .advise("revoke that one if its secret is lost, and make another with a new key"))
}
