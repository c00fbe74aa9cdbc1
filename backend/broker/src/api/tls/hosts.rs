//! Certificates of hosts: short, made on request for whoever holds the key, renewed by the host
//! well before they end. They say which host it is and which key volume keys are sealed to.

use std::fmt;

use fairmazon_keys::{SealingKey, host_name, sealing_key_name};
use fairmazon_model::{
    DomainError,
    id::HostId,
    key::{Blob, HostSealing},
    units::UnixMs,
};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};

use super::{
    authority::{authority_params, set_validity},
    validity_of,
};
use crate::core::{MadeCertificate, hash_secret};

/// How long a host's certificate lives, in days.
const HOST_DAYS: i32 = 30;
/// Bytes of a request at most.
const REQUEST_MAX: usize = 16 * 1024;

/// Signs for the hosts of the platform.
pub struct HostAuthority {
    pub(super) key: KeyPair,
}

impl fmt::Debug for HostAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostAuthority")
    }
}

impl HostAuthority {
    /// Signs for a host that asks with a request of PKCS #10, in PEM form. Of the request only
    /// the public key counts, which its signature shows the host to hold; the names are ours.
    /// `serial` is a number that no other certificate of this authority has.
    ///
    /// # Errors
    /// `Invalid` for a request or a sealing key that can't be used.
    pub(crate) fn sign(
        &self,
        request: &str,
        sealing_key: &[u8],
        host: HostId,
        serial: u128,
        now: UnixMs,
    ) -> Result<MadeCertificate, DomainError> {
        let sealing_key = SealingKey::new(sealing_key)
            .map_err(|error| DomainError::invalid("sealing_key", error.to_string()))?;
        let bad = |reason: String| {
            DomainError::invalid("certificate_request", reason)
                .advise("make another one, as `fairmazon host join` does")
        };
        if request.len() > REQUEST_MAX {
            return Err(bad(format!("it must have at most {REQUEST_MAX} bytes")));
        }
        let asked = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| bad(format!("it is no request of PKCS #10: {error}")))?;
        let internal = |error: rcgen::Error| DomainError::internal(error.to_string());
        let mut params = CertificateParams::default();
        // Left to itself, it would be the hash of the key, which a host keeps over renewals.
        params.serial_number = Some(SerialNumber::from_slice(&serial.to_be_bytes()));
        params.distinguished_name.push(DnType::CommonName, host.to_string());
        for name in [host_name(host), sealing_key_name(&sealing_key)] {
            let name = name.try_into().map_err(internal)?;
            params.subject_alt_names.push(SanType::URI(name));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now.0, HOST_DAYS);
        let authority = authority_params(now.0);
        let issuer = Issuer::from_params(&authority, &self.key);
        let made = params.signed_by(&asked.public_key, &issuer).map_err(internal)?;
        let validity = validity_of(made.der()).map_err(DomainError::internal)?;
        Ok(MadeCertificate {
            sha256: hash_secret(made.der()),
            public_key: hash_secret(&asked.public_key.subject_public_key_info()),
            expires_at: UnixMs(validity.until_ms),
            sealing: HostSealing {
                key: Blob(sealing_key.bytes().to_vec()),
                certificate: made.pem(),
            },
        })
    }
}
