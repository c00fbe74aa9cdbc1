//! Hosts that have joined under an authority, and a customer who gives the keys that they wait for.

use std::{sync::Arc, time::Duration};

use fairmazon_broker::core::{Caller, KeysOf, PageRequest};
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, make_key};
use fairmazon_model::{
    id::HostId,
    key::{Blob, GivenKey, HostSealing, VolumeHostKey},
};
use parking_lot::Mutex;
use rcgen::KeyPair;
use tokio::sync::watch;

use super::{authority::Authority, net::Up};

/// Between two looks at which keys are waited for.
const LOOK: Duration = Duration::from_millis(700);

/// Who signs for hosts, and what they open seals with.
pub struct Keys {
    authority: Authority,
    secrets: Mutex<Vec<(HostId, Arc<HostSecret>)>>,
    identity: Identity,
}

impl Keys {
    pub fn new() -> Arc<Self> {
        let (authority, identity) = (Authority::new(), Identity::generate());
        Arc::new(Self { authority, secrets: Mutex::default(), identity })
    }

    pub fn authorities(&self) -> String {
        self.authority.pem()
    }

    pub fn secret(&self, host: HostId) -> Arc<HostSecret> {
        let mut secrets = self.secrets.lock();
        if let Some((_, secret)) = secrets.iter().find(|(id, _)| *id == host) {
            return secret.clone();
        }
        let secret = Arc::new(HostSecret::generate());
        secrets.push((host, secret.clone()));
        secret
    }

    /// Signs for a host that has this key for TLS.
    pub fn sign_for(&self, host: HostId, tls: &KeyPair) -> HostSealing {
        let key = self.secret(host).sealing_key();
        let certificate = self.authority.sign_for(host, &key, tls);
        HostSealing { key: Blob(key.bytes().to_vec()), certificate }
    }

    /// Gives every key that is waited for, for ever.
    pub async fn give(self: Arc<Self>, customer: Caller, up: watch::Receiver<Up>) {
        for round in 0_u64.. {
            tokio::time::sleep(LOOK).await;
            let Some(engine) = up.borrow().engine.clone() else { continue };
            let Ok(wanted) = engine.key_requests(&customer, KeysOf::All, PageRequest::first())
            else {
                continue;
            };
            for request in wanted.items {
                let (volume, host, version) = (request.volume, request.host, request.version);
                let binding = Binding { volume, host, purpose: Purpose::Run, version };
                let to = self.secret(host).sealing_key();
                let key = make_key(&binding, &to, &self.identity.recipient()).unwrap();
                let key = VolumeHostKey { made_for: request.made_for, ..key };
                // Somebody else may have been first, or the broker is gone: it is asked again.
                let given = [GivenKey { volume, host, key }];
                let key = format!("{volume}-{round}");
                let give = engine.give_keys(&customer, &given, &key);
                let _ = tokio::time::timeout(Duration::from_secs(5), give).await;
            }
        }
    }
}
