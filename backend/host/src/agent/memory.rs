//! The host's memory: looked at again and again, taken back from spot machines when it is short,
//! and given again when it is not. Decided by [`Reclaim`]; a spot machine that has to go is ended by
//! its own next steps, as any other.

use std::{future::ready, time::Duration};

use fairmazon_hypervisor::{
    Halt, HostMemory, HypervisorError, MachineMemory, Result, RunState, within,
};
use fairmazon_model::{id::InstanceId, instance::Power, units::Mib};
use futures::{StreamExt, stream};

use super::{
    Agent,
    book::{Book, MachineRecord},
    observe::ms,
    queue::Target,
    work::{Done, Hands, Work},
};
use crate::{
    plan::MemoryCase,
    reclaim::{Reclaim, Round},
};

/// Looks in a row that may fail before nothing is known of the memory any more.
const FAILURES_MOST: u32 = 3;
/// How long a guest, or what runs it, may take to answer. One that hangs delays a look by this, and
/// by no more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Guests that are asked at once: libvirt's daemon does five calls of a connection at a time.
const ASKED_AT_ONCE: usize = 4;
/// How long a machine that was given up stays off when the broker is not heard, which decides that
/// otherwise, in ms.
const GIVEN_UP_FOR_MS: u64 = 60_000;

/// What is known of the host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// Nothing yet.
    #[default]
    Unknown,
    /// There is enough.
    Enough,
    /// There is too little.
    Short,
    /// It can't be measured, or nothing could be taken back.
    Unable,
}

/// When the memory is looked at, and what follows.
#[derive(Debug, Default)]
pub(super) struct Watch {
    reclaim: Reclaim,
    under_way: bool,
    last_at_ms: Option<u64>,
    failures: u32,
    /// Whether the set has spot machines: without, nothing can be taken back.
    has_spot: bool,
}

impl Book {
    /// How it stands with memory for a machine, which is to be ended where it was given up.
    pub(super) fn memory_case(&self, record: &MachineRecord) -> MemoryCase {
        let is_spot = record.desired.as_ref().is_some_and(|spec| spec.spot);
        match self.memory {
            _ if !is_spot => MemoryCase::Enough,
            _ if record.given_up_at_ms.is_some() => MemoryCase::GivenUp,
            Standing::Unknown | Standing::Short => MemoryCase::Short,
            Standing::Enough | Standing::Unable => MemoryCase::Enough,
        }
    }

    /// Whether memory can be taken back, and there is enough.
    pub(super) fn reclaims_memory(&self) -> bool {
        self.memory == Standing::Enough
    }

    /// Whether memory of a machine may be taken and given now: it goes to no other host. One that is
    /// under notice has until that ends, and takes memory as long.
    fn is_free(&self, instance: InstanceId) -> bool {
        self.machines.get(&instance).is_some_and(|record| {
            let stays = record.seen.as_ref().is_some_and(|seen| {
                seen.run == RunState::Running
                    && matches!(seen.marks.halt, Halt::Started | Halt::Stopping)
            });
            stays && record.transit.is_none() && record.given_up_at_ms.is_none()
        })
    }
}

impl MachineRecord {
    /// A machine that was given up is off, and told to be: it is no longer up to its host.
    pub(super) fn settle_given_up(&mut self) {
        let is_told = self.desired.as_ref().is_none_or(|spec| spec.power == Power::Stopped);
        if is_told && !self.runs() {
            self.given_up_at_ms = None;
        }
    }

    /// Whether the broker is to be told that there is no memory for it.
    pub(super) fn lacks_memory(&self) -> bool {
        let runs = self.desired.as_ref().is_some_and(|spec| spec.power == Power::Running);
        self.given_up_at_ms.is_some() && runs
    }
}

impl Agent {
    /// Notes whether there are spot machines from now on.
    pub(super) fn watch_memory(&mut self, has_spot: bool) {
        self.memory.has_spot = has_spot;
    }

    /// When the memory is to be looked at again; never where nothing can be taken back.
    pub(super) fn memory_at_ms(&self) -> Option<u64> {
        if !self.book.features.balloon || !self.looks.complete || self.memory.under_way {
            return None;
        }
        let often = self.memory.has_spot || self.book.memory == Standing::Short;
        let every = if often { self.config.memory_every } else { self.config.look_every };
        Some(self.memory.last_at_ms.map_or(0, |last| last + ms(every)))
    }

    pub(super) fn tend_memory(&mut self, now_ms: u64) {
        if self.memory_at_ms().is_some_and(|at| at <= now_ms) {
            self.memory.under_way = true;
            self.memory.last_at_ms = Some(now_ms);
            self.work.push(self.hands.memory());
        }
    }

    pub(super) fn memory_seen(&mut self, seen: Result<HostMemory>) {
        self.memory.under_way = false;
        let host = match seen {
            Ok(host) => host,
            Err(error) => {
                self.memory.failures += 1;
                tracing::warn!(
                    host = %self.config.host, error = &error as &dyn std::error::Error,
                    "could not look at the host's memory"
                );
                let is_unknown = self.book.memory == Standing::Unknown;
                if is_unknown {
                    self.memory_stands(Standing::Unable);
                } else if self.memory.failures >= FAILURES_MOST
                    && self.book.memory != Standing::Unable
                {
                    // It could be looked at before: nothing begins that may not be taken back.
                    self.memory_stands(Standing::Short);
                }
                return;
            }
        };
        self.memory.failures = 0;
        let book = &self.book;
        let Round { balloons, give_up } =
            self.memory.reclaim.look(&host, |instance| book.is_free(instance));
        let is_short = self.memory.reclaim.is_short();
        if !is_short {
            self.let_return();
        }
        self.memory_stands(if is_short { Standing::Short } else { Standing::Enough });
        // One after the other: what the last one has is not free before it is off.
        let goes = |record: &MachineRecord| record.given_up_at_ms.is_some() && record.runs();
        let goes = self.book.machines.values().any(goes);
        if let Some(instance) = give_up.filter(|_| !goes) {
            self.give_up(instance, &host);
        }
        if !balloons.is_empty() {
            self.memory.under_way = true;
            self.work.push(self.hands.balloons(balloons));
        }
    }

    pub(super) fn balloons_set(&mut self) {
        self.memory.under_way = false;
    }

    fn memory_stands(&mut self, now: Standing) {
        if std::mem::replace(&mut self.book.memory, now) == now {
            return;
        }
        tracing::info!(host = %self.config.host, memory = ?now, "how the host's memory stands");
        self.report.wanted();
        self.queue_all();
        self.queue.unblock();
    }

    /// Has machines that were given up a while ago start again, where the broker says nothing else.
    fn let_return(&mut self) {
        let now_ms = self.clock.now_ms();
        for (instance, record) in &mut self.book.machines {
            if record.given_up_at_ms.is_some_and(|at| now_ms >= at + GIVEN_UP_FOR_MS) {
                record.given_up_at_ms = None;
                self.report.wanted();
                self.queue.push(Target::Machine(*instance));
            }
        }
    }

    /// Ends a spot machine, so that others have its memory.
    fn give_up(&mut self, instance: InstanceId, host: &HostMemory) {
        let Some(record) = self.book.machines.get_mut(&instance) else { return };
        record.given_up_at_ms = Some(self.clock.now_ms());
        tracing::warn!(
            host = %self.config.host, %instance, available = %host.available,
            "the host's memory is nearly gone, and guests give no more back: a spot machine is ended"
        );
        self.report.wanted();
        self.queue.push(Target::Machine(instance));
        self.queue.unblock();
    }
}

impl Hands {
    /// Looks at the memory.
    fn memory(&self) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let look = hands.hypervisor.memory();
            Done::Memory(match hands.within("look at its memory", look).await {
                Ok(host) => Ok(hands.ask_guests(host).await),
                Err(error) => Err(error),
            })
        })
    }

    /// Asks the guests for theirs. One that does not answer in time is one that says nothing, and
    /// one that can't be asked has none for this look, since it may have ended.
    async fn ask_guests(&self, host: HostMemory) -> HostMemory {
        let ask = |machine: MachineMemory| async move {
            let instance = machine.instance;
            let answer = self.hypervisor.guest_memory(instance);
            match within(ANSWERS_WITHIN, "ask for the memory of a guest", answer).await {
                Ok(says) => Some(says),
                Err(HypervisorError::Timeout { .. }) => Some(machine),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(%instance, error, "the memory of a guest is not known");
                    None
                }
            }
        };
        let asked =
            stream::iter(host.machines.into_iter().map(ask)).buffer_unordered(ASKED_AT_ONCE);
        let mut machines: Vec<_> = asked.filter_map(ready).collect().await;
        machines.sort_unstable_by_key(|machine| machine.instance);
        HostMemory { machines, ..host }
    }

    /// Has guests get along with so much, or have it again. What fails is seen at the next look.
    fn balloons(&self, balloons: Vec<(InstanceId, Mib)>) -> Work {
        let hands = self.clone();
        Box::pin(async move {
            let hands = &hands;
            let set = async |(instance, has): (InstanceId, Mib)| {
                let set = hands.hypervisor.set_balloon(instance, has);
                let set = within(ANSWERS_WITHIN, "change the memory of a guest", set).await;
                if let Err(error) = set {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(%instance, %has, error, "the memory of a guest stays");
                }
            };
            stream::iter(balloons).for_each_concurrent(ASKED_AT_ONCE, set).await;
            Done::Balloons
        })
    }
}
