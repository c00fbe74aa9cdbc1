//! Which hypervisor the hosts of this process use.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::ValueEnum;
use fairmazon_hypervisor::{Hypervisor, sim};
use fairmazon_hypervisor_libvirt::{
    LibvirtError, TestHost,
    qemu::{Accelerator, MEMORY_INFO, Network, QemuConfig, QemuHost},
};
use fairmazon_image::{About, TrustedKey};
use fairmazon_model::{catalogue::Catalogue, host::Capacity, id::HostId};
use parking_lot::Mutex;

use crate::{catalogue, dev::libvirt::Libvirt, error::CommandError, folder::Folder};

/// What guests of `fairmazon dev` have as their network.
const BRIDGE: &str = "guests";

/// Which hypervisor is asked for, for all hosts of `fairmazon dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HypervisorKind {
    /// The most real one that works on this machine and needs nothing else.
    Auto,
    /// Machines that exist in this process only.
    Simulated,
    /// libvirt with its test driver: the real interface, without machines behind it.
    LibvirtTest,
    /// Real guests under QEMU, on encrypted volumes: needs root.
    Qemu,
}

/// What runs the machines of a host that stays. It has the same one for good, so nothing chooses it
/// by what happens to work on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostDriver {
    /// Real guests under QEMU, on encrypted volumes.
    Qemu,
    /// For trials: machines that exist in the agent only.
    Simulated,
    /// For trials: libvirt with its test driver, without machines behind it.
    LibvirtTest,
}

impl HostDriver {
    /// As the driver calls itself.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Simulated => "simulated",
            Self::LibvirtTest => "libvirt-test",
        }
    }

    /// What it is for [`Hypervisors::choose`].
    pub(crate) const fn kind(self) -> HypervisorKind {
        match self {
            Self::Qemu => HypervisorKind::Qemu,
            Self::Simulated => HypervisorKind::Simulated,
            Self::LibvirtTest => HypervisorKind::LibvirtTest,
        }
    }
}

/// Makes the hypervisor of each host.
pub(crate) enum Hypervisors {
    Simulated(Arc<sim::World>),
    LibvirtTest,
    Qemu(Qemu),
}

/// What hosts with real guests have in common.
pub(crate) struct Qemu {
    folder: Folder,
    accelerator: Accelerator,
    trusted: TrustedKey,
    running: Mutex<Vec<Libvirt>>,
}

impl Hypervisors {
    /// The hypervisor that was asked for, when it works here. QEMU is not for this: see
    /// [`Self::qemu`].
    pub(crate) async fn choose(kind: HypervisorKind) -> Result<Self, CommandError> {
        if kind == HypervisorKind::Simulated {
            return Ok(Self::simulated());
        }
        if kind == HypervisorKind::Qemu {
            let text = "real guests need to know what they boot: name the folder with --guest";
            return Err(CommandError::Usage(text.into()));
        }
        match (kind, aside(fairmazon_hypervisor_libvirt::probe).await) {
            (_, Ok(())) => Ok(Self::LibvirtTest),
            (HypervisorKind::Auto, Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::info!(error, "libvirt does not work here: the machines are simulated");
                Ok(Self::simulated())
            }
            (_, Err(error)) => Err(error),
        }
    }

    /// Real guests: every image of the catalogue is the guest in `guest`, a folder with `kernel`,
    /// `initrd` and `cmdline`, signed with a key of the data folder's own.
    pub(crate) async fn qemu(folder: &Folder, guest: PathBuf) -> Result<Self, CommandError> {
        let (kept, images) = (folder.path().to_owned(), folder.images());
        let made = tokio::task::spawn_blocking(move || publish(&kept, &images, &guest));
        let trusted = made.await.map_err(|error| CommandError::System(error.into()))??;
        let probe = tokio::task::spawn_blocking(Accelerator::probe).await;
        let accelerator = probe.map_err(|error| CommandError::System(error.into()))?;
        let running = Mutex::default();
        Ok(Self::Qemu(Qemu { folder: folder.clone(), accelerator, trusted, running }))
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Simulated(_) => "simulated".into(),
            Self::LibvirtTest => "libvirt-test".into(),
            Self::Qemu(qemu) => format!("qemu, {}", qemu.accelerator),
        }
    }

    /// What its hosts can run: with real guests the images that were made for them, with their
    /// versions.
    ///
    /// # Errors
    /// When an image is not as it was made.
    pub(crate) fn catalogue(&self) -> Result<Catalogue, CommandError> {
        match self {
            Self::Simulated(_) | Self::LibvirtTest => Ok(Catalogue::default_catalogue()),
            Self::Qemu(qemu) => {
                let trusted = std::slice::from_ref(&qemu.trusted);
                catalogue::of_images(&qemu.folder.images(), trusted)
            }
        }
    }

    /// The hypervisor of one host, which offers `capacity`.
    pub(crate) async fn of(
        &self,
        host: HostId,
        name: &str,
        capacity: &Capacity,
    ) -> Result<Arc<dyn Hypervisor>, CommandError> {
        let capacity = capacity.clone();
        match self {
            Self::Simulated(world) => {
                let simulated = world.add_host(host, capacity);
                simulated.set_fleeting();
                Ok(Arc::new(simulated))
            }
            Self::LibvirtTest => Ok(Arc::new(aside(move || TestHost::open(capacity)).await?)),
            Self::Qemu(qemu) => qemu.of(name, capacity).await,
        }
    }

    /// Ends what runs beside this process; guests end with it.
    pub(crate) async fn stop(&self) {
        let Self::Qemu(qemu) = self else { return };
        let running = std::mem::take(&mut *qemu.running.lock());
        futures::future::join_all(running.into_iter().map(Libvirt::stop)).await;
    }

    fn simulated() -> Self {
        let begun = Instant::now();
        let clock = move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self::Simulated(sim::World::new(Arc::new(clock)))
    }
}

impl Qemu {
    async fn of(
        &self,
        name: &str,
        capacity: Capacity,
    ) -> Result<Arc<dyn Hypervisor>, CommandError> {
        let folder = self.folder.host(name);
        let libvirt = Libvirt::start(&folder.join("libvirt")).await?;
        let config = QemuConfig {
            uri: libvirt.uri(),
            storage: folder.join("storage"),
            state: folder.join("known-storage"),
            images: self.folder.images(),
            trusted_keys: vec![self.trusted.clone()],
            consoles: libvirt.runtime().to_owned(),
            moves: libvirt.moves(),
            network: Network::Bridge(BRIDGE.into()),
            accelerator: self.accelerator,
            capacity,
            memory_info: MEMORY_INFO.into(),
        };
        let consoles = folder.join("consoles");
        let point = || {
            // What an earlier start has left, where it was killed.
            if let Ok(left) = std::fs::read_link(&consoles) {
                let _ = std::fs::remove_dir_all(left);
                std::fs::remove_file(&consoles)?;
            }
            std::os::unix::fs::symlink(libvirt.runtime(), &consoles)
        };
        point().map_err(CommandError::file("make the link", &consoles))?;
        self.running.lock().push(libvirt);
        Ok(Arc::new(aside(move || QemuHost::open(config)).await?))
    }
}

fn publish(kept: &Path, images: &Path, guest: &Path) -> Result<TrustedKey, CommandError> {
    let failed = |error: fairmazon_image::ImageError| CommandError::Hypervisor {
        kind: "qemu",
        source: error.into(),
    };
    let (key, trusted) = fairmazon_image::key_pair(kept).map_err(failed)?;
    for image in Catalogue::default_catalogue().images {
        let about = About {
            id: image.id,
            name: image.name,
            architecture: image.architecture,
            min_disk_gib: image.min_boot.0,
            min_memory_mib: Some(image.min_memory.0),
            description: Some(image.description),
        };
        fairmazon_image::publish(guest, images, &about, &key).map_err(failed)?;
    }
    Ok(trusted)
}

/// Opens a host with real guests, however they run here, and says how.
pub(crate) async fn open_qemu(
    config: impl FnOnce(Accelerator) -> QemuConfig + Send + 'static,
) -> Result<(Arc<dyn Hypervisor>, Accelerator), CommandError> {
    let host = aside(move || QemuHost::open(config(Accelerator::probe()))).await?;
    let accelerator = host.accelerator();
    Ok((Arc::new(host), accelerator))
}

/// Runs what blocks for a moment beside the runtime's threads.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LibvirtError> + Send + 'static,
) -> Result<T, CommandError> {
    let kind = "libvirt";
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(CommandError::Hypervisor { kind, source: source.into() }),
        Err(error) => Err(CommandError::Hypervisor { kind, source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn auto_takes_libvirt_where_it_works() {
        let works = fairmazon_hypervisor_libvirt::probe().is_ok();
        let chosen = Hypervisors::choose(HypervisorKind::Auto).await.unwrap();
        assert_eq!(chosen.name(), if works { "libvirt-test" } else { "simulated" });
        let asked = Hypervisors::choose(HypervisorKind::LibvirtTest).await;
        assert_eq!(asked.is_ok(), works);
    }

    #[test]
    fn drivers_are_asked_for_by_the_names_that_are_noted() {
        for driver in HostDriver::value_variants() {
            assert_eq!(driver.to_possible_value().unwrap().get_name(), driver.name());
        }
    }

    #[tokio::test]
    async fn a_driver_without_guests_is_called_as_it_was_asked_for() {
        assert_eq!(
            Hypervisors::choose(HostDriver::Simulated.kind()).await.unwrap().name(),
            "simulated"
        );
        if fairmazon_hypervisor_libvirt::probe().is_ok() {
            let chosen = Hypervisors::choose(HostDriver::LibvirtTest.kind()).await.unwrap();
            assert_eq!(chosen.name(), HostDriver::LibvirtTest.name());
        }
    }
}
