//! Keys of volumes: to whom the plugin gives them, to whom it does not, and what it says without an
//! identity.

use std::{fs, path::PathBuf};

use fairmazon_keys::{
    Binding, HostSecret, Purpose, SealedKey, SealingKey, host_name, sealing_key_name,
};
use fairmazon_model::{
    id::{HostId, VolumeId},
    key::FIRST_KEY_VERSION,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::{Value as Json, json};
use tfplugin::harness::Harness;

use crate::common::{Broker, machine, provider};

const ADDRESS: &str = "fairmazon_instance.web";

/// Who signs for hosts.
struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { key: KeyPair::generate().unwrap(), params }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn sign(&self, host: HostId, sealing_key: &SealingKey) -> String {
        let mut params = CertificateParams::default();
        for name in [host_name(host), sealing_key_name(sealing_key)] {
            params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem()
    }
}

/// A broker whose host asks for keys, and the customer's settings.
struct Asking {
    broker: Broker,
    authority: Authority,
    host: HostId,
}

impl Asking {
    async fn start() -> Self {
        let (broker, authority) = (Broker::start().await, Authority::new());
        Self { broker, authority, host: HostId::from_parts(1, 1) }
    }

    fn block(&self) -> Json {
        let mut block = self.broker.block();
        block["host_authority"] = json!(self.authority.pem());
        block
    }

    /// From now on the host asks for keys with this certificate.
    fn asks_with(&self, certificate: String) {
        self.broker.state.lock().asks = Some((self.host, certificate));
    }

    fn known_hosts(&self) -> PathBuf {
        PathBuf::from(format!("{}.hosts", self.block()["key_file"].as_str().unwrap()))
    }

    /// What an apply is refused with; nothing is given.
    async fn refused(&self) -> String {
        let mut client = Harness::new(provider());
        client.configure(self.block()).await.unwrap();
        let given = self.broker.calls("give_keys");
        let told = client.apply(ADDRESS, machine()).await.unwrap_err().to_string();
        assert_eq!(self.broker.calls("give_keys"), given, "{told}");
        told
    }
}

#[tokio::test]
async fn a_key_is_sealed_to_the_host_that_asks_and_the_host_is_known_from_then_on() {
    let asking = Asking::start().await;
    let secret = HostSecret::generate();
    asking.asks_with(asking.authority.sign(asking.host, &secret.sealing_key()));
    let mut client = Harness::new(provider());
    client.configure(asking.block()).await.unwrap();
    client.apply(ADDRESS, machine()).await.unwrap();
    let given = asking.broker.state.lock().given.borrow().clone();
    assert_eq!(given.len(), 1);
    let binding = Binding {
        volume: given[0].volume_id.parse().unwrap(),
        host: asking.host,
        purpose: Purpose::Run,
        version: FIRST_KEY_VERSION,
    };
    let sealed = SealedKey::from_bytes(given[0].sealed.clone());
    sealed.open(&secret, &binding).unwrap();
    assert!(sealed.open(&HostSecret::generate(), &binding).is_err());
    let known = fs::read_to_string(asking.known_hosts()).unwrap();
    let line = format!("{} {}", asking.host, secret.sealing_key().fingerprint());
    assert_eq!(known.trim(), line);
}

#[tokio::test]
async fn a_host_with_another_key_than_is_known_gets_none() {
    let asking = Asking::start().await;
    let (first, other) = (HostSecret::generate(), HostSecret::generate());
    let known = format!("{} {}\n", asking.host, first.sealing_key().fingerprint());
    fs::write(asking.known_hosts(), &known).unwrap();
    // Whoever can have hosts signed for can swap the key.
    asking.asks_with(asking.authority.sign(asking.host, &other.sealing_key()));
    let told = asking.refused().await;
    let changed = format!(
        "The sealing key of {} has changed from {} to {}",
        asking.host,
        first.sealing_key().fingerprint(),
        other.sealing_key().fingerprint()
    );
    assert!(told.to_lowercase().contains(&changed.to_lowercase()), "{told}");
    assert!(told.contains("somebody may be trying to read your data"), "{told}");
    assert!(told.contains(&format!("remove the line of {}", asking.host)), "{told}");
    assert_eq!(fs::read_to_string(asking.known_hosts()).unwrap(), known, "it is not forgotten");
}

#[tokio::test]
async fn a_host_that_nobody_trusted_has_signed_for_gets_none() {
    let asking = Asking::start().await;
    let secret = HostSecret::generate();
    let (stranger, elsewhere) = (Authority::new(), HostId::from_parts(1, 2));
    for (certificate, why) in [
        (stranger.sign(asking.host, &secret.sealing_key()), "no authority that is trusted"),
        (asking.authority.sign(elsewhere, &secret.sealing_key()), "it is the one of"),
        ("no certificate".to_owned(), "there is none"),
    ] {
        asking.asks_with(certificate);
        let told = asking.refused().await;
        let whose = format!("the certificate of {} is not to be trusted", asking.host);
        assert!(told.to_lowercase().contains(&whose), "{told}");
        assert!(told.contains(why), "{why}: {told}");
        assert!(!asking.known_hosts().exists(), "it is not written down");
    }
}

#[tokio::test]
async fn without_an_identity_nothing_is_made() {
    let broker = Broker::start().await;
    let mut block = broker.block();
    block["key_file"] = json!(null);
    let mut client = Harness::new(provider());
    client.configure(block).await.unwrap();
    let plan = client.plan(ADDRESS, machine()).await.unwrap();
    let warned = plan.warnings.to_string();
    assert!(warned.contains("no identity") && warned.contains("can't be applied here"), "{warned}");
    let told = client.apply(ADDRESS, machine()).await.unwrap_err().to_string();
    assert!(told.contains("no identity to make them with"), "{told}");
    for part in ["key_file", "FAIRMAZON_KEY_FILE", "fairmazon key init"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!((broker.calls("create_instance"), broker.calls("give_keys")), (0, 0));

    // A copy gets its key at once, an empty volume when it is attached.
    let volume = |source: Json| json!({ "name": "data", "size_gib": 1, "source": source });
    let id = VolumeId::from_parts(1, 1).to_string();
    let copy = volume(json!({ "volume_id": id }));
    let plan = client.plan("fairmazon_volume.copy", copy.clone()).await.unwrap();
    assert!(plan.warnings.to_string().contains("no identity"), "{}", plan.warnings);
    let told = client.apply("fairmazon_volume.copy", copy).await.unwrap_err().to_string();
    assert!(told.contains("no identity to make them with"), "{told}");
    assert_eq!(broker.calls("create_volume"), 0);
    let plan = client.plan("fairmazon_volume.empty", volume(json!(null))).await.unwrap();
    assert!(!plan.warnings.to_string().contains("no identity"), "{}", plan.warnings);

    let mut block = broker.block();
    block["key_file"] = json!("/nowhere/key");
    let told = Harness::new(provider()).configure(block).await.unwrap_err().to_string();
    assert!(told.contains("Unable to use the identity"), "{told}");
    assert!(told.contains("/nowhere/key") && told.contains("put it back from a copy"), "{told}");
}
