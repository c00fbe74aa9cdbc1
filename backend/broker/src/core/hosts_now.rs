//! What the running broker knows of each host beside its row: stream, lease, generations.
//!
//! Nothing of it is durable. A broker that has just started assumes that every host was
//! granted a full lease a moment ago, so nothing is moved before those must have ended.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fairmazon_model::{
    conformity::Proof,
    id::{HostId, InstanceId, VolumeId},
    machine::{MachineSeen, MachineSpec},
    units::{Epoch, Generation, Revision, UnixMs},
    volume::VolumeObserved,
};
use fairmazon_store::Key;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::config::CoreConfig;

/// How a host stands towards the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Its stream is open and its lease holds.
    Connected,
    /// Its stream is closed, but its machines may still run under the last lease.
    Silent,
    /// Its lease has ended: it runs nothing any more.
    Lapsed,
}

/// What is known of one host.
pub(crate) struct HostNow {
    /// Rung when its set may have changed.
    pub(crate) wake: Arc<Notify>,
    /// The stream that counts; later ones take over from earlier ones.
    pub(crate) session: Option<Session>,
    /// Until when a lease that it may hold lasts, without the margin.
    pub(crate) granted_until: Instant,
    /// When it last said anything.
    pub(crate) last_seen: Option<UnixMs>,
    /// The generation of the last set sent to it.
    pub(crate) sent: Generation,
    /// The generation that its last report was made under.
    pub(crate) observed: Generation,
    /// From which generation on a machine is missing from its set, or a volume is to be
    /// deleted: a report under that generation says whether it is gone.
    pub(crate) gone_since: HashMap<Key, Generation>,
    /// Machines and volumes that its last report, made under `observed`, does not have.
    pub(crate) gone: HashSet<Key>,
    /// Volumes that it reports although their rows say that the data is on another host, after
    /// it was decided to be here in vain.
    pub(crate) strays: BTreeSet<VolumeId>,
    /// Volumes that it reports as well although the data is on another host: nothing says that
    /// they were ever to be here, and they are kept.
    pub(crate) kept: BTreeSet<VolumeId>,
    /// Whether what it has reported is in the rows, of this broker's time.
    pub(crate) is_known: bool,
    /// Machines of its own that its last report shows as handed over to another host, or as still to
    /// come, although their rows say nothing of that, each with its run.
    pub(crate) let_go: HashMap<InstanceId, Epoch>,
    /// Machines that are being decided elsewhere at this moment.
    pub(crate) leaving: HashSet<InstanceId>,
    /// What its last report says of the machines that migrate from it and to it.
    moving: HashMap<InstanceId, MachineSeen>,
    /// And what it says of the volumes that come to it.
    pub(crate) coming: HashMap<VolumeId, VolumeObserved>,
    /// Since when it has said of those that it has let them go.
    left: HashMap<InstanceId, UnixMs>,
    /// From which generation on a machine whose migration was given up is told to stay: a report
    /// under that generation says whether it had left before.
    pub(crate) stays_since: HashMap<InstanceId, Generation>,
    /// What its agent has said of the host standard on this stream.
    pub(crate) said: Option<Proof>,
    /// From which generation on a machine that is interrupted is told to be off: a report under
    /// that generation says whether it is.
    pub(crate) interrupted_since: HashMap<InstanceId, Generation>,
    /// The interrupted machines that its last report shows off, as they were told to be.
    pub(crate) off: HashSet<InstanceId>,
    /// The spot machines, each with its run, that it has ended as it had no memory left for them.
    pub(crate) lacks_memory: HashMap<InstanceId, Epoch>,
    /// The machines of its last set, by ascending id: what has not changed is not made again.
    pub(crate) told: Vec<Told>,
}

/// A machine as its host was told of it.
pub(crate) struct Told {
    pub(crate) instance: InstanceId,
    /// Of the row that it was made from.
    pub(crate) revision: Revision,
    pub(crate) spec: Arc<MachineSpec>,
}

/// An open stream.
pub(crate) struct Session {
    /// Ascending over the broker's life.
    pub(crate) number: u64,
    /// Ends it.
    pub(crate) end: CancellationToken,
    /// What its host's agent is.
    pub(crate) agent: Agent,
}

/// What a host's agent says of itself when it opens a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Agent {
    /// The kind of its hypervisor.
    pub(crate) hypervisor: String,
    /// What runs its guests; empty where that is no matter, or it does not say.
    pub(crate) accelerator: String,
    /// Whether it answers for consoles.
    pub(crate) reads_consoles: bool,
    /// Where it takes machines from other hosts; empty when it takes none.
    pub(crate) migration_address: String,
}

/// All hosts.
pub(crate) struct HostsNow {
    started: Instant,
    hosts: HashMap<HostId, HostNow>,
    sessions: u64,
    term: std::time::Duration,
    margin: std::time::Duration,
}

impl HostsNow {
    pub(crate) fn new(config: &CoreConfig, now: Instant) -> Self {
        Self {
            started: now,
            hosts: HashMap::new(),
            sessions: 0,
            term: config.lease_term,
            margin: config.lease_margin,
        }
    }

    pub(crate) fn get(&self, host: HostId) -> Option<&HostNow> {
        self.hosts.get(&host)
    }

    /// The host's entry; made when it is missing, with the lease that it may hold from before.
    pub(crate) fn entry(&mut self, host: HostId) -> &mut HostNow {
        let granted_until = self.started + self.term;
        self.hosts.entry(host).or_insert_with(|| HostNow {
            wake: Arc::default(),
            session: None,
            granted_until,
            last_seen: None,
            sent: Generation(0),
            observed: Generation(0),
            gone_since: HashMap::new(),
            gone: HashSet::new(),
            strays: BTreeSet::new(),
            kept: BTreeSet::new(),
            is_known: false,
            let_go: HashMap::new(),
            leaving: HashSet::new(),
            moving: HashMap::new(),
            coming: HashMap::new(),
            left: HashMap::new(),
            stays_since: HashMap::new(),
            said: None,
            interrupted_since: HashMap::new(),
            off: HashSet::new(),
            lacks_memory: HashMap::new(),
            told: Vec::new(),
        })
    }

    pub(crate) fn forget(&mut self, host: HostId) {
        if let Some(host) = self.hosts.remove(&host)
            && let Some(session) = host.session
        {
            session.end.cancel();
        }
    }

    /// Its set may have changed: whoever sends it looks again.
    pub(crate) fn wake(&mut self, host: HostId) {
        self.entry(host).wake.notify_one();
    }

    /// Whether strays are to be deleted may be decided otherwise now.
    pub(crate) fn wake_strays(&mut self) {
        for host in self.hosts.values().filter(|host| !host.strays.is_empty()) {
            host.wake.notify_one();
        }
    }

    /// How the host stands at `now`.
    pub(crate) fn standing(&self, host: HostId, now: Instant) -> Standing {
        let (until, connected) = match self.hosts.get(&host) {
            Some(host) => (host.granted_until, host.session.is_some()),
            None => (self.started + self.term, false),
        };
        if now >= until + self.margin {
            Standing::Lapsed
        } else if connected {
            Standing::Connected
        } else {
            Standing::Silent
        }
    }

    /// Opens a stream and ends the one before. From here on the host counts as holding a
    /// lease: nothing that is in its first set is moved while its first Renew is on its way.
    pub(crate) fn open(
        &mut self,
        host: HostId,
        agent: Agent,
        now: Instant,
    ) -> (u64, CancellationToken) {
        self.sessions += 1;
        let (number, end, until) = (self.sessions, CancellationToken::new(), now + self.term);
        let host = self.entry(host);
        host.granted_until = host.granted_until.max(until);
        host.gone_since.clear();
        host.gone.clear();
        host.moving.clear();
        host.coming.clear();
        host.left.clear();
        host.stays_since.clear();
        host.said = None;
        host.interrupted_since.clear();
        host.off.clear();
        host.lacks_memory.clear();
        host.observed = Generation(0);
        let before = host.session.replace(Session { number, end: end.clone(), agent });
        if let Some(before) = before {
            before.end.cancel();
        }
        (number, end)
    }

    /// Closes the stream, unless a later one has taken over; answers whether it was closed.
    pub(crate) fn close(&mut self, host: HostId, number: u64) -> bool {
        let Some(host) = self.hosts.get_mut(&host) else { return false };
        let is_current = host.session.as_ref().is_some_and(|session| session.number == number);
        if is_current {
            host.session = None;
            host.told = Vec::new();
        }
        is_current
    }

    /// Ends the host's stream, if it has one, and takes nothing more from it.
    pub(crate) fn hang_up(&mut self, host: HostId) {
        let Some(host) = self.hosts.get_mut(&host) else { return };
        if let Some(session) = host.session.take() {
            session.end.cancel();
            host.told = Vec::new();
        }
    }

    /// The number of the host's open stream.
    pub(crate) fn stream(&self, host: HostId) -> Option<u64> {
        self.hosts.get(&host)?.session.as_ref().map(|session| session.number)
    }

    /// What the host's agent is; none while it has no stream.
    pub(crate) fn agent(&self, host: HostId) -> Option<&Agent> {
        self.hosts.get(&host)?.session.as_ref().map(|session| &session.agent)
    }

    /// Whether this stream is the one that counts.
    pub(crate) fn is_current(&self, host: HostId, number: u64) -> bool {
        let session = self.hosts.get(&host).and_then(|host| host.session.as_ref());
        session.is_some_and(|session| session.number == number)
    }

    /// Grants another term from `now`. False when the lease had lapsed: the stream must end,
    /// so that the host takes a new set before it runs anything.
    pub(crate) fn renew(&mut self, host: HostId, now: Instant) -> bool {
        if self.standing(host, now) != Standing::Connected {
            return false;
        }
        let until = now + self.term;
        let host = self.entry(host);
        host.granted_until = host.granted_until.max(until);
        true
    }

    /// Hosts with an open stream whose lease has lapsed all the same.
    pub(crate) fn lapsed_streams(&self, now: Instant) -> Vec<HostId> {
        let lapsed = |until: Instant| now >= until + self.margin;
        self.hosts
            .iter()
            .filter(|(_, host)| host.session.is_some() && lapsed(host.granted_until))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Ends all streams, and forgets what was about to be decided: hosts begin anew.
    pub(crate) fn begin_anew(&mut self) {
        for host in self.hosts.values_mut() {
            host.leaving.clear();
            host.wake.notify_one();
            if let Some(session) = &host.session {
                session.end.cancel();
            }
        }
    }

    /// Volumes that hosts have beside the host that they are bound to.
    pub(crate) fn volumes_kept(&self) -> usize {
        self.hosts.values().map(|host| host.kept.len()).sum()
    }

    pub(crate) fn connected(&self) -> usize {
        self.hosts.values().filter(|host| host.session.is_some()).count()
    }
}

impl HostNow {
    /// Notes what a report says of the machines that migrate from the host and to it.
    pub(crate) fn note_moving(
        &mut self,
        moving: HashMap<InstanceId, MachineSeen>,
        coming: HashMap<VolumeId, VolumeObserved>,
        now: UnixMs,
    ) {
        let has_left = |id: &InstanceId| moving.get(id).is_some_and(MachineSeen::has_left);
        self.left.retain(|id, _| has_left(id));
        for id in moving.keys().filter(|id| has_left(id)) {
            self.left.entry(*id).or_insert(now);
        }
        (self.moving, self.coming) = (moving, coming);
    }

    /// Since when the host has said that it has let go this run of a machine.
    pub(crate) fn left_since(&self, id: InstanceId, epoch: Epoch) -> Option<UnixMs> {
        self.moving(id, epoch).filter(|seen| seen.has_left())?;
        self.left.get(&id).copied()
    }

    /// What the host says of a machine in migration, of this run of it.
    pub(crate) fn moving(&self, id: InstanceId, epoch: Epoch) -> Option<&MachineSeen> {
        self.moving.get(&id).filter(|seen| seen.epoch == epoch)
    }

    /// Whether the host has reported under a set that says that the machine stays.
    pub(crate) fn knows_that_it_stays(&self, id: InstanceId) -> bool {
        self.stays_since.get(&id).is_some_and(|since| self.observed >= *since)
    }

    /// Whether the host has shown that it does not have this machine or volume any more, or
    /// never had it, under a set that says that it shall not.
    pub(crate) fn is_gone(&self, key: Key) -> bool {
        self.gone_since.get(&key).is_some_and(|since| self.observed >= *since)
            && self.gone.contains(&key)
    }
}
