//! What the world's hosts find of the host standard, and that nothing new is placed on a host that
//! is known not to keep it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_host::standard::{Boots, Facts, Looks, Prover, Standard, Swap};
use fairmazon_model::{
    conformity::UnprovenHosts,
    host::Host,
    id::HostId,
    instance::{Decision, Instance},
    migration::Migration,
};
use fairmazon_store::AuditRecord;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::best_host::best;

/// How often hosts look.
const EVERY: Duration = Duration::from_secs(2);

/// What a host keeps of the standard; outlives its agent.
pub struct Keeps(Mutex<Option<u8>>);

impl Keeps {
    pub fn all() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(3))))
    }

    /// It reaches this level from here on: 3, 0 or none.
    pub fn set(&self, level: Option<u8>) {
        *self.0.lock() = level;
    }

    /// For the agent's configuration.
    pub fn standard(self: &Arc<Self>) -> Standard {
        let looks = Looks::with(self.clone());
        Standard::Proven(Looks { every: EVERY, ..looks })
    }
}

#[async_trait]
impl Prover for Keeps {
    async fn facts(&self, _: Option<&Facts>) -> Result<Facts, String> {
        let mut facts = best();
        match *self.0.lock() {
            None => facts.swaps = Ok(vec![Swap { name: "/dev/sda2".into(), sealed: None }]),
            Some(0) => facts.hypervisor.guest = Ok(Boots::Software),
            Some(_) => {}
        }
        Ok(facts)
    }
}

/// Goes through the log: hosts get machines only while what they have proven, as far as it was
/// known, allows it.
pub fn check(records: &[AuditRecord], wrong: &mut Vec<String>) {
    let mut levels: BTreeMap<HostId, Option<u8>> = BTreeMap::new();
    for record in records {
        let (entry, verb) = (&record.entry, record.entry.verb.as_str());
        let to = match verb {
            "broker.place" | "broker.place_again" => after::<Decision>(record).map(|at| at.host),
            "broker.migrate" => after::<Migration>(record).map(|migration| migration.to),
            "instance.migrate" => after::<Instance>(record)
                .and_then(|row| row.migration)
                .map(|migration| migration.to),
            _ => {
                if let Some(row) = after::<Host>(record) {
                    levels.insert(row.id, row.level(UnprovenHosts::NoWork));
                }
                continue;
            }
        };
        let Some(to) = to else {
            wrong.push(format!("{verb} says no host: {entry:?}"));
            continue;
        };
        if levels.get(&to).is_none_or(Option::is_none) {
            wrong.push(format!("{verb} of {} on {to}, which does not conform", entry.target));
        }
    }
}

fn after<T: DeserializeOwned>(record: &AuditRecord) -> Option<T> {
    serde_json::from_value(record.entry.after.clone()?).ok()
}
