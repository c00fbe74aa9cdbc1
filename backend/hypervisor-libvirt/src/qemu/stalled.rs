//! Guests that stand still since the disk that volumes are on was full: QEMU keeps what they wrote,
//! and writes it when they are let go on.

use std::time::Duration;

use fairmazon_hypervisor::{HypervisorError, Result};
use fairmazon_model::id::InstanceId;
use rustix::fs::statvfs;

use super::{host::QemuHost, tool};
use crate::error::failed;

/// What there has to be on the disk of each volume before a guest goes on, in bytes: with less it
/// would stand still again at once.
const ROOM: u64 = 64 << 20;
/// How late QEMU tells of an error that follows another one soon. libvirt takes that for another
/// pause, also when the guest has gone on by then.
const TOLD_LATE: Duration = Duration::from_millis(1_200);
/// How long a guest that goes on is looked after: QEMU writes first what could not be written.
const WATCHED: Duration = Duration::from_millis(500);
/// Has QEMU let the guest stand still, if it does not.
const STOP: &str = r#"{"execute":"stop"}"#;
/// Between two looks meanwhile.
const LOOK: Duration = Duration::from_millis(50);

impl QemuHost {
    /// Lets a machine go on whose guest has stalled; `Full` where it would, or does, stall again.
    pub(super) async fn go_on(&self, instance: InstanceId) -> Result<()> {
        self.has_room(instance).await?;
        tokio::time::sleep(TOLD_LATE).await;
        self.talk("let a guest go on", instance, move |_, session| {
            let (domain, machine) = session.domains.expect(instance)?;
            if !machine.stalled {
                return Ok(());
            }
            let attempted = || failed(format!("let {instance} go on"));
            // libvirt learns that a guest goes on only from one that stood still, and may be wrong
            // about this one.
            domain.qemu_monitor_command(STOP, 0).map_err(attempted())?;
            domain.resume().map_err(attempted())
        })
        .await?;
        tracing::info!(%instance, "there is room on the disk again, and a guest goes on");
        for _ in 0..WATCHED.as_millis() / LOOK.as_millis() {
            tokio::time::sleep(LOOK).await;
            if self.has_stalled(instance).await? {
                return Err(tool::full());
            }
        }
        Ok(())
    }

    pub(super) async fn has_stalled(&self, instance: InstanceId) -> Result<bool> {
        self.call("look at a machine", move |_, session| {
            Ok(session.domains.machine(instance)?.is_some_and(|machine| machine.stalled))
        })
        .await
    }

    /// Whether there is room where the volumes of a machine are.
    async fn has_room(&self, instance: InstanceId) -> Result<()> {
        self.call("see how much room a disk has", move |host, session| {
            let (_, machine) = session.domains.expect(instance)?;
            for disk in machine.definition.all_disks().filter(|disk| !disk.read_only) {
                let found = host.require(disk.volume)?;
                let left = statvfs(&found.path).map_err(|error| HypervisorError::Driver {
                    attempted: format!("see how much room there is for {}", disk.volume),
                    source: error.into(),
                })?;
                if left.f_bavail.saturating_mul(left.f_frsize) < ROOM {
                    return Err(tool::full());
                }
            }
            Ok(())
        })
        .await
    }
}
