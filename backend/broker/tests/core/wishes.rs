//! What customers wish of a machine besides that it runs, brought about by real agents on simulated
//! hosts.

use fairmazon_broker::core::{InstanceState, InstanceUpdate};
use fairmazon_hypervisor::Hypervisor;
use fairmazon_model::{
    ErrorKind,
    id::InstanceId,
    instance::{InstanceSpec, OnUserDataChange},
    schedule::{Schedule, Weekday, Window},
    units::Mib,
};

use super::kit::{Hosts, Kit, host_spec, quick, row, spec};

const HOUR_MS: i64 = 3_600_000;

async fn made(kit: &Kit, spec: InstanceSpec) -> InstanceId {
    let made = kit.engine.create_instance(&kit.customer, spec, &kit.key()).await.unwrap();
    kit.done(made.operation.id).await;
    made.instance.row.id
}

#[tokio::test]
async fn a_machine_runs_in_its_working_hours_only() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let sim = &hosts.hosts[0].sim;
    // The kit's clock begins on a Monday at 14:13.
    let afternoon = Window {
        timezone: "UTC".into(),
        start_minute: 14 * 60,
        stop_minute: 15 * 60,
        days: Weekday::ALL.into(),
    };
    let schedule = Some(Schedule { windows: vec![afternoon] });
    let id = made(&kit, InstanceSpec { schedule, ..spec("web") }).await;
    let state = || kit.engine.instance(&kit.customer, id).unwrap().state;
    assert_eq!(state(), InstanceState::Running);
    let (hour, rest) = (HOUR_MS, 23 * HOUR_MS);
    for (later, then) in [
        (hour, InstanceState::Stopped),
        (rest, InstanceState::Running),
        (hour, InstanceState::Stopped),
    ] {
        kit.clock.forward(later);
        kit.until("it is as its hours say", || state() == then).await;
        let runs = sim.machine(id).await.unwrap().unwrap().runs();
        assert_eq!(runs, then == InstanceState::Running);
    }
    assert_eq!(hosts.world.ledger().starts(id), 2);
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn a_boot_volume_goes_with_its_machine_unless_it_shall_stay() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let (engine, customer, sim) = (&kit.engine, &kit.customer, &hosts.hosts[0].sim);
    for goes in [true, false] {
        let mut wish = spec("web");
        wish.boot_volume.delete_with_instance = goes;
        let id = made(&kit, wish).await;
        let boot = row(&kit, id).boot_volume_id;
        let deleted = engine.delete_instance(customer, id, &kit.key()).await.unwrap();
        kit.done(deleted.id).await;
        if goes {
            kit.until("it has gone", || engine.volume(customer, boot).is_err()).await;
        } else {
            let left = engine.volume(customer, boot).unwrap().row;
            assert_eq!((left.boot_of, left.attached_to, left.deleting), (None, None, None));
            assert!(sim.volume(boot).await.unwrap().is_some(), "with its data");
            // It is a volume like any other.
            let deleted = engine.delete_volume(customer, boot, &kit.key()).await.unwrap();
            kit.done(deleted.id).await;
        }
        assert_eq!(engine.volume(customer, boot).unwrap_err().kind, ErrorKind::NotFound);
        assert!(sim.volume(boot).await.unwrap().is_none());
    }
    engine.audit_books().unwrap();
    kit.stop().await;
}

#[tokio::test]
async fn other_user_data_has_the_effect_that_was_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    for (by, first_boots, rebuilds) in [
        (OnUserDataChange::Ignore, 0, 0),
        (OnUserDataChange::NextBoot, 1, 0),
        (OnUserDataChange::Rebuild, 0, 1),
    ] {
        let wish =
            InstanceSpec { on_user_data_change: by, ..spec(&format!("{by:?}").to_lowercase()) };
        let id = made(&kit, wish.clone()).await;
        let before = row(&kit, id);
        let starts = hosts.world.ledger().starts(id);
        let wish = InstanceSpec { user_data: "#!/bin/sh\n".into(), ..wish };
        let update = InstanceUpdate { id, spec: wish, expected_revision: 0, allow_rebuild: false };
        let changed = kit.engine.update_instance(&kit.customer, update, &kit.key()).await.unwrap();
        kit.done(changed.operation.id).await;
        let after = row(&kit, id);
        assert_eq!((after.first_boots, after.rebuilds), (first_boots, rebuilds), "{by:?}");
        assert_eq!((after.id, after.boot_volume_id), (before.id, before.boot_volume_id));
        let machine = hosts.hosts[0].sim.machine(id).await.unwrap().unwrap();
        assert_eq!(machine.definition.user_data, "#!/bin/sh\n", "{by:?}");
        assert_eq!(machine.definition.first_boots, first_boots, "{by:?}");
        assert_eq!(machine.definition.rebuilds, rebuilds, "{by:?}");
        // Only what is made anew starts again at once.
        let anew = hosts.world.ledger().starts(id) > starts;
        assert_eq!(anew, by == OnUserDataChange::Rebuild, "{by:?}");
    }
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn a_machine_has_its_next_size_where_there_is_no_room_for_its_first() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let mut hosts = Hosts::none();
    let mut narrow = host_spec(0, "DE");
    narrow.capacity.memory = Mib(8_192);
    hosts.add(&kit, narrow).await;
    hosts.connect(0, &kit.engine);
    let flavor_fallback = vec!["xlarge".into(), "medium".into(), "small".into()];
    let id =
        made(&kit, InstanceSpec { flavor: "huge".into(), flavor_fallback, ..spec("web") }).await;
    assert_eq!(row(&kit, id).actual_flavor(), "medium");
    let price = |id| kit.engine.instance(&kit.customer, id).unwrap().price;
    let other = made(&kit, InstanceSpec { flavor: "medium".into(), ..spec("other") }).await;
    assert_eq!(price(id), price(other), "it costs what it has");
    let machine = hosts.hosts[0].sim.machine(id).await.unwrap().unwrap();
    assert_eq!(machine.definition.memory, Mib(4_096));
    hosts.check();
    kit.stop().await;
}
