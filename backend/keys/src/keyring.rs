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
    pub fn new(identity: Identity, authorities: String, known: &str) -> Self {
        let mut hosts = HashMap::new();
        for line in known.lines() {
            if let Some((host, fingerprint)) = line.trim().split_once(' ')
                && let Ok(host) = host.parse()
            {
                // The first one counts: two runs at once may both have written theirs.
                hosts.entry(host).or_insert_with(|| fingerprint.trim().to_owned());
            }
        }
        Self { identity, authorities, known: hosts }
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
        let keyring = |text: &str| Keyring::new(Identity::generate(), String::new(), text);
        let mut first = keyring("# comment\n\nnonsense line\n");
        let mut text = first.check(one, "SHA256:a").unwrap().unwrap();
        assert_eq!(first.check(one, "SHA256:a").unwrap(), None);
        text += &first.check(two, "SHA256:b").unwrap().unwrap();
        // Another run at the same time saw it too; the first line counts.
        text += &format!("{one} SHA256:z\n");
        let mut again = keyring(&text);
        assert_eq!(again.check(two, "SHA256:b").unwrap(), None);
        let changed = again.check(one, "SHA256:c").unwrap_err();
        assert!(matches!(changed, KeyError::ChangedHost { host, .. } if host == one), "{changed}");
        let accepted = text.replace(&format!("{one} "), "# ");
        assert!(keyring(&accepted).check(one, "SHA256:c").unwrap().is_some());
    }
}
