//! What the agent says of the host standard, and that looking at it holds nothing up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod best_host;
mod common;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fairmazon_host::standard::{Boots, DaemonFacts, Facts, Looks, Prover, Standard, Swap};
use fairmazon_model::{conformity::Proof, machine::ObservedSet};
use parking_lot::Mutex;

use best_host::best;
use common::{Network, Subject, TERM_MS, machine, runs, set};

const EVERY: Duration = Duration::from_secs(60);
const THOROUGH_EVERY: Duration = Duration::from_secs(600);

/// Finds what the test says.
struct Told {
    facts: Mutex<Result<Facts, String>>,
    /// Of each look, whether it was thorough.
    looks: Mutex<Vec<bool>>,
}

#[async_trait]
impl Prover for Told {
    async fn facts(&self, before: Option<&Facts>) -> Result<Facts, String> {
        self.looks.lock().push(before.is_none());
        let facts = self.facts.lock().clone()?;
        let (hypervisor, storage, round_trip) = match before {
            Some(before) => (&before.hypervisor, &before.storage, &before.round_trip),
            None => (&facts.hypervisor, &facts.storage, &facts.round_trip),
        };
        let (hypervisor, storage) = (hypervisor.clone(), storage.clone());
        Ok(Facts { round_trip: round_trip.clone(), hypervisor, storage, ..facts })
    }
}

impl Told {
    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = best();
        change(&mut facts);
        *self.facts.lock() = Ok(facts);
    }

    fn looks(&self) -> Vec<bool> {
        std::mem::take(&mut self.looks.lock())
    }
}

fn looked_at(prover: Arc<dyn Prover>) -> Option<Standard> {
    Some(Standard::Proven(Looks { prover, every: EVERY, thorough_every: THOROUGH_EVERY }))
}

fn subject() -> (Subject, Arc<Told>) {
    let told = Arc::new(Told { facts: Mutex::new(Ok(best())), looks: Mutex::default() });
    let mut subject = Subject::idle(Arc::new(fairmazon_host::state::MemoryState::default()));
    subject.standard = looked_at(told.clone());
    (subject, told)
}

fn swaps(facts: &mut Facts) {
    facts.swaps = Ok(vec![Swap { name: "/dev/sda2".into(), sealed: None }]);
}

fn proves(wanted: Option<u8>) -> impl Fn(&ObservedSet) -> bool {
    move |seen| matches!(&seen.conformity, Some(Proof::Proven { level, .. }) if *level == wanted)
}

#[tokio::test(start_paused = true)]
async fn each_change_is_reported_with_what_to_do_and_the_next_hello_has_it() {
    let (mut subject, told) = subject();
    subject.broker.desire(set(1, vec![]));
    subject.start_agent();
    let seen = subject.broker.sees(proves(Some(3))).await;
    assert_eq!(seen.conformity, Some(Proof::Proven { level: Some(3), failed: vec![] }));
    // The lease is gained, which is told as well.
    tokio::time::sleep(EVERY / 2).await;
    let reports = subject.broker.reports();
    tokio::time::sleep(3 * EVERY).await;
    assert_eq!(subject.broker.reports(), reports, "what has not changed is not told");

    told.change(swaps);
    let seen = subject.broker.sees(proves(None)).await;
    let Some(Proof::Proven { failed, .. }) = seen.conformity else { panic!() };
    assert_eq!(failed.len(), 1);
    assert_eq!((&*failed[0].check, failed[0].allows), ("no-swap", None));
    assert!(failed[0].remedy.contains("swapoff"), "{failed:?}");

    // The next stream begins with it, before any report.
    subject.broker.network(Network::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    subject.broker.network(Network::Whole);
    let hello = || subject.broker.hello().unwrap().conformity;
    while !matches!(hello(), Some(Proof::Proven { level: None, .. })) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    told.change(|_| {});
    subject.broker.sees(proves(Some(3))).await;
}

#[tokio::test(start_paused = true)]
async fn what_strains_the_host_is_found_out_seldom_and_again_when_it_came_out_worse() {
    let (mut subject, told) = subject();
    subject.broker.desire(set(1, vec![]));
    subject.start_agent();
    subject.broker.sees(proves(Some(3))).await;
    tokio::time::sleep(THOROUGH_EVERY - EVERY / 2).await;
    let looks = told.looks();
    assert_eq!(looks.iter().filter(|thorough| **thorough).count(), 1, "{looks:?}");
    assert!(looks[0] && looks.len() >= 9, "{looks:?}");

    // A guest boots no more with KVM: found at the next thorough look, which is repeated.
    told.change(|facts| facts.hypervisor.guest = Ok(Boots::Software));
    subject.broker.sees(proves(Some(0))).await;
    tokio::time::sleep(3 * EVERY + EVERY / 2).await;
    let looks = told.looks();
    let first = looks.iter().position(|thorough| *thorough).unwrap();
    assert!(looks[first..].iter().all(|thorough| *thorough), "{looks:?}");
    told.change(|_| {});
    subject.broker.sees(proves(Some(3))).await;
    told.looks();
    tokio::time::sleep(2 * EVERY).await;
    assert!(told.looks().iter().all(|thorough| !thorough));

    // That the broker can't be reached now is no lower level, nor is a look that fails.
    told.change(|facts| facts.round_trip = Err("refused".into()));
    tokio::time::sleep(2 * THOROUGH_EVERY).await;
    *told.facts.lock() = Err("out of memory".into());
    tokio::time::sleep(2 * EVERY).await;
    assert!(proves(Some(3))(&subject.broker.last_seen().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_boots_with_kvm_and_runs_guests_in_software_reaches_level_0() {
    let (mut subject, told) = subject();
    told.change(|facts| facts.hypervisor.driver = Some(Boots::Software));
    subject.broker.desire(set(1, vec![]));
    subject.start_agent();
    let seen = subject.broker.sees(proves(Some(0))).await;
    let Some(Proof::Proven { failed, .. }) = seen.conformity else { panic!() };
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((&*failed.check, failed.allows), ("hardware-virtualisation", Some(0)));
    assert!(failed.remedy.contains("restart it when the host is quiet"), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_libvirt_says_is_asked_again_soon_where_it_is_wrong() {
    let wrong: [fn(&mut Facts); 2] = [
        |facts| facts.hypervisor.daemon = Ok(Err("refused".into())),
        |facts| {
            let (runs, qemu_user) = (vec![Boots::Hardware], Some(64_055));
            facts.hypervisor.daemon = Ok(Ok(DaemonFacts { runs, qemu_user, keeps_secrets: true }));
        },
    ];
    for change in wrong {
        let (mut subject, told) = subject();
        told.change(change);
        subject.broker.desire(set(1, vec![]));
        subject.start_agent();
        subject.broker.sees(proves(None)).await;
        // Its operator has mended it: that is found long before the next thorough look is due.
        told.change(|_| {});
        tokio::time::sleep(2 * EVERY).await;
        assert!(proves(Some(3))(&subject.broker.last_seen().unwrap()), "{:?}", told.looks());
    }
}

/// Never finds out.
struct Stuck;

#[async_trait]
impl Prover for Stuck {
    async fn facts(&self, _: Option<&Facts>) -> Result<Facts, String> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_for_ever_holds_neither_machines_nor_the_lease_up() {
    let (mut subject, _) = subject();
    subject.standard = looked_at(Arc::new(Stuck));
    let web = machine(1);
    subject.broker.desire(set(1, vec![web.clone()]));
    subject.start_agent();
    let seen = subject.broker.sees(|seen| runs(seen, &web)).await;
    assert_eq!(seen.conformity, None, "what is not known is not said");
    tokio::time::sleep(Duration::from_millis(3 * TERM_MS)).await;
    assert!(runs(&subject.broker.last_seen().unwrap(), &web));
    subject.stop_agent().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_proves_nothing_says_why() {
    let (mut subject, _) = subject();
    let why = "the driver `simulated` runs no guests".to_owned();
    subject.standard = Some(Standard::Unproven(why.clone()));
    subject.broker.desire(set(1, vec![]));
    subject.start_agent();
    let said = Some(Proof::Unproven { why });
    subject.broker.sees(|seen| seen.conformity == said).await;
    subject.stop_agent().await;
}
