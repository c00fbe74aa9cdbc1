//! A QEMU host as a [`Hypervisor`]: which call goes to libvirt, which to the files, and under
//! which lock.

use std::{
    collections::HashSet,
    fmt,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fairmazon_hypervisor::{
    Channels, Description, Features, Hint, HostMemory, Hypervisor, HypervisorError, Inventory,
    KeyChange, Landing, Machine, MachineMemory, Marks, Result, Statistics, Volume, VolumeFile,
    VolumeKey, VolumeSink, within,
};
use fairmazon_image::Images;
use fairmazon_model::{
    host::Capacity,
    id::{InstanceId, VolumeId},
    machine::{Disk, HostVolume, MachineSpec, VolumeCopy},
    transfer::Sha256,
    units::{Gib, Mib, Vcpus},
};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    Accelerator, QemuConfig,
    admission::Admission,
    agents::Agents,
    asker::Asker,
    balloon::{self, Expendable},
    calls::{ANSWERS, ASK_AGAIN, Lanes},
    console::Consoles,
    files::Files,
    folders_in_memory,
    image::{self, ImageDisk},
    keyring::Keyring,
    locks::Locks,
    migration::{Departures, Landings, Moves},
    rotation,
    seed::Seeds,
    session::{Session, Sessions},
};
use crate::{
    LibvirtError, domains::Domains, events::start_loop, guests::Guests, left::Left, private::sweep,
    user_data::UserData,
};

/// Hints that a slow listener may be behind before it has to look at all.
const HINTS_KEPT: usize = 64;
/// How long a guest may take to let go of a disk: it may have to boot first.
const DETACH: Duration = Duration::from_secs(45);
/// The folder beside those of the volumes where machines that have just left are noted.
const LEFT: &str = ".left";
/// Between two looks at the length of the consoles.
const TRIM: Duration = Duration::from_secs(1);

/// A host of QEMU guests. Cheap to clone; all clones are the same host. Its machines and volumes
/// go on when the last clone ends; the keys it was given do not.
#[derive(Clone)]
pub struct QemuHost {
    pub(super) inner: Arc<Inner>,
    pub(super) lanes: Lanes,
    pub(super) hints: broadcast::Sender<Hint>,
}

impl fmt::Debug for QemuHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QemuHost").field(&self.inner.config).finish()
    }
}

pub(super) struct Inner {
    pub(super) sessions: Sessions,
    pub(super) config: QemuConfig,
    pub(super) files: Files,
    pub(super) images: Images,
    pub(super) keys: Keyring,
    pub(super) consoles: Consoles,
    pub(super) seeds: Seeds,
    pub(super) agents: Arc<Agents>,
    pub(super) moves: Moves,
    pub(super) departures: Departures,
    pub(super) landings: Landings,
    pub(super) left: Left,
    pub(super) expendable: Expendable,
    pub(super) asker: Asker,
    /// Who may have memory and volumes.
    pub(super) admission: Admission,
    /// Held while the definition of a machine is read and written.
    pub(super) notes: Mutex<()>,
    /// The machines that are being changed, each once.
    pub(super) changing: Locks<InstanceId>,
    /// The machines whose disks QEMU copies, one at a time each. Before `changing`.
    pub(super) copying: Locks<InstanceId>,
    /// The volumes that are made or grown or whose keys change, each once. Before `making` and
    /// `changing`.
    volumes: Locks<VolumeId>,
    /// Held while the room for a volume is taken, and while one is deleted; not while one is filled.
    pub(super) making: tokio::sync::Mutex<()>,
    /// The runs whose guests are being asked to shut down.
    pub(super) asking: Mutex<HashSet<(InstanceId, u32)>>,
}

impl QemuHost {
    /// Connects to libvirt and takes over what runs there. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When libvirt does not answer, or one of the folders can't be made.
    pub fn open(config: QemuConfig) -> std::result::Result<Self, LibvirtError> {
        start_loop()?;
        let folder = |path: &PathBuf| {
            let path = path.clone();
            move |source| LibvirtError::Folder { path, source }
        };
        // First of all: nothing is made where the disk of the volumes is not mounted.
        let files = Files::open(config.storage.clone(), &config.state, config.capacity.clone())?;
        let consoles = Consoles::open(config.consoles.clone()).map_err(folder(&config.consoles))?;
        let [_, of_seeds, of_user_data] = folders_in_memory(&config.consoles);
        let seeds = Seeds::open(of_seeds.clone()).map_err(folder(&of_seeds))?;
        let user_data = UserData::open(of_user_data.clone()).map_err(folder(&of_user_data))?;
        let of_left = config.storage.join(LEFT);
        let left = Left::open(of_left.clone()).map_err(folder(&of_left))?;
        rotation::sweep(&config.consoles).map_err(folder(&config.consoles))?;
        let moves = Moves::open(&config.moves).map_err(folder(&config.moves))?;
        let swept = [config.consoles.clone(), of_seeds, of_user_data, of_left];
        let hints = broadcast::Sender::new(HINTS_KEPT);
        let guests = Arc::new(Guests::default());
        let keys = Keyring::default();
        let sessions = Sessions::new(
            config.uri.clone(),
            config.accelerator,
            hints.clone(),
            user_data,
            left.clone(),
            Arc::clone(&guests),
            keys.lent(),
        );
        let listed = sessions.get().and_then(|session| session.domains.list());
        let listed = listed.map_err(|source| LibvirtError::Daemon {
            uri: config.uri.clone(),
            source: Box::new(source),
        })?;
        let there = listed.machines.iter().map(Machine::instance).collect();
        for path in &swept {
            sweep(path, &there).map_err(folder(path))?;
        }
        tracing::info!(accelerator = %config.accelerator, "guests run under QEMU");
        let domain_type = config.accelerator.domain_type();
        let agents = Agents::start(config.uri.clone(), domain_type, guests, hints.clone())
            .map_err(LibvirtError::Threads)?;
        let asker = Asker::new(config.uri.clone(), domain_type);
        let images = Images::new(config.images.clone(), config.trusted_keys.clone());
        let inner = Arc::new(Inner {
            sessions,
            config,
            files,
            images,
            keys,
            consoles,
            seeds,
            agents,
            moves,
            departures: Departures::default(),
            landings: Landings::default(),
            left,
            expendable: Expendable::default(),
            asker,
            admission: Admission::default(),
            notes: Mutex::default(),
            changing: Locks::default(),
            copying: Locks::default(),
            volumes: Locks::default(),
            making: tokio::sync::Mutex::default(),
            asking: Mutex::default(),
        });
        let lanes = Lanes::start().map_err(LibvirtError::Threads)?;
        let weak = Arc::downgrade(&inner);
        thread::Builder::new()
            .name("consoles".into())
            .spawn(move || trim_consoles(&weak))
            .map_err(LibvirtError::Threads)?;
        Ok(Self { inner, lanes, hints })
    }

    /// How guests run.
    pub fn accelerator(&self) -> Accelerator {
        self.inner.config.accelerator
    }

    /// The disk of an image. Beside the threads for libvirt's calls, since a large one takes longer
    /// to verify than they may take.
    async fn image_disk(&self, id: String) -> Result<Option<ImageDisk>> {
        let inner = Arc::clone(&self.inner);
        let attempted = format!("verify the image {id}");
        let verify = tokio::task::spawn_blocking(move || image::disk(&inner.images, &id));
        verify.await.unwrap_or_else(|error| {
            Err(HypervisorError::Driver { attempted, source: error.into() })
        })
    }

    fn hint(&self, volume: VolumeId) {
        // Nobody listening is no failure: a listener that comes later looks at all first.
        let _ = self.hints.send(Hint::Volume(volume));
    }
}

#[async_trait]
impl Hypervisor for QemuHost {
    fn kind(&self) -> &'static str {
        "qemu"
    }

    fn features(&self) -> Features {
        Features {
            hotplug: true,
            grow: true,
            resize: true,
            durable: true,
            encrypts: true,
            migration: true,
            balloon: true,
            accelerator: self.inner.config.accelerator.name(),
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        Ok(self.inner.config.capacity.clone())
    }

    async fn inventory(&self) -> Result<Inventory> {
        self.call("list what it has", |host, session| {
            let listed = session.domains.list()?;
            // Before the volumes: what becomes one meanwhile is in one of the two.
            let incoming = host.files.incoming()?;
            let volumes = host.files.list()?;
            let images = host.images.versions(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "an image can't be used");
            });
            let images = images.into_iter().map(|(id, sha256)| (id, Some(Sha256(sha256))));
            let (machines, foreign) = (listed.machines, listed.foreign);
            Ok(Inventory { machines, volumes, incoming, foreign, images: Some(images.collect()) })
        })
        .await
    }

    async fn machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        self.call("look at a machine", move |_, session| session.domains.machine(instance)).await
    }

    async fn volume(&self, volume: VolumeId) -> Result<Option<Volume>> {
        let inner = Arc::clone(&self.inner);
        let look = move || inner.files.look(volume);
        self.lanes.main.call("look at a volume", look).await
    }

    async fn define(&self, spec: &Arc<MachineSpec>, marks: Marks) -> Result<()> {
        let spec = Arc::clone(spec);
        self.change("define a machine", spec.instance, move |host, session| {
            host.define(session, &spec, marks)
        })
        .await
    }

    async fn mark(&self, instance: InstanceId, marks: Marks) -> Result<()> {
        let attempted = "mark a machine";
        // One that is on also while it is being changed: that may never end.
        let mark_if_on =
            move |host: &Inner, session: &Session| host.mark_if_on(session, instance, marks);
        if self.call(attempted, mark_if_on).await? {
            return Ok(());
        }
        // One that is off not while it is being started with the marks that it has.
        self.change(attempted, instance, move |host, session| host.mark(session, instance, marks))
            .await
    }

    async fn start(&self, instance: InstanceId) -> Result<()> {
        let start = move |host: &Inner, session: &Session| Ok(host.start(session, instance));
        self.opened(self.talk("start a machine", instance, start).await?).await
    }

    async fn ask_to_stop(&self, instance: InstanceId) -> Result<()> {
        let Some(run) = self.run_of(instance).await? else { return Ok(()) };
        self.press(instance).await?;
        if self.inner.asking.lock().insert((instance, run)) {
            tokio::spawn(self.clone().keep_pressing(instance, run));
        }
        Ok(())
    }

    async fn force_stop(&self, instance: InstanceId) -> Result<()> {
        self.fence("end a machine", move |session| session.domains.force_stop(instance)).await
    }

    async fn undefine(&self, instance: InstanceId) -> Result<()> {
        self.change("undefine a machine", instance, move |host, session| {
            host.undefine(session, instance)
        })
        .await
    }

    /// The last 64 KiB.
    async fn console(&self, instance: InstanceId) -> Result<Vec<u8>> {
        let inner = Arc::clone(&self.inner);
        let attempted = "read a console";
        let read = move || {
            inner.consoles.last(instance).map_err(|error| HypervisorError::Driver {
                attempted: attempted.into(),
                source: error.into(),
            })
        };
        self.lanes.main.call(attempted, read).await
    }

    async fn statistics(&self, instance: InstanceId) -> Result<Option<Statistics>> {
        let attempted = "measure a machine";
        let measure = move |host: &Inner, session: &Session| host.statistics(session, instance);
        within(ANSWERS, attempted, self.talk(attempted, instance, measure)).await
    }

    async fn memory(&self) -> Result<HostMemory> {
        self.call("look at its memory", |host, session| host.memory(session)).await
    }

    async fn guest_memory(&self, instance: InstanceId) -> Result<MachineMemory> {
        let ask = move |domains: &Domains| balloon::ask(domains, instance);
        self.inner.asker.ask("ask for the memory of a guest", instance, ask).await
    }

    async fn set_balloon(&self, instance: InstanceId, has: Mib) -> Result<()> {
        let set = move |domains: &Domains| balloon::set(domains, instance, has);
        self.inner.asker.ask("change the memory of a guest", instance, set).await
    }

    async fn give_key(&self, volume: VolumeId, key: VolumeKey) -> Result<()> {
        self.inner.keys.give(volume, key);
        Ok(())
    }

    async fn forget_key(&self, volume: VolumeId) -> Result<()> {
        self.inner.keys.forget(volume);
        Ok(())
    }

    async fn change_key(&self, volume: VolumeId, keys: KeyChange) -> Result<()> {
        let _volume = self.inner.volumes.lock(volume).await;
        self.exchange_key(volume, keys).await
    }

    async fn key_opens(&self, volume: VolumeId, key: VolumeKey) -> Result<bool> {
        let found = self.inner.require(volume)?;
        rotation::opens(&found.path, volume, &key).await
    }

    async fn create_volume(&self, wish: &HostVolume) -> Result<()> {
        let _volume = self.inner.volumes.lock(wish.volume).await;
        if self.inner.files.find(wish.volume)?.is_some() {
            return Ok(());
        }
        let key = self.inner.keys.get(wish.volume)?;
        if let Some(VolumeCopy::Of(source)) = wish.copy {
            self.copy_volume(wish, source, &key).await?;
            self.hint(wish.volume);
            return Ok(());
        }
        if let Some(VolumeCopy::Import(import)) = wish.copy {
            // Its room was taken when its file began to come.
            self.inner.files.finish_import(wish, import, &key).await?;
            self.hint(wish.volume);
            return Ok(());
        }
        let image = match &wish.image {
            None => None,
            // Before its room is taken: a large one takes a while to verify, and may not fit.
            Some(id) => self.image_disk(id.clone()).await?,
        };
        if let Some(image) = &image {
            image.require_fit(wish)?;
        }
        let new = {
            let _making = self.inner.making.lock().await;
            self.inner.files.begin(wish, wish.size, &key).await?
        };
        // Others are made meanwhile: this may take hours.
        if let Some(image) = image {
            self.inner.files.fill(&new, wish, &image, &key).await?;
        }
        self.inner.files.finish(new, wish, wish.size, &key).await?;
        self.hint(wish.volume);
        Ok(())
    }

    async fn grow_volume(&self, volume: VolumeId, size: Gib) -> Result<()> {
        let _volume = self.inner.volumes.lock(volume).await;
        let found = self.inner.require(volume)?;
        if found.size >= size {
            return Ok(());
        }
        let making = self.inner.making.lock().await;
        let _room = self.inner.files.promise(volume, &found, size)?;
        drop(making);
        let grown = match self.user_of(volume).await? {
            None => false,
            Some(instance) => {
                let live = found.clone();
                self.talk("grow a volume", instance, move |host, session| {
                    host.grow_live(session, instance, (volume, &live), size)
                })
                .await?
            }
        };
        if !grown {
            let key = self.inner.keys.get(volume)?;
            // A machine that starts now holds a lock on the file, and this fails and is repeated.
            self.inner.files.grow(volume, &found, size, &key).await?;
        }
        self.hint(volume);
        Ok(())
    }

    async fn delete_volume(&self, volume: VolumeId) -> Result<()> {
        let _making = self.inner.making.lock().await;
        let changes = || HypervisorError::busy(volume, "it is being changed");
        let _volume = self.inner.volumes.try_lock(volume).ok_or_else(changes)?;
        self.call("delete a volume", move |host, session| host.delete_volume(session, volume))
            .await?;
        self.hint(volume);
        Ok(())
    }

    async fn read_volume(&self, volume: VolumeId, offset: u64) -> Result<VolumeFile> {
        self.inner.files.read(volume, offset).await
    }

    async fn begin_import(&self, wish: &HostVolume) -> Result<VolumeSink> {
        let _making = self.inner.making.lock().await;
        self.inner.files.begin_import(wish)
    }

    async fn drop_import(&self, volume: VolumeId) -> Result<()> {
        let _making = self.inner.making.lock().await;
        self.inner.files.drop_import(volume)
    }

    async fn attach(&self, instance: InstanceId, disk: &Disk) -> Result<()> {
        let disk = disk.clone();
        let attach =
            move |host: &Inner, session: &Session| Ok(host.attach(session, instance, &disk));
        self.opened(self.talk("attach a disk", instance, attach).await?).await
    }

    async fn detach(&self, instance: InstanceId, disk: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let name = disk.to_owned();
            let gone = self.talk("detach a disk", instance, move |host, session| {
                host.detach(session, instance, &name)
            });
            if gone.await? {
                return Ok(());
            }
            if begin.elapsed() > DETACH {
                return Err(HypervisorError::busy(instance, "its guest does not let go of a disk"));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn resize(&self, instance: InstanceId, vcpus: Vcpus, memory: Mib) -> Result<()> {
        self.talk("resize a machine", instance, move |host, session| {
            host.resize(session, instance, (vcpus, memory))
        })
        .await
    }

    async fn hold(&self, instance: InstanceId) -> Result<()> {
        let hold = move |host: &Inner, session: &Session| Ok(host.hold(session, instance));
        self.opened(self.talk("hold a machine", instance, hold).await?).await
    }

    async fn describe(&self, instance: InstanceId) -> Result<Description> {
        self.description(instance).await
    }

    async fn prepare(&self, instance: InstanceId, description: &[u8]) -> Result<Landing> {
        self.await_machine(instance, description).await
    }

    async fn depart(
        &self,
        instance: InstanceId,
        landing: &[u8],
        channels: Arc<dyn Channels>,
        give_up: CancellationToken,
    ) -> Result<()> {
        self.send(instance, landing, channels, give_up).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<()> {
        if self.has_stalled(instance).await? {
            return self.go_on(instance).await;
        }
        self.let_run(instance).await
    }

    async fn refuse(&self, instance: InstanceId) -> Result<()> {
        self.turn_away(instance).await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }
}

fn trim_consoles(inner: &Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        if let Err(error) = inner.consoles.trim() {
            tracing::warn!(%error, "unable to trim the consoles of guests");
        }
        drop(inner);
        thread::sleep(TRIM);
    }
}
