//! Machines that move: what this host makes, sends and takes for that.
//!
//! Whether a machine leaves or comes is decided as every other step is. What is here lasts longer
//! than a step: it occupies the machine, and ends early when the machine's wish changes or the
//! lease ends.

use std::{io, sync::Arc, time::Duration};

use fairmazon_hypervisor::{
    Channels, Connection, Halt, HypervisorError, Landing, Machine, Marks, Result, RunState,
};
use fairmazon_keys::{Binding, HostCertificate, KeyError, Purpose, make_key};
use fairmazon_model::{
    id::{HostId, InstanceId},
    instance::Power,
    key::{Blob, GivenKey, SealedVolumeKey},
    machine::HostVolume,
    migration::{Departure, KeyWanted, ShownCertificates},
};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio_util::sync::CancellationToken;

use super::{
    Agent,
    book::{Book, MadeKey},
    queue::Target,
    work::{Done, Hands, Work},
};
use crate::{
    clock::unix_now,
    peers::{Conversation, Incoming, Opening, Outgoing, Shown, Word, take_opening},
    plan::{DiskReady, MachineAction, lands_as},
};

/// How long the other host may take to let a machine run.
const RUNS_WITHIN: Duration = Duration::from_secs(5);
/// Connections of other hosts that may be judged or led at once.
const CONNECTIONS_MOST: usize = 256;
/// How long the other host may take to answer a word that it can answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A machine on its way, at one of its ends.
#[derive(Clone)]
pub(super) struct Transit {
    /// Ends it early.
    end: CancellationToken,
    /// Where its channels are led, while it is taken.
    channels: Arc<Mutex<Option<Arc<dyn Channels>>>>,
    /// What the other host shows: it may be renewed on the way.
    shows: Arc<Mutex<ShownCertificates>>,
}

impl std::fmt::Debug for Transit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transit").finish_non_exhaustive()
    }
}

impl Transit {
    fn begin() -> Self {
        Self { end: CancellationToken::new(), channels: Arc::default(), shows: Arc::default() }
    }

    /// From now on the other host shows this.
    pub(super) fn meets(&self, shows: &ShownCertificates) {
        self.shows.lock().clone_from(shows);
    }

    /// It shall not go on.
    pub(super) fn end(&self) {
        self.end.cancel();
    }
}

/// A connection of another host, and what it is for.
pub(super) struct Opened {
    incoming: Incoming,
    opening: Opening,
}

impl Agent {
    /// Another host has opened a connection.
    pub(super) fn on_incoming(&mut self, incoming: Option<Incoming>) {
        let Some(mut incoming) = incoming else {
            self.incoming = None;
            return;
        };
        if self.openings >= CONNECTIONS_MOST {
            tracing::warn!(host = %self.config.host, from = %incoming.from, "too many connections of other hosts");
            return;
        }
        self.openings += 1;
        self.work.push(Box::pin(async move {
            let opening = take_opening(&mut incoming.connection).await;
            Done::Opened(opening.map(|opening| Opened { incoming, opening }))
        }));
    }

    /// Another host has said what its connection is for: it is closed unless that is wished.
    pub(super) fn opened(&mut self, opened: io::Result<Opened>) {
        self.openings -= 1;
        let Opened { incoming: Incoming { from, shown, connection }, opening } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(host = %self.config.host, %error, "a host said nothing of use");
                return;
            }
        };
        let Opening { instance, epoch, channel } = opening;
        let Some(record) = self.book.machines.get(&instance) else { return };
        let desired = record.desired.as_ref().filter(|spec| spec.epoch == epoch);
        let arrival = desired.and_then(|spec| spec.arrival.as_ref());
        let Some(arrival) = arrival.filter(|arrival| arrival.open && arrival.from == from) else {
            tracing::warn!(host = %self.config.host, %instance, %from, "a machine is not expected");
            return;
        };
        if !shown.counts(&arrival.shows) {
            tracing::warn!(host = %self.config.host, %instance, %from, "{}", Shown::NO_MORE);
            return;
        }
        let Some(number) = channel else { return self.take_in(instance, connection) };
        let Some(transit) = record.transit.clone() else { return };
        while self.leads.try_join_next().is_some() {}
        if self.leads.len() >= CONNECTIONS_MOST {
            return;
        }
        self.leads.spawn(async move {
            let channels = transit.channels.lock().clone();
            let Some(channels) = channels else { return };
            let lead = async {
                let (mut theirs, mut ours) = (connection, channels.open(number).await?);
                // Held no longer than needed: dropping the last one closes the landing.
                drop(channels);
                copy_bidirectional(&mut theirs, &mut ours).await
            };
            if let Some(Err(error)) = transit.end.run_until_cancelled(lead).await {
                tracing::debug!(%instance, number, %error, "a channel has ended");
            }
        });
    }

    /// The host that a machine leaves asks whether it may come.
    fn take_in(&mut self, instance: InstanceId, connection: Box<dyn Connection>) {
        let conversation = Conversation::new(connection);
        if let Err(why) = self.may_come(instance) {
            self.work.push(refuse(conversation, why));
            self.clear_old(instance);
            return;
        }
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        let Some(seen) = &record.seen else { return };
        let (transit, seen) = (Transit::begin(), seen.clone());
        record.transit = Some(transit.clone());
        record.busy = true;
        tracing::info!(host = %self.config.host, %instance, "a machine comes from another host");
        self.work.push(self.hands.take_in(instance, seen, conversation, transit));
    }

    /// Whether all is ready for a machine that is expected; why not otherwise.
    fn may_come(&self, instance: InstanceId) -> std::result::Result<(), &'static str> {
        let Some(record) = self.book.machines.get(&instance) else { return Err("it is unknown") };
        let (Some(spec), Some(seen)) = (&record.desired, &record.seen) else {
            return Err("it is not defined yet");
        };
        let is_ready = |disk| self.book.disk_ready(instance, disk) == DiskReady::Ready;
        if record.busy || record.fencing {
            Err("something else is under way with it")
        } else if !self.leased {
            Err("this host has no lease")
        } else if seen.marks.halt != Halt::Arriving || seen.marks.epoch != spec.epoch {
            Err("it has run here")
        } else if seen.runs() {
            Err("what came of it before is still here")
        } else if seen.definition.power != spec.power {
            Err("it was started or stopped meanwhile")
        } else if !seen.definition.all_disks().all(is_ready) || !spec.all_disks().all(is_ready) {
            Err("its volumes are not ready")
        } else {
            Ok(())
        }
    }

    /// Ends what came of a machine that is sent once more: it went on where it comes from, so what
    /// is here is old.
    fn clear_old(&mut self, instance: InstanceId) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        let is_old = record.seen.as_ref().is_some_and(|seen| {
            seen.marks.halt == Halt::Arriving
                && matches!(seen.run, RunState::Incoming | RunState::Arrived)
        });
        if is_old && !record.busy && !record.fencing {
            record.busy = true;
            self.under_way.machines += 1;
            let refuse = MachineAction::Refuse;
            self.work.push(self.hands.machine(instance, record.desired.clone(), refuse));
        }
    }

    /// Begins to send a machine.
    pub(super) fn begin_departure(&mut self, instance: InstanceId, departure: Departure) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        let Some(seen) = &record.seen else { return };
        let (seen, transit) = (seen.clone(), Transit::begin());
        transit.meets(&departure.shows);
        record.transit = Some(transit.clone());
        record.busy = true;
        tracing::info!(
            host = %self.config.host, %instance, to = %departure.to, "a machine leaves"
        );
        let opening = Opening { instance, epoch: departure.epoch, channel: None };
        self.work.push(self.hands.depart(seen, departure, opening, transit));
    }

    /// A machine has moved, or not.
    pub(super) fn transit_done(
        &mut self,
        instance: InstanceId,
        result: &Result<()>,
        seen: Result<Option<Machine>>,
    ) {
        let now_ms = self.clock.now_ms();
        if let Some(record) = self.book.machines.get_mut(&instance) {
            record.busy = false;
            record.transit = None;
            record.look |= seen.is_err();
            match result {
                Ok(()) => {
                    record.backoff.succeeded();
                    record.not_before_ms = 0;
                }
                Err(error) => {
                    // A migration that fails is no failure of the machine, which runs on.
                    let pause = self.pauses.after(&mut record.backoff);
                    record.not_before_ms = now_ms + pause;
                    tracing::warn!(
                        host = %self.config.host, %instance, pause_ms = pause,
                        error = error as &dyn std::error::Error, "a machine did not move"
                    );
                }
            }
        }
        if let Ok(seen) = seen {
            self.sight_machine(instance, seen, now_ms);
        }
        self.report.wanted();
        self.queue.push(Target::Machine(instance));
        self.forget_machine_if_empty(instance);
    }

    /// Ends all that is on its way: without a lease nothing may come, and what leaves is stopped.
    pub(super) fn end_transits(&self) {
        for record in self.book.machines.values() {
            if let Some(transit) = &record.transit {
                transit.end();
            }
        }
    }

    /// Makes the keys that other hosts need for machines that leave, once each.
    pub(super) fn make_wanted_keys(&mut self) {
        let Book { machines, volumes, made_keys, .. } = &mut self.book;
        let mut wanted = Vec::new();
        for record in machines.values() {
            let Some(departure) = record.desired.as_ref().and_then(|spec| spec.departure.as_ref())
            else {
                continue;
            };
            for key in &departure.keys_wanted {
                wanted.push((departure.to, *key, &departure.certificate));
            }
        }
        let newest = |volume| newest_key(volumes.get(&volume)?.desired.as_ref()?);
        made_keys.retain(|made| {
            let is_wanted = wanted.iter().any(|(host, key, _)| is_made(&made.key, *host, *key));
            // One that was made for whom an earlier key is wrapped for is made anew.
            is_wanted && newest(made.key.volume).is_some_and(|key| key.version == made.like)
        });
        for (host, key, certificate) in wanted {
            if made_keys.iter().any(|made| is_made(&made.key, host, key)) {
                continue;
            }
            let Some(like) = newest(key.volume) else { continue };
            match self.hands.make_key(like, host, key, certificate) {
                Ok(made) => {
                    made_keys.push(MadeKey { key: made, like: like.version });
                    self.report.wanted();
                }
                Err(error) => tracing::error!(
                    host = %self.config.host, volume = %key.volume, to = %host,
                    error = &error as &dyn std::error::Error,
                    "the key for a volume's next host could not be made"
                ),
            }
        }
    }
}

/// The key whose seal names the customer as of now: while a key is exchanged, its next one. The key
/// before may be exchanged because whom it is wrapped for is not to have the next ones.
fn newest_key(wish: &HostVolume) -> Option<&SealedVolumeKey> {
    wish.next_key.as_ref().or(wish.key.as_ref())
}

fn is_made(made: &GivenKey, host: HostId, wanted: KeyWanted) -> bool {
    (made.host, made.volume, made.key.version) == (host, wanted.volume, wanted.version)
}

fn refuse(mut conversation: Conversation, why: &str) -> Work {
    let why = why.to_owned();
    Box::pin(async move {
        tell(&mut conversation, Word::Refuse { why }).await;
        Done::Nothing
    })
}

/// Says something that nothing here depends on: whether it was heard shows by what comes next.
async fn tell(conversation: &mut Conversation, word: Word) {
    let _ = tokio::time::timeout(ANSWER_WITHIN, conversation.say(word)).await;
}

impl Hands {
    /// Makes a key of a volume for the host that it goes to: sealed for that host, wrapped for the
    /// customer, whom only the seal of this key of the volume here names. It is kept nowhere else.
    fn make_key(
        &self,
        like: &SealedVolumeKey,
        host: HostId,
        wanted: KeyWanted,
        certificate: &str,
    ) -> std::result::Result<GivenKey, KeyError> {
        let volume = wanted.volume;
        let recipient = self.open_seal(volume, like)?.recipient;
        let shown = HostCertificate::verify(certificate, &self.authorities, host, unix_now())?;
        let binding = Binding { volume, host, purpose: Purpose::Run, version: wanted.version };
        let key = make_key(&binding, &shown.sealing_key, &recipient)?;
        Ok(GivenKey { volume, host, key })
    }

    /// Sends a machine, and tells the other host once it is off here for good.
    fn depart(
        &self,
        as_seen: Machine,
        departure: Departure,
        opening: Opening,
        transit: Transit,
    ) -> Work {
        let (hands, instance) = (self.clone(), opening.instance);
        Box::pin(async move {
            let result = hands.send(as_seen, departure, opening, &transit).await;
            let seen = hands.look_at_machine(instance).await;
            Done::Transit { instance, result, seen }
        })
    }

    async fn send(
        &self,
        as_seen: Machine,
        departure: Departure,
        opening: Opening,
        transit: &Transit,
    ) -> Result<()> {
        let instance = opening.instance;
        let Some(peers) = self.peers.clone() else {
            return Err(HypervisorError::Unsupported { what: "reach other hosts" });
        };
        let (to, address, shows) = (departure.to, departure.address, transit.shows.clone());
        let way = Outgoing { peers, to, address, shows, opening };
        let described = self.hypervisor.describe(instance);
        let description = self.within("describe a machine", described).await?;
        let asked = async {
            let connection = way.connect(None).await.map_err(lost(instance))?;
            let mut conversation = Conversation::new(connection);
            let description = Blob(description);
            let word = if as_seen.run == RunState::Held {
                Word::DescribeOff { description }
            } else {
                Word::Describe { description }
            };
            conversation.say(word).await.map_err(lost(instance))?;
            match conversation.hear().await.map_err(lost(instance))? {
                Word::Come { description } => Ok((conversation, description)),
                Word::Refuse { why } => Err(HypervisorError::refused(instance, why)),
                _ => Err(HypervisorError::refused(instance, "it answers something else")),
            }
        };
        let asked = self.within("ask another host to take a machine", asked);
        let (mut conversation, landing) = match transit.end.run_until_cancelled(asked).await {
            Some(asked) => asked?,
            None => return Err(given_up(instance)),
        };
        let end = transit.end.clone();
        self.hypervisor.depart(instance, &landing.0, Arc::new(way), end).await?;
        // From here on it is at the other host or nowhere, and marked so: nothing ends this early.
        let told = async {
            conversation.say(Word::Left).await?;
            conversation.hear().await
        };
        // Unheard, the broker says the same with its next set.
        match tokio::time::timeout(RUNS_WITHIN, told).await {
            Ok(Ok(Word::Runs)) => {}
            other => tracing::warn!(%instance, ?other, "the other host has not said that it runs"),
        }
        Ok(())
    }

    /// Takes a machine in, and lets it run, or be off, when the other host says that it left.
    fn take_in(
        &self,
        instance: InstanceId,
        as_seen: Machine,
        conversation: Conversation,
        transit: Transit,
    ) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let result = hands.receive(instance, as_seen, conversation, &transit).await;
            // From here on its channels lead nowhere, so that nothing more of it comes.
            *transit.channels.lock() = None;
            transit.end();
            let seen = hands.look_at_machine(instance).await;
            Done::Transit { instance, result, seen }
        })
    }

    async fn receive(
        &self,
        instance: InstanceId,
        as_seen: Machine,
        mut conversation: Conversation,
        transit: &Transit,
    ) -> Result<()> {
        let word = {
            let heard = tokio::time::timeout(ANSWER_WITHIN, conversation.hear());
            heard.await.map_err(io::Error::from).and_then(|heard| heard).map_err(lost(instance))?
        };
        let is_off = as_seen.definition.power == Power::Stopped;
        let description = match word {
            Word::Describe { description } if !is_off => description,
            Word::DescribeOff { description } if is_off => description,
            _ => return Err(HypervisorError::refused(instance, "it says something else")),
        };
        let prepare = self.hypervisor.prepare(instance, &description.0);
        let Landing { description, channels } =
            match self.within("prepare for a machine", prepare).await {
                Ok(landing) => landing,
                Err(error) => {
                    tell(&mut conversation, Word::Refuse { why: error.to_string() }).await;
                    return Err(error);
                }
            };
        *transit.channels.lock() = Some(channels);
        let heard = async {
            conversation.say(Word::Come { description: Blob(description) }).await?;
            conversation.hear().await
        };
        let word = match transit.end.run_until_cancelled(heard).await {
            Some(word) => word.map_err(lost(instance))?,
            None => return Err(given_up(instance)),
        };
        if word != Word::Left {
            return Err(HypervisorError::refused(instance, "it says something else"));
        }
        let here = Marks { halt: lands_as(&as_seen.definition), ..as_seen.marks };
        self.within("mark a machine", self.hypervisor.mark(instance, here)).await?;
        // It may have taken long, and the lease may be over.
        if transit.end.is_cancelled() {
            return Err(given_up(instance));
        }
        if is_off {
            self.within("put a machine off", self.hypervisor.refuse(instance)).await?;
        } else {
            self.within("let a machine run", self.hypervisor.resume(instance)).await?;
        }
        tell(&mut conversation, Word::Runs).await;
        Ok(())
    }
}

fn lost(instance: InstanceId) -> impl FnOnce(io::Error) -> HypervisorError {
    move |error| HypervisorError::Driver {
        attempted: format!("move {instance} between hosts"),
        source: error.into(),
    }
}

fn given_up(instance: InstanceId) -> HypervisorError {
    HypervisorError::busy(instance, "its migration is given up")
}
