//! An authority that signs for hosts, as the broker's does.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use fairmazon_host::identity::HostIdentity;
use fairmazon_keys::{SealingKey, host_name, sealing_key_name};
use fairmazon_model::id::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PublicKeyData, SanType, date_time_ymd,
};

pub struct Authority {
    key: KeyPair,
    params: CertificateParams,
    pem: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A certificate for the host, with any TLS key.
    pub fn sign(&self, host: HostId, sealing_key: &SealingKey) -> String {
        self.sign_for(host, sealing_key, &KeyPair::generate().unwrap())
    }

    /// A certificate for the host that has this TLS key.
    pub fn sign_for(
        &self,
        host: HostId,
        sealing_key: &SealingKey,
        key: &impl PublicKeyData,
    ) -> String {
        self.sign_with(host, sealing_key, key, |_| ())
    }

    /// Gives a host another certificate in the place of the one that it has.
    pub fn renew(&self, identity: &HostIdentity, host: HostId) {
        self.give(identity, host, |_| ());
    }

    /// Gives a host a certificate that has expired in the place of the one that it has.
    pub fn expire(&self, identity: &HostIdentity, host: HostId) {
        self.give(identity, host, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 31);
        });
    }

    fn give(
        &self,
        identity: &HostIdentity,
        host: HostId,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let key = KeyPair::from_pem(&identity.tls_key_pem()).unwrap();
        let sealing_key = identity.secret().sealing_key();
        identity.keep(&self.sign_with(host, &sealing_key, &key, change)).unwrap();
    }

    fn sign_with(
        &self,
        host: HostId,
        sealing_key: &SealingKey,
        key: &impl PublicKeyData,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut params = CertificateParams::default();
        for name in [host_name(host), sealing_key_name(sealing_key)] {
            params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().pem()
    }
}
