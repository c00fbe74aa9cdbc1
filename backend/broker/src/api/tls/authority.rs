//! The authority that `fairmazon dev` makes for itself: one key, one certificate, kept in the
//! data folder so that what clients trust stays the same over restarts.
//!
//! The broker's own certificate is short and made anew well before it ends. Keys have mode
//! 0600. Anything unreadable or gone is an error: silently making a new authority would break
//! every client that trusts the old one. Only the certificate is made again for a key that is
//! there.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::parse_x509_certificate;

use super::{
    AUTHORITY_ADVICE, CertificateFiles, HostAuthority, SERVER_ADVICE, TlsError, validity_of,
};
use crate::files;

/// How long the authority lives, in days.
const AUTHORITY_DAYS: i32 = 3_650;
/// How long the broker's certificate lives, in days.
const SERVER_DAYS: i32 = 90;
/// How long before its end a certificate is made anew, in days.
const RENEW_BEFORE_DAYS: i64 = 30;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The files of an authority and of the broker's certificate signed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// The authority whose files are in this folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The certificate that clients trust, in PEM form.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The broker's certificate and key.
    pub fn server_files(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.folder.join("server.pem"),
            key: self.folder.join("server.key"),
        }
    }

    /// Makes the authority itself where it is missing: enough to sign for hosts, where the broker's
    /// own certificate comes from elsewhere. `now_ms` is the wall clock in ms since the Unix epoch.
    ///
    /// # Errors
    /// When files can't be read or written, or hold something else.
    pub fn ensure_itself(&self, now_ms: i64) -> Result<(), TlsError> {
        self.ensure_key(now_ms).map(|_| ())
    }

    /// Makes what is missing and renews what ends soon. `names` are host names and addresses
    /// that the broker is reached by; `now_ms` is the wall clock in ms since the Unix epoch.
    ///
    /// # Errors
    /// When files can't be read or written, or hold something else.
    pub fn ensure(&self, names: &[String], now_ms: i64) -> Result<(), TlsError> {
        let is_new = self.ensure_key(now_ms)?;
        let server = self.server_files();
        let ends_soon = |path| ends_soon(path, SERVER_ADVICE, now_ms);
        if is_new || !server.key.exists() || ends_soon(&server.certificate)? {
            self.make_server(names, now_ms)?;
        }
        Ok(())
    }

    /// What signs for the hosts of the platform.
    ///
    /// # Errors
    /// When the files can't be read, or hold something else.
    pub fn for_hosts(&self) -> Result<HostAuthority, TlsError> {
        Ok(HostAuthority { key: self.read_key()? })
    }

    /// Whether there is another certificate now.
    fn ensure_key(&self, now_ms: i64) -> Result<bool, TlsError> {
        files::make_private_folder(&self.folder).map_err(|source| TlsError::File {
            verb: "make the folder",
            path: self.folder.clone(),
            source,
        })?;
        let (key_file, certificate_file) = (self.key_file(), self.certificate());
        let key = match (key_file.exists(), certificate_file.exists()) {
            (true, _) => self.read_key()?,
            (false, true) => return Err(TlsError::KeyGone { path: key_file }),
            (false, false) => {
                let key = new_key()?;
                write(&key_file, &key.serialize_pem())?;
                key
            }
        };
        let is_new = ends_soon(&certificate_file, AUTHORITY_ADVICE, now_ms)?;
        if is_new {
            let params = authority_params(now_ms);
            let certificate = params.self_signed(&key).map_err(TlsError::Make)?;
            write(&certificate_file, &certificate.pem())?;
        } else if !is_of(&certificate_file, &key)? {
            return Err(TlsError::Content {
                path: certificate_file,
                what: "certificate",
                reason: "it is for another key than that of `ca.key` beside it".into(),
                advice: AUTHORITY_ADVICE,
            });
        }
        Ok(is_new)
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("ca.key")
    }

    fn read_key(&self) -> Result<KeyPair, TlsError> {
        let path = self.key_file();
        let key = KeyPair::from_pem(&read(&path)?);
        key.map_err(|error| TlsError::Content {
            path,
            what: "private key",
            reason: error.to_string(),
            advice: AUTHORITY_ADVICE,
        })
    }

    fn make_server(&self, names: &[String], now_ms: i64) -> Result<(), TlsError> {
        let authority_key = self.read_key()?;
        let params = authority_params(now_ms);
        let issuer = Issuer::from_params(&params, &authority_key);
        let key = new_key()?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(TlsError::Make)?;
        params.distinguished_name.push(DnType::CommonName, "Fairmazon broker");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now_ms, SERVER_DAYS);
        let certificate = params.signed_by(&key, &issuer).map_err(TlsError::Make)?;
        let files = self.server_files();
        write(&files.key, &key.serialize_pem())?;
        write(&files.certificate, &certificate.pem())
    }
}

/// Name and rights of the authority: the same each time, so that a certificate signed later
/// names the one that clients have.
pub(super) fn authority_params(now_ms: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Fairmazon development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now_ms, AUTHORITY_DAYS);
    params
}

fn new_key() -> Result<KeyPair, TlsError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(TlsError::Make)
}

/// From yesterday (clocks differ) for `days`.
pub(super) fn set_validity(params: &mut CertificateParams, now_ms: i64, days: i32) {
    let today = Timestamp::from_millisecond(now_ms)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(TimeZone::UTC)
        .date();
    let day = |date: Date| {
        let part = |value: i8| u8::try_from(value).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(days.days()));
}

/// Whether the certificate is not there, has ended or ends soon.
fn ends_soon(path: &Path, advice: &'static str, now_ms: i64) -> Result<bool, TlsError> {
    if !path.exists() {
        return Ok(true);
    }
    let content = |reason: String| {
        let path = path.to_owned();
        TlsError::Content { path, what: "certificate", reason, advice }
    };
    let pem = read(path)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| content(error.to_string()))?;
    let validity = validity_of(&der).map_err(|reason| content(reason.to_owned()))?;
    Ok(!validity.holds_at(now_ms) || validity.until_ms - now_ms < RENEW_BEFORE_DAYS * DAY_MS)
}

/// Whether the certificate, which can be read, is for this key.
fn is_of(path: &Path, key: &KeyPair) -> Result<bool, TlsError> {
    let pem = read(path)?;
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return Ok(false) };
    let parsed = parse_x509_certificate(&der);
    Ok(parsed.is_ok_and(|(_, found)| found.public_key().raw == key.subject_public_key_info()))
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::File {
        verb: "read",
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, pem: &str) -> Result<(), TlsError> {
    files::write_private(path, pem.as_bytes()).map_err(|source| TlsError::File {
        verb: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tls::ServerTls;

    const NOW: i64 = 1_790_000_000_000;

    fn names() -> Vec<String> {
        vec!["localhost".into(), "127.0.0.1".into()]
    }

    #[test]
    fn what_clients_trust_stays_and_the_rest_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path().join("tls"));
        authority.ensure(&names(), NOW).unwrap();
        let trusted = read(&authority.certificate()).unwrap();
        let shown = read(&authority.server_files().certificate).unwrap();
        ServerTls::load(authority.server_files(), NOW).unwrap();

        authority.ensure(&names(), NOW + DAY_MS).unwrap();
        assert_eq!(read(&authority.server_files().certificate).unwrap(), shown);

        authority.ensure(&names(), NOW + 61 * DAY_MS).unwrap();
        assert_eq!(read(&authority.certificate()).unwrap(), trusted);
        assert_ne!(read(&authority.server_files().certificate).unwrap(), shown);
    }

    #[test]
    fn an_ended_certificate_and_garbage_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path());
        authority.ensure(&names(), NOW).unwrap();
        let ended = ServerTls::load(authority.server_files(), NOW + 100 * DAY_MS).unwrap_err();
        assert!(matches!(ended, TlsError::NotValidNow { .. }), "{ended}");
        std::fs::write(authority.certificate(), "garbage").unwrap();
        let garbage = authority.ensure(&names(), NOW).unwrap_err();
        assert!(garbage.to_string().contains("ca.pem"), "{garbage}");
    }

    #[test]
    fn no_authority_takes_the_place_of_one_that_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path());
        authority.ensure(&names(), NOW).unwrap();
        let (key_file, certificate) = (authority.key_file(), authority.certificate());
        let (key, trusted) = (read(&key_file).unwrap(), read(&certificate).unwrap());

        std::fs::remove_file(&key_file).unwrap();
        let gone = authority.ensure(&names(), NOW).unwrap_err();
        assert!(matches!(gone, TlsError::KeyGone { .. }), "{gone}");
        assert!(!key_file.exists());
        let other = new_key().unwrap().serialize_pem();
        for wrong in ["", "garbage", &other] {
            std::fs::write(&key_file, wrong).unwrap();
            let error = authority.ensure(&names(), NOW).unwrap_err();
            assert!(error.to_string().contains("ca.key"), "{error}");
            assert_eq!(read(&key_file).unwrap(), wrong);
            assert_eq!(read(&certificate).unwrap(), trusted);
        }
        std::fs::write(&key_file, &key).unwrap();
        authority.ensure(&names(), NOW).unwrap();

        // The certificate is made again for the key that clients trust.
        std::fs::remove_file(&certificate).unwrap();
        authority.ensure(&names(), NOW).unwrap();
        assert_eq!(read(&key_file).unwrap(), key);
        assert!(is_of(&certificate, &authority.read_key().unwrap()).unwrap());

        // What is advised.
        for file in [&key_file, &certificate] {
            std::fs::remove_file(file).unwrap();
        }
        authority.ensure(&names(), NOW).unwrap();
        ServerTls::load(authority.server_files(), NOW).unwrap();
        assert_ne!(read(&certificate).unwrap(), trusted);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::in_folder(folder.path());
        authority.ensure(&names(), NOW).unwrap();
        for file in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
