//! A broker whose store is restored to before machines have moved: what was right before is right
//! again, with the data that was written last.
//!
//! All that customers were told is in the copy of the store, so nothing of that may be missing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairmazon_broker::core::PageRequest;
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{instance::Instance, volume::Volume};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{faults::Act, lost::Fate, run::Platform};

/// How many schedules there are to one with a store that is restored.
const ONE_OF: u64 = 2;

/// How long moves may take to end, without the power of their hosts, before the store is restored.
const MOVES_END_WITHIN: Duration = Duration::from_secs(120);

/// Whether the store of this platform is restored: some are, where machines can move, hosts may
/// lose their leases, nobody waits for the room that the store then takes for free, and each volume
/// has its machine.
pub fn is_due(platform: &Platform) -> bool {
    let rows = rows(platform);
    let has_its_place = |row: &Instance| row.decision.is_some() && row.interruption.is_none();
    let page = PageRequest { after: None, limit: 0 };
    let volumes = platform.engine().volumes(&platform.customer, page, &BTreeMap::new()).items;
    // One that no machine has, and that has moved, is found by nobody.
    let has_a_machine = |row: &Volume| row.host.is_none() || row.attached_to.is_some();
    platform.seed.is_multiple_of(ONE_OF)
        && volumes.iter().all(|view| has_a_machine(&view.row))
        && !platform.gentle
        && platform.hosts.len() > 1
        && platform.hosts.iter().all(|host| host.fate == Fate::Lives)
        && !rows.is_empty()
        && rows.iter().all(|row| has_its_place(row))
}

fn rows(platform: &Platform) -> Vec<Arc<Instance>> {
    let page = PageRequest { after: None, limit: 0 };
    let views = platform.engine().instances(&platform.customer, page, &BTreeMap::new()).items;
    views.into_iter().map(|view| view.row).collect()
}

/// Whether the moves that are under way have ended, just now.
async fn moves_end(platform: &Platform) -> bool {
    let is_over = async {
        while rows(platform).iter().any(|row| row.migration.is_some()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(MOVES_END_WITHIN, is_over).await.is_ok()
}

/// Copies the store, lets machines move, some away from hosts whose power fails before they have
/// deleted what is left there, and gives the broker the copy.
pub async fn before_moves(platform: &mut Platform) {
    let mut random = StdRng::seed_from_u64(platform.seed);
    let copy = platform.disk.copy();
    platform.log.say("the store is copied");
    let mut dark = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let host = random.random_range(0..platform.hosts.len());
        platform.act(Act::Drains(host, true)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20_000))).await;
        // What is on its way just then is another matter.
        if random.random_range(0..3) == 0 && moves_end(platform).await {
            platform.log.say(format!("the power of host {host} fails"));
            platform.act(Act::PowerFails(host)).await;
            dark.push(host);
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60_000))).await;
        }
        platform.act(Act::Drains(host, false)).await;
    }
    if !moves_end(platform).await {
        return platform.heal().await;
    }
    platform.log.say("the store is restored");
    platform.stop_broker();
    // Some are heard before the others.
    if random.random_range(0..2) == 0 {
        dark.into_iter().for_each(|host| platform.power_on(host));
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..60_000))).await;
    platform.disk.restore(copy).unwrap();
    let mut written = BTreeMap::new();
    for host in &platform.hosts {
        let volumes = host.sim.inventory().await.unwrap().volumes.into_iter();
        let ledger = platform.world.ledger();
        written.extend(volumes.map(|found| (found.volume, ledger.writes(found.volume))));
    }
    platform.restored = Some(written);
    platform.start_broker().await;
    tokio::time::sleep(Duration::from_millis(random.random_range(0..20_000))).await;
    platform.heal().await;
}
