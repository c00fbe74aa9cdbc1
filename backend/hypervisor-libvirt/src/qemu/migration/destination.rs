//! The host that a machine comes to.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::Shutdown,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fairmazon_hypervisor::{
    Channels, Connection, HypervisorError, Landing, Machine, Promised, Result, RunState,
};
use fairmazon_model::{id::InstanceId, instance::Power};
use parking_lot::Mutex;
use tokio::{net::UnixStream, sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use virt::domain::DomainState;
use virt_sys as sys;

use super::{
    Channel, LandingNote, Places,
    filter::{self, Look, Refusal, Rules, Stage},
    tree::{self, Tree},
};
use crate::{
    error::failed,
    qemu::{
        Network,
        host::{Inner, QemuHost},
        image,
        keyring::Lent,
        live::Guest,
        session::Session,
        tool,
    },
    run_state::state,
};

/// How long QEMU may take to listen after libvirt has said that it does.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Bytes that may wait before the filter.
const QUEUED: usize = 64 * 1024;
/// Where libvirt's daemon for QEMU listens; the one for everything, where there is none for QEMU.
const DAEMONS: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];

/// The machines that are awaited.
#[derive(Debug, Default)]
pub(in crate::qemu) struct Landings(Arc<Mutex<HashMap<InstanceId, Room>>>);

/// What is kept for a machine.
#[derive(Debug, Clone, Copy)]
struct Room {
    memory: Promised,
    /// It is being taken back.
    ends: bool,
}

impl Landings {
    /// The memory that is kept for machines that are not here yet.
    pub(in crate::qemu) fn kept(&self, machines: &[Machine]) -> Promised {
        let runs = |instance| {
            machines.iter().any(|machine| machine.instance() == instance && machine.runs())
        };
        let rooms = self.0.lock();
        rooms
            .iter()
            .filter(|(instance, _)| !runs(**instance))
            .map(|(_, room)| room.memory)
            .fold(Promised::default(), Promised::plus)
    }

    fn keep(&self, instance: InstanceId, memory: Promised) -> Result<Kept> {
        let mut rooms = self.0.lock();
        if rooms.contains_key(&instance) {
            return Err(HypervisorError::busy(instance, "it is awaited already"));
        }
        rooms.insert(instance, Room { memory, ends: false });
        Ok(Kept { of: Arc::clone(&self.0), instance })
    }

    fn ends(&self, instance: InstanceId) -> bool {
        self.0.lock().get(&instance).is_some_and(|room| room.ends)
    }
}

/// Room that is kept for a machine until this is dropped.
#[derive(Debug)]
struct Kept {
    of: Arc<Mutex<HashMap<InstanceId, Room>>>,
    instance: InstanceId,
}

impl Kept {
    fn ends(&self) {
        if let Some(room) = self.of.lock().get_mut(&self.instance) {
            room.ends = true;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.of.lock().remove(&self.instance);
    }
}

/// What is ready for a machine.
struct Ready {
    rules: Rules,
    domain: String,
    lent: Vec<Lent>,
    kept: Kept,
}

impl QemuHost {
    /// See [`prepare`](fairmazon_hypervisor::Hypervisor::prepare).
    pub(in crate::qemu) async fn await_machine(
        &self,
        instance: InstanceId,
        description: &[u8],
    ) -> Result<Landing> {
        let places: Places = serde_json::from_slice(description)
            .map_err(|error| HypervisorError::refused(instance, error.to_string()))?;
        let opened = self
            .call("look at a machine", move |host, session| {
                let (_, machine) = session.domains.expect(instance)?;
                let disks = machine.definition.all_disks();
                disks.map(|disk| Ok((disk.volume, host.require(disk.volume)?.path))).collect()
            })
            .await;
        let opened: Vec<(_, PathBuf)> = opened?;
        for (volume, path) in opened {
            tool::opens(&path, volume, &*self.inner.keys.get(volume)?).await?;
        }
        let ended = async {
            while self.inner.landings.ends(instance) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        // One that does not end is said to be awaited still.
        let _ = timeout(LISTENS_WITHIN, ended).await;
        let ready = self
            .change("prepare for a machine", instance, move |host, session| {
                host.make_ready(session, instance, &places)
            })
            .await?;
        let note = LandingNote { domain: ready.domain };
        let description = serde_json::to_vec(&note).map_err(|error| HypervisorError::Driver {
            attempted: format!("prepare for {instance}"),
            source: error.into(),
        })?;
        let end = CancellationToken::new();
        let landed = Landed {
            host: self.clone(),
            instance,
            rules: Arc::new(ready.rules),
            prepared: watch::Sender::new(false),
            connected: AtomicBool::new(false),
            end: end.clone(),
            _end: end.drop_guard(),
            _lent: Loan { keys: ready.lent, kept: Some(ready.kept), host: self.clone(), instance },
        };
        Ok(Landing { description, channels: Arc::new(landed) })
    }

    /// See [`resume`](fairmazon_hypervisor::Hypervisor::resume).
    pub(in crate::qemu) async fn let_run(&self, instance: InstanceId) -> Result<()> {
        self.talk("let a machine run", instance, move |_, session| {
            let (domain, machine) = session.domains.expect(instance)?;
            match machine.run {
                RunState::Arrived | RunState::Running => {}
                RunState::Held | RunState::Incoming | RunState::Unread | RunState::Off(_) => {
                    return Err(HypervisorError::busy(instance, "it has not arrived"));
                }
            }
            let attempted = || failed(format!("let {instance} run"));
            let (state, _) = state(&domain).map_err(attempted())?;
            // Also one whose marks say already that it was let run.
            if state == DomainState::Paused {
                domain.resume().map_err(attempted())?;
            }
            Ok(())
        })
        .await
    }

    /// See [`refuse`](fairmazon_hypervisor::Hypervisor::refuse).
    pub(in crate::qemu) async fn turn_away(&self, instance: InstanceId) -> Result<()> {
        self.fence("turn a machine away", move |session| {
            match session.domains.machine(instance)?.map(|machine| machine.run) {
                Some(RunState::Incoming | RunState::Arrived) => {
                    session.domains.force_stop(instance)
                }
                Some(RunState::Running | RunState::Held | RunState::Unread | RunState::Off(_))
                | None => Ok(()),
            }
        })
        .await
    }
}

impl Inner {
    fn make_ready(
        &self,
        session: &Session,
        instance: InstanceId,
        places: &Places,
    ) -> Result<Ready> {
        let (domain, machine) = session.domains.expect(instance)?;
        if machine.runs() {
            return Err(HypervisorError::busy(instance, "it is here already"));
        }
        let spec = &machine.definition;
        let volumes: BTreeSet<_> = spec.all_disks().map(|disk| disk.volume).collect();
        let is_off = spec.power == Power::Stopped;
        let can_t_come = spec.all_disks().any(|disk| disk.read_only && !is_off);
        if !volumes.iter().eq(places.disks.keys()) || can_t_come {
            return Err(HypervisorError::refused(instance, "it has other disks than here"));
        }
        if places.card.is_some() != matches!(self.config.network, Network::Bridge(_)) {
            return Err(HypervisorError::refused(
                instance,
                "only one of the two hosts has a network for it",
            ));
        }
        let kernel = image::kernel(&self.images, &spec.image)?;
        if places.kernel != kernel.is_some() {
            return Err(HypervisorError::refused(
                instance,
                "only one of the two hosts has a kernel in its image",
            ));
        }
        if places.growth.as_ref().is_some_and(|growth| !growth.is_of(spec)) {
            return Err(HypervisorError::refused(instance, "it has another size than here"));
        }
        let (_, admitted) = self.take_place(session, &machine)?;
        let memory = if is_off { Promised::default() } else { spec.as_ref().into() };
        let kept = self.landings.keep(instance, memory)?;
        drop(admitted);
        let guest = if is_off { Guest::Rests } else { Guest::Runs };
        let xml = self.domain(session, spec, guest, kernel, Some(places))?;
        self.define_as_seen(session, &machine, xml)?;
        let lent = spec
            .all_disks()
            .map(|disk| self.lend(session, disk.volume))
            .collect::<Result<Vec<_>>>()?;
        // In libvirt's own words, since the source's libvirt says it in these, too.
        let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_MIGRATABLE;
        let attempted = || format!("prepare for {instance}");
        let domain = domain.xml_desc(flags).map_err(failed(attempted()))?;
        let disks = places.disks.values().map(super::places::DiskPlace::device).collect();
        let rules = tree::without(&domain, "metadata")
            .and_then(|domain| Some((Rules::new(instance, domain.clone(), disks)?, domain)));
        let (rules, domain) = rules.ok_or_else(|| HypervisorError::Driver {
            attempted: attempted(),
            source: "libvirt's description of it is not XML".into(),
        })?;
        self.moves.clear(instance);
        Ok(Ready { rules, domain, lent, kept })
    }

    /// Whether what comes into the volumes of a machine will be encrypted there: each file is of a
    /// kind that QEMU, which has it open by now, can't write to in any other way.
    fn is_encrypted(&self, session: &Session, instance: InstanceId) -> Result<()> {
        let (_, machine) = session.domains.expect(instance)?;
        if machine.run != RunState::Incoming {
            return Err(HypervisorError::busy(instance, "it does not come"));
        }
        // A volume that is not encrypted is refused as not ours.
        machine.definition.all_disks().try_for_each(|disk| self.require(disk.volume).map(drop))
    }
}

/// Whether all that has come is what this host's libvirt was told, and nothing else. It does not
/// say while a machine comes, but before the source lets go of it.
fn is_as_told(session: &Session, instance: InstanceId, rules: &Rules) -> Result<()> {
    let (domain, machine) = session.domains.expect(instance)?;
    if machine.run != RunState::Arrived {
        return Ok(());
    }
    let live = domain
        .xml_desc(sys::VIR_DOMAIN_XML_MIGRATABLE)
        .map_err(failed(format!("look at the devices of {instance}")))?;
    if Tree::read_child(&live, "devices") == rules.devices() {
        Ok(())
    } else {
        Err(HypervisorError::refused(instance, "libvirt has given it other devices"))
    }
}

/// What is lent and kept for a machine until this is dropped.
struct Loan {
    keys: Vec<Lent>,
    kept: Option<Kept>,
    host: QemuHost,
    instance: InstanceId,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let (keys, Some(kept)) = (std::mem::take(&mut self.keys), self.kept.take()) else { return };
        kept.ends();
        let (host, instance) = (self.host.clone(), self.instance);
        // Calls to libvirt, which do not belong on a thread of the async runtime.
        let end = move |host: &Inner| {
            drop(keys);
            // Those of a QEMU that was killed stay; one that goes on needs them no more.
            if !host.departures.has(instance) {
                host.moves.clear(instance);
            }
            drop(kept);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let ended = host.change("end a landing", instance, move |host, _| {
                    end(host);
                    Ok(())
                });
                if let Err(error) = ended.await {
                    tracing::warn!(%instance, %error, "a landing was not ended in order");
                }
            })),
            Err(_) => host.lanes.main.clone().later(move || end(&host.inner)),
        }
    }
}

/// A place for one machine.
struct Landed {
    host: QemuHost,
    instance: InstanceId,
    rules: Arc<Rules>,
    /// That libvirt has made it ready, and it is as it was told.
    prepared: watch::Sender<bool>,
    connected: AtomicBool,
    end: CancellationToken,
    _end: DropGuard,
    _lent: Loan,
}

#[async_trait]
impl Channels for Landed {
    async fn open(&self, channel: u8) -> io::Result<Box<dyn Connection>> {
        let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "there is no such channel");
        match Channel::of(channel).ok_or_else(unknown)? {
            Channel::Libvirt => self.connect_libvirt().await,
            channel @ (Channel::Memory | Channel::Disks) => self.connect_qemu(channel).await,
        }
    }
}

impl Landed {
    async fn connect_libvirt(&self) -> io::Result<Box<dyn Connection>> {
        if self.connected.swap(true, Ordering::Relaxed) {
            let why = "a migration has one connection between libvirts";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        let libvirt = UnixStream::connect(libvirt_socket(&self.host.inner.config.uri)).await?;
        let (theirs, ours) = tokio::io::duplex(QUEUED);
        let (host, instance, rules) = (self.host.clone(), self.instance, Arc::clone(&self.rules));
        let (ready, end) = (self.prepared.clone(), self.end.clone());
        tokio::spawn(async move {
            let machine = Coming { host, instance, rules: Arc::clone(&rules), ready };
            let carried = tokio::select! {
                carried = filter::carry(ours, libvirt, &rules, &machine) => carried,
                () = end.cancelled() => Ok(()),
            };
            match carried {
                Err(error) if error.get_ref().is_some_and(|why| why.is::<Refusal>()) => {
                    tracing::warn!(%instance, %error, "another host's libvirt is refused");
                }
                Err(error) => {
                    tracing::info!(%instance, %error, "another host's libvirt has gone");
                }
                Ok(()) => {}
            }
        });
        Ok(Box::new(theirs))
    }

    async fn connect_qemu(&self, channel: Channel) -> io::Result<Box<dyn Connection>> {
        let path = self.host.inner.moves.socket(self.instance, channel);
        let connect = async {
            let mut prepared = self.prepared.subscribe();
            if prepared.wait_for(|prepared| *prepared).await.is_err() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            loop {
                match UnixStream::connect(&path).await {
                    Err(error) if is_not_there(&error) => tokio::time::sleep(LOOK_AGAIN).await,
                    other => return other,
                }
            }
        };
        let stream = tokio::select! {
            stream = timeout(LISTENS_WITHIN, connect) => stream.map_err(io::Error::from)??,
            () = self.end.cancelled() => return Err(io::ErrorKind::NotConnected.into()),
        };
        // Ended from here, too, whoever has the connection.
        let stream = stream.into_std()?;
        let (same, end) = (stream.try_clone()?, self.end.clone());
        tokio::spawn(async move {
            end.cancelled().await;
            // One that has ended already is no failure.
            let _ = same.shutdown(Shutdown::Both);
        });
        Ok(Box::new(UnixStream::from_std(stream)?))
    }
}

/// A machine that comes, as the filter looks at it.
struct Coming {
    host: QemuHost,
    instance: InstanceId,
    rules: Arc<Rules>,
    ready: watch::Sender<bool>,
}

impl Look for Coming {
    async fn look(&self, stage: Stage) -> std::result::Result<(), Refusal> {
        let (instance, rules) = (self.instance, Arc::clone(&self.rules));
        let look = move |host: &Inner, session: &Session| match stage {
            Stage::Prepared => host.is_encrypted(session, instance),
            Stage::Finished => is_as_told(session, instance, &rules),
        };
        self.host.call("look at a machine that comes", look).await?;
        if stage == Stage::Prepared {
            self.ready.send_replace(true);
        }
        Ok(())
    }
}

fn is_not_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The socket of the daemon that a URI of libvirt's leads to.
fn libvirt_socket(uri: &str) -> PathBuf {
    let parameters = uri.split_once('?').map_or("", |(_, parameters)| parameters);
    let named = parameters.split('&').find_map(|each| each.strip_prefix("socket="));
    let there = || DAEMONS.into_iter().find(|path| Path::new(path).exists());
    PathBuf::from(named.or_else(there).unwrap_or(DAEMONS[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_by_its_uri() {
        let given = libvirt_socket("qemu+unix:///system?mode=legacy&socket=/a/b");
        assert_eq!(given, Path::new("/a/b"));
        assert!(DAEMONS.map(PathBuf::from).contains(&libvirt_socket("qemu:///system")));
    }
}
