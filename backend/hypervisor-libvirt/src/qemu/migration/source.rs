//! The host that a machine leaves.

use std::{collections::HashSet, io, sync::Arc, thread, time::Duration};

use fairmazon_hypervisor::{
    Channels, Description, Halt, HypervisorError, Machine, OffReason, Result, RunState,
};
use fairmazon_model::{id::InstanceId, units::Epoch};
use parking_lot::Mutex;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use virt::{
    connect::Connect,
    domain::{Domain, DomainPausedReason, DomainState, DomainStateReason, MigrateParameters},
    enumutil::Enum,
};
use virt_sys as sys;

use super::{Channel, FLAGS, LandingNote, Places, handover::Handover};
use crate::{
    domains::Domains,
    error::failed,
    jobs,
    note::Note,
    qemu::{
        host::{Inner, QemuHost},
        session::{KEEP_ALIVE, Session},
        xml::live_disks,
    },
    run_state::state,
    xml,
};

/// Between two times that libvirt is told to give a migration up.
const ABORT_AGAIN: Duration = Duration::from_millis(200);
/// How long a guest may stand still for the rest of its memory, in milliseconds. QEMU's own 300 ms
/// would be all of the pause that a machine may have, and disks and agents take their time, too.
const STILL_MS: u64 = 50;
/// What is carried at once, in bytes.
const PIECE: usize = 256 * 1024;

/// The machines that are being sent.
#[derive(Debug, Default)]
pub(in crate::qemu) struct Departures(Arc<Mutex<HashSet<InstanceId>>>);

impl Departures {
    pub(in crate::qemu) fn has(&self, instance: InstanceId) -> bool {
        self.0.lock().contains(&instance)
    }

    fn begin(&self, instance: InstanceId) -> Result<Departure> {
        if self.0.lock().insert(instance) {
            Ok(Departure { of: Arc::clone(&self.0), instance })
        } else {
            Err(HypervisorError::busy(instance, "it is being sent to another host"))
        }
    }
}

/// One that is being sent, until this is dropped.
#[derive(Debug)]
struct Departure {
    of: Arc<Mutex<HashSet<InstanceId>>>,
    instance: InstanceId,
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.of.lock().remove(&self.instance);
    }
}

/// A migration that libvirt is about.
struct Sending {
    /// The run that is sent.
    epoch: Epoch,
    carried: JoinSet<()>,
    handover: Arc<Handover>,
    /// What libvirt says of it in the end.
    told: oneshot::Receiver<Result<()>>,
}

/// How a migration has ended.
enum Ended {
    /// The machine was seen to leave, and is noted so; libvirt has still to do with it.
    Seen,
    /// libvirt says so.
    Told(Result<()>),
}

impl QemuHost {
    /// See [`describe`](fairmazon_hypervisor::Hypervisor::describe).
    pub(in crate::qemu) async fn description(&self, instance: InstanceId) -> Result<Description> {
        self.talk("describe a machine", instance, move |host, session| {
            let (domain, machine) = host.movable(session, instance)?;
            let attempted = || format!("describe {instance}");
            let domain =
                domain.xml_desc(sys::VIR_DOMAIN_XML_MIGRATABLE).map_err(failed(attempted()))?;
            let files = machine
                .definition
                .all_disks()
                .map(|disk| Ok((host.require(disk.volume)?.path, disk.volume)))
                .collect::<Result<Vec<_>>>()?;
            let volume_of = |file: &str| {
                files.iter().find(|(path, _)| path.as_os_str() == file).map(|(_, volume)| *volume)
            };
            let error = |source: Box<dyn std::error::Error + Send + Sync>| {
                HypervisorError::Driver { attempted: attempted(), source }
            };
            let places = Places::read(&domain, volume_of).map_err(|why| error(why.into()))?;
            serde_json::to_vec(&places).map_err(|why| error(why.into()))
        })
        .await
    }

    /// See [`depart`](fairmazon_hypervisor::Hypervisor::depart).
    pub(in crate::qemu) async fn send(
        &self,
        instance: InstanceId,
        landing: &[u8],
        channels: Arc<dyn Channels>,
        give_up: CancellationToken,
    ) -> Result<()> {
        let landing: LandingNote = serde_json::from_slice(landing)
            .map_err(|error| HypervisorError::refused(instance, error.to_string()))?;
        let departure = self.inner.departures.begin(instance)?;
        let stop = give_up.child_token();
        // Also when nobody waits for this any more.
        let _stop = stop.clone().drop_guard();
        let (tell, told) = oneshot::channel();
        let host = self.clone();
        // A task of its own: what was begun is brought to its end, and nothing of it is left.
        tokio::spawn(async move {
            let outcome = match host.send_off(instance, landing, channels).await {
                Ok(mut sending) => {
                    let ended = host.until_left(instance, &mut sending, &stop).await;
                    host.inner.moves.clear(instance);
                    match ended {
                        Ended::Seen => {
                            // Nobody waiting any more is no failure, here and below.
                            let _ = tell.send(Ok(()));
                            return host.bury(instance, sending, departure).await;
                        }
                        Ended::Told(outcome) => host.settle(instance, outcome).await,
                    }
                }
                Err(error) => {
                    host.inner.moves.clear(instance);
                    Err(error)
                }
            };
            drop(departure);
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or_else(|error| Err(not_sent(instance, error)))
    }

    /// Begins to send a machine.
    async fn send_off(
        &self,
        instance: InstanceId,
        landing: LandingNote,
        channels: Arc<dyn Channels>,
    ) -> Result<Sending> {
        let (disks, epoch) = self
            .talk("look at a machine", instance, move |host, session| {
                let (domain, machine) = host.movable(session, instance)?;
                let attempted = failed(format!("look at the disks of {instance}"));
                let live = live_disks(&domain.xml_desc(0).map_err(attempted)?);
                Ok((live.into_iter().map(|disk| disk.device).collect(), machine.marks.epoch))
            })
            .await?;
        let moves = &self.inner.moves;
        moves.clear(instance);
        let (mut carried, handover) = (JoinSet::new(), Arc::<Handover>::default());
        for channel in Channel::ALL {
            let listener = UnixListener::bind(moves.socket(instance, channel))
                .map_err(|error| not_sent(instance, error))?;
            let way = Way { instance, channel, handover: Arc::clone(&handover) };
            carried.spawn(carry(listener, way, Arc::clone(&channels)));
        }
        let told = self.begin(instance, landing, disks)?;
        Ok(Sending { epoch, carried, handover, told })
    }

    /// Waits until the machine has left, or libvirt has ended its migration.
    async fn until_left(
        &self,
        instance: InstanceId,
        sending: &mut Sending,
        stop: &CancellationToken,
    ) -> Ended {
        let told = &mut sending.told;
        let given_up = async {
            tokio::select! {
                () = stop.cancelled() => {}
                // libvirt misses the end of a disk's copy that ends with another one's, and then
                // waits for it: being told to give up wakes it.
                () = sending.handover.overdue() => {
                    tracing::warn!(%instance, "libvirt does not end a migration by itself");
                }
            }
        };
        let outcome = tokio::select! {
            // What was seen counts, also where libvirt says something by now.
            biased;
            () = sending.handover.done() => {
                match self.note_left(instance, sending.epoch).await {
                    Ok(()) => return Ended::Seen,
                    Err(error) => {
                        tracing::warn!(%instance, %error, "that it has left was not noted; libvirt is awaited");
                        told.await
                    }
                }
            }
            outcome = &mut *told => outcome,
            () = given_up => {
                // Nothing waits for the other host any more, whatever it does.
                sending.carried.abort_all();
                loop {
                    self.abort(instance).await;
                    tokio::select! {
                        outcome = &mut *told => break outcome,
                        () = tokio::time::sleep(ABORT_AGAIN) => {}
                    }
                }
            }
        };
        Ended::Told(outcome.unwrap_or_else(|error| Err(not_sent(instance, error))))
    }

    async fn note_left(&self, instance: InstanceId, epoch: Epoch) -> io::Result<()> {
        let inner = Arc::clone(&self.inner);
        // Not on a thread for libvirt's calls, which may all wait for the machine.
        let note = tokio::task::spawn_blocking(move || inner.left.note(instance, epoch));
        note.await.map_err(io::Error::other)?
    }

    /// Waits for libvirt, too, where a machine has left and is noted so, and marks the machine.
    async fn bury(&self, instance: InstanceId, sending: Sending, departure: Departure) {
        let Sending { carried, told, .. } = sending;
        if let Ok(Err(error)) = told.await {
            tracing::info!(%instance, %error, "libvirt says of a machine that has left that it has not");
        }
        drop((carried, departure));
        let marked = self.call("mark a machine", move |host, session| {
            // As the note has it, until something else was written: then that is newer, and the note
            // has gone.
            if host.left.is_there(instance) {
                host.write(session, instance, |_| {})?;
            }
            Ok(())
        });
        if let Err(error) = marked.await {
            tracing::warn!(%instance, %error, "a machine that has left is noted so and not marked");
        }
    }

    /// Has libvirt send the machine, in a thread and over a connection of its own: it takes as long
    /// as it takes, and libvirt does only a few calls of a connection at once.
    fn begin(
        &self,
        instance: InstanceId,
        landing: LandingNote,
        migrate_disks: Vec<String>,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (end, ended) = oneshot::channel();
        let uri = self.inner.config.uri.clone();
        let migrate = move || {
            let connection = Connect::open(Some(&uri))?;
            connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)?;
            let domain = connection.lookup_domain_by_uuid_string(&xml::uuid(instance.ulid()))?;
            let parameters = MigrateParameters {
                dest_xml: Some(landing.domain),
                uri: Some(Channel::Memory.uri(instance)),
                disks_uri: Some(Channel::Disks.uri(instance)),
                migrate_disks,
                ..MigrateParameters::default()
            };
            domain.migrate_set_max_downtime(STILL_MS, 0)?;
            domain.migrate_to_uri3(Some(&Channel::Libvirt.uri(instance)), parameters, FLAGS)
        };
        let attempted = failed(format!("send {instance} to another host"));
        // Nobody waiting any more is no failure.
        let run = move || drop(end.send(migrate().map_err(attempted)));
        thread::Builder::new()
            .name("migration".into())
            .spawn(run)
            .map_err(|error| not_sent(instance, error))?;
        Ok(ended)
    }

    async fn abort(&self, instance: InstanceId) {
        let abort = move |domains: &Domains| {
            let (domain, _) = domains.expect(instance)?;
            jobs::abort(&domain).map_err(failed(format!("give the migration of {instance} up")))
        };
        if let Err(error) = self.inner.asker.ask("give a migration up", instance, abort).await {
            // Before it has begun, and at its very end, there is nothing to give up.
            tracing::debug!(%instance, %error, "a migration was not given up");
        }
    }

    /// What has become of a machine that was sent: what libvirt says is not believed without a look.
    async fn settle(&self, instance: InstanceId, outcome: Result<()>) -> Result<()> {
        let (run, epoch) = self
            .talk("look at a machine", instance, move |_, session| {
                let (domain, machine) = session.domains.expect(instance)?;
                resume_stranded(&domain, &machine);
                if machine.run == RunState::Held {
                    // QEMU may not send a guest twice that it has not let run in between.
                    session.domains.force_stop(instance)?;
                }
                Ok((machine.run, machine.marks.epoch))
            })
            .await?;
        match (run, outcome) {
            (RunState::Off(OffReason::Moved), _) => {}
            (_, Err(error)) => return Err(error),
            (run, Ok(())) => {
                return Err(not_sent(instance, format!("it is {run:?} after all of it went")));
            }
        }
        self.call("mark a machine", move |host, session| {
            host.write(session, instance, |Note { marks, .. }| {
                // Unless it is to come again by now.
                if marks.epoch == epoch && matches!(marks.halt, Halt::Leaving | Halt::Held) {
                    marks.halt = Halt::Left;
                }
            })
        })
        .await
    }
}

impl Inner {
    /// A machine that runs or is held here and can move.
    fn movable(&self, session: &Session, instance: InstanceId) -> Result<(Domain, Machine)> {
        let (domain, machine) = session.domains.expect(instance)?;
        if !matches!(machine.run, RunState::Running | RunState::Held) {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        let others = session.domains.list()?.machines;
        for disk in machine.definition.all_disks() {
            if disk.read_only && machine.run == RunState::Running {
                // libvirt copies no such disk, and at the next host it would be empty.
                return Err(HypervisorError::Unsupported {
                    what: "move a machine that runs with a disk that it may not write to",
                });
            }
            let shared =
                |other: &Machine| other.instance() != instance && other.uses(disk.volume).is_some();
            if others.iter().any(shared) {
                return Err(HypervisorError::busy(disk.volume, "another machine has it, too"));
            }
        }
        resume_stranded(&domain, &machine);
        Ok((domain, machine))
    }
}

/// Whether libvirt has stopped a machine for its last step to another host and then forgot it: it does
/// so when it is restarted in that step. Nothing runs at the other host then, since what arrives there
/// waits for this host's word.
pub(in crate::qemu) fn is_stranded(domain: &Domain, machine: &Machine) -> bool {
    let stands = || {
        matches!(
            state(domain),
            Ok((DomainState::Paused, Enum::Known(DomainStateReason::Paused(reason))))
                if reason.is(DomainPausedReason::Migration)
        )
    };
    let idle = || domain.job_info().is_ok_and(|job| is_none(job.r#type));
    let handed_over = machine.marks.halt == Halt::Left;
    machine.run == RunState::Running && !handed_over && stands() && idle()
}

/// Lets a machine go on that is [stranded](is_stranded).
pub(in crate::qemu) fn resume_stranded(domain: &Domain, machine: &Machine) {
    if !is_stranded(domain, machine) {
        return;
    }
    let instance = machine.instance();
    match domain.resume() {
        Ok(()) => tracing::warn!(%instance, "a machine had stopped on its way, and goes on here"),
        Err(error) => tracing::error!(%instance, %error, "a machine has stopped on its way"),
    }
}

fn is_none(job: i32) -> bool {
    u32::try_from(job) == Ok(sys::VIR_DOMAIN_JOB_NONE)
}

/// A socket of this host, and what is led through it.
#[derive(Clone)]
struct Way {
    instance: InstanceId,
    channel: Channel,
    handover: Arc<Handover>,
}

/// Carries what connects to a socket of this host to the other host.
async fn carry(listener: UnixListener, way: Way, channels: Arc<dyn Channels>) {
    let (mut open, channel) = (JoinSet::new(), way.channel);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (way, channels) = (way.clone(), Arc::clone(&channels));
                    open.spawn(async move {
                        if let Err(error) = carry_one(stream, &way, &*channels).await {
                            tracing::debug!(?channel, %error, "a channel to another host has ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(?channel, %error, "nothing more is carried to another host");
                    return;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn carry_one(
    mut near: UnixStream,
    Way { instance, channel, handover }: &Way,
    channels: &dyn Channels,
) -> io::Result<()> {
    if *channel == Channel::Disks {
        handover.sends(*instance, &near);
    }
    let mut far = channels.open(*channel as u8).await?;
    if *channel == Channel::Libvirt {
        return handover.carry(near, far).await;
    }
    copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await.map(drop)
}

fn not_sent(
    instance: InstanceId,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> HypervisorError {
    let attempted = format!("send {instance} to another host");
    HypervisorError::Driver { attempted, source: why.into() }
}
