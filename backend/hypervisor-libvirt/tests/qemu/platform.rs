//! The agent of a host, and a broker that wants what the test wants: they speak as ever, and the
//! agent opens the seals of keys as of a customer's.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_host::{
    Config,
    clock::SystemClock,
    run,
    state::MemoryState,
    transport::{BrokerEnd, FromHost, ToHost},
};
use fairmazon_hypervisor::contract::wish;
use fairmazon_hypervisor_libvirt::qemu::QemuHost;
use fairmazon_keys::{Binding, HostSecret, Identity, Purpose, SealedKey, VolumeKey};
use fairmazon_model::{
    id::{HostId, VolumeId},
    key::{Blob, SealedVolumeKey},
    machine::{DesiredSet, HostVolume, MachineSpec, ObservedSet},
    units::Generation,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::lab::{IMAGE, PATIENCE};

const TERM_MS: u64 = 60_000;

pub(crate) struct Platform {
    id: HostId,
    secret: Arc<HostSecret>,
    volumes: BTreeMap<VolumeId, HostVolume>,
    desired: watch::Sender<DesiredSet>,
    told: watch::Receiver<ObservedSet>,
    shutdown: CancellationToken,
    agent: JoinHandle<()>,
}

impl Platform {
    /// Starts the agent, which has nothing to do at first.
    pub(crate) fn start(host: QemuHost, configure: impl FnOnce(&mut Config)) -> Self {
        let (id, secret) = (HostId::from_parts(1, 1), Arc::new(HostSecret::generate()));
        let (streams, incoming) = mpsc::channel(1);
        let (desired, wanted) = watch::channel(DesiredSet::default());
        let (tell, told) = watch::channel(ObservedSet::default());
        tokio::spawn(broker(incoming, wanted, tell));
        let shutdown = CancellationToken::new();
        let mut config = Config::new(id, 1, Arc::new(MemoryState::default()));
        config.secret = Some(Arc::clone(&secret));
        configure(&mut config);
        let clock = Arc::new(SystemClock::new().unwrap());
        let agent = run(config, Arc::new(host), Arc::new(streams), clock, shutdown.clone());
        let agent = tokio::spawn(async move { agent.await.unwrap() });
        Self { id, secret, volumes: BTreeMap::new(), desired, told, shutdown, agent }
    }

    /// From now on these machines are wanted, with their volumes: what they boot from is made of the
    /// image.
    pub(crate) fn desire(&mut self, machines: Vec<MachineSpec>) {
        for machine in &machines {
            for disk in machine.all_disks() {
                let image = (disk.volume == machine.boot.volume).then(|| IMAGE.into());
                let key = self.volumes.get(&disk.volume).and_then(|volume| volume.key.clone());
                let key = Some(key.unwrap_or_else(|| self.key(disk.volume)));
                let volume = HostVolume { volume: disk.volume, image, key, ..wish(1) };
                self.volumes.insert(disk.volume, volume);
            }
        }
        self.desired.send_modify(|set| {
            set.generation = Generation(set.generation.0 + 1);
            set.machines = machines.into_iter().map(Arc::new).collect();
            set.volumes = self.volumes.values().cloned().collect();
        });
    }

    fn key(&self, volume: VolumeId) -> SealedVolumeKey {
        let (host, purpose, version) = (self.id, Purpose::Run, 1);
        let binding = Binding { volume, host, purpose, version };
        let (key, recipient) = (VolumeKey::random().unwrap(), Identity::generate().recipient());
        let to = self.secret.sealing_key();
        let sealed = SealedKey::seal(&key, &recipient, &to, &binding).unwrap();
        SealedVolumeKey { version, sealed: Blob(sealed.bytes().to_vec()) }
    }

    /// Waits for a report that fits, under the set that is wanted now.
    pub(crate) async fn sees(&mut self, fits: impl Fn(&ObservedSet) -> bool) -> ObservedSet {
        let generation = self.desired.borrow().generation;
        let fits = self.told.wait_for(|set| set.generation == generation && fits(set));
        tokio::time::timeout(PATIENCE, fits).await.unwrap().unwrap().clone()
    }

    /// Ends the agent; its machines go on.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.agent.await.unwrap();
    }
}

async fn broker(
    mut streams: mpsc::Receiver<BrokerEnd>,
    mut wanted: watch::Receiver<DesiredSet>,
    tell: watch::Sender<ObservedSet>,
) {
    while let Some(mut end) = streams.recv().await {
        let mut knows = false;
        loop {
            let message = tokio::select! {
                message = end.receiver.recv() => message,
                Ok(()) = wanted.changed(), if knows => {
                    let set = wanted.borrow_and_update().clone();
                    if end.sender.send(Ok(ToHost::Desired(set))).await.is_err() {
                        break;
                    }
                    continue;
                }
            };
            let answers = match message {
                None => break,
                Some(FromHost::Hello(_)) => {
                    knows = true;
                    let set = wanted.borrow_and_update().clone();
                    let (lease_term_ms, generation) = (TERM_MS, set.generation);
                    let renew_every_ms = TERM_MS / 4;
                    let welcome = ToHost::Welcome { lease_term_ms, renew_every_ms, generation };
                    vec![welcome, ToHost::Desired(set)]
                }
                Some(FromHost::Renew { sequence }) => {
                    vec![ToHost::Renewed { sequence, lease_term_ms: TERM_MS }]
                }
                // It has no store to keep windows in, and no customers.
                Some(FromHost::Metered(_) | FromHost::ConsoleRead(_)) => Vec::new(),
                Some(FromHost::Observed { set, .. }) => {
                    tell.send_replace(set);
                    Vec::new()
                }
            };
            for answer in answers {
                // One that has gone comes back with another stream.
                let _ = end.sender.send(Ok(answer)).await;
            }
        }
    }
}
