//! Clients' certificates: asked for, never required. What is checked here is that the client
//! holds the key and that the certificate is valid now; who it is, is decided by its SHA-256,
//! which must have been registered. So no authority is needed, and any issuer will do.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::parse_x509_certificate;

/// From when to when a certificate is valid, in ms since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// The first moment.
    pub(crate) from_ms: i64,
    /// The last moment.
    pub(crate) until_ms: i64,
}

impl Validity {
    /// Whether it is valid at this moment.
    pub(crate) const fn holds_at(self, now_ms: i64) -> bool {
        self.from_ms <= now_ms && now_ms <= self.until_ms
    }
}

/// Reads the validity of a certificate in DER form.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn validity_of(der: &[u8]) -> Result<Validity, &'static str> {
    let (rest, certificate) =
        parse_x509_certificate(der).map_err(|_| "it is not an X.509 certificate")?;
    if !rest.is_empty() {
        return Err("something follows the certificate");
    }
    let validity = certificate.validity();
    Ok(Validity {
        from_ms: validity.not_before.timestamp().saturating_mul(1_000),
        until_ms: validity.not_after.timestamp().saturating_mul(1_000),
    })
}

/// Accepts any certificate that is valid now and whose key the client holds.
#[derive(Debug)]
pub(super) struct AnyValid {
    provider: Arc<CryptoProvider>,
}

impl AnyValid {
    pub(super) const fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ClientCertVerifier for AnyValid {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bad = |error| Err(Error::InvalidCertificate(error));
        let Ok(validity) = validity_of(end_entity) else {
            return bad(CertificateError::BadEncoding);
        };
        let now_ms = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000);
        if now_ms < validity.from_ms {
            return bad(CertificateError::NotValidYet);
        }
        if now_ms > validity.until_ms {
            return bad(CertificateError::Expired);
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
