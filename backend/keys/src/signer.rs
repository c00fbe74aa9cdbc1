//! Who has signed in a host's name: the certificate that a host shows with what it signed.

use fairmazon_model::transfer::Sha256;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use webpki::{EndEntityCert, aws_lc_rs::ECDSA_P256_SHA256};

use crate::KeyError;

/// A certificate that signatures are checked by. Whose it is has to be known from elsewhere: it is
/// not verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSigner {
    certificate: CertificateDer<'static>,
    sha256: String,
}

impl HostSigner {
    /// Reads the first certificate of a chain, PEM.
    ///
    /// # Errors
    /// `BadSigner` when there is none.
    pub fn read(chain: &str) -> Result<Self, KeyError> {
        let certificate = CertificateDer::from_pem_slice(chain.as_bytes())
            .map_err(|error| KeyError::BadSigner { reason: error.to_string() })?;
        EndEntityCert::try_from(&certificate)
            .map_err(|error| KeyError::BadSigner { reason: error.to_string() })?;
        let sha256 = Sha256::of(&certificate).to_string();
        Ok(Self { certificate, sha256 })
    }

    /// SHA-256 of the certificate, in hex: what the platform knows it by.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }

    /// Checks a signature of ECDSA with P-256 and SHA-256, ASN.1 DER.
    ///
    /// # Errors
    /// `BadSignature` when it is another one's, or of something else.
    pub fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let certificate =
            EndEntityCert::try_from(&self.certificate).map_err(|_| KeyError::BadSignature)?;
        certificate
            .verify_signature(ECDSA_P256_SHA256, signed, signature)
            .map_err(|_| KeyError::BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SigningKey as _};

    use super::*;

    #[test]
    fn only_what_its_key_has_signed_is_believed() {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::default().self_signed(&key).unwrap().pem();
        let signer = HostSigner::read(&pem).unwrap();
        let signature = key.sign(b"so much").unwrap();
        signer.verify(b"so much", &signature).unwrap();
        assert_eq!(signer.verify(b"more", &signature), Err(KeyError::BadSignature));
        let theirs = KeyPair::generate().unwrap().sign(b"so much").unwrap();
        assert_eq!(signer.verify(b"so much", &theirs), Err(KeyError::BadSignature));
        assert_eq!(signer.verify(b"so much", b""), Err(KeyError::BadSignature));
        assert_eq!(signer.sha256().len(), 64);
        for garbage in ["", "garbage"] {
            assert!(matches!(HostSigner::read(garbage), Err(KeyError::BadSigner { .. })));
        }
    }
}
