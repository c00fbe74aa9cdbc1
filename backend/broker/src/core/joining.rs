//! Hosts that join: from a token that is used once to a certificate, and what volume keys are
//! sealed to.

use fairmazon_model::{
    DomainError, ErrorKind,
    access::{Credential, CredentialKind, JoinedWith, Recurs, Role},
    host::Host,
    id::{HostId, TokenId},
    key::HostSealing,
    units::UnixMs,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    accounts::{hash_secret, insert_token, revoke},
    answers::{Again, Answer, Request},
    audit,
    caller::Caller,
    draft::Draft,
    engine::{Engine, PlanError, Planned},
    hosts::{bound_to, token_name},
    rules,
    state::State,
    world::Holder,
};

/// A certificate that was made for a host and is not in use yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeCertificate {
    /// SHA-256 of its DER, in hex.
    pub sha256: String,
    /// SHA-256 of the public key that it is for, in hex.
    pub public_key: String,
    /// When it ends.
    pub expires_at: UnixMs,
    /// What it says of the host, with the certificate itself.
    pub sealing: HostSealing,
}

impl MadeCertificate {
    fn keys(&self) -> JoinedWith {
        let (tls_key_sha256, sealing_key) = (self.public_key.clone(), self.sealing.key.clone());
        JoinedWith { tls_key_sha256, sealing_key }
    }
}

impl Engine {
    /// Registers the certificate that was made for the caller's host, in the place of all that
    /// the host had, but for the one that it called with.
    ///
    /// The token that it joined with stays valid until the host has shown the certificate
    /// ([`Engine::has_joined`]), for the keys that it was first used with: an answer that is lost on
    /// its way costs nothing, and whoever else has the token gets no certificate. Answers with the
    /// certificate that the host is given: the first one for the same `key`, which may be empty,
    /// unless that has ended or another one has taken its place.
    ///
    /// # Errors
    /// `Forbidden` for a token that was used with other keys; `Precondition` when it comes with another
    /// sealing key while volumes are on the host, which were sealed to the first;
    /// `Unauthenticated` when the credential was revoked since it was checked; `Conflict` when the
    /// key was used for other keys of the host.
    pub async fn join_host(
        &self,
        caller: &Caller,
        made: MadeCertificate,
        key: &str,
    ) -> Result<MadeCertificate, DomainError> {
        let host = own_host(&self.state(), caller)?;
        // Asked for again, the certificate is made with another number and time: what counts is
        // what it says of the host.
        let content = (host.id, &made.public_key, &made.sealing.key);
        // Each host has keys of its own, also where one account has many.
        let method = format!("hosts.join.{}", host.id);
        let request = Request::if_named(host.account, &method, key, &content)?;
        let plan = |state: &mut State, request: Option<&Request>| {
            self.plan_join(state, caller, &made, request)
        };
        let again = |answer: &Answer, _: &_, _| {
            let state = self.state();
            let given = given_then(&state, caller, answer.target()?, &made)?;
            Ok(given.map_or(Again::Retired, Again::Same))
        };
        self.once_if_named(request, plan, again).await
    }

    fn plan_join(
        &self,
        state: &State,
        caller: &Caller,
        made: &MadeCertificate,
        request: Option<&Request>,
    ) -> Result<Planned<MadeCertificate>, PlanError> {
        let old = own_host(state, caller)?;
        let (id, at) = (old.id, self.now());
        let own = match caller.credential {
            Some(own) => {
                state.holds.free(own)?;
                Some(valid(state, own)?)
            }
            None => None,
        };
        let token = own.filter(|own| own.kind == CredentialKind::Token && own.host == Some(id));
        let used_with = token.and_then(|token| token.joined_with.as_ref());
        if used_with.is_some_and(|keys| *keys != made.keys()) {
            return Err(used_with_others(id).into());
        }
        let changes_key =
            old.sealing.as_ref().is_some_and(|sealing| sealing.key != made.sealing.key);
        let (machines, volumes) = bound_to(state, id);
        if changes_key && machines + volumes > 0 {
            return Err(rules::precondition(format!(
                "{volumes} volumes are on the host {id}, and their keys are sealed to the key that \
                 it joined with first"
            ))
            .advise("start the agent with the state folder that it had; if that is lost for good, remove this host with `--lost` and register another one")
            .into());
        }
        state.holds.free(id)?;
        let mut draft = Draft::default();
        match (token, own) {
            (Some(token), _) if used_with.is_none() => {
                let bound = Credential { joined_with: Some(made.keys()), ..token.clone() };
                let (before, after) = (Some(token), Some(&bound));
                draft.audit(audit::entry(caller, at, "token.bind", &token.id, before, after));
                draft.update(bound);
            }
            (_, Some(own)) => draft.rely_on(own.id),
            (_, None) => {}
        }
        let new = Host { sealing: Some(made.sealing.clone()), ..Host::clone(&old) };
        draft.audit(audit::entry(caller, at, "host.join", &id, Some(&*old), Some(&new)));
        draft.update(new);
        for row in state.world.credentials_of(Holder::Host(id)) {
            let ends = row.kind == CredentialKind::Certificate
                && row.revoked_at.is_none()
                && Some(row.id) != caller.credential;
            if !ends {
                continue;
            }
            // One that was made after the caller's, or by the commit that bound the caller's token,
            // was never shown on a stream: there is nothing to end, and however often a host asks,
            // no more of them are kept.
            if own.is_some_and(|own| row.revision >= own.revision) {
                let (before, after) = (Some(row.as_ref()), None::<&Credential>);
                draft.audit(audit::entry(caller, at, "token.remove", &row.id, before, after));
                draft.delete(row.id, row.revision);
            } else {
                revoke(&mut draft, caller, at, row);
            }
        }
        let token = self.token(
            old.account,
            Role::Host,
            &token_name(&old.spec),
            Some(made.expires_at),
            Some(id),
        );
        let credential = Credential {
            kind: CredentialKind::Certificate,
            sha256: made.sha256.clone(),
            recurs: Recurs::Until(made.expires_at),
            ..Credential::clone(&token.credential)
        };
        insert_token(&mut draft, caller, at, &credential);
        draft.answer(request.and_then(|request| request.record(self, &credential.id, None)));
        Ok(Planned { draft, answer: made.clone() })
    }

    /// Notes that a host has shown its certificate: the token that it joined with, and
    /// certificates that it had before, are of no use to anybody any more.
    ///
    /// # Errors
    /// When the store can't write.
    pub async fn has_joined(&self, caller: &Caller) -> Result<(), DomainError> {
        let plan = |state: &mut State| {
            let mut draft = Draft::default();
            let own = caller.credential.and_then(|id| state.world.credentials.get(id));
            let Some(own) = own.filter(|own| own.kind == CredentialKind::Certificate).cloned()
            else {
                return Ok(Planned { draft, answer: () });
            };
            let at = self.now();
            let host = own.host.into_iter();
            for row in host.flat_map(|host| state.world.credentials_of(Holder::Host(host))) {
                // What was made after it may be on its way to the host. By the store's order, as
                // the clock that ids begin with may have been set back. The token that it was the
                // first of was bound by the same commit.
                let is_older = row.revision <= own.revision && row.id != own.id;
                if is_older && row.revoked_at.is_none() {
                    revoke(&mut draft, caller, at, row);
                }
            }
            Ok(Planned { draft, answer: () })
        };
        self.run(plan).await.map_err(Into::into)
    }
}

/// The certificate that an earlier request was answered with, if the host still has no later one.
/// `made` is for the same keys.
fn given_then(
    state: &State,
    caller: &Caller,
    id: TokenId,
    made: &MadeCertificate,
) -> Result<Option<MadeCertificate>, DomainError> {
    let host = own_host(state, caller)?;
    let given = state.world.credentials.get(id).filter(|row| row.revoked_at.is_none());
    let (Some(given), Some(sealing)) = (given, host.sealing.clone()) else { return Ok(None) };
    let shown = CertificateDer::from_pem_slice(sealing.certificate.as_bytes());
    if shown.map_or(true, |shown| hash_secret(&shown) != given.sha256) {
        return Ok(None);
    }
    let expires_at = given.expires_at.unwrap_or(made.expires_at);
    Ok(Some(MadeCertificate { sha256: given.sha256.clone(), expires_at, sealing, ..made.clone() }))
}

/// The credential, still valid: a certificate that was shown since the call came in ends it.
fn valid(state: &State, id: TokenId) -> Result<&Credential, DomainError> {
    let row = state.world.credentials.get(id).filter(|row| row.revoked_at.is_none());
    row.map(AsRef::as_ref).ok_or_else(|| {
        DomainError::new(ErrorKind::Unauthenticated, format!("the credential {id} was revoked"))
            .advise("use the certificate that the host was given since")
    })
}

fn used_with_others(host: HostId) -> DomainError {
    DomainError::new(
        ErrorKind::Forbidden,
        format!("the token of the host {host} was used with other keys, and joins with those only"),
    )
    .advise(format!(
        "if this host has joined with it before, start its agent, with the state folder of then; \
         if not, somebody else has the token, and what it was used for has to end: make another \
         with `fairmazon host rotate-token {host}`, and join with that"
    ))
}

fn own_host(state: &State, caller: &Caller) -> Result<std::sync::Arc<Host>, DomainError> {
    let id = caller.host.ok_or_else(|| DomainError::internal("a caller that is no host"))?;
    state.world.hosts.get(id).cloned().ok_or_else(|| DomainError::not_found("host", id))
}
