//! Who there is in `fairmazon dev`: a platform operator, an operator of hosts, a customer.
//! Everything is looked for before it is made, so each start comes to the same.

use std::collections::HashSet;

use fairmazon_broker::core::{Caller, Engine, hash_secret};
use fairmazon_host::identity::{HostIdentity, IdentityError};
use fairmazon_keys::HostCertificate;
use fairmazon_model::{
    DomainError,
    access::{Credential, Role},
    host::HostSpec,
    id::{AccountId, HostId},
    units::UnixMs,
};

use crate::{dev::secrets::Secrets, error::CommandError, folder::Folder, keys, platform::now_ms};

const PLATFORM: &str = "platform";
const OPERATOR: &str = "hosts";
const CUSTOMER: &str = "customer";

/// Makes the accounts and their tokens where they are missing, and other tokens where one was
/// revoked; answers the hosts' operator.
pub(crate) async fn ensure(
    engine: &Engine,
    secrets: &mut Secrets,
    folder: &Folder,
) -> Result<Caller, CommandError> {
    let failed = || CommandError::refused("unable to set up the accounts");
    let is_revoked = |secret: &str| {
        let row = engine.credential_by_hash(&hash_secret(secret.as_bytes()));
        row.is_some_and(|row| row.revoked_at.is_some())
    };
    let mut is_new = false;
    for secret in [&mut secrets.platform, &mut secrets.operator, &mut secrets.customer] {
        if is_revoked(secret) {
            *secret = keys::token()?;
            is_new = true;
        }
    }
    // Kept before it is used, so that a crash never leaves one that nobody knows.
    if is_new {
        secrets.keep(folder)?;
    }
    let all = [
        (PLATFORM, Role::PlatformOperator, &secrets.platform),
        (OPERATOR, Role::HostOperator, &secrets.operator),
        (CUSTOMER, Role::Customer, &secrets.customer),
    ];
    let mut operator = Caller::platform();
    for (name, role, secret) in all {
        let account = account(engine, name).await.map_err(failed())?;
        let row = engine.ensure_token(account, role, name, secret).await.map_err(failed())?;
        if role == Role::HostOperator {
            operator = Caller::of(&row);
        }
    }
    Ok(operator)
}

async fn account(engine: &Engine, name: &str) -> Result<AccountId, DomainError> {
    if let Some(account) = engine.account_named(name) {
        return Ok(account.id);
    }
    let (caller, key) = (Caller::platform(), format!("set-up-{name}"));
    let (account, first) = engine.create_account(&caller, name, &key).await?;
    // Its secret is known to nobody; the kept one takes its place.
    engine.revoke_token(&caller, first.credential.id, &format!("{key}-token")).await?;
    Ok(account.id)
}

/// Registers the hosts that are missing; answers all that there are with their tokens. `ca_pem` is
/// the authority that signs for them.
pub(crate) async fn ensure_hosts(
    engine: &Engine,
    operator: &Caller,
    specs: &[HostSpec],
    secrets: &mut Secrets,
    folder: &Folder,
    ca_pem: &str,
) -> Result<Vec<DevHost>, CommandError> {
    let mut hosts = Vec::with_capacity(specs.len());
    let mut is_new = false;
    for spec in specs {
        let (host, fresh) = ensure_host(engine, operator, spec, secrets, folder, ca_pem).await?;
        is_new |= fresh;
        hosts.push(host);
    }
    // Hosts of an earlier, larger start run on, with all that is on them.
    let present: HashSet<_> = hosts.iter().map(|host| host.id).collect();
    for (id, token) in secrets.hosts.iter().filter(|(id, _)| !present.contains(id)) {
        if let Ok(view) = engine.host(&Caller::platform(), *id) {
            let spec = view.row.spec.clone();
            let identity = identity_of(folder, &spec)?;
            hosts.push(DevHost { id: *id, spec, token: token.clone(), identity });
        }
    }
    if is_new {
        secrets.hosts = hosts.iter().map(|host| (host.id, host.token.clone())).collect();
        secrets.keep(folder)?;
    }
    Ok(hosts)
}

/// A host of `fairmazon dev`.
pub(crate) struct DevHost {
    pub(crate) id: HostId,
    pub(crate) spec: HostSpec,
    /// What it joins with; of no use once it has.
    pub(crate) token: String,
    pub(crate) identity: HostIdentity,
}

fn identity_of(folder: &Folder, spec: &HostSpec) -> Result<HostIdentity, CommandError> {
    HostIdentity::open(folder.host(&spec.name)).map_err(|error| CommandError::Agent(error.into()))
}

/// Whether the host has a certificate that the platform and the other hosts accept; one that they
/// do not accept any more is given up.
fn has_joined(
    engine: &Engine,
    host: HostId,
    identity: &HostIdentity,
    ca_pem: &str,
) -> Result<bool, CommandError> {
    let failed = |error: IdentityError| CommandError::Agent(error.into());
    let Some(certificate) = identity.certificate().map_err(failed)? else { return Ok(false) };
    let row = engine.credential_by_hash(&certificate.sha256);
    let now = UnixMs(now_ms());
    let counts = row.is_some_and(|row| row.revoked_at.is_none())
        && HostCertificate::verify(&certificate.pem, ca_pem, host, now).is_ok();
    if !counts {
        identity.forget_certificate().map_err(failed)?;
    }
    Ok(counts)
}

async fn ensure_host(
    engine: &Engine,
    operator: &Caller,
    spec: &HostSpec,
    secrets: &Secrets,
    folder: &Folder,
    ca_pem: &str,
) -> Result<(DevHost, bool), CommandError> {
    let identity = identity_of(folder, spec)?;
    let made = |id, token, identity| DevHost { id, spec: spec.clone(), token, identity };
    let failed = || CommandError::refused(format!("unable to register the host {}", spec.name));
    let account = operator.account.ok_or_else(|| {
        CommandError::Usage("the operator of the hosts has no account".to_owned())
    })?;
    if let Some(host) = engine.host_named(account, &spec.name) {
        let joined = has_joined(engine, host.id, &identity, ca_pem)?;
        if let Some(token) = secrets.hosts.get(&host.id) {
            let row = engine.credential_by_hash(&hash_secret(token.as_bytes()));
            // One that was used may be for keys that a crash or a lost folder has left nowhere.
            let joins = |row: &Credential| row.revoked_at.is_none() && row.joined_with.is_none();
            if joined || row.is_none_or(|row| joins(&row)) {
                return Ok((made(host.id, token.clone(), identity), false));
            }
        }
        // Its token is of no use any more, or it is not known: a crash came before it was kept, or
        // the file of the secrets is gone.
        let key = keys::idempotency()?;
        let rotated = engine.rotate_host_token(operator, host.id, &key).await;
        let token = rotated.map_err(failed())?.1.secret;
        identity.forget_certificate().map_err(|error| CommandError::Agent(error.into()))?;
        return Ok((made(host.id, token, identity), true));
    }
    let key = keys::idempotency()?;
    let (view, token) =
        engine.register_host(operator, spec.clone(), &key).await.map_err(failed())?;
    identity.forget_certificate().map_err(|error| CommandError::Agent(error.into()))?;
    Ok((made(view.row.id, token.secret, identity), true))
}
