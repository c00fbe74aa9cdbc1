//! What the two hosts of a migration are told of each other's certificates.

use fairmazon_broker::core::Caller;
use fairmazon_model::migration::ShownCertificates;

use super::*;
use crate::played::{certificate, join_as};

fn these(numbers: &[u8]) -> ShownCertificates {
    numbers.iter().map(|number| certificate(*number)).collect()
}

impl Move {
    async fn source_is_told(&mut self, numbers: &[u8]) {
        let shows = these(numbers);
        let told = |spec: &MachineSpec| spec.departure.as_ref().is_some_and(|to| to.shows == shows);
        self.source.told_of("what the other host shows", self.id, told).await;
    }

    async fn destination_is_told(&mut self, numbers: &[u8]) {
        let shows = these(numbers);
        let told = |spec: &MachineSpec| spec.arrival.as_ref().is_some_and(|it| it.shows == shows);
        self.destination.told_of("what the other host shows", self.id, told).await;
    }

    /// The destination, as it calls with this certificate.
    fn with(&self, number: u8) -> Caller {
        Caller::of(&self.kit.engine.credential_by_hash(&certificate(number)).unwrap())
    }
}

#[tokio::test]
async fn both_hosts_know_which_certificates_of_the_other_count() {
    let mut it = Move::begin(quick()).await;
    // Neither has joined.
    it.source_is_told(&[]).await;
    it.destination_is_told(&[]).await;
    join(&it.kit, it.source.id, 1).await;
    it.destination_is_told(&[1]).await;
    join(&it.kit, it.destination.id, 2).await;
    it.source_is_told(&[2]).await;
    // Renewed: its answer may be lost, so that it still shows the one before.
    join_as(&it.kit, &it.with(2), 3, 2).await;
    it.source_is_told(&[2, 3]).await;
    it.kit.engine.has_joined(&it.with(3)).await.unwrap();
    it.source_is_told(&[3]).await;
    // Revoked: nothing that it shows counts.
    let (customer, id) = (it.kit.customer, it.destination.id);
    it.kit.engine.rotate_host_token(&customer, id, &it.kit.key()).await.unwrap();
    it.source_is_told(&[]).await;
    it.destination_is_told(&[1]).await;
    let (customer, id) = (it.kit.customer, it.source.id);
    it.kit.engine.rotate_host_token(&customer, id, &it.kit.key()).await.unwrap();
    it.destination_is_told(&[]).await;
    it.kit.stop().await;
}
