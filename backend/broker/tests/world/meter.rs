//! Metering in the world: each host's ledger and signer, and what must hold of what was metered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairmazon_broker::{
    core::{Caller, Engine, MadeCertificate, PageRequest},
    metering::UsageRequest,
};
use fairmazon_host::{
    identity::IdentityError,
    metering::{MemoryLedger, Metering, Signer, WallClock as HostWall},
};
use fairmazon_keys::HostSigner;
use fairmazon_model::{
    access::Role,
    id::{HostId, InstanceId},
    units::UnixMs,
    usage::Subject,
};
use rcgen::{KeyPair, SigningKey as _};

use super::{clock::WallClock, keys::Keys, run::Platform};

/// A key with a certificate that the platform knows.
struct WorldSigner {
    key: KeyPair,
    certificate: String,
}

impl Signer for WorldSigner {
    fn key(&self) -> String {
        "the same".into()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(self.key.sign(bytes).unwrap())
    }

    fn certificate(&self) -> Result<Option<String>, IdentityError> {
        Ok(Some(self.certificate.clone()))
    }
}

impl HostWall for WallClock {
    fn now(&self) -> UnixMs {
        fairmazon_broker::core::Clock::now(self)
    }
}

/// How a host meters, with a certificate that it has joined for; what it keeps outlives its agent.
pub async fn metering(
    engine: &Engine,
    customer: Caller,
    host: HostId,
    wall: Arc<WallClock>,
    keys: &Keys,
) -> Metering {
    let key = KeyPair::generate().unwrap();
    let sealing = keys.sign_for(host, &key);
    let certificate = sealing.certificate.clone();
    let caller = Caller { role: Role::Host, host: Some(host), ..customer };
    let made = MadeCertificate {
        sha256: HostSigner::read(&certificate).unwrap().sha256().to_owned(),
        public_key: String::new(),
        expires_at: UnixMs(HostWall::now(&*wall).0 + 1_000_000_000_000),
        sealing,
    };
    engine.join_host(&caller, made, &format!("join-{host}")).await.unwrap();
    let ledger = MemoryLedger::new(host, Arc::new(WorldSigner { key, certificate }));
    Metering {
        ledger: Arc::new(ledger),
        wall,
        look_every: Duration::from_secs(2),
        window: Duration::from_secs(20),
    }
}

/// Nobody is charged for more than ran, and nothing honest is refused for what it says.
pub async fn check(platform: &Platform, wrong: &mut Vec<String>) {
    let engine = platform.engine();
    let now_ms = u64::try_from(platform.world_ms()).unwrap();
    let mut ran: BTreeMap<InstanceId, u64> = BTreeMap::new();
    for run in platform.world.ledger().runs() {
        let until_ms = run.until_ms.unwrap_or(now_ms);
        *ran.entry(run.instance).or_default() += until_ms.saturating_sub(run.from_ms);
    }
    let most = engine.catalogue().flavors.iter().map(|flavor| flavor.vcpus.0).max().unwrap();
    let request = UsageRequest {
        from: UnixMs(0),
        until: UnixMs(i64::MAX),
        subject: None,
        page: PageRequest { after: None, limit: 0 },
    };
    for sum in engine.usage(&platform.customer, request).await.unwrap().items {
        let Subject::Instance(id) = sum.subject else { continue };
        let ran_ms = ran.get(&id).copied().unwrap_or(0);
        if sum.used_ms > 0 && sum.amounts.vcpu_ms > u64::from(most) * ran_ms {
            wrong.push(format!("{id} is charged for {:?}, it ran {ran_ms} ms", sum.amounts));
        }
    }
    let records = engine.store().audit(0, 100_000).await.unwrap();
    for record in records.iter().filter(|record| record.entry.verb == "usage.refuse") {
        // Clocks that are set may make windows overlap or lie in the future; nothing makes a host
        // say these.
        let lies = ["signature", "certificate", "more than", "storage class", "another window"];
        let windows = record.entry.after.as_ref().unwrap()["windows"].as_array().unwrap();
        let said: Vec<_> = windows.iter().map(|window| window["reason"].to_string()).collect();
        let said = said.join("; ");
        if lies.iter().any(|lie| said.contains(lie)) {
            wrong.push(format!("an honest window is refused: {said}"));
        }
    }
}
