//! Hosts that end for good, and are given up by their operator: nobody comes back for what was on
//! them, and who tries is refused.

use std::{collections::BTreeMap, time::Duration};

use fairmazon_broker::core::{InstanceState, InstanceView, PageRequest};
use fairmazon_model::{
    ErrorKind,
    id::{HostId, OperationId},
};
use rand::Rng;
use tokio::time::Instant;

use super::{
    check::Shown,
    client::{Acknowledged, Kind, Promise},
    faults::Death,
    run::{Host, Platform},
};

/// How long anybody waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what is deleted in a healed world may take.
const ENDS_WITHIN: Duration = Duration::from_secs(300);
/// A host dies within this time after a machine has set out from it or to it, in ms.
const WAY_MS: u64 = 2_000;

/// What has become of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there, or will be.
    Lives,
    /// It has ended for good, and the platform does not know.
    Dead,
    /// The platform has taken the word of its operator. It may try to come back.
    GivenUp,
}

impl Platform {
    /// The hosts that are there in the end.
    pub fn living(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.fate == Fate::Lives)
    }

    /// Whether this is one that has ended for good.
    pub fn has_ended(&self, host: HostId) -> bool {
        self.living().all(|living| living.id != host)
    }

    /// A host ends for good beside a move, where a machine can set out: mostly the one that it goes
    /// to, sometimes the one that it leaves, or both. Else it is this one.
    pub async fn dies(&mut self, host: usize, death: Death) {
        let dying = match self.sets_out().await {
            None => vec![host],
            Some((from, to)) => {
                let ms = self.random.random_range(0..WAY_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                match self.random.random_range(0..4) {
                    0 => vec![from],
                    1 => vec![from, to],
                    _ => vec![to],
                }
            }
        };
        for host in dying {
            if self.hosts[host].fate != Fate::Lives {
                continue;
            }
            self.log.say(format!("{} ends for good", self.hosts[host].id));
            self.hosts[host].fate = Fate::Dead;
            match death {
                Death::Power => {
                    self.stop_agent(host).await;
                    self.hosts[host].has_power = false;
                    self.world.host_loses_power(self.hosts[host].id);
                }
                Death::CutOff => self.hosts[host].path.set(|wire| {
                    wire.to_broker.cut = true;
                    wire.to_host.cut = true;
                }),
            }
        }
    }

    /// A machine sets out, if one can: the hosts that it leaves and goes to.
    async fn sets_out(&mut self) -> Option<(usize, usize)> {
        let (engine, customer) = (self.broker.as_ref()?.engine.clone(), self.customer);
        let page = PageRequest { after: None, limit: 0 };
        for view in engine.instances(&customer, page, &BTreeMap::new()).items {
            let (id, key) = (view.row.id, self.random.random::<u64>().to_string());
            let migrate = engine.migrate_instance(&customer, id, &key);
            if !matches!(tokio::time::timeout(PATIENCE, migrate).await, Ok(Ok(_))) {
                continue;
            }
            let row = engine.instance(&customer, id).ok()?.row;
            let (from, to) = (row.decision.as_ref()?.host, row.migration.as_ref()?.to);
            let index = |id| self.hosts.iter().position(|host| host.id == id);
            return Some((index(from)?, index(to)?));
        }
        None
    }

    /// Their operator gives up the hosts that have ended, where the platform takes his word now.
    pub async fn give_up_the_dead(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].fate == Fate::Dead {
                self.give_up(host).await;
            }
        }
    }

    async fn give_up(&mut self, host: usize) {
        let Some(broker) = &self.broker else { return };
        let (engine, customer, id) = (broker.engine.clone(), self.customer, self.hosts[host].id);
        let key = self.random.random::<u64>().to_string();
        self.world.host_is_lost(id);
        let said = engine.remove_host(&customer, id, true, &key);
        let said = tokio::time::timeout(PATIENCE, said).await;
        let is_taken = match &said {
            Ok(Ok(_)) => true,
            // It was taken before, and nobody heard that.
            Ok(Err(error)) => error.kind == ErrorKind::NotFound,
            Err(_) => false,
        };
        self.log.say(format!("{id} is given up: {said:?}"));
        if is_taken {
            self.hosts[host].fate = Fate::GivenUp;
        }
    }

    /// In a healed world all that have ended are given up, and some of them try to come back.
    pub async fn bury(&mut self) {
        while self.hosts.iter().any(|host| host.fate == Fate::Dead) {
            self.give_up_the_dead().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        for host in 0..self.hosts.len() {
            if self.hosts[host].fate == Fate::GivenUp && self.random.random() {
                self.log.say(format!("{} tries to come back", self.hosts[host].id));
                self.bring_back(host);
            }
        }
    }

    /// Customers delete what is lost with its host, and what waits for that. Nothing is bound to the
    /// hosts then, which are removed.
    pub async fn replace(&mut self, acknowledged: &mut Acknowledged) {
        let ended: Vec<_> = self.hosts.iter().filter(|it| it.fate == Fate::GivenUp).collect();
        let ended: Vec<_> = ended.into_iter().map(|host| host.id).collect();
        let (engine, customer) = (self.engine(), self.customer);
        let shown = Shown::of(self).await;
        let lost: Vec<_> = shown
            .volumes
            .values()
            .filter(|row| row.host.is_some_and(|host| ended.contains(&host)))
            .collect();
        let is_lost = |view: &&InstanceView| {
            let volumes = lost.iter().any(|volume| volume.attached_to == Some(view.row.id));
            volumes || view.row.decision.as_ref().is_some_and(|at| ended.contains(&at.host))
        };
        for view in shown.instances.values().filter(is_lost) {
            let (id, key) = (view.row.id, format!("replace-{}", view.row.id));
            match engine.delete_instance(&customer, id, &key).await {
                Ok(operation) => {
                    acknowledged.operations.push(deletion(operation.id));
                    acknowledged.instances.remove(&id);
                    self.ends(operation.id).await;
                }
                Err(error) => acknowledged.wrong.push(format!("{id} can't be replaced: {error}")),
            }
        }
        for row in lost.iter().filter(|row| row.boot_of.is_none()) {
            let (id, key) = (row.id, format!("replace-{}", row.id));
            match engine.delete_volume(&customer, id, &key).await {
                Ok(operation) => {
                    acknowledged.operations.push(deletion(operation.id));
                    acknowledged.volumes.remove(&id);
                    self.ends(operation.id).await;
                }
                Err(error) => acknowledged.wrong.push(format!("{id} can't be replaced: {error}")),
            }
        }
        for host in ended {
            if let Err(why) = self.removed(host).await {
                acknowledged.wrong.push(format!("{host} is not removed: {why}"));
            }
        }
    }

    /// Waits for the end of an operation; what does not end is found afterwards.
    async fn ends(&self, operation: OperationId) {
        let watch = self.engine().watch_operation(&self.customer, operation);
        let Ok(mut watch) = watch else { return };
        let _ = tokio::time::timeout(ENDS_WITHIN, async { while watch.next().await.is_some() {} })
            .await;
    }

    /// Removes a host that is given up; why not, if it can't be.
    async fn removed(&self, host: HostId) -> Result<(), String> {
        let (engine, begun) = (self.engine(), Instant::now());
        for round in 0_u64.. {
            let key = format!("remove-{host}-{round}");
            match engine.remove_host(&self.customer, host, true, &key).await {
                Ok(false) => return Ok(()),
                Ok(true) if begun.elapsed() < ENDS_WITHIN => {}
                Ok(true) => return Err("something is bound to it".into()),
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

/// What is lost with its host is told as that, and nothing of it is on its way.
pub fn check_state(view: &InstanceView, wrong: &mut Vec<String>) {
    let (id, row) = (view.row.id, &view.row);
    if let Some(migration) = &row.migration {
        wrong.push(format!("{id}, whose host is lost, still moves: {migration:?}"));
    }
    let is_told = view.state == InstanceState::Failed && view.reason.contains("lost for good");
    if !is_told {
        wrong.push(format!("{id}, whose host is lost, is {:?} ({})", view.state, view.reason));
    }
}

/// Nothing is bound to a host that was removed, or goes there.
pub fn check_removed(platform: &Platform, shown: &Shown, wrong: &mut Vec<String>) {
    let engine = platform.engine();
    let is_removed = |id: HostId| engine.host(&platform.customer, id).is_err();
    for row in shown.instances.values().map(|view| &view.row) {
        let decided = row.decision.as_ref().map(|decision| decision.host);
        let goes = row.migration.as_ref().map(|migration| migration.to);
        if decided.into_iter().chain(goes).chain(row.reserved).any(is_removed) {
            wrong.push(format!("a host that was removed has {row:?}"));
        }
    }
    for row in shown.volumes.values() {
        if row.host.into_iter().chain(row.may_be_on.iter().copied()).any(is_removed) {
            wrong.push(format!("a host that was removed has {row:?}"));
        }
    }
}

const fn deletion(id: OperationId) -> Promise {
    Promise { id, kind: Kind::Delete }
}
