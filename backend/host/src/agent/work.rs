//! Steps under way: each a future that does one thing under a deadline and then looks again.

use std::{sync::Arc, time::Duration};

use fairmazon_hypervisor::{Hypervisor, HypervisorError, Inventory, Machine, Result, Volume};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    machine::{HostVolume, MachineSpec},
};
use futures::future::BoxFuture;

use crate::{
    plan::{MachineAction, VolumeAction},
    state::{SavedState, StateError},
    transport::{Link, TransportError},
};

/// Something that was under way has ended.
pub(super) enum Done {
    Machine { instance: InstanceId, step: MachineStep, seen: Result<Option<Machine>> },
    Fenced { instance: InstanceId, result: Result<()>, seen: Result<Option<Machine>> },
    Volume { volume: VolumeId, result: Result<()>, seen: Result<Option<Volume>> },
    Inventory { started: u64, result: Result<Inventory> },
    Saved { set: Option<SavedState>, result: std::result::Result<(), StateError> },
    LeaseSaved(std::result::Result<(), StateError>),
    Connected(std::result::Result<Link, TransportError>),
}

/// What was done about a machine; none for a look.
pub(super) struct MachineStep {
    pub(super) action: Option<MachineAction>,
    pub(super) result: Result<()>,
}

pub(super) type Work = BoxFuture<'static, Done>;

/// Makes the futures of steps.
#[derive(Clone)]
pub(super) struct Hands {
    hypervisor: Arc<dyn Hypervisor>,
    deadline: Duration,
}

impl Hands {
    pub(super) fn new(hypervisor: Arc<dyn Hypervisor>, deadline: Duration) -> Self {
        Self { hypervisor, deadline }
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
            let act = hands.act(instance, spec, &action);
            let result = hands.within("bring a machine a step on", act).await;
            let seen = hands.look_at_machine(instance).await;
            let step = MachineStep { action: Some(action), result };
            Done::Machine { instance, step, seen }
        })
    }

    /// Looks at the machine.
    pub(super) fn look_machine(&self, instance: InstanceId) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let seen = hands.look_at_machine(instance).await;
            Done::Machine { instance, step: MachineStep { action: None, result: Ok(()) }, seen }
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

    /// Does the action, then looks at the volume; only looks without one.
    pub(super) fn volume(
        &self,
        volume: VolumeId,
        wish: Option<Arc<HostVolume>>,
        action: Option<VolumeAction>,
    ) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let act = async {
                match (action, wish) {
                    (Some(VolumeAction::Create), Some(wish)) => {
                        hands.hypervisor.create_volume(&wish).await
                    }
                    (Some(VolumeAction::Grow(size)), _) => {
                        hands.hypervisor.grow_volume(volume, size).await
                    }
                    (Some(VolumeAction::Delete), _) => hands.hypervisor.delete_volume(volume).await,
                    _ => Ok(()),
                }
            };
            let result = hands.within("bring a volume a step on", act).await;
            let look = hands.hypervisor.volume(volume);
            let seen = hands.within("look at a volume", look).await;
            Done::Volume { volume, result, seen }
        })
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
            MachineAction::Settled | MachineAction::Wait => Ok(()),
            MachineAction::Define(marks) => match spec {
                Some(spec) => hypervisor.define(&spec, *marks).await,
                None => Ok(()),
            },
            MachineAction::Mark(marks) => hypervisor.mark(instance, *marks).await,
            MachineAction::Start => hypervisor.start(instance).await,
            MachineAction::AskToStop => hypervisor.ask_to_stop(instance).await,
            MachineAction::ForceStop => hypervisor.force_stop(instance).await,
            MachineAction::Undefine => hypervisor.undefine(instance).await,
            MachineAction::Attach(disk) => hypervisor.attach(instance, disk).await,
            MachineAction::Detach(name) => hypervisor.detach(instance, name).await,
            MachineAction::DeleteBoot(volume) => hypervisor.delete_volume(*volume).await,
        }
    }

    async fn look_at_machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        self.within("look at a machine", self.hypervisor.machine(instance)).await
    }

    async fn within<T>(&self, attempted: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| HypervisorError::Timeout {
            attempted: attempted.to_owned(),
            deadline_ms: u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX),
        };
        tokio::time::timeout(self.deadline, work).await.map_err(late)?
    }
}
