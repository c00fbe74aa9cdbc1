//! Copies of volumes: of one that no machine writes to by `qemu-img`, of one that a running machine
//! has by QEMU itself, as it was at the beginning. Source and copy are encrypted, each with a key
//! of its own, and nothing of them is in any other file.

use std::{ffi::OsStr, sync::Arc, time::Duration};

use fairmazon_hypervisor::{HypervisorError, Machine, Result, VolumeKey};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    machine::HostVolume,
};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::{
    backup::{self, Progress},
    files::Found,
    host::{Inner, QemuHost},
    session::Session,
    tool, xml,
};
use crate::{domains::Domains, error::failed, jobs};

/// Between two looks at a copy that QEMU makes.
const LOOK: Duration = Duration::from_millis(50);

impl QemuHost {
    /// Makes a volume as a copy of another one. Others are made meanwhile, once its room is taken.
    pub(super) async fn copy_volume(
        &self,
        wish: &HostVolume,
        source: VolumeId,
        key: &VolumeKey,
    ) -> Result<()> {
        let missing = || HypervisorError::not_found(source);
        let found = self.inner.files.find(source)?.ok_or_else(missing)?;
        if found.size > wish.size {
            return Err(HypervisorError::busy(source, "it is larger than its copy"));
        }
        let source_key = self.inner.keys.get(source)?;
        let new = {
            let _making = self.inner.making.lock().await;
            self.inner.files.begin(wish, found.size, key).await?
        };
        match self.user_of(source).await? {
            None => {
                let keys = ((wish.volume, key), (source, &*source_key));
                convert(&found, &new.0, keys).await?;
            }
            Some(instance) => self.back_up(instance, found.clone(), wish.volume, &new.0).await?,
        }
        self.inner.files.finish(new, wish, found.size, key).await
    }

    /// The running machine that has a volume.
    pub(super) async fn user_of(&self, volume: VolumeId) -> Result<Option<InstanceId>> {
        self.call("look who has a volume", move |_, session| {
            let machines = session.domains.list()?.machines;
            let has = |machine: &&Machine| machine.runs() && machine.uses(volume).is_some();
            Ok(machines.iter().find(has).map(Machine::instance))
        })
        .await
    }

    /// Has QEMU copy a disk of a running machine.
    async fn back_up(
        &self,
        instance: InstanceId,
        found: Found,
        to: VolumeId,
        path: &std::path::Path,
    ) -> Result<()> {
        let path = path.to_owned();
        // libvirt tells how the last one ended, and not which that was. The next one is asked for
        // again: what waits here would keep others from being made.
        let Some(alone) = self.inner.copying.try_lock(instance).map(Arc::new) else {
            return Err(HypervisorError::busy(instance, "another of its disks is being copied"));
        };
        // What the copy has is the disk at its beginning.
        let still = self.hold_still(instance).await;
        // From here on it is ended when nobody waits for it any more.
        let phase = Arc::default();
        let copy = Backup { host: self.clone(), instance, phase, alone: Arc::clone(&alone) };
        let phase = Arc::clone(&copy.phase);
        let begun = self
            .talk("begin to copy a disk", instance, move |inner, session| {
                // Until it is ended here, if nobody waits for it any more.
                let _alone = alone;
                inner.begin_backup(session, instance, &found, (to, &path), &phase)
            })
            .await;
        if let Some(still) = still {
            still.end().await;
        }
        begun?;
        loop {
            tokio::time::sleep(LOOK).await;
            let look = move |domains: &Domains| backup::progress(&domains.expect(instance)?.0);
            match self.inner.asker.ask("look after a copy", instance, look).await {
                // One that does not answer now, or is asked for something else, copies on.
                Ok(Progress::Runs) | Err(HypervisorError::Timeout { .. }) => {}
                Err(error) => return Err(error),
                Ok(Progress::Done) => {
                    *copy.phase.lock() = Phase::Over;
                    return Ok(());
                }
                Ok(Progress::Failed) => {
                    *copy.phase.lock() = Phase::Over;
                    return Err(HypervisorError::Driver {
                        attempted: format!("copy a disk to {to}"),
                        source: "QEMU ended it before all of it was there".into(),
                    });
                }
            }
        }
    }
}

impl Inner {
    fn begin_backup(
        &self,
        session: &Session,
        instance: InstanceId,
        found: &Found,
        (volume, path): (VolumeId, &std::path::Path),
        phase: &Mutex<Phase>,
    ) -> Result<()> {
        let (domain, _) = session.domains.expect(instance)?;
        let xml = domain.xml_desc(0).map_err(failed(format!("look at the disks of {instance}")))?;
        let disk = xml::live_disks(&xml).into_iter().find(|disk| disk.file == found.path);
        let disk = disk.ok_or_else(|| HypervisorError::busy(instance, "its disks change"))?;
        // Taken back once QEMU has opened the file.
        let _lent = self.lend(session, volume)?;
        backup::begin(&domain, &disk.device, (volume, path))?;
        let mut phase = phase.lock();
        if *phase == Phase::Dropped {
            // Who asked does not hear how this goes.
            if let Err(error) = jobs::abort(&domain) {
                not_ended(instance, &failed(format!("end a copy from {instance}"))(error));
            }
            return Ok(());
        }
        *phase = Phase::Begun;
        Ok(())
    }
}

/// How far a copy is that QEMU makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// QEMU may have been asked to begin, and whoever asks it goes on also when nobody waits.
    #[default]
    Beginning,
    Begun,
    Over,
    /// Nobody waited for it any more before it had begun: whoever begins it ends it.
    Dropped,
}

/// A copy that QEMU makes, ended when nobody waits for it any more.
struct Backup {
    host: QemuHost,
    instance: InstanceId,
    phase: Arc<Mutex<Phase>>,
    /// No other one of this machine begins before it is known how this one ended.
    alone: Arc<OwnedMutexGuard<()>>,
}

impl Drop for Backup {
    fn drop(&mut self) {
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Beginning => *phase = Phase::Dropped,
            Phase::Begun => self.end(),
            Phase::Over | Phase::Dropped => {}
        }
    }
}

impl Backup {
    fn end(&self) {
        let (host, instance) = (self.host.clone(), self.instance);
        let alone = Arc::clone(&self.alone);
        tokio::spawn(async move {
            let _alone = alone;
            loop {
                let end = move |domains: &Domains| {
                    let (domain, _) = domains.expect(instance)?;
                    jobs::abort(&domain).map_err(failed(format!("end a copy from {instance}")))
                };
                match host.inner.asker.ask("end a copy", instance, end).await {
                    // It is asked for something else, how far the copy is for one.
                    Err(HypervisorError::Timeout { .. }) => tokio::time::sleep(LOOK).await,
                    Err(error) => return not_ended(instance, &error),
                    Ok(()) => return,
                }
            }
        });
    }
}

fn not_ended(instance: InstanceId, error: &HypervisorError) {
    tracing::debug!(%instance, %error, "a copy was not ended that nobody waits for");
}

type KeyOf<'a> = (VolumeId, &'a VolumeKey);

/// Copies a volume that no machine has open.
async fn convert(
    found: &Found,
    to: &std::path::Path,
    (key, source): (KeyOf<'_>, KeyOf<'_>),
) -> Result<()> {
    let (from, target) = (tool::source_options(&found.path), tool::image_options(to));
    let arguments: [&OsStr; 5] =
        ["-n".as_ref(), "--image-opts".as_ref(), "--target-image-opts".as_ref(), &from, &target];
    let copied = tool::run_with_source("convert", &arguments, key, source, "copy").await;
    let Err(error) = copied else { return Ok(()) };
    // The copy was made with its own key: it is the source that is not opened, or that does not go on.
    tool::opens(&found.path, source.0, source.1).await?;
    Err(error)
}
