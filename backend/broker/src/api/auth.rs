//! Who asks: a bearer token or a client certificate, looked up by its SHA-256.
//!
//! Secrets are hashed as soon as they are read and never kept, logged or shown.

use std::time::Duration;

use fairmazon_model::{
    DomainError, ErrorKind,
    access::{CredentialKind, Role},
    id::TokenId,
};
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::core::{Caller, Engine, TOKEN_PREFIX, hash_secret};

/// Longest header that is looked at, in bytes.
const HEADER_MAX: usize = 256;

/// What a request shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    sha256: String,
    kind: CredentialKind,
}

impl Shown {
    /// What kind of credential it is.
    pub(crate) const fn kind(&self) -> CredentialKind {
        self.kind
    }
}

/// A credential that is valid now.
pub(crate) struct Known {
    pub(crate) credential: TokenId,
    pub(crate) caller: Caller,
    /// When it ends by itself, on tokio's clock.
    pub(crate) ends_at: Option<Instant>,
}

/// What the request shows: a token before a certificate.
///
/// # Errors
/// `Unauthenticated` when it shows nothing, or no token of this platform.
pub(crate) fn shown(headers: &HeaderMap, certificate: Option<&[u8]>) -> Result<Shown, DomainError> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value
            .to_str()
            .ok()
            .filter(|text| text.len() <= HEADER_MAX)
            .and_then(|text| text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer ")))
            .filter(|token| token.starts_with(TOKEN_PREFIX));
        let Some(token) = token else {
            return Err(refused(&format!(
                "the header `authorization` holds no token of this platform: it must be `Bearer {TOKEN_PREFIX}...`"
            )));
        };
        let sha256 = hash_secret(token.as_bytes());
        return Ok(Shown { sha256, kind: CredentialKind::Token });
    }
    let certificate = certificate
        .ok_or_else(|| refused("the request shows neither a token nor a client certificate"))?;
    Ok(Shown { sha256: hash_secret(certificate), kind: CredentialKind::Certificate })
}

/// Whose credential it is, and that it is valid now.
///
/// # Errors
/// `Unauthenticated` when it is unknown, revoked or has ended.
pub(crate) fn check(engine: &Engine, shown: &Shown) -> Result<Known, DomainError> {
    let noun = match shown.kind {
        CredentialKind::Token => "token",
        CredentialKind::Certificate => "client certificate",
    };
    // The index compares hashes, from whose timing nothing can be learned about a secret; the
    // row is compared once more without haste.
    let row = engine
        .credential_by_hash(&shown.sha256)
        .filter(|row| row.kind == shown.kind)
        .filter(|row| bool::from(row.sha256.as_bytes().ct_eq(shown.sha256.as_bytes())))
        .ok_or_else(|| refused(&format!("the {noun} is not known here")))?;
    if row.revoked_at.is_some() {
        return Err(refused(&format!("the {noun} {} has been revoked", row.id)));
    }
    let mut ends_at = None;
    if let Some(end) = row.expires_at {
        let left_ms = end.0.saturating_sub(engine.now().0);
        let Some(left_ms) = u64::try_from(left_ms).ok().filter(|left| *left > 0) else {
            return Err(refused(&format!("the {noun} {} has ended", row.id)));
        };
        ends_at = Instant::now().checked_add(Duration::from_millis(left_ms));
    }
    Ok(Known { credential: row.id, caller: Caller::of(&row), ends_at })
}

/// The role as people and the API call it.
pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Customer => "customer",
        Role::HostOperator => "host operator",
        Role::Host => "host",
        Role::PlatformOperator => "platform operator",
        Role::Auditor => "auditor",
    }
}

fn refused(message: &str) -> DomainError {
    DomainError::new(ErrorKind::Unauthenticated, message)
        .advise("use a valid token, or a client certificate that was registered")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_token_goes_before_a_certificate() {
        let token = shown(&headers("Bearer fmz_abc"), Some(b"der")).unwrap();
        let expected = Shown { sha256: hash_secret(b"fmz_abc"), kind: CredentialKind::Token };
        assert_eq!(token, expected);
        let certificate = shown(&HeaderMap::new(), Some(b"der")).unwrap();
        assert_eq!(certificate.kind, CredentialKind::Certificate);
    }

    #[test]
    fn nothing_and_nonsense_are_refused_without_an_echo() {
        assert!(shown(&HeaderMap::new(), None).is_err());
        for bad in ["", "Bearer", "Bearer secret", "Basic fmz_secret", &"Bearer fmz_".repeat(99)] {
            let error = shown(&headers(bad), Some(b"der")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unauthenticated, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
