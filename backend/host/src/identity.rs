//! Who this host is: its key for TLS, the key that volume keys are sealed to, and the certificate
//! that the platform has signed for both.
//!
//! Kept in the agent's state folder, for its owner alone. The sealing key is made once and stays,
//! certificates come and go, and a host that joins anew has another key for TLS. Losing the folder loses the keys, and with them what was sealed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fairmazon_keys::{HostSecret, KeyError, sealing_key_name};
use fairmazon_model::units::UnixMs;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SigningKey};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};
use zeroize::Zeroizing;

use crate::files::{self, Durability};

const TLS_KEY: &str = "host.key";
const SEALING_KEY: &str = "sealing.key";
const CERTIFICATE: &str = "host.pem";
/// What the agent keeps beside its identity, from its first set on.
const STATE: &str = "state";

/// A host's keys, and its certificate once it has joined.
pub struct HostIdentity {
    folder: PathBuf,
    tls_key: KeyPair,
    /// The key for TLS is none of the folder's before there is a certificate for it.
    is_new: bool,
    secret: Arc<HostSecret>,
}

/// What is to be done without the key for TLS.
const WITHOUT_TLS_KEY: &str = "without it, delete it and `host.pem` and have the host join anew \
    with another token (`fairmazon host rotate-token`)";
/// What is to be done without the sealing key.
const WITHOUT_SEALING_KEY: &str = "without it nothing that was sealed to this host can be opened, \
    and the host has to be removed and registered anew, with an empty folder";

/// Why a host has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error("could not {attempted} {}: check the disk's room and the folder's rights", path.display())]
    Io {
        /// What was tried, as a verb.
        attempted: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what}: put the right file back; {without}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is to be done without it.
        without: &'static str,
    },
    /// The key that seals open with is gone.
    #[error(
        "{} is gone, though this host was in use: put it back from a copy; {WITHOUT_SEALING_KEY}",
        path.display()
    )]
    Gone {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate can't be used.
    #[error(
        "{} can't be used: {why}; put the right file back, or delete it and have the host join anew \
         with another token (`fairmazon host rotate-token`)", path.display()
    )]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A key, a request or a signature can't be made.
    #[error("could not make a key, a request for a certificate or a signature")]
    Make(#[source] rcgen::Error),
}

impl HostIdentity {
    /// Opens the identity in the folder; makes the keys where there are none yet.
    ///
    /// # Errors
    /// When a file can't be read or written, or holds something else; `Certificate` where the key of
    /// one is missing, `Gone` where the sealing key is and the folder was used with one.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let folder = folder.into();
        files::make_folder(&folder).map_err(failed("make", &folder))?;
        let certificate = folder.join(CERTIFICATE);
        let was_used = certificate.exists() || folder.join(STATE).exists();
        let tls_file = folder.join(TLS_KEY);
        let tls_key = match read(&tls_file)? {
            Some(pem) => {
                let key = str::from_utf8(&pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
                key.ok_or_else(|| content(&tls_file, "private key", WITHOUT_TLS_KEY))?
            }
            None if certificate.exists() => {
                let why = "its key, `host.key` beside it, is gone";
                return Err(IdentityError::Certificate { path: certificate, why });
            }
            None => {
                let key = new_tls_key()?;
                let pem = Zeroizing::new(key.serialize_pem());
                write(&tls_file, pem.as_bytes())?;
                key
            }
        };
        let secret_file = folder.join(SEALING_KEY);
        let secret = match read(&secret_file)? {
            Some(bytes) => HostSecret::new(&bytes)
                .map_err(|_: KeyError| content(&secret_file, "sealing key", WITHOUT_SEALING_KEY))?,
            None if was_used => return Err(IdentityError::Gone { path: secret_file }),
            None => {
                let secret = HostSecret::generate();
                write(&secret_file, secret.bytes().as_slice())?;
                secret
            }
        };
        Ok(Self { folder, tls_key, is_new: false, secret: Arc::new(secret) })
    }

    /// As [`open`](Self::open), with another key for TLS than one that had a certificate before:
    /// whoever knows that one is not to profit from the next certificate. It takes its place with
    /// the certificate that is [kept](Self::keep) for it; until then all stays as it was.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_to_join(folder: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let mut identity = Self::open(folder)?;
        if identity.folder.join(CERTIFICATE).exists() {
            identity.tls_key = new_tls_key()?;
            identity.is_new = true;
        }
        Ok(identity)
    }

    /// What opens the keys that were sealed to this host.
    pub fn secret(&self) -> Arc<HostSecret> {
        Arc::clone(&self.secret)
    }

    /// A request for a certificate, PKCS #10 as PEM.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn request(&self) -> Result<String, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.tls_key);
        request.and_then(|request| request.pem()).map_err(IdentityError::Make)
    }

    /// Signs with the key of the certificate: ECDSA, P-256, SHA-256, ASN.1 DER.
    ///
    /// # Errors
    /// When the key can't be used.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        SigningKey::sign(&self.tls_key, bytes).map_err(IdentityError::Make)
    }

    /// The SHA-256 of the certificate's public key, in hex.
    pub fn tls_key_sha256(&self) -> String {
        hex::encode(Sha256::digest(self.tls_key.subject_public_key_info()))
    }

    /// The private key of the certificate, as PEM.
    pub fn tls_key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.tls_key.serialize_pem())
    }

    /// The certificate with its chain, as PEM; none before the host has joined.
    ///
    /// # Errors
    /// When the file can't be read, or holds something else than a certificate for these keys.
    pub fn certificate(&self) -> Result<Option<JoinedCertificate>, IdentityError> {
        let path = self.folder.join(CERTIFICATE);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let odd = |why| IdentityError::Certificate { path: path.clone(), why };
        let none = || odd("it holds no certificate");
        let pem = String::from_utf8(bytes.to_vec()).map_err(|_| none())?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| none())?;
        let (_, parsed) = parse_x509_certificate(&der).map_err(|_| none())?;
        if parsed.public_key().raw != self.tls_key.subject_public_key_info() {
            return Err(odd("it is for another key than that of `host.key` beside it"));
        }
        let sealing_key = sealing_key_name(&self.secret.sealing_key());
        let names = parsed.subject_alternative_name().ok().flatten();
        let mut names = names.iter().flat_map(|names| &names.value.general_names);
        if !names.any(|name| matches!(name, GeneralName::URI(uri) if *uri == sealing_key)) {
            return Err(odd("it is for another key than that of `sealing.key` beside it"));
        }
        let ms = |seconds: i64| UnixMs(seconds.saturating_mul(1_000));
        let validity = parsed.validity();
        Ok(Some(JoinedCertificate {
            from: ms(validity.not_before.timestamp()),
            until: ms(validity.not_after.timestamp()),
            sha256: hex::encode(Sha256::digest(&der)),
            pem,
        }))
    }

    /// Gives up the certificate, which nobody accepts any more: the host joins anew.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn forget_certificate(&self) -> Result<(), IdentityError> {
        let path = self.folder.join(CERTIFICATE);
        files::remove(&path).map_err(failed("remove", &path))
    }

    /// Keeps a certificate that was signed for this host.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn keep(&self, certificate: &str) -> Result<(), IdentityError> {
        if self.is_new {
            // A crash in between leaves a host that has not joined, and may do so again.
            self.forget_certificate()?;
            write(&self.folder.join(TLS_KEY), self.tls_key_pem().as_bytes())?;
        }
        write(&self.folder.join(CERTIFICATE), certificate.as_bytes())
    }
}

/// A certificate that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedCertificate {
    /// It and its chain, as PEM.
    pub pem: String,
    /// SHA-256 of its DER, in hex: what the platform knows it by.
    pub sha256: String,
    /// When it begins.
    pub from: UnixMs,
    /// When it ends.
    pub until: UnixMs,
}

impl JoinedCertificate {
    /// Whether two thirds of its life are over, so that it is to be renewed.
    pub const fn is_old(&self, now: UnixMs) -> bool {
        let (lived, life) = (now.0 - self.from.0, self.until.0 - self.from.0);
        lived.saturating_mul(3) >= life.saturating_mul(2)
    }

    /// Whether nobody accepts it any more.
    pub const fn has_ended(&self, now: UnixMs) -> bool {
        now.0 >= self.until.0
    }
}

fn new_tls_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Make)
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    files::read(path).map(|found| found.map(Zeroizing::new)).map_err(failed("read", path))
}

/// All of it or nothing, durable, for the owner alone.
fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    files::replace(path, bytes, Durability::Machine).map_err(failed("write", path))
}

fn failed(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { attempted, path, source }
}

fn content(path: &Path, what: &'static str, without: &'static str) -> IdentityError {
    IdentityError::Content { path: path.to_owned(), what, without }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn keys_are_made_once_and_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = HostIdentity::open(folder.path().join("state")).unwrap();
        let again = HostIdentity::open(folder.path().join("state")).unwrap();
        assert_eq!(first.secret().sealing_key(), again.secret().sealing_key());
        assert_eq!(first.tls_key_pem(), again.tls_key_pem());
        assert_eq!(first.certificate().unwrap(), None);
        for file in [TLS_KEY, SEALING_KEY] {
            let path = folder.path().join("state").join(file);
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        assert!(first.request().unwrap().contains("BEGIN CERTIFICATE REQUEST"));
    }

    #[test]
    fn a_host_that_joins_anew_has_another_key_once_it_has_a_certificate_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let opened = || HostIdentity::open(folder.path()).unwrap();
        let certificate = |of: &HostIdentity| {
            let mut params = CertificateParams::default();
            let name = sealing_key_name(&of.secret.sealing_key()).try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(name));
            params.self_signed(&of.tls_key).unwrap().pem()
        };
        let first = HostIdentity::open_to_join(folder.path()).unwrap();
        assert_eq!(first.tls_key_sha256(), opened().tls_key_sha256(), "nobody has had it before");
        first.keep(&certificate(&first)).unwrap();
        let refused = HostIdentity::open_to_join(folder.path()).unwrap();
        assert_ne!(refused.tls_key_sha256(), first.tls_key_sha256());
        drop(refused);
        assert_eq!(opened().tls_key_sha256(), first.tls_key_sha256());
        assert!(opened().certificate().unwrap().is_some(), "it was not let in, and goes on");

        let anew = HostIdentity::open_to_join(folder.path()).unwrap();
        anew.keep(&certificate(&anew)).unwrap();
        assert_eq!(opened().tls_key_sha256(), anew.tls_key_sha256());
        assert_eq!(opened().secret().sealing_key(), first.secret().sealing_key());
        assert!(opened().certificate().unwrap().is_some());
        anew.keep(&certificate(&anew)).unwrap();
        assert!(opened().certificate().unwrap().is_some(), "a renewed one");
    }

    #[test]
    fn damaged_keys_are_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        HostIdentity::open(folder.path()).unwrap();
        for file in [TLS_KEY, SEALING_KEY] {
            let path = folder.path().join(file);
            let was = fs::read(&path).unwrap();
            fs::write(&path, "damaged").unwrap();
            let error = HostIdentity::open(folder.path()).err().unwrap();
            assert!(error.to_string().contains(file), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"damaged");
            fs::write(&path, was).unwrap();
        }
        fs::write(folder.path().join(CERTIFICATE), "damaged").unwrap();
        let identity = HostIdentity::open(folder.path()).unwrap();
        assert!(identity.certificate().unwrap_err().to_string().contains(CERTIFICATE));
    }

    #[test]
    fn keys_that_are_gone_are_missed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        HostIdentity::open(folder.path()).unwrap();
        for (sign, key) in
            [(CERTIFICATE, TLS_KEY), (CERTIFICATE, SEALING_KEY), (STATE, SEALING_KEY)]
        {
            fs::write(at(sign), "something").unwrap();
            let was = fs::read(at(key)).unwrap();
            fs::remove_file(at(key)).unwrap();
            let error = HostIdentity::open(folder.path()).err().unwrap();
            assert!(error.to_string().contains(key) && !at(key).exists(), "{error}");
            fs::write(at(key), was).unwrap();
            fs::remove_file(at(sign)).unwrap();
        }
        // What a crash leaves between the two, and a host that is to join anew.
        for key in [SEALING_KEY, TLS_KEY] {
            fs::remove_file(at(key)).unwrap();
            HostIdentity::open(folder.path()).unwrap();
        }
    }

    #[test]
    fn a_certificate_is_for_both_keys() {
        let folder = tempfile::tempdir().unwrap();
        let identity = HostIdentity::open(folder.path()).unwrap();
        let certificate = |tls_key: &KeyPair, sealing: &HostSecret| {
            let mut params = CertificateParams::default();
            let name = sealing_key_name(&sealing.sealing_key()).try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(name));
            params.self_signed(tls_key).unwrap().pem()
        };
        let (tls_key, sealing) = (KeyPair::generate().unwrap(), HostSecret::generate());
        identity.keep(&certificate(&identity.tls_key, &identity.secret)).unwrap();
        assert!(identity.certificate().unwrap().is_some());
        for (wrong, named) in [
            (certificate(&tls_key, &identity.secret), TLS_KEY),
            (certificate(&identity.tls_key, &sealing), SEALING_KEY),
        ] {
            identity.keep(&wrong).unwrap();
            let error = identity.certificate().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let certificate = JoinedCertificate {
            pem: String::new(),
            sha256: String::new(),
            from: UnixMs(0),
            until: UnixMs(300),
        };
        assert!(!certificate.is_old(UnixMs(199)) && certificate.is_old(UnixMs(200)));
        assert!(!certificate.has_ended(UnixMs(299)) && certificate.has_ended(UnixMs(300)));
    }
}
