//! Machines that have grown while they ran.

use fairmazon_model::units::{Mib, Vcpus};

use super::*;
use crate::growth::{growing, has, run as start, size, willing};

#[tokio::test]
async fn a_guest_that_has_grown_moves_as_large_as_it_is_and_grows_on() {
    let (mut here, mut there) = (Lab::start(), Lab::start());
    let source = start(&here, growing(willing())).await;
    let boot = has(&source, 1, 2_048).await;
    source.resize(instance(1), Vcpus(2), Mib(3_072)).await.unwrap();
    source.resize(instance(1), Vcpus(3), Mib(4_096)).await.unwrap();
    assert_eq!(has(&source, 3, 4_096).await, boot);
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    counts_on(&target).await;
    assert_eq!(size(&target).await, (3, 4_096));
    target.resize(instance(1), Vcpus(4), Mib(5_120)).await.unwrap();
    assert_eq!(has(&target, 4, 5_120).await, boot);
    // What it has in the end does not depend on how it got it.
    let modules = format!("virsh dumpxml {} | grep -c 'memory model'", instance(1));
    assert_eq!(there.run(&modules).trim(), "3");
    assert_eq!(here.run(&format!("virsh domstate {}", instance(1))).trim(), "shut off");
    target.force_stop(instance(1)).await.unwrap();
    target.start(instance(1)).await.unwrap();
    says(&target, instance(1), "GUEST-COUNTER vdb 2").await;
    assert_eq!(size(&target).await, (4, 5_120));
}

#[tokio::test]
async fn a_guest_that_has_room_and_has_not_grown_moves_and_grows_there() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = start(&here, growing(willing())).await;
    let boot = has(&source, 1, 2_048).await;
    let target = ready(&source, &there).await;
    moves(&source, &target).await;
    target.resize(instance(1), Vcpus(2), Mib(4_096)).await.unwrap();
    assert_eq!(has(&target, 2, 4_096).await, boot);
}

#[tokio::test]
async fn a_description_of_another_size_is_refused() {
    let (here, there) = (Lab::start(), Lab::start());
    let source = start(&here, growing(willing())).await;
    source.resize(instance(1), Vcpus(2), Mib(4_096)).await.unwrap();
    let target = ready(&source, &there).await;
    let description = String::from_utf8(source.describe(instance(1)).await.unwrap()).unwrap();
    for (had, has) in [
        ("\"modules\":[{\"memory\":2048", "\"modules\":[{\"memory\":4096"),
        ("\"vcpus_most\":8", "\"vcpus_most\":200"),
        ("\"memory_most\":8192", "\"memory_most\":9999999"),
        ("\"vcpus\":1", "\"vcpus\":3"),
        ("\"slots\":16", "\"slots\":200"),
    ] {
        let wrong = description.replacen(had, has, 1);
        assert_ne!(wrong, description, "{had}");
        let refused = target.prepare(instance(1), wrong.as_bytes()).await;
        assert!(matches!(refused, Err(HypervisorError::Refused { .. })), "{refused:?}");
    }
    let awaited = landing(&source, &target).await;
    depart(&source, &awaited, Wire::to(&awaited)).await.unwrap();
}
