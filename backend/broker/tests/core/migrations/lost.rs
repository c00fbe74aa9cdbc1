//! Hosts that are given up as lost for good beside moves: what they said last counts no more, and
//! nothing waits for them.

use super::*;

/// It has left its host, and the other one dies before it has said that it is there.
async fn left_for_a_dead_host(spec: InstanceSpec) -> Move {
    let mut it = Move::begin_with(mortal(), spec).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    it.destination.die();
    it.failed_for("does not answer").await;
    it
}

/// Its boot volume is there after it.
fn kept() -> InstanceSpec {
    let boot_volume = BootVolumeSpec { delete_with_instance: false, ..spec("web").boot_volume };
    InstanceSpec { boot_volume, ..spec("web") }
}

impl Move {
    /// The host that it leaves knows that it stays.
    async fn source_knows(&mut self) {
        self.source.told_of("it stays", self.id, |spec| spec.departure.is_none()).await;
        self.source.reports().await;
    }

    async fn stays(&self, host: HostId, epoch: Epoch) {
        self.kit.until("it stays", || self.row().migration.is_none()).await;
        let decision = self.row().decision.unwrap();
        assert_eq!((decision.host, decision.epoch), (host, epoch));
    }

    /// Nothing is bound to it, so that it is removed.
    async fn is_removed(&self, host: HostId) {
        let volume = || self.kit.engine.volume(&self.kit.customer, self.boot);
        let only = || volume().map_or(true, |view| view.row.may_be_on.is_empty());
        self.kit.until("its volume is in one place", only).await;
        assert!(!lose(&self.kit, host).await);
        assert!(self.kit.engine.host(&self.kit.customer, host).is_err());
        self.kit.engine.audit_books().unwrap();
    }
}

#[tokio::test]
async fn a_machine_that_had_left_starts_again_when_the_host_that_it_went_to_is_lost() {
    let mut it = left_for_a_dead_host(spec("web")).await;
    it.source_knows().await;
    let lost = it.destination.id;
    assert!(lose(&it.kit, lost).await, "it goes there");
    it.stays(it.source.id, Epoch(3)).await;
    it.source.told_of("it runs again", it.id, |spec| spec.epoch == Epoch(3)).await;
    it.source.has(it.id, Epoch(3), ObservedState::Running, None).await;
    it.kit.until("it runs", || shown(&it.kit, it.id) == InstanceState::Running).await;
    it.is_removed(lost).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_had_left_waits_for_its_host_where_only_the_other_one_is_lost() {
    let mut it = left_for_a_dead_host(spec("web")).await;
    it.source.die();
    let lost = it.destination.id;
    assert!(lose(&it.kit, lost).await, "it goes there");
    lapses(&it.kit, it.source.id).await;
    it.stays(it.source.id, Epoch(3)).await;
    it.is_removed(lost).await;
    it.source = Played::open(&it.kit, it.source.id, "one:1").await;
    it.source.told_of("it runs again", it.id, |spec| spec.epoch == Epoch(3)).await;
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_whose_two_hosts_are_lost_is_deleted_and_both_are_removed() {
    let mut it = left_for_a_dead_host(kept()).await;
    it.source.die();
    let hosts = [it.destination.id, it.source.id];
    for host in hosts {
        assert!(lose(&it.kit, host).await, "it is bound to it");
    }
    it.stays(it.source.id, Epoch(3)).await;
    it.kit.until("it is lost", || shown(&it.kit, it.id) == InstanceState::Failed).await;
    let (engine, customer) = (&it.kit.engine, &it.kit.customer);
    let deleted = engine.delete_instance(customer, it.id, &it.kit.key()).await.unwrap();
    it.kit.done(deleted.id).await;
    let deleted = engine.delete_volume(customer, it.boot, &it.kit.key()).await.unwrap();
    it.kit.done(deleted.id).await;
    for host in hosts {
        it.is_removed(host).await;
    }
    it.kit.stop().await;
}

#[tokio::test]
async fn a_machine_that_is_deleted_amid_its_way_goes_when_the_other_host_is_lost() {
    let mut it = left_for_a_dead_host(kept()).await;
    let (engine, customer) = (it.kit.engine.clone(), it.kit.customer);
    let deletion = engine.delete_instance(&customer, it.id, &it.kit.key()).await.unwrap();
    it.source_knows().await;
    let lost = it.destination.id;
    assert!(lose(&it.kit, lost).await, "it goes there");
    it.source.told("it goes", |set| set.machines.is_empty()).await;
    it.source.lost(it.id).await;
    it.kit.done(deletion.id).await;
    let boot = engine.volume(&customer, it.boot).unwrap().row;
    assert_eq!(boot.host, Some(it.source.id), "what is there after it is where it stays");
    it.is_removed(lost).await;
    it.kit.stop().await;
}

/// Its report can't be taken before the host is lost: a command holds the machine until then.
#[tokio::test]
async fn what_a_lost_host_said_last_counts_no_more() {
    let mut it = Move::begin(mortal()).await;
    it.prepare().await;
    it.source_has(ObservedState::Stopped, Some(Handover::Left)).await;
    // It is said, and not acted on: whoever acts on it is dead.
    it.kit.die().await;
    it.destination_has(ObservedState::Stopped, Some(Handover::Arrived)).await;
    let lost = it.destination.id;
    it.destination.die();
    lapses(&it.kit, lost).await;
    assert!(it.kit.engine.remove_host(&it.kit.customer, lost, true, "lost").await.unwrap());
    it.kit.start();
    it.source_knows().await;
    it.stays(it.source.id, Epoch(3)).await;
    it.is_removed(lost).await;
    it.kit.stop().await;
}
