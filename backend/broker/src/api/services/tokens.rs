//! `TokensService`: bearer tokens and client certificates.

use fairmazon_model::{DomainError, access::Role, units::UnixMs};
use fairmazon_proto::v1::{
    self, CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse,
    RegisterCertificateRequest, RevokeTokenRequest, Token, tokens_service_server::TokensService,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, id, optional_id, page};
use crate::{
    api::{context::Context, tls::validity_of},
    core::{TokenRequest, hash_secret},
};

#[async_trait]
impl TokensService for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let wanted = TokenRequest {
                role: role(message.role)?,
                lifetime_ms: lifetime_ms(message.lifetime_seconds)?,
                account: optional_id("account_id", &message.account_id)?,
                name: message.name,
            };
            let key = &message.idempotency_key;
            let made = self.engine.create_token(&context.caller, &wanted, key).await?;
            Ok(CreateTokenResponse {
                token: Some(made.credential.as_ref().into()),
                secret: made.secret,
            })
        };
        context.answer(work).await
    }

    async fn register_certificate(
        &self,
        request: Request<RegisterCertificateRequest>,
    ) -> Result<Response<Token>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (sha256, until) = certificate(&message.certificate_pem, self.engine.now().0)
                .map_err(|reason| {
                    DomainError::invalid("certificate_pem", reason)
                        .advise("give the client certificate itself, in PEM form, without its key")
                })?;
            let wanted = TokenRequest {
                role: role(message.role)?,
                lifetime_ms: None,
                account: None,
                name: message.name,
            };
            let (caller, key) = (&context.caller, &message.idempotency_key);
            let row =
                self.engine.register_certificate(caller, &wanted, &sha256, until, key).await?;
            Ok(row.as_ref().into())
        };
        context.answer(work).await
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let found = self.engine.tokens(&context.caller, page(message.page)?);
            let (tokens, next_page_token) = cut(&found, |row| row.id, |row| row.as_ref().into());
            Ok(ListTokensResponse { tokens, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<Token>, Status> {
        let (context, message) = Context::of(request)?;
        let work = async {
            let (target, key) = (id("id", &message.id)?, &message.idempotency_key);
            let row = self.engine.revoke_token(&context.caller, target, key).await?;
            Ok(row.as_ref().into())
        };
        context.answer(work).await
    }
}

fn role(number: i32) -> Result<Role, DomainError> {
    v1::Role::try_from(number)
        .map_err(|_| {
            DomainError::invalid("role", "this value is not known to this version")
                .advise("use a client of the platform's version")
        })?
        .try_into()
}

/// 0 means until it is revoked.
fn lifetime_ms(seconds: u64) -> Result<Option<i64>, DomainError> {
    if seconds == 0 {
        return Ok(None);
    }
    let lifetime = i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000));
    let too_long = || {
        DomainError::invalid(
            "lifetime_seconds",
            "it has to be a time that the calendar knows, or 0",
        )
    };
    Ok(Some(lifetime.ok_or_else(too_long)?))
}

/// The SHA-256 of the one certificate in the text, and when it ends.
fn certificate(pem: &str, now_ms: i64) -> Result<(String, UnixMs), &'static str> {
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes());
    let (first, second) = (found.next(), found.next());
    let Some(Ok(der)) = first else { return Err("it holds no certificate in PEM form") };
    if second.is_some() {
        return Err("it holds more than one certificate");
    }
    let validity = validity_of(&der)?;
    if !validity.holds_at(now_ms) {
        return Err("the certificate is not valid now");
    }
    Ok((hash_secret(&der), UnixMs(validity.until_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_valid_certificate_is_taken() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let within = 1_780_000_000_000;
        let (sha256, until) = certificate(&made.pem(), within).unwrap();
        assert_eq!(sha256, hash_secret(made.der()));
        assert_eq!(until, UnixMs(1_798_761_600_000));
        assert!(certificate(&made.pem(), until.0 + 1).is_err());
        assert!(certificate(&made.pem().repeat(2), within).is_err());
        assert!(certificate("nonsense", within).is_err());
    }

    #[test]
    fn lifetimes_do_not_overflow() {
        assert_eq!(lifetime_ms(0).unwrap(), None);
        assert_eq!(lifetime_ms(5).unwrap(), Some(5_000));
        assert!(lifetime_ms(u64::MAX).is_err());
        assert!(lifetime_ms(i64::MAX as u64).is_err());
    }
}
