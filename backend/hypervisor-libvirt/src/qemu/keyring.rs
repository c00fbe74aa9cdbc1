//! The keys that this process was given, and their loan to libvirt.

use std::{collections::HashMap, sync::Arc};

use fairmazon_hypervisor::{HypervisorError, Result, VolumeKey};
use fairmazon_model::id::VolumeId;
use parking_lot::Mutex;
use virt::{connect::Connect, secret::Secret};

use super::xml;
use crate::error::failed;

/// The keys in memory.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    keys: Mutex<HashMap<VolumeId, Arc<VolumeKey>>>,
    lent: LentNow,
}

/// How often each key is lent to libvirt now.
#[derive(Debug, Clone, Default)]
pub(super) struct LentNow(Arc<Mutex<HashMap<VolumeId, usize>>>);

impl Keyring {
    pub(super) fn lent(&self) -> LentNow {
        self.lent.clone()
    }

    pub(super) fn give(&self, volume: VolumeId, key: VolumeKey) {
        self.keys.lock().insert(volume, Arc::new(key));
    }

    pub(super) fn forget(&self, volume: VolumeId) {
        self.keys.lock().remove(&volume);
    }

    pub(super) fn get(&self, volume: VolumeId) -> Result<Arc<VolumeKey>> {
        let missing = || HypervisorError::KeyMissing { what: volume.to_string() };
        self.keys.lock().get(&volume).cloned().ok_or_else(missing)
    }

    /// Lends a key to libvirt.
    pub(super) fn lend(&self, connection: &Connect, volume: VolumeId) -> Result<Lent> {
        let key = self.get(volume)?;
        let mut lent = self.lent.0.lock();
        let secret = connection
            .define_secret_xml(&xml::secret(volume), 0)
            .map_err(failed(format!("prepare libvirt for the key of {volume}")))?;
        *lent.entry(volume).or_default() += 1;
        drop(lent);
        // From here on it is taken back, also when the value is refused.
        let lent = Lent { of: self.lent.clone(), secret, volume };
        lent.secret
            .set_value(key.passphrase().as_bytes(), 0)
            .map_err(failed(format!("lend the key of {volume} to libvirt")))?;
        Ok(lent)
    }
}

/// A key that libvirt has for now, as a secret that it keeps in memory and shows to nobody; it is
/// taken back when the last of these for a volume is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    of: LentNow,
    secret: Secret,
    volume: VolumeId,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut lent = self.of.0.lock();
        if let Some(others) = lent.get_mut(&self.volume)
            && *others > 1
        {
            *others -= 1;
            return;
        }
        lent.remove(&self.volume);
        if let Err(error) = self.secret.undefine() {
            // libvirt forgets it at its own end; the next loan takes its place before that.
            tracing::warn!(volume = %self.volume, %error, "a key could not be taken back from libvirt");
        }
    }
}

impl LentNow {
    /// Takes back the keys that an earlier process of the agent lent and could not take back, and
    /// those that this one could not.
    pub(super) fn take_back_others(
        &self,
        connection: &Connect,
    ) -> std::result::Result<(), virt::error::Error> {
        let lent = self.0.lock();
        // Not `usage_id`, which in virt 0.5 frees a text that stays libvirt's.
        let ours = format!("<volume>{}", xml::SECRET_USAGE);
        for secret in connection.list_all_secrets(0)? {
            let text = secret.xml_desc(0)?;
            let is_lent = |volume: &VolumeId| text.contains(&xml::secret_usage(*volume));
            if text.contains(&ours) && !lent.keys().any(is_lent) {
                secret.undefine()?;
            }
        }
        Ok(())
    }
}
