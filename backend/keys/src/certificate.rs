//! A host's certificate: that the platform knows the host, and which key of it seals open with.
//!
//! Both are URIs among the certificate's subject alternative names (RFC 5280, section 4.2.1.6),
//! so that no extension of our own is needed: [`host_name`] and [`sealing_key_name`].

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fairmazon_model::{id::HostId, units::UnixMs};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

use crate::{KeyError, SealingKey};

const HOST: &str = "fairmazon:host:";
const SEALING_KEY: &str = "fairmazon:sealing-key:x25519:";

/// The name that says which host a certificate is of.
pub fn host_name(host: HostId) -> String {
    format!("{HOST}{host}")
}

/// The name that says which key of the host volume keys are sealed to.
pub fn sealing_key_name(key: &SealingKey) -> String {
    format!("{SEALING_KEY}{}", URL_SAFE_NO_PAD.encode(key.bytes()))
}

/// A certificate of a host that has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCertificate {
    /// Whose it is.
    pub host: HostId,
    /// What volume keys are sealed to for it.
    pub sealing_key: SealingKey,
    /// When it ends.
    pub until: UnixMs,
}

impl HostCertificate {
    /// Believes the certificate that begins `chain`, when it is of this host, valid at `now`, and
    /// signed by one of `authorities`, by itself or through the rest of the chain. Both are PEM.
    ///
    /// # Errors
    /// `ExpiredCertificate` after its end, `BadCertificate` with the reason otherwise.
    pub fn verify(
        chain: &str,
        authorities: &str,
        host: HostId,
        now: UnixMs,
    ) -> Result<Self, KeyError> {
        let bad = |reason| KeyError::BadCertificate { host, reason };
        let chain = certificates(chain).map_err(bad)?;
        let none = || bad("there is none in what was given".into());
        let (leaf, between) = chain.split_first().ok_or_else(none)?;
        Self::verify_der(leaf, between, authorities, host, now)
    }

    /// As [`verify`](Self::verify), of a certificate and the rest of its chain in DER.
    ///
    /// # Errors
    /// `ExpiredCertificate` after its end, `BadCertificate` with the reason otherwise.
    pub fn verify_der(
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        authorities: &str,
        host: HostId,
        now: UnixMs,
    ) -> Result<Self, KeyError> {
        let bad = |reason: String| KeyError::BadCertificate { host, reason };
        let authorities = certificates(authorities).map_err(bad)?;
        let anchors =
            authorities.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors
            .map_err(|error| bad(format!("an authority's certificate can't be read: {error}")))?;
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| bad(error.to_string()))?;
        let seconds = u64::try_from(now.0.div_euclid(1_000)).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        certificate
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                between,
                time,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => KeyError::ExpiredCertificate { host },
                // The second is an authority's that only has the name of one that is trusted.
                webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                    bad("no authority that is trusted for hosts has signed it".to_owned())
                }
                other => bad(other.to_string()),
            })?;
        Self::read(leaf, host).map_err(bad)
    }

    /// Which host a certificate says that it is of: to be believed only of one that was verified.
    ///
    /// # Errors
    /// `NoHost` when it names none, or several.
    pub fn claimed_host(leaf: &CertificateDer<'_>) -> Result<HostId, KeyError> {
        let (_, parsed) = parse_x509_certificate(leaf).map_err(|_| KeyError::NoHost)?;
        let names = names(&parsed).map_err(|_| KeyError::NoHost)?;
        let host = only(&names, HOST, "host").map_err(|_| KeyError::NoHost)?;
        host.parse().map_err(|_| KeyError::NoHost)
    }

    /// What the certificate says, when it is of this host.
    fn read(leaf: &CertificateDer<'_>, host: HostId) -> Result<Self, String> {
        let (_, parsed) =
            parse_x509_certificate(leaf).map_err(|_| "it is not an X.509 certificate")?;
        let names = names(&parsed)?;
        let of = only(&names, HOST, "host")?;
        if of != host.to_string() {
            return Err(format!("it is the one of {of}"));
        }
        let key = URL_SAFE_NO_PAD.decode(only(&names, SEALING_KEY, "sealing key")?);
        let sealing_key = key.ok().and_then(|bytes| SealingKey::new(&bytes).ok());
        let sealing_key = sealing_key.ok_or("its sealing key can't be read")?;
        let until = UnixMs(parsed.validity().not_after.timestamp().saturating_mul(1_000));
        Ok(Self { host, sealing_key, until })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM: {error}"))
}

fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, String> {
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = |name: &GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    };
    Ok(names.iter().filter_map(uri).collect())
}

/// The rest of the one name that begins with `prefix`.
fn only<'a>(names: &[&'a str], prefix: &str, what: &str) -> Result<&'a str, String> {
    let mut found = names.iter().filter_map(|name| name.strip_prefix(prefix));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("it names no {what}")),
        (Some(_), Some(_)) => Err(format!("it names more than one {what}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
        KeyPair, SanType, date_time_ymd,
    };

    use super::*;
    use crate::HostSecret;

    /// In 2026.
    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn host() -> HostId {
        HostId::from_parts(1, 1)
    }

    fn leaf(
        by: &CertifiedIssuer<'_, KeyPair>,
        names: &[String],
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut params = CertificateParams::default();
        let uri = |name: &String| SanType::URI(name.as_str().try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().pem()
    }

    #[test]
    fn what_an_authority_has_signed_is_believed() {
        let key = HostSecret::generate().sealing_key();
        let authority = authority("one");
        let pem = leaf(&authority, &[host_name(host()), sealing_key_name(&key)], |_| ());
        let believed = HostCertificate::verify(&pem, &authority.pem(), host(), NOW).unwrap();
        assert_eq!(believed.sealing_key, key);
        assert_eq!(believed.host, host());
        assert!(believed.until > NOW);
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        let key = HostSecret::generate().sealing_key();
        let (ours, theirs) = (authority("one"), authority("two"));
        let namesake = authority("one");
        let names = [host_name(host()), sealing_key_name(&key)];
        let good = leaf(&ours, &names, |_| ());
        let reason = |pem: &str, authorities: &str, host, now| {
            HostCertificate::verify(pem, authorities, host, now).unwrap_err().to_string()
        };
        let said = reason(&good, &theirs.pem(), host(), NOW);
        assert!(said.contains("no authority that is trusted"), "{said}");
        let said = reason(&good, &namesake.pem(), host(), NOW);
        assert!(said.contains("no authority that is trusted"), "{said}");
        let said = reason(&good, &ours.pem(), HostId::from_parts(1, 2), NOW);
        assert!(said.contains("it is the one of"), "{said}");
        let said = reason(&good, &ours.pem(), host(), UnixMs(NOW.0 + 400 * 86_400_000));
        assert!(said.contains("has expired") && said.contains("joins anew"), "{said}");
        let said = reason(&leaf(&ours, &names[..1], |_| ()), &ours.pem(), host(), NOW);
        assert!(said.contains("no sealing key"), "{said}");
        let both = [names[0].clone(), names[1].clone(), names[1].clone()];
        let said = reason(&leaf(&ours, &both, |_| ()), &ours.pem(), host(), NOW);
        assert!(said.contains("more than one"), "{said}");
        let server = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        };
        reason(&leaf(&ours, &names, server), &ours.pem(), host(), NOW);
        for garbage in ["", "garbage", &good[..good.len() / 2]] {
            reason(garbage, &ours.pem(), host(), NOW);
        }
    }
}
