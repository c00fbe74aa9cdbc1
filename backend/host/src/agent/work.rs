//! Steps under way: each a future that does one thing under a deadline and then looks again.

use std::{io, sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    HostMemory, Hypervisor, HypervisorError, Inventory, KeyChange, Machine, Result, Volume, within,
};
use fairmazon_keys::{Binding, HostSecret, KeyError, Opened as OpenedSeal, Purpose, SealedKey};
use fairmazon_model::{
    console::last_lines,
    id::{HostId, InstanceId, VolumeId},
    key::{FIRST_KEY_VERSION, SealedVolumeKey, VolumeHostKey},
    machine::{HostVolume, MachineSpec},
    units::Gib,
};
use futures::future::BoxFuture;

use super::migrate::Opened;
use crate::{
    Config,
    peers::Peers,
    plan::{MachineAction, VolumeAction},
    state::{SavedState, StateError},
    transport::{Link, TransportError},
};

/// How long filling one GiB of a volume may take: a slow disk writes 20 MB in a second.
const FILL_GIB: Duration = Duration::from_secs(60);

/// Something that was under way has ended.
pub(super) enum Done {
    Machine {
        instance: InstanceId,
        step: MachineStep,
        seen: Result<Option<Machine>>,
    },
    /// What a guest that ended soon after its start has said.
    Ended {
        instance: InstanceId,
        ran_ms: u64,
        said: String,
    },
    Fenced {
        instance: InstanceId,
        result: Result<()>,
        seen: Result<Option<Machine>>,
    },
    Volume {
        volume: VolumeId,
        step: VolumeStep,
        seen: Result<Option<Volume>>,
    },
    Inventory {
        started: u64,
        result: Result<Inventory>,
    },
    Saved {
        set: Option<SavedState>,
        result: std::result::Result<(), StateError>,
    },
    LeaseSaved(std::result::Result<(), StateError>),
    Connected(std::result::Result<Link, TransportError>),
    /// Another host has said what a connection of it is for.
    Opened(io::Result<Opened>),
    /// A machine has moved, or not.
    Transit {
        instance: InstanceId,
        result: Result<()>,
        seen: Result<Option<Machine>>,
    },
    /// The file of a volume has come, as far as it came.
    Received {
        volume: VolumeId,
        number: u64,
        bytes: Option<u64>,
    },
    Memory(Result<HostMemory>),
    /// Guests were asked for memory, or given some.
    Balloons,
    /// What is of no consequence.
    Nothing,
}

/// What was done about a machine; none for a look.
pub(super) struct MachineStep {
    pub(super) action: Option<MachineAction>,
    pub(super) result: Result<()>,
    /// What the guest has said in a start that failed.
    pub(super) said: String,
}

/// What was done about a volume; none for a look.
pub(super) struct VolumeStep {
    pub(super) action: Option<VolumeAction>,
    /// The version of the key that came with the wish for it.
    pub(super) key: Option<u32>,
    /// The version of the next key that came with the wish for it.
    pub(super) next_key: Option<u32>,
    /// With what it has shown of its key.
    pub(super) result: Result<Shown>,
}

/// What a step has shown of a volume's key.
pub(super) enum Shown {
    Nothing,
    /// The next one took the place of the one before; its fingerprint.
    Changed(String),
    /// This one opens it.
    Proven(VolumeHostKey),
}

impl VolumeStep {
    /// Whether it was to make a volume of a file, which is not used.
    pub(super) fn refuses_file(&self) -> bool {
        self.action == Some(VolumeAction::Create)
            && matches!(
                self.result,
                Err(HypervisorError::BadFile { .. } | HypervisorError::KeyWrong { .. })
            )
    }
}

pub(super) type Work = BoxFuture<'static, Done>;

/// Makes the futures of steps.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    host: HostId,
    /// Opens the seals of volume keys; none on a host that has not joined.
    secret: Option<Arc<HostSecret>>,
    pub(super) peers: Option<Arc<dyn Peers>>,
    pub(super) authorities: Arc<str>,
    deadline: Duration,
}

impl Hands {
    pub(super) fn new(hypervisor: Arc<dyn Hypervisor>, config: &Config) -> Self {
        Self {
            hypervisor,
            host: config.host,
            secret: config.secret.clone(),
            peers: config.peers.clone(),
            authorities: config.authorities.as_str().into(),
            deadline: config.step_deadline,
        }
    }

    /// Does the action, then looks at the machine.
    pub(super) fn machine(
        &self,
        instance: InstanceId,
        spec: Option<Arc<MachineSpec>>,
        action: MachineAction,
    ) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let starts = action == MachineAction::Start;
            let before = if starts { hands.console(instance).await } else { Vec::new() };
            let act = hands.act(instance, spec, &action);
            let result = hands.within("bring a machine a step on", act).await;
            let seen = hands.look_at_machine(instance).await;
            let mut said = String::new();
            if starts && result.is_err() {
                // What an earlier run has said is no reason of this failure.
                let now = hands.console(instance).await;
                said = if now == before { said } else { last_lines(&now) };
            }
            let step = MachineStep { action: Some(action), result, said };
            Done::Machine { instance, step, seen }
        })
    }

    /// Looks at the machine.
    pub(super) fn look_machine(&self, instance: InstanceId) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let seen = hands.look_at_machine(instance).await;
            let step = MachineStep { action: None, result: Ok(()), said: String::new() };
            Done::Machine { instance, step, seen }
        })
    }

    /// Reads what a guest has said that ended soon after its start.
    pub(super) fn last_words(&self, instance: InstanceId, ran_ms: u64) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let said = last_lines(&hands.console(instance).await);
            Done::Ended { instance, ran_ms, said }
        })
    }

    /// Ends the machine for want of a lease.
    pub(super) fn fence(&self, instance: InstanceId) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let stop = hands.hypervisor.force_stop(instance);
            let result = hands.within("stop a machine without a lease", stop).await;
            let seen = hands.look_at_machine(instance).await;
            Done::Fenced { instance, result, seen }
        })
    }

    /// Does the action, then looks at the volume; only looks without one. `in_use` is the key that
    /// should open it.
    pub(super) fn volume(
        &self,
        volume: VolumeId,
        wish: Option<Arc<HostVolume>>,
        action: Option<VolumeAction>,
        in_use: Option<SealedVolumeKey>,
    ) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let version = |key: Option<&SealedVolumeKey>| key.map(|key| key.version);
            let key = version(wish.as_ref().and_then(|wish| wish.key.as_ref()));
            let next_key = version(wish.as_ref().and_then(|wish| wish.next_key.as_ref()));
            let size = wish.as_ref().map_or(Gib(0), |wish| wish.size);
            let act = async {
                if let (Some(VolumeAction::ProveKey), Some(key)) = (action, in_use) {
                    return hands.prove_key(volume, key).await.map(Shown::Proven);
                }
                match (action, wish) {
                    (Some(VolumeAction::ChangeKey), Some(wish)) => {
                        return hands.change_key(&wish).await.map(Shown::Changed);
                    }
                    (Some(VolumeAction::GiveKey), Some(wish)) => hands.give_key(&wish).await,
                    (Some(VolumeAction::ForgetKey), _) => hands.hypervisor.forget_key(volume).await,
                    (Some(VolumeAction::Create), Some(wish)) => {
                        hands.hypervisor.create_volume(&wish).await
                    }
                    (Some(VolumeAction::Grow(size)), _) => {
                        hands.hypervisor.grow_volume(volume, size).await
                    }
                    (Some(VolumeAction::Delete), _) => hands.hypervisor.delete_volume(volume).await,
                    (Some(VolumeAction::DropFile), _) => hands.hypervisor.drop_import(volume).await,
                    _ => Ok(()),
                }?;
                Ok(Shown::Nothing)
            };
            let deadline = hands.deadline_of(action, size);
            let result = within(deadline, "bring a volume a step on", act).await;
            let look = hands.hypervisor.volume(volume);
            let seen = hands.within("look at a volume", look).await;
            let step = VolumeStep { action, key, next_key, result };
            Done::Volume { volume, step, seen }
        })
    }

    /// Opens the seal of a volume's key and hands the key on; here it is wiped at once.
    async fn give_key(&self, wish: &HostVolume) -> Result<()> {
        let opened = self.open(wish.volume, wish.key.as_ref())?;
        self.hypervisor.give_key(wish.volume, opened.key).await
    }

    /// Opens the seals of a volume's key and of its next one, and has them exchanged; the
    /// fingerprint of the next one.
    async fn change_key(&self, wish: &HostVolume) -> Result<String> {
        let old = self.open(wish.volume, wish.key.as_ref())?.key;
        let new = self.open(wish.volume, wish.next_key.as_ref())?.key;
        let fingerprint = new.fingerprint();
        self.hypervisor.change_key(wish.volume, KeyChange { old, new }).await?;
        Ok(fingerprint)
    }

    /// Tries whether a key opens the volume that it should open; then that key, wrapped for its
    /// customer, whom its seal names.
    async fn prove_key(&self, volume: VolumeId, key: SealedVolumeKey) -> Result<VolumeHostKey> {
        let opened = self.open(volume, Some(&key))?;
        let shown = VolumeHostKey {
            version: key.version,
            made_for: FIRST_KEY_VERSION,
            fingerprint: opened.key.fingerprint(),
            sealed: key.sealed,
            wrapped: opened.wrap(volume).map_err(|error| not_opened(volume, &error))?,
        };
        if !self.hypervisor.key_opens(volume, opened.key).await? {
            return Err(HypervisorError::KeyWrong { what: volume.to_string() });
        }
        Ok(shown)
    }

    /// Whether a seal opens here; `true` where none is ever opened.
    pub(super) fn opens_seal(&self, volume: VolumeId, sealed: &SealedVolumeKey) -> bool {
        self.secret.is_none() || self.open_seal(volume, sealed).is_ok()
    }

    /// Opens the seal of one of a volume's keys.
    pub(super) fn open_seal(
        &self,
        volume: VolumeId,
        sealed: &SealedVolumeKey,
    ) -> std::result::Result<OpenedSeal, KeyError> {
        let host = self.host;
        let secret = self.secret.as_ref().ok_or(KeyError::NotJoined { host })?;
        let binding = Binding { volume, host, purpose: Purpose::Run, version: sealed.version };
        SealedKey::from_bytes(sealed.sealed.0.as_slice()).open(secret, &binding)
    }

    fn open(&self, volume: VolumeId, sealed: Option<&SealedVolumeKey>) -> Result<OpenedSeal> {
        let host = self.host;
        let opened = sealed.ok_or(KeyError::NotOpened { volume, host });
        let opened = opened.and_then(|sealed| self.open_seal(volume, sealed));
        opened.map_err(|error| not_opened(volume, &error))
    }

    /// Looks at everything.
    pub(super) fn inventory(&self, started: u64) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let look = hands.hypervisor.inventory();
            Done::Inventory { started, result: hands.within("list what it has", look).await }
        })
    }

    async fn act(
        &self,
        instance: InstanceId,
        spec: Option<Arc<MachineSpec>>,
        action: &MachineAction,
    ) -> Result<()> {
        let hypervisor = &self.hypervisor;
        match action {
            MachineAction::Settled | MachineAction::Wait | MachineAction::Depart => Ok(()),
            MachineAction::Define(marks) => match spec {
                Some(spec) => hypervisor.define(&spec, *marks).await,
                None => Ok(()),
            },
            MachineAction::Mark(marks) => hypervisor.mark(instance, *marks).await,
            MachineAction::Start => hypervisor.start(instance).await,
            MachineAction::Hold => hypervisor.hold(instance).await,
            MachineAction::AskToStop => hypervisor.ask_to_stop(instance).await,
            MachineAction::ForceStop => hypervisor.force_stop(instance).await,
            MachineAction::Undefine => hypervisor.undefine(instance).await,
            MachineAction::Attach(disk) => hypervisor.attach(instance, disk).await,
            MachineAction::Detach(name) => hypervisor.detach(instance, name).await,
            MachineAction::Resize(vcpus, memory) => {
                hypervisor.resize(instance, *vcpus, *memory).await
            }
            MachineAction::DeleteBoot(volume) => hypervisor.delete_volume(*volume).await,
            MachineAction::Resume => hypervisor.resume(instance).await,
            MachineAction::Refuse => hypervisor.refuse(instance).await,
        }
    }

    pub(super) async fn look_at_machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        self.within("look at a machine", self.hypervisor.machine(instance)).await
    }

    /// What a guest has written last.
    pub(super) async fn read_console(&self, instance: InstanceId) -> Result<Vec<u8>> {
        self.within("read a console", self.hypervisor.console(instance)).await
    }

    /// The console as far as it can be read: nothing depends on it.
    async fn console(&self, instance: InstanceId) -> Vec<u8> {
        self.read_console(instance).await.unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(%instance, error, "a console could not be read");
            Vec::new()
        })
    }

    /// How long a step of a volume may take: what fills one takes as long as that is large.
    fn deadline_of(&self, action: Option<VolumeAction>, size: Gib) -> Duration {
        let fills = action == Some(VolumeAction::Create);
        let size = u32::try_from(size.0).unwrap_or(u32::MAX);
        let more = if fills { FILL_GIB.saturating_mul(size) } else { Duration::ZERO };
        self.deadline.saturating_add(more)
    }

    pub(super) async fn within<T>(
        &self,
        attempted: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        within(self.deadline, attempted, work).await
    }
}

fn not_opened(volume: VolumeId, error: &KeyError) -> HypervisorError {
    HypervisorError::KeySealed { what: volume.to_string(), reason: error.to_string() }
}
