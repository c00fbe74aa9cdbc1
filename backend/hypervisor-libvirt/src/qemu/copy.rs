//! Copies of volumes: of one that no machine writes to by `qemu-img`, of one that a running machine
//! has by QEMU itself, as it was at the beginning. Source and copy are encrypted, each with a key
//! of its own, and nothing of them is in any other file.

use std::{ffi::OsStr, time::Duration};

use fairmazon_hypervisor::{HypervisorError, Machine, Result, VolumeKey};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    machine::HostVolume,
};

use tokio::sync::MutexGuard;

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
        making: MutexGuard<'_, ()>,
    ) -> Result<()> {
        let missing = || HypervisorError::not_found(source);
        let found = self.inner.files.find(source)?.ok_or_else(missing)?;
        if found.size > wish.size {
            return Err(HypervisorError::busy(source, "it is larger than its copy"));
        }
        let source_key = self.inner.keys.get(source)?;
        let new = self.inner.files.begin(wish, found.size, key).await?;
        drop(making);
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
        // What the copy has is the disk at its beginning.
        let still = self.hold_still(instance).await;
        let begun = self
            .talk("begin to copy a disk", instance, move |inner, session| {
                inner.begin_backup(session, instance, &found, (to, &path))
            })
            .await;
        // From here on it is ended when nobody waits for it any more.
        let begun = begun.map(|()| Begun { host: self.clone(), instance: Some(instance) });
        if let Some(still) = still {
            still.end().await;
        }
        let mut begun = begun?;
        loop {
            tokio::time::sleep(LOOK).await;
            let look = move |domains: &Domains| backup::progress(&domains.expect(instance)?.0);
            match self.inner.asker.ask("look after a copy", instance, look).await {
                // One that does not answer now, or is asked for something else, copies on.
                Ok(Progress::Runs) | Err(HypervisorError::Timeout { .. }) => {}
                Err(error) => return Err(error),
                Ok(Progress::Done) => {
                    begun.instance = None;
                    return Ok(());
                }
                Ok(Progress::Failed) => {
                    begun.instance = None;
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
    ) -> Result<()> {
        let (domain, _) = session.domains.expect(instance)?;
        let xml = domain.xml_desc(0).map_err(failed(format!("look at the disks of {instance}")))?;
        let disk = xml::live_disks(&xml).into_iter().find(|disk| disk.file == found.path);
        let disk = disk.ok_or_else(|| HypervisorError::busy(instance, "its disks change"))?;
        // Taken back once QEMU has opened the file.
        let _lent = self.lend(session, volume)?;
        backup::begin(&domain, &disk.device, (volume, path))
    }
}

/// A copy that QEMU makes.
struct Begun {
    host: QemuHost,
    instance: Option<InstanceId>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(instance) = self.instance else { return };
        let host = self.host.clone();
        tokio::spawn(async move {
            loop {
                let end = move |domains: &Domains| {
                    let (domain, _) = domains.expect(instance)?;
                    jobs::abort(&domain).map_err(failed(format!("end a copy from {instance}")))
                };
                match host.inner.asker.ask("end a copy", instance, end).await {
                    // It is asked for something else, how far the copy is for one.
                    Err(HypervisorError::Timeout { .. }) => tokio::time::sleep(LOOK).await,
                    Err(error) => {
                        return tracing::debug!(%instance, %error, "a copy was not ended that nobody waits for");
                    }
                    Ok(()) => return,
                }
            }
        });
    }
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
    tool::run_with_source("convert", &arguments, key, source, "copy").await
}
