//! The customer's side: makes a key for each volume and host that asks, seals it to the host and
//! wraps it for the customer.
//!
//! A host is believed when its certificate is signed by an authority of the platform *and* its
//! sealing key is the one that it had when it was first seen: the platform could sign for a key of
//! its own, but not unnoticed for a host that is known. What was seen is kept as a line a host, as
//! ssh keeps its known hosts; keeping the text is the caller's.

use std::collections::HashMap;

use fairmazon_model::{
    id::HostId,
    key::{Blob, FIRST_KEY_VERSION, KeyRequest, VolumeHostKey},
    units::UnixMs,
};

use crate::{
    Binding, HostCertificate, Identity, KeyError, Purpose, Recipient, SealedKey, SealingKey,
    VolumeKey, WrappedKey,
};

/// An identity, whom it trusts, and the hosts that it knows.
#[derive(Debug)]
pub struct Keyring {
    identity: Identity,
    /// Who signs for hosts, PEM.
    authorities: String,
    known: HashMap<HostId, String>,
}

/// A key that was made for a host.
#[derive(Debug)]
pub struct Answer {
    /// What the platform is given.
    pub key: VolumeHostKey,
    /// The line to keep, before the key is given, of a host that was not known.
    pub first_seen: Option<String>,
}

impl Keyring {
    /// An identity, the authorities that sign for hosts (PEM), and the text of the known hosts,
    /// which may be empty. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// `BadKnownHost` for any other line: passed over, it would have a host believed anew.
    pub fn new(identity: Identity, authorities: String, known: &str) -> Result<Self, KeyError> {
        let mut hosts = HashMap::new();
        for (index, line) in known.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (host, fingerprint) =
                read_known(line).ok_or(KeyError::BadKnownHost { line: index + 1 })?;
            // The first one counts: two runs at once may both have written theirs.
            hosts.entry(host).or_insert(fingerprint);
        }
        Ok(Self { identity, authorities, known: hosts })
    }

    /// Makes the key that is asked for.
    ///
    /// # Errors
    /// `BadCertificate` for a host that is not to be believed, `ChangedHost` for one that is known
    /// with another sealing key.
    pub fn answer(&mut self, request: &KeyRequest, now: UnixMs) -> Result<Answer, KeyError> {
        self.answer_with(request, &VolumeKey::random()?, now)
    }

    /// As [`answer`](Self::answer), with a key that is there: that of a volume which is imported.
    ///
    /// # Errors
    /// As of [`answer`](Self::answer).
    pub fn answer_with(
        &mut self,
        request: &KeyRequest,
        key: &VolumeKey,
        now: UnixMs,
    ) -> Result<Answer, KeyError> {
        let KeyRequest { volume, host, version, made_for, certificate } = request;
        let shown = HostCertificate::verify(certificate, &self.authorities, *host, now)?;
        let first_seen = self.check(*host, &shown.sealing_key.fingerprint())?;
        let binding =
            Binding { volume: *volume, host: *host, purpose: Purpose::Run, version: *version };
        let key = give_key(key, &binding, &shown.sealing_key, &self.identity.recipient())?;
        Ok(Answer { key: VolumeHostKey { made_for: *made_for, ..key }, first_seen })
    }

    /// Accepts a host with the key that it is known with, and one that was never seen; then the
    /// line to keep.
    fn check(&mut self, host: HostId, shown: &str) -> Result<Option<String>, KeyError> {
        match self.known.get(&host) {
            Some(known) if known == shown => Ok(None),
            Some(known) => {
                Err(KeyError::ChangedHost { host, known: known.clone(), shown: shown.to_owned() })
            }
            None => {
                self.known.insert(host, shown.to_owned());
                Ok(Some(format!("{host} {shown}\n")))
            }
        }
    }
}

/// The host and the fingerprint of a line.
fn read_known(line: &str) -> Option<(HostId, String)> {
    let (host, fingerprint) = line.split_once(' ')?;
    let fingerprint = fingerprint.trim();
    SealingKey::is_fingerprint(fingerprint).then_some(())?;
    Some((host.parse().ok()?, fingerprint.to_owned()))
}

/// Makes a new key: sealed to the host with this sealing key, wrapped for the customer, and kept
/// nowhere. It is said to be made for the first `key_version`.
///
/// # Errors
/// `NoRandomness`; as of [`SealedKey::seal`] and [`WrappedKey::wrap`].
pub fn make_key(
    binding: &Binding,
    to: &SealingKey,
    customer: &Recipient,
) -> Result<VolumeHostKey, KeyError> {
    give_key(&VolumeKey::random()?, binding, to, customer)
}

/// A key, sealed to the host and wrapped for the customer.
fn give_key(
    key: &VolumeKey,
    binding: &Binding,
    to: &SealingKey,
    customer: &Recipient,
) -> Result<VolumeHostKey, KeyError> {
    let sealed = SealedKey::seal(key, customer, to, binding)?;
    let wrapped = WrappedKey::wrap(key, binding.volume, customer)?;
    Ok(VolumeHostKey {
        version: binding.version,
        made_for: FIRST_KEY_VERSION,
        fingerprint: key.fingerprint(),
        sealed: Blob(sealed.bytes().to_vec()),
        wrapped: Blob(wrapped.bytes().to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_from_its_first_sight_on() {
        let (one, two) = (HostId::from_parts(1, 1), HostId::from_parts(1, 2));
        let [a, b, c, z] = [1, 2, 3, 4].map(|byte| SealingKey::new(&[byte; 32]).unwrap());
        let [a, b, c, z] = [a, b, c, z].map(|key| key.fingerprint());
        let keyring = |text: &str| Keyring::new(Identity::generate(), String::new(), text);
        let mut first = keyring("# comment\n\n").unwrap();
        let mut text = first.check(one, &a).unwrap().unwrap();
        assert_eq!(first.check(one, &a).unwrap(), None);
        text += &first.check(two, &b).unwrap().unwrap();
        // Another run at the same time saw it too; the first line counts.
        text += &format!("{one} {z}\n");
        let mut again = keyring(&text).unwrap();
        assert_eq!(again.check(two, &b).unwrap(), None);
        let changed = again.check(one, &c).unwrap_err();
        assert!(matches!(changed, KeyError::ChangedHost { host, .. } if host == one), "{changed}");
        let accepted = text.replace(&format!("{one} "), "# ");
        assert!(keyring(&accepted).unwrap().check(one, &c).unwrap().is_some());
    }

    #[test]
    fn a_damaged_line_makes_no_host_a_stranger() {
        let host = HostId::from_parts(1, 1);
        let good = SealingKey::new(&[1; 32]).unwrap().fingerprint();
        let line = format!("{host} {good}");
        let keyring = |text: &str| Keyring::new(Identity::generate(), String::new(), text);
        assert!(keyring(&line).is_ok());
        let cuts = (1..line.len()).map(|end| line[..end].to_owned());
        for damaged in cuts.chain([format!("x{line}"), line.replace("SHA256", "MD5")]) {
            let error = keyring(&format!("# comment\n{damaged}\n")).unwrap_err();
            assert_eq!(error, KeyError::BadKnownHost { line: 2 }, "{damaged}");
        }
    }
}
