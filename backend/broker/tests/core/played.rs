//! Hosts that a test plays: it hears whole sets and says whole reports, and the agent's part is
//! written out in the test.

use std::time::Duration;

use fairmazon_broker::{
    core::{Caller, MadeCertificate, Standing},
    session::{BrokerSays, Hello, HostSays},
};
use fairmazon_model::{
    DomainError,
    access::Role,
    conformity::Proof,
    console::{ConsoleRead, ReadConsole},
    host::HostSpec,
    id::{HostId, InstanceId, VolumeId},
    instance::ObservedState,
    key::{Blob, GivenKey, HostSealing},
    machine::{
        DesiredSet, GuestSeen, HostVolume, MachineSeen, MachineSpec, ObservedSet, VolumeSeen,
    },
    migration::Handover,
    units::{Epoch, Generation, UnixMs},
    volume::VolumeObserved,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use super::kit::Kit;

/// Longest wait for a set before a test gives up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// A host with an open stream. Dropped, its stream ends and its lease runs out.
pub struct Played {
    pub id: HostId,
    says: Option<mpsc::Sender<HostSays>>,
    renewing: JoinHandle<()>,
    sets: watch::Receiver<DesiredSet>,
    consoles: mpsc::UnboundedReceiver<ReadConsole>,
    sequence: u64,
    tasks: Vec<JoinHandle<()>>,
    /// What it has, as it reports it.
    pub machines: Vec<MachineSeen>,
    pub volumes: Vec<VolumeSeen>,
    pub keys: Vec<GivenKey>,
    /// What it says of the host standard.
    proof: Option<Proof>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.renewing.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Registers a host.
pub async fn register(kit: &Kit, spec: HostSpec) -> HostId {
    kit.engine.register_host(&kit.customer, spec, &kit.key()).await.unwrap().0.row.id
}

/// Joins a host, so that it waits for keys.
pub async fn join(kit: &Kit, host: HostId, number: u8) {
    let caller = Caller { role: Role::Host, host: Some(host), ..kit.customer };
    join_as(kit, &caller, number, number).await;
}

/// The SHA-256 of a certificate that [`join`] was given by its number.
pub fn certificate(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// Joins a host that calls with what it has, and has this sealing key.
pub async fn join_as(kit: &Kit, caller: &Caller, number: u8, sealing_key: u8) {
    let made = MadeCertificate {
        sha256: certificate(number),
        public_key: String::new(),
        expires_at: UnixMs(i64::MAX),
        sealing: HostSealing {
            key: Blob(vec![sealing_key; 32]),
            certificate: format!("certificate {number}"),
        },
    };
    kit.engine.join_host(caller, made, &kit.key()).await.unwrap();
}

/// Waits until a host that says nothing any more can have no lease.
pub async fn lapses(kit: &Kit, host: HostId) {
    let lapsed = || kit.engine.host(&kit.customer, host).unwrap().standing == Standing::Lapsed;
    kit.until("its lease has ended", lapsed).await;
}

/// Gives up a host that says nothing any more as lost for good; whether something is bound to it.
pub async fn lose(kit: &Kit, host: HostId) -> bool {
    lapses(kit, host).await;
    kit.engine.remove_host(&kit.customer, host, true, &kit.key()).await.unwrap()
}

/// Why a stream of the host ends as soon as it is opened.
pub async fn refused(kit: &Kit, host: HostId) -> DomainError {
    let (says, inbound) = mpsc::channel(1);
    let (outbound, _hears) = mpsc::channel(8);
    says.send(HostSays::Hello(hello(host, "", ""))).await.unwrap();
    let stream = kit.engine.host_stream(host, ReceiverStream::new(inbound), outbound);
    tokio::time::timeout(GIVE_UP, stream).await.unwrap().unwrap_err()
}

/// How the agent of a host begins a stream.
fn hello(host: HostId, address: &str, accelerator: &str) -> Hello {
    Hello {
        host,
        agent_version: "test".into(),
        hypervisor: "played".into(),
        session: "test".into(),
        generation: Generation(0),
        migration_address: address.into(),
        accelerator: accelerator.into(),
        // One of an earlier version says nothing of all this.
        reads_consoles: !accelerator.is_empty(),
        conformity: None,
    }
}

impl Played {
    /// Opens a stream of the host, whose agent takes machines at this address.
    pub async fn open(kit: &Kit, id: HostId, address: &str) -> Self {
        Self::open_by(kit, id, address, "").await
    }

    /// The same, of a host whose guests run by this.
    pub async fn open_by(kit: &Kit, id: HostId, address: &str, accelerator: &str) -> Self {
        let (says, inbound) = mpsc::channel(8);
        let (outbound, mut hears) = mpsc::channel(8);
        let engine = kit.engine.clone();
        let stream = tokio::spawn(async move {
            let _ = engine.host_stream(id, ReceiverStream::new(inbound), outbound).await;
        });
        let hello = hello(id, address, accelerator);
        says.send(HostSays::Hello(hello)).await.unwrap();
        let (told, mut sets) = watch::channel(DesiredSet::default());
        let (ask, consoles) = mpsc::unbounded_channel();
        let hearing = tokio::spawn(async move {
            while let Some(message) = hears.recv().await {
                match message {
                    BrokerSays::Desired(set) => drop(told.send_replace(set)),
                    BrokerSays::ReadConsole(asked) => ask.send(asked).unwrap(),
                    _ => {}
                }
            }
        });
        let (renewals, every) = (says.clone(), kit.engine.config().renew_every());
        let renewing = tokio::spawn(async move {
            for sequence in 1.. {
                if renewals.send(HostSays::Renew { sequence }).await.is_err() {
                    return;
                }
                tokio::time::sleep(every / 2).await;
            }
        });
        sets.changed().await.unwrap();
        Self {
            id,
            says: Some(says),
            renewing,
            sets,
            consoles,
            sequence: 0,
            tasks: vec![stream, hearing],
            machines: Vec::new(),
            volumes: Vec::new(),
            keys: Vec::new(),
            proof: None,
        }
    }

    /// Says nothing more; what it has said before is heard.
    pub fn die(&mut self) {
        self.renewing.abort();
        self.says = None;
    }

    /// The set that it was told last.
    pub fn set(&self) -> DesiredSet {
        self.sets.borrow().clone()
    }

    /// Waits for a set that fits.
    pub async fn told(&mut self, what: &str, fits: impl Fn(&DesiredSet) -> bool) -> DesiredSet {
        let heard = tokio::time::timeout(GIVE_UP, self.sets.wait_for(|set| fits(set))).await;
        let heard = heard.map(|set| set.unwrap().clone());
        heard.unwrap_or_else(|_| panic!("never told: {what}; last {:#?}", self.set()))
    }

    /// Waits for a set with the instance as it shall be.
    pub async fn told_of(
        &mut self,
        what: &str,
        instance: InstanceId,
        fits: impl Fn(&MachineSpec) -> bool,
    ) -> MachineSpec {
        let found = |set: &DesiredSet| {
            set.machines.iter().find(|spec| spec.instance == instance && fits(spec)).cloned()
        };
        let set = self.told(what, |set| found(set).is_some()).await;
        MachineSpec::clone(&found(&set).unwrap())
    }

    /// The next console that it is asked for.
    pub async fn asked(&mut self) -> ReadConsole {
        tokio::time::timeout(GIVE_UP, self.consoles.recv()).await.unwrap().unwrap()
    }

    /// Answers for a console.
    pub async fn answers(&self, read: ConsoleRead) {
        self.says.as_ref().unwrap().send(HostSays::ConsoleRead(read)).await.unwrap();
    }

    /// Says what it has, under the set that it was told last.
    pub async fn reports(&mut self) {
        self.sequence += 1;
        let set = ObservedSet {
            generation: self.set().generation,
            machines: self.machines.clone(),
            volumes: self.volumes.clone(),
            keys: self.keys.clone(),
            conformity: self.proof.clone(),
            reclaims_memory: true,
            images: None,
        };
        let observed = HostSays::Observed { sequence: self.sequence, set };
        self.says.as_ref().unwrap().send(observed).await.unwrap();
    }

    /// Proves this of the host standard from here on, and says so.
    pub async fn proves(&mut self, proof: Proof) {
        self.proof = Some(proof);
        self.reports().await;
    }

    /// Has made the machine, as one that is held, and says so.
    pub async fn made(&mut self, instance: InstanceId, epoch: Epoch) {
        self.has_at(0, instance, epoch, ObservedState::Stopped, None).await;
    }

    /// Has the machine in this state from here on, and says so.
    pub async fn has(
        &mut self,
        instance: InstanceId,
        epoch: Epoch,
        state: ObservedState,
        handover: Option<Handover>,
    ) {
        self.has_at(1, instance, epoch, state, handover).await;
    }

    async fn has_at(
        &mut self,
        spec_version: u64,
        instance: InstanceId,
        epoch: Epoch,
        state: ObservedState,
        handover: Option<Handover>,
    ) {
        self.machines.retain(|seen| seen.instance != instance);
        self.machines.push(MachineSeen {
            instance,
            epoch,
            spec_version,
            state,
            failure: None,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
            handover,
            lacks_memory: false,
        });
        self.reports().await;
    }

    /// Has the machine no more, and says so.
    pub async fn lost(&mut self, instance: InstanceId) {
        self.machines.retain(|seen| seen.instance != instance);
        self.reports().await;
    }

    /// Makes what the set says of volumes.
    pub fn makes_volumes(&mut self, wishes: &[HostVolume]) {
        for wish in wishes {
            self.volumes.retain(|seen| seen.volume != wish.volume);
            let state = VolumeObserved::Present { size: wish.size, failure: None };
            self.volumes.push(VolumeSeen {
                volume: wish.volume,
                state,
                changed_key: None,
                refused_key: None,
            });
        }
    }

    /// Has the volume no more, and says so.
    pub async fn destroyed(&mut self, volume: VolumeId) {
        self.volumes.retain(|seen| seen.volume != volume);
        self.reports().await;
    }
}
