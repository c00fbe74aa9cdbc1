//! Every line of what a migration comes to, and that no state of it decides two runs.

use std::collections::BTreeSet;

use fairmazon_model::{
    id::{HostId, OperationId, VolumeId},
    instance::{InstanceObserved, ObservedState, RestartPolicy},
    machine::{GuestSeen, MachineSeen},
    migration::{Handover, Migration},
    units::{Epoch, UnixMs},
};
use proptest::prelude::*;

use super::{
    moving::Moving,
    step::{InstanceFacts, Step, Waiting, next_step},
    step_tests::{decision, instance, observed_state, standing},
};
use crate::core::Standing;

const SOURCE: Epoch = Epoch(1);
const DESTINATION: Epoch = Epoch(2);

/// A migration as the step sees it.
#[derive(Debug, Clone)]
struct Situation {
    given_up: bool,
    deleting: bool,
    /// A volume of it is there after it.
    leaves_data: bool,
    wants_to_run: bool,
    /// It moves while it is off.
    off: bool,
    observed: ObservedState,
    standing: Standing,
    source: Option<MachineSeen>,
    source_knows: bool,
    destination: Option<MachineSeen>,
    destination_standing: Standing,
    gone: bool,
    lost: bool,
    hindrance: Option<String>,
}

/// Under way, with nothing to be done.
fn open() -> Situation {
    Situation {
        given_up: false,
        deleting: false,
        leaves_data: true,
        wants_to_run: true,
        off: false,
        observed: ObservedState::Running,
        standing: Standing::Connected,
        source: Some(seen(SOURCE, ObservedState::Running, None)),
        source_knows: false,
        destination: Some(seen(DESTINATION, ObservedState::Starting, Some(Handover::Awaited))),
        destination_standing: Standing::Connected,
        gone: false,
        lost: false,
        hindrance: None,
    }
}

/// Under way while it is off, with nothing to be done.
fn open_off() -> Situation {
    Situation {
        wants_to_run: false,
        off: true,
        observed: ObservedState::Stopped,
        source: Some(seen(SOURCE, ObservedState::Stopped, None)),
        ..open()
    }
}

/// Given up, which nobody knows yet.
fn given_up() -> Situation {
    Situation { given_up: true, ..open() }
}

fn seen(epoch: Epoch, state: ObservedState, handover: Option<Handover>) -> MachineSeen {
    MachineSeen {
        instance: instance(RestartPolicy::Always).id,
        epoch,
        spec_version: 1,
        state,
        failure: None,
        addresses: Vec::new(),
        guest: GuestSeen::default(),
        handover,
        lacks_memory: false,
    }
}

fn left() -> Option<MachineSeen> {
    Some(seen(SOURCE, ObservedState::Stopped, Some(Handover::Left)))
}

fn arrived() -> Option<MachineSeen> {
    Some(seen(DESTINATION, ObservedState::Stopped, Some(Handover::Arrived)))
}

impl Situation {
    fn step(&self) -> Step {
        let mut row = instance(RestartPolicy::Always);
        row.decision = Some(decision(SOURCE.0));
        row.last_epoch = DESTINATION;
        row.deleting = self.deleting.then(|| OperationId::from_parts(1, 1));
        row.spec.boot_volume.delete_with_instance = !self.leaves_data;
        row.observed = InstanceObserved {
            state: self.observed.clone(),
            epoch: SOURCE,
            spec_version: 1,
            ..InstanceObserved::default()
        };
        let migration = Migration {
            to: HostId::from_parts(1, 2),
            epoch: DESTINATION,
            flavor: "small".into(),
            reason: String::new(),
            volumes: BTreeSet::from([VolumeId::from_parts(1, 1)]),
            off: self.off,
            at: UnixMs(1),
            given_up: self.given_up,
        };
        row.migration = Some(migration.clone());
        next_step(&InstanceFacts {
            instance: &row,
            standing: self.standing,
            is_asked_to_run: self.wants_to_run,
            spot_allows: true,
            is_off: false,
            lacks_memory: false,
            has_paused: false,
            awaits_room: false,
            lost: false,
            gone: false,
            has_data: false,
            lacks_key: false,
            stays: String::new(),
            found_on: None,
            moving: Some(Moving {
                migration: &migration,
                source: self.source.clone(),
                source_knows: self.source_knows,
                destination: self.destination.clone(),
                destination_standing: self.destination_standing,
                gone: self.gone,
                lost: self.lost,
                hindrance: self.hindrance.clone(),
            }),
        })
    }
}

#[test]
fn what_is_lost_where_it_comes_from_neither_stays_nor_is_given_up() {
    let gone = Situation { gone: true, source_knows: true, ..given_up() };
    let too_long = Situation { hindrance: Some("too long".into()), ..open_off() };
    for before in [open_off(), too_long, gone] {
        let now = Situation { lost: true, ..before };
        assert_eq!(now.step(), Step::Wait(Waiting::Data), "{now:?}");
    }
    let there = Some(seen(DESTINATION, ObservedState::Stopped, None));
    let come = Situation { lost: true, destination: there, ..open_off() };
    assert_eq!(come.step(), Step::Land, "it has come all the same");
}

#[test]
fn it_lands_when_it_runs_or_ran_there() {
    for state in [ObservedState::Running, ObservedState::Stopping, ObservedState::Stopped] {
        for before in [open(), given_up()] {
            let destination = Some(seen(DESTINATION, state.clone(), None));
            for source in [None, left(), before.source.clone()] {
                let now = Situation { source, destination: destination.clone(), ..before.clone() };
                assert_eq!(now.step(), Step::Land, "{now:?}");
            }
        }
    }
}

#[test]
fn it_lands_when_it_has_left_and_arrived() {
    for before in [open(), given_up()] {
        let both = Situation { source: left(), destination: arrived(), ..before.clone() };
        assert_eq!(both.step(), Step::Land);
        let dead = Situation { standing: Standing::Lapsed, ..both };
        assert_eq!(dead.step(), Step::Land, "what it has left may be dead");
        let only_left = Situation { source: left(), ..before.clone() };
        assert_ne!(only_left.step(), Step::Land);
        let only_arrived = Situation { destination: arrived(), ..before };
        assert_ne!(only_arrived.step(), Step::Land);
    }
}

#[test]
fn what_is_not_made_there_yet_has_not_come() {
    for state in [ObservedState::Starting, ObservedState::Failed { reason: "no disk".into() }] {
        let made = seen(DESTINATION, state, None);
        let nothing = Some(MachineSeen { spec_version: 0, ..made.clone() });
        let now = Situation { source: left(), destination: nothing, ..open() };
        assert_ne!(now.step(), Step::Land, "{now:?}");
        let running = Situation { destination: Some(made.clone()), ..open() };
        assert_ne!(running.step(), Step::Land, "it runs where it was");
        let crashed = Situation { source: left(), destination: Some(made), ..open() };
        assert_eq!(crashed.step(), Step::Land);
    }
}

#[test]
fn it_is_given_up_for_each_of_its_reasons() {
    let ended = |state| Situation { observed: state, ..open() };
    for (why, now) in [
        ("deleted", Situation { deleting: true, ..open() }),
        ("shall not run", Situation { wants_to_run: false, ..open() }),
        ("has ended", ended(ObservedState::Stopped)),
        ("has ended", ended(ObservedState::Absent)),
        ("has ended", ended(ObservedState::Failed { reason: "crashed".into() })),
        ("that it is on does not", Situation { standing: Standing::Lapsed, ..open() }),
        ("going to does not", Situation { destination_standing: Standing::Lapsed, ..open() }),
        ("too long", Situation { hindrance: Some("too long".into()), ..open() }),
    ] {
        let step = now.step();
        let Step::GiveUp(reason) = &step else { panic!("{why}: {step:?}") };
        assert!(reason.contains(why), "{why}: {reason}");
    }
    let has_left = Situation { source: left(), ..ended(ObservedState::Stopped) };
    assert!(!matches!(has_left.step(), Step::GiveUp(_)), "that is how it ends where it leaves");
    assert_eq!(open().step(), Step::Settled, "what runs is as it shall be meanwhile");
    let silent = Situation { destination_standing: Standing::Silent, ..open() };
    assert_eq!(silent.step(), Step::Settled);
}

#[test]
fn one_that_is_off_lands_off_and_is_given_up_when_it_is_to_run() {
    assert_eq!(open_off().step(), Step::Settled, "it is as it shall be meanwhile");
    let starts = Situation { wants_to_run: true, ..open_off() };
    let Step::GiveUp(why) = starts.step() else { panic!("{:?}", starts.step()) };
    assert!(why.contains("shall run"), "{why}");
    let off_there = Some(seen(DESTINATION, ObservedState::Stopped, None));
    for before in [open_off(), starts] {
        let before = Situation { given_up: before.wants_to_run, ..before };
        let both = Situation { source: left(), destination: arrived(), ..before.clone() };
        assert_eq!(both.step(), Step::Land);
        let has_come = Situation { destination: off_there.clone(), ..before.clone() };
        assert_eq!(
            has_come.step(),
            Step::Land,
            "it would not be off there before it was left here"
        );
        let only_arrived = Situation { destination: arrived(), ..before.clone() };
        assert_ne!(only_arrived.step(), Step::Land, "it may be started where it is");
        let only_left = Situation { source: left(), ..before };
        assert_ne!(only_left.step(), Step::Land);
    }
    let gone = Situation { given_up: true, gone: true, source_knows: true, ..open_off() };
    assert_eq!(gone.step(), Step::Stay { anew: true });
}

#[test]
fn it_stays_when_the_other_host_has_shown_that_it_is_not_there() {
    assert_eq!(given_up().step(), Step::Settled, "nobody has shown anything");
    let gone = Situation { gone: true, destination: None, ..given_up() };
    assert_eq!(gone.step(), Step::Settled, "its own host may have let it go");
    let knows = Situation { source_knows: true, ..gone.clone() };
    assert_eq!(knows.step(), Step::Stay { anew: false });
    let has_left = Situation { source: left(), ..knows.clone() };
    assert_eq!(has_left.step(), Step::Stay { anew: true });
    let off = Some(seen(SOURCE, ObservedState::Stopped, None));
    assert_eq!(Situation { source: off, ..knows }.step(), Step::Stay { anew: true });
    let dead = Situation { standing: Standing::Lapsed, source: None, ..gone.clone() };
    assert_eq!(dead.step(), Step::Stay { anew: true });
    let silent = Situation { standing: Standing::Silent, ..gone };
    assert_eq!(silent.step(), Step::Wait(Waiting::Lease));
}

#[test]
fn it_stays_without_the_other_host_only_when_it_never_left() {
    let dead = Situation { destination_standing: Standing::Lapsed, ..given_up() };
    assert_eq!(dead.step(), Step::Settled, "its own host has not said so");
    let knows = Situation { source_knows: true, ..dead.clone() };
    assert_eq!(knows.step(), Step::Stay { anew: false });
    let has_left = Situation { source: left(), ..knows };
    assert_eq!(has_left.step(), Step::Wait(Waiting::Data));
    let both = Situation { standing: Standing::Lapsed, ..dead };
    assert_eq!(both.step(), Step::Wait(Waiting::Data));
}

#[test]
fn a_deleted_one_is_gone_from_both_hosts_before_its_row() {
    let deleting = Situation { deleting: true, ..given_up() };
    assert_eq!(deleting.step(), Step::Wait(Waiting::Host));
    let gone = Situation { gone: true, ..deleting.clone() };
    assert_eq!(gone.step(), Step::Stay { anew: false });
    let dead = Situation { destination_standing: Standing::Lapsed, ..deleting };
    let nothing = Situation { leaves_data: false, ..dead.clone() };
    assert_eq!(nothing.step(), Step::Stay { anew: false });
    // What is there after it is where it was last.
    assert_eq!(dead.step(), Step::Wait(Waiting::Host), "its own host has not said so");
    let knows = Situation { source_knows: true, ..dead.clone() };
    assert_eq!(knows.step(), Step::Stay { anew: false });
    let has_left = Situation { source: left(), ..knows };
    assert_eq!(has_left.step(), Step::Wait(Waiting::Data));
    let both = Situation { standing: Standing::Lapsed, ..dead };
    assert_eq!(both.step(), Step::Wait(Waiting::Lease));
}

fn handover() -> impl Strategy<Value = Option<Handover>> {
    proptest::option::of(prop_oneof![
        Just(Handover::Awaited),
        Just(Handover::Arrived),
        Just(Handover::Left)
    ])
}

fn seen_of(epoch: Epoch) -> impl Strategy<Value = Option<MachineSeen>> {
    proptest::option::of(
        (observed_state(), handover())
            .prop_map(move |(state, handover)| seen(epoch, state, handover)),
    )
}

fn situation() -> impl Strategy<Value = Situation> {
    let flags = (any::<[bool; 5]>(), any::<bool>(), any::<bool>(), any::<bool>());
    let hosts = (standing(), standing(), seen_of(SOURCE), seen_of(DESTINATION));
    let hindrance = proptest::option::of(Just("too long".to_owned()));
    (flags, hosts, observed_state(), hindrance).prop_map(|(flags, hosts, observed, hindrance)| {
        let ([given_up, deleting, leaves_data, off, lost], wants_to_run, source_knows, gone) =
            flags;
        let (standing, destination_standing, source, destination) = hosts;
        Situation {
            given_up,
            deleting,
            leaves_data,
            wants_to_run,
            off,
            observed,
            standing,
            source,
            source_knows,
            destination,
            destination_standing,
            gone,
            lost,
            hindrance,
        }
    })
}

proptest! {
    #[test]
    fn nothing_is_placed_or_removed_while_another_host_may_have_it(now in situation()) {
        let step = now.step();
        prop_assert!(!matches!(step, Step::Place | Step::Replace | Step::Remove), "{step:?}");
    }

    #[test]
    fn it_lands_only_where_something_is(now in situation()) {
        if now.step() == Step::Land {
            let there = now.destination.as_ref().unwrap();
            prop_assert!(!matches!(there.state, ObservedState::Absent | ObservedState::Unknown));
            prop_assert_ne!(there.handover, Some(Handover::Awaited));
        }
    }

    #[test]
    fn a_machine_that_is_let_go_never_stays_as_the_same_run(now in situation()) {
        if now.step() == (Step::Stay { anew: false }) {
            let has_left = now.source.is_some_and(|seen| seen.handover == Some(Handover::Left));
            prop_assert!(now.deleting && (now.gone || !now.leaves_data) || !has_left);
            prop_assert!(now.given_up);
        }
    }
}
