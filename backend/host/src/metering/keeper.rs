//! Meters a host: looks, has the windows kept, and tells them to the broker one batch at a time.
//!
//! Runs beside the agent, in its task: what takes long is the hypervisor's and the ledger's to do
//! elsewhere. Whatever fails here is logged and tried again, and no machine depends on it.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fairmazon_hypervisor::{Hint, Hypervisor, HypervisorError, Machine, RunState, Statistics};
use fairmazon_model::{
    id::{HostId, InstanceId},
    machine::{HostVolume, MachineSpec},
    units::UnixMs,
    usage::{RefusedWindow, WINDOWS_MAX, WindowBatch},
};
use futures::{StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    file::{BYTES_MAX, FileLedger},
    ledger::Ledger,
    meter::{Limits, Look, Memory, Meter, Room},
    seen::{Told, seen},
};
use crate::{clock::Clock, identity::HostIdentity, state::SavedState, transport::FromHost};

/// Machines that are measured at once.
const AT_ONCE: usize = 16;
/// Looks that may be missed before nobody has looked.
const MISSED_LOOKS: u32 = 6;
/// The shortest time between two looks.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// How often is kept what the meter has to know again: what it has counted since then, and has not
/// closed, is lost with the agent.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);
/// After how long without an answer a batch is told again.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How far the wall clock may be behind the windows before somebody is told.
const BEHIND_MOST_MS: i64 = 60_000;
/// How often the same trouble is logged.
const LOG_EVERY: Duration = Duration::from_secs(3_600);
/// Refused windows that are logged of one answer.
const REFUSED_LOGGED: usize = 5;

/// How a host meters.
#[derive(Clone)]
pub struct Metering {
    /// Where windows are kept.
    pub ledger: Arc<dyn Ledger>,
    /// The wall clock.
    pub wall: Arc<dyn WallClock>,
    /// How often it looks at what runs.
    pub look_every: Duration,
    /// How long a window is; an hour at most.
    pub window: Duration,
}

impl Metering {
    /// Windows in the agent's state folder, signed with its identity, at the usual intervals.
    pub fn in_folder(state: &Path, host: HostId, identity: Arc<HostIdentity>) -> Self {
        Self::new(Arc::new(FileLedger::new(state.join("metering"), host, identity, BYTES_MAX)))
    }

    /// The usual intervals.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            wall: Arc::new(SystemWall),
            look_every: Duration::from_secs(10),
            window: Duration::from_secs(30 * 60),
        }
    }
}

/// The time of day, which somebody may set.
pub trait WallClock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> UnixMs;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemWall;

impl WallClock for SystemWall {
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// What the agent tells its keeper; a host that does not meter has nobody to tell.
#[derive(Default)]
pub(crate) struct MeterHandle(Option<Shared>);

struct Shared {
    told: Arc<Mutex<Told>>,
    orders: mpsc::UnboundedSender<Order>,
}

enum Order {
    Connected(mpsc::WeakSender<FromHost>),
    Through { batch: u64, refused: Vec<RefusedWindow> },
}

impl MeterHandle {
    /// What is desired from now on.
    pub(crate) fn told(&self, state: &SavedState) {
        if let Some(shared) = &self.0 {
            let (machines, volumes) = (state.machines.clone(), state.volumes.clone());
            *shared.told.lock() = Told { machines, volumes };
        }
    }

    /// The broker has welcomed this host.
    pub(crate) fn connected(&self, sender: &mpsc::Sender<FromHost>) {
        // One that does not keep the stream open.
        self.order(Order::Connected(sender.downgrade()));
    }

    /// The broker has a batch.
    pub(crate) fn through(&self, batch: u64, refused: Vec<RefusedWindow>) {
        self.order(Order::Through { batch, refused });
    }

    fn order(&self, order: Order) {
        if let Some(shared) = &self.0 {
            // A keeper that has ended needs no orders.
            let _ = shared.orders.send(order);
        }
    }
}

/// Meters one host.
pub(crate) struct Keeper {
    host: HostId,
    metering: Metering,
    hypervisor: Arc<dyn Hypervisor>,
    clock: Arc<dyn Clock>,
    told: Arc<Mutex<Told>>,
    orders: mpsc::UnboundedReceiver<Order>,
    meter: Meter,
    link: Option<mpsc::WeakSender<FromHost>>,
    /// Batches told in this session.
    batches: u64,
    outstanding: Option<Outstanding>,
    hints: broadcast::Receiver<Hint>,
    looked: Instant,
    remembered: Instant,
    /// When each kind of trouble was logged.
    logged: HashMap<&'static str, Instant>,
}

/// A batch without an answer.
struct Outstanding {
    batch: u64,
    count: usize,
    told_at: Instant,
}

/// The keeper of a host, and what the agent tells it with. Without `metering` there is none.
pub(crate) fn keeper(
    host: HostId,
    metering: Option<Metering>,
    hypervisor: Arc<dyn Hypervisor>,
    clock: Arc<dyn Clock>,
) -> (MeterHandle, Option<Keeper>) {
    let Some(metering) = metering else { return (MeterHandle::default(), None) };
    let (sender, orders) = mpsc::unbounded_channel();
    let told = Arc::default();
    let shared = Shared { told: Arc::clone(&told), orders: sender };
    let meter = Meter::new(limits(&metering), Memory::default());
    let keeper = Keeper {
        host,
        metering,
        hints: hypervisor.hints(),
        hypervisor,
        clock,
        told,
        orders,
        meter,
        link: None,
        batches: 0,
        outstanding: None,
        looked: Instant::now(),
        remembered: Instant::now(),
        logged: HashMap::new(),
    };
    (MeterHandle(Some(shared)), Some(keeper))
}

/// Looks at all that a host has, which is told to have these machines and volumes. The times are
/// those of the look; it says nothing of how long it took.
///
/// # Errors
/// When the hypervisor can't list what it has. A machine that can't be measured counts by its time
/// alone.
pub fn look(
    hypervisor: &Arc<dyn Hypervisor>,
    machines: &[Arc<MachineSpec>],
    volumes: &[Arc<HostVolume>],
    monotonic_ms: u64,
    wall: UnixMs,
) -> BoxFuture<'static, Result<Look, HypervisorError>> {
    let told = Told { machines: machines.to_vec(), volumes: volumes.to_vec() };
    let hypervisor = Arc::clone(hypervisor);
    Box::pin(async move {
        let inventory = hypervisor.inventory().await?;
        let running = inventory.machines.iter().filter(|m| m.run == RunState::Running);
        let running: Vec<_> = running.map(Machine::instance).collect();
        let measured: HashMap<_, _> = stream::iter(running)
            .map(|instance| measured(Arc::clone(&hypervisor), instance))
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let here = seen(&inventory, &told, &measured);
        Ok(Look { monotonic_ms, wall, took_ms: 0, here })
    })
}

/// Waits until the hypervisor says that something has changed.
async fn changed(hints: &mut broadcast::Receiver<Hint>) {
    // The hypervisor is held beside it, so its hints can't end before.
    let _ = hints.recv().await;
    while hints.try_recv().is_ok() {}
}

async fn measured(
    hypervisor: Arc<dyn Hypervisor>,
    instance: InstanceId,
) -> Option<(InstanceId, Statistics)> {
    match hypervisor.statistics(instance).await {
        Ok(measured) => Some((instance, measured?)),
        Err(HypervisorError::Unsupported { .. }) => None,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(%instance, error, "a machine could not be measured");
            None
        }
    }
}

fn limits(metering: &Metering) -> Limits {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Limits {
        window_ms: ms(metering.window),
        longest_look_ms: ms(metering.look_every.saturating_mul(MISSED_LOOKS)),
    }
}

impl Keeper {
    /// Meters until `shutdown`.
    pub(crate) fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.serve(shutdown))
    }

    async fn serve(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.open() => {}
        }
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(order) = self.orders.recv() => self.on_order(order).await,
                () = sleep_until(next) => {
                    next = Instant::now() + self.metering.look_every;
                    self.look().await;
                    self.tell().await;
                    if self.remembered.elapsed() >= REMEMBER_EVERY {
                        self.remember().await;
                    }
                }
                // What has begun or ended is looked at soon, so that little of it is not charged.
                () = changed(&mut self.hints) => next = next.min(self.looked + LOOKS_APART),
            }
        }
        self.look().await;
        self.remember().await;
    }

    /// Reads what an earlier agent has kept; until that works nothing is measured, as windows
    /// would be made twice.
    async fn open(&mut self) {
        let found = loop {
            match self.metering.ledger.load().await {
                Ok(found) => break found,
                Err(error) => {
                    self.trouble("what was metered before can't be read, so nothing is", &error);
                    tokio::time::sleep(self.metering.look_every).await;
                }
            }
        };
        if let Some(message) = found.put_aside {
            tracing::error!(host = %self.host, "{message}");
        }
        self.meter = Meter::new(limits(&self.metering), found.memory);
        found.last.iter().for_each(|window| self.meter.wrote(window));
    }

    async fn look(&mut self) {
        let (begun_ms, wall) = (self.clock.now_ms(), self.metering.wall.now());
        self.looked = Instant::now();
        let within = self.metering.look_every.saturating_mul(MISSED_LOOKS);
        let told = self.told.lock().clone();
        let looking = look(&self.hypervisor, &told.machines, &told.volumes, begun_ms, wall);
        let look = match timeout(within, looking).await {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => {
                return self.trouble("what runs can't be looked at, so it is not metered", &error);
            }
            Err(late) => {
                return self.trouble("what runs can't be looked at, so it is not metered", &late);
            }
        };
        let took_ms = self.clock.now_ms().saturating_sub(begun_ms);
        self.take(Look { took_ms, ..look }).await;
        let behind_ms = self.meter.at().0.saturating_sub(wall.0);
        if behind_ms > BEHIND_MOST_MS && self.may_log("behind") {
            tracing::error!(
                host = %self.host, behind_ms,
                "the clock was set back: what runs is not charged before it is where it was; see \
                 to it that the host's clock is synchronised"
            );
        }
    }

    /// Takes a look into account: all of it, with its windows durable, or as far as that needs none.
    async fn take(&mut self, look: Look) {
        let has_room = self.metering.ledger.has_room();
        if !has_room && self.may_log("room") {
            tracing::error!(
                host = %self.host,
                "the broker has not taken what was metered for so long that there is no room for \
                 more: what runs now will not be charged"
            );
        }
        let room = if has_room { Room::Free } else { Room::None };
        let mut next = self.meter.clone();
        let windows = next.look(look.clone(), room);
        if windows.is_empty() {
            self.meter = next;
            return;
        }
        match self.metering.ledger.append(windows).await {
            Ok(()) => self.meter = next,
            Err(error) => {
                self.trouble("what was metered can't be kept", &error);
                self.meter.look(look, Room::None);
            }
        }
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::Connected(sender) => {
                (self.link, self.outstanding) = (Some(sender), None);
                self.tell().await;
            }
            Order::Through { batch, refused } => {
                let Some(answered) = self.outstanding.take_if(|known| known.batch == batch) else {
                    return;
                };
                self.say_refused(&refused);
                // First: a memory from before these windows would have them made again. Where it is
                // not kept they stay, and are told again after the next look.
                if !self.remember().await {
                    return;
                }
                match self.metering.ledger.acknowledged(answered.count).await {
                    Ok(()) => self.tell().await,
                    Err(error) => self.trouble("windows that the broker has can't go", &error),
                }
            }
        }
    }

    fn say_refused(&self, refused: &[RefusedWindow]) {
        for window in refused.iter().take(REFUSED_LOGGED) {
            tracing::error!(
                host = %self.host, subject = %window.subject, epoch = window.epoch.0,
                sequence = window.sequence, reason = window.reason, refused = refused.len(),
                "the broker refuses what was metered: it is not charged"
            );
        }
    }

    /// Tells the broker the oldest windows, unless it was told some and has not answered.
    async fn tell(&mut self) {
        if self.outstanding.as_ref().is_some_and(|told| told.told_at.elapsed() < ANSWER_WITHIN) {
            return;
        }
        let Some(sender) = self.link.as_ref().and_then(mpsc::WeakSender::upgrade) else { return };
        let batch = match self.metering.ledger.next(WINDOWS_MAX / 2).await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(error) => return self.trouble("what was metered can't be read", &error),
        };
        self.batches += 1;
        let (number, count) = (self.batches, batch.windows.len());
        let (certificate, windows) = (batch.certificate, batch.windows);
        let message = FromHost::Metered(WindowBatch { number, certificate, windows });
        // Where the stream takes no more now there is another look soon.
        if sender.try_send(message).is_ok() {
            let told_at = Instant::now();
            self.outstanding = Some(Outstanding { batch: number, count, told_at });
        }
    }

    /// Whether what the meter has to know again is kept; logged where it is not.
    async fn remember(&mut self) -> bool {
        self.remembered = Instant::now();
        let kept = self.metering.ledger.remember(self.meter.memory()).await;
        if let Err(error) = &kept {
            self.trouble("what is metered can't be kept", error);
        }
        kept.is_ok()
    }

    fn trouble(&mut self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        if self.may_log(what) {
            tracing::error!(host = %self.host, error, "{what}; it is tried again");
        }
    }

    fn may_log(&mut self, what: &'static str) -> bool {
        let now = Instant::now();
        let last = self.logged.get(what);
        let due = last.is_none_or(|last| now.duration_since(*last) >= LOG_EVERY);
        if due {
            self.logged.insert(what, now);
        }
        due
    }
}
