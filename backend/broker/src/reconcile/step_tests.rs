//! Properties of the steps, from any state that can be written down.

use fairmazon_model::{
    id::{AccountId, HostId, InstanceId, OperationId, VolumeId},
    instance::{
        BootVolumeSpec, Decision, Instance, InstanceObserved, InstanceSpec, ObservedState,
        OnInterrupt, Power, RestartPolicy, Spot,
    },
    interruption::{Interruption, InterruptionCause},
    machine::GuestSeen,
    operation::{Operation, OperationKind, OperationState},
    price::NanoEur,
    units::{Epoch, Gib, Revision, UnixMs},
};
use proptest::prelude::*;

use super::step::{InstanceFacts, Patience, Step, Waiting, next_step, operation_state};
use crate::core::Standing;

const PATIENCE: Patience = Patience { placement_ms: 30_000, failure_ms: 60_000 };

/// Facts that own their instance.
#[derive(Debug, Clone)]
struct Situation {
    instance: Instance,
    standing: Standing,
    wants_to_run: bool,
    spot_allows: bool,
    lost: bool,
    gone: bool,
    has_data: bool,
    lacks_key: bool,
    is_off: bool,
    lacks_memory: bool,
    awaits_room: bool,
}

impl Situation {
    fn facts(&self) -> InstanceFacts<'_> {
        InstanceFacts {
            instance: &self.instance,
            standing: self.standing,
            is_asked_to_run: self.wants_to_run || self.instance.interruption.is_some(),
            spot_allows: self.spot_allows,
            lost: self.lost,
            gone: self.gone,
            has_data: self.has_data,
            lacks_key: self.lacks_key,
            is_off: self.is_off,
            lacks_memory: self.lacks_memory,
            has_paused: true,
            awaits_room: self.awaits_room,
            stays: String::new(),
            found_on: None,
            moving: None,
        }
    }
}

pub(super) fn observed_state() -> impl Strategy<Value = ObservedState> {
    prop_oneof![
        Just(ObservedState::Unknown),
        Just(ObservedState::Absent),
        Just(ObservedState::Starting),
        Just(ObservedState::Running),
        Just(ObservedState::Stopping),
        Just(ObservedState::Stopped),
        Just(ObservedState::Failed { reason: "broken".into() }),
    ]
}

pub(super) fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![Just(Standing::Connected), Just(Standing::Silent), Just(Standing::Lapsed)]
}

fn restart_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnHostFailure),
        Just(RestartPolicy::Never)
    ]
}

fn situation() -> impl Strategy<Value = Situation> {
    let row = (
        proptest::option::of(1_u64..4),
        observed_state(),
        (0_u64..4, 0_u64..4, 1_u64..4),
        restart_policy(),
        any::<bool>(),
    );
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let around = (standing(), flags, any::<bool>());
    let spot = (proptest::option::of(spot()), any::<bool>(), any::<bool>(), any::<bool>());
    let spot = (spot, any::<bool>());
    (row, around, spot).prop_map(|((epoch, state, versions, policy, deleting), around, spot)| {
        let mut instance = instance(policy);
        let (standing, (wants_to_run, spot_allows, gone, has_data, lacks_key), may_run) = around;
        let (observed_epoch, observed_version, version) = versions;
        instance.spec_version = version;
        instance.decision = epoch.map(|epoch| Decision { may_run, ..decision(epoch) });
        instance.last_epoch = Epoch(epoch.unwrap_or(0));
        instance.observed = InstanceObserved {
            state,
            epoch: Epoch(observed_epoch),
            spec_version: observed_version,
            failure: None,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
            at: UnixMs(1),
        };
        instance.deleting = deleting.then(|| OperationId::from_parts(1, 1));
        let ((spot, is_off, lacks_memory, awaits_room), lost) = spot;
        let (terms, interruption) = spot.unzip();
        instance.spec.spot = terms;
        if let (Some(decision), None) = (&mut instance.decision, terms) {
            decision.after.extend(awaits_room.then(|| InstanceId::from_parts(1, 2)));
        }
        if instance.decision.is_some() {
            instance.interruption = interruption.flatten();
        }
        let wants_to_run = wants_to_run && instance.interruption.is_none();
        Situation {
            spot_allows: spot_allows || terms.is_none(),
            awaits_room: awaits_room && instance.waits_for_room(),
            is_off: is_off && instance.interruption.is_some(),
            lacks_memory,
            instance,
            standing,
            wants_to_run,
            lost,
            gone,
            has_data,
            lacks_key,
        }
    })
}

fn spot() -> impl Strategy<Value = (Spot, Option<Interruption>)> {
    let on_interrupt = prop_oneof![Just(OnInterrupt::Stop), Just(OnInterrupt::Delete)];
    let cause = prop_oneof![
        Just(InterruptionCause::Capacity(InstanceId::from_parts(1, 2))),
        Just(InterruptionCause::Price),
        Just(InterruptionCause::Memory)
    ];
    let off_since = proptest::option::of(Just(UnixMs(31_000)));
    let interruption = (cause, off_since, any::<bool>()).prop_map(|(cause, off_since, deletes)| {
        let deletes = deletes && off_since.is_some();
        Interruption { cause, at: UnixMs(1_000), notice_ms: 30_000, off_since, deletes }
    });
    let terms = on_interrupt.prop_map(|on_interrupt| Spot {
        max_price: NanoEur(1),
        notice_seconds: 30,
        on_interrupt,
    });
    (terms, proptest::option::of(interruption))
}

pub(super) fn decision(epoch: u64) -> Decision {
    Decision {
        host: HostId::from_parts(1, 1),
        epoch: Epoch(epoch),
        flavor: "small".into(),
        reason: String::new(),
        at: UnixMs(1),
        after: Default::default(),
        may_run: false,
    }
}

pub(super) fn instance(restart_policy: RestartPolicy) -> Instance {
    Instance {
        id: InstanceId::from_parts(1, 1),
        account: AccountId::from_parts(1, 1),
        spec: InstanceSpec {
            name: "web".into(),
            flavor: "small".into(),
            flavor_fallback: Vec::new(),
            image: "debian-13".into(),
            placement: Default::default(),
            preferences: Default::default(),
            boot_volume: BootVolumeSpec {
                size: Gib(10),
                class: "standard".into(),
                delete_with_instance: true,
            },
            volumes: Default::default(),
            user_data: String::new(),
            on_user_data_change: Default::default(),
            ssh_keys: Default::default(),
            power: Power::Running,
            schedule: None,
            spot: None,
            restart_policy,
            stop_timeout_ms: 60_000,
            deletion_protection: false,
            labels: Default::default(),
        },
        spec_version: 1,
        reboots: 0,
        rebuilds: 0,
        first_boots: 0,
        migration: None,
        interruption: None,
        carrier: false,
        in_vain: Default::default(),
        later: None,
        reserved: None,
        displaced: None,
        boot_volume_id: VolumeId::from_parts(1, 1),
        decision: None,
        last_epoch: Epoch(0),
        observed: InstanceObserved::default(),
        waiting_for: String::new(),
        deleting: None,
        unconfirmed: false,
        created_at: UnixMs(1),
        revision: Revision(1),
    }
}

fn operation(kind: OperationKind, spec_version: u64) -> Operation {
    Operation {
        id: OperationId::from_parts(1, 1),
        account: AccountId::from_parts(1, 1),
        kind,
        target: InstanceId::from_parts(1, 1).to_string(),
        spec_version,
        state: OperationState::running(""),
        created_at: UnixMs(1),
        finished_at: None,
        revision: Revision(1),
    }
}

/// What taking the step makes of the situation, with the host doing its part.
fn take(situation: &mut Situation, step: &Step) -> bool {
    let instance = &mut situation.instance;
    match step {
        Step::Place | Step::Replace => {
            let epoch = instance.last_epoch.next();
            instance.decision = Some(decision(epoch.0));
            instance.interruption = None;
            situation.is_off = false;
            instance.last_epoch = epoch;
            instance.observed = InstanceObserved::default();
            situation.standing = Standing::Connected;
            situation.has_data = false;
            situation.lacks_key = true;
            situation.awaits_room = false;
            true
        }
        Step::Vacate => {
            instance.decision = None;
            instance.interruption = None;
            instance.observed = InstanceObserved::default();
            true
        }
        Step::Wait(Waiting::Key) => {
            situation.lacks_key = false;
            true
        }
        Step::Wait(Waiting::Host | Waiting::Failure(_)) if instance.deleting.is_some() => {
            situation.gone = true;
            true
        }
        Step::Wait(Waiting::Host | Waiting::Failure(_)) => {
            let decided = instance.decision.as_mut().unwrap();
            decided.may_run = true;
            instance.observed = InstanceObserved {
                state: if situation.wants_to_run {
                    ObservedState::Running
                } else {
                    ObservedState::Stopped
                },
                epoch: decided.epoch,
                spec_version: instance.spec_version,
                failure: None,
                addresses: Vec::new(),
                guest: GuestSeen::default(),
                at: UnixMs(2),
            };
            true
        }
        Step::Wait(Waiting::Lease) => {
            situation.standing = Standing::Lapsed;
            true
        }
        Step::Wait(Waiting::Data) => {
            situation.standing = Standing::Connected;
            true
        }
        Step::Wait(Waiting::Lost) => {
            // Its customer reads what to do.
            instance.deleting = Some(OperationId::from_parts(1, 3));
            true
        }
        Step::Wait(Waiting::Price) => {
            situation.spot_allows = true;
            true
        }
        Step::Wait(Waiting::Room) => {
            situation.awaits_room = false;
            true
        }
        Step::Wait(Waiting::Notice) => {
            situation.is_off = true;
            true
        }
        Step::Enter => {
            instance.decision.as_mut().unwrap().after.clear();
            true
        }
        Step::Interrupt(cause) => {
            instance.interruption = Some(Interruption {
                cause: *cause,
                at: UnixMs(1_000),
                notice_ms: 30_000,
                off_since: None,
                deletes: false,
            });
            situation.wants_to_run = false;
            situation.lacks_memory = false;
            true
        }
        Step::GiveRoom => {
            let deletes =
                instance.spec.spot.is_some_and(|spot| spot.on_interrupt == OnInterrupt::Delete);
            let interruption = instance.interruption.as_mut().unwrap();
            interruption.off_since = Some(UnixMs(31_000));
            interruption.deletes = deletes && instance.spec.power == Power::Running;
            true
        }
        Step::Delete => {
            instance.deleting = Some(OperationId::from_parts(1, 2));
            true
        }
        Step::Return => {
            instance.interruption = None;
            situation.wants_to_run = true;
            true
        }
        Step::Remove
        | Step::Settled
        | Step::Find(_)
        | Step::Land
        | Step::GiveUp(_)
        | Step::Stay { .. } => false,
    }
}

proptest! {
    #[test]
    fn a_host_is_decided_only_when_no_other_run_can_be(situation in situation()) {
        match next_step(&situation.facts()) {
            Step::Place => prop_assert!(situation.instance.decision.is_none()),
            Step::Replace => {
                prop_assert_eq!(situation.standing, Standing::Lapsed);
                prop_assert!(!situation.has_data);
                let decision = situation.instance.decision.as_ref();
                prop_assert!(decision.is_some_and(|decision| !decision.may_run));
            }
            _ => {}
        }
    }

    #[test]
    fn a_row_goes_only_when_it_shall_and_its_machine_can_run_nowhere(situation in situation()) {
        if next_step(&situation.facts()) == Step::Remove {
            prop_assert!(situation.instance.deleting.is_some());
            prop_assert!(
                situation.instance.decision.is_none()
                    || situation.gone
                    || situation.standing == Standing::Lapsed
            );
        }
    }

    #[test]
    fn the_same_facts_give_the_same_step_and_what_is_settled_stays(situation in situation()) {
        let step = next_step(&situation.facts());
        prop_assert_eq!(&step, &next_step(&situation.facts()));
        if step == Step::Settled {
            prop_assert_eq!(situation.standing, Standing::Connected);
            prop_assert!(situation.instance.deleting.is_none());
            let observed = &situation.instance.observed;
            prop_assert_eq!(
                situation.instance.decision.as_ref().map(|decision| decision.epoch),
                Some(observed.epoch)
            );
        }
    }

    #[test]
    fn an_interruption_goes_one_way(situation in situation()) {
        let interruption = situation.instance.interruption.as_ref();
        let holds_room = interruption.map(Interruption::holds_room);
        let is_connected = situation.standing == Standing::Connected;
        match next_step(&situation.facts()) {
            Step::Interrupt(cause) => {
                prop_assert!(is_connected && holds_room.is_none());
                match cause {
                    InterruptionCause::Price => prop_assert!(!situation.spot_allows),
                    InterruptionCause::Memory => prop_assert!(situation.lacks_memory),
                    InterruptionCause::Capacity(_) => prop_assert!(false, "{cause:?}"),
                }
                prop_assert!(situation.instance.spec.spot.is_some());
            }
            Step::GiveRoom => {
                prop_assert!(is_connected && holds_room == Some(true) && situation.is_off);
            }
            Step::Return => {
                prop_assert!(is_connected && holds_room == Some(false) && situation.spot_allows);
            }
            Step::Delete => {
                let interruption = situation.instance.interruption.as_ref().unwrap();
                prop_assert!(is_connected && holds_room == Some(false) && interruption.deletes);
                // Its terms may have changed since.
                let terms = situation.instance.spec.spot.unwrap();
                prop_assert_eq!(terms.on_interrupt, OnInterrupt::Delete);
            }
            Step::Enter => prop_assert!(is_connected && !situation.awaits_room),
            _ => {}
        }
    }

    #[test]
    fn from_anywhere_a_few_steps_lead_to_the_end(situation in situation()) {
        let mut situation = situation;
        let mut epochs = vec![situation.instance.last_epoch];
        for _ in 0..12 {
            let step = next_step(&situation.facts());
            if !take(&mut situation, &step) {
                break;
            }
            epochs.push(situation.instance.last_epoch);
        }
        let end = next_step(&situation.facts());
        let expected =
            if situation.instance.deleting.is_some() { Step::Remove } else { Step::Settled };
        prop_assert_eq!(end, expected, "{:?}", situation);
        prop_assert!(epochs.is_sorted(), "epochs only grow");
    }

    #[test]
    fn an_operation_is_done_only_when_its_version_was_seen_of_the_decided_run(
        situation in situation(),
        version in 1_u64..4,
        kind in prop_oneof![
            Just(OperationKind::Create), Just(OperationKind::Update), Just(OperationKind::Reboot)
        ],
    ) {
        let facts = situation.facts();
        let step = next_step(&facts);
        let operation = operation(kind, version);
        if operation_state(&operation, &facts, &step, UnixMs(2), PATIENCE) == OperationState::Done {
            let observed = &situation.instance.observed;
            prop_assert!(observed.spec_version >= version);
            let decided = situation.instance.decision.as_ref().map(|decision| decision.epoch);
            prop_assert_eq!(decided, Some(observed.epoch));
            prop_assert!(situation.instance.deleting.is_none());
            prop_assert_eq!(situation.standing, Standing::Connected);
        }
    }

    #[test]
    fn what_is_asked_of_a_lost_host_fails_and_is_decided_nowhere_else(
        situation in situation(),
        kind in prop_oneof![
            Just(OperationKind::Create), Just(OperationKind::Update), Just(OperationKind::Reboot)
        ],
    ) {
        let facts = situation.facts();
        let step = next_step(&facts);
        let may_be_there = situation.has_data
            || situation.instance.decision.as_ref().is_some_and(|decision| decision.may_run);
        let is_lost = situation.lost
            && situation.standing == Standing::Lapsed
            && situation.instance.decision.is_some()
            && situation.instance.deleting.is_none();
        prop_assert_eq!(step == Step::Wait(Waiting::Lost), is_lost && may_be_there);
        prop_assert_eq!(step == Step::Vacate, is_lost && !may_be_there);
        if is_lost && may_be_there {
            let state = operation_state(&operation(kind, 1), &facts, &step, UnixMs(2), PATIENCE);
            prop_assert!(matches!(state, OperationState::Failed { .. }), "{state:?}");
        }
    }

    #[test]
    fn a_deletion_is_done_with_the_row_and_never_before(situation in situation()) {
        let facts = situation.facts();
        let step = next_step(&facts);
        let operation = operation(OperationKind::Delete, 0);
        let state = operation_state(&operation, &facts, &step, UnixMs(i64::MAX), PATIENCE);
        // It fails when its host does, for too long.
        let fails = matches!(step, Step::Wait(Waiting::Failure(_)));
        prop_assert_eq!(matches!(state, OperationState::Failed { .. }), fails);
        prop_assert!(state != OperationState::Done);
    }
}

#[test]
fn patience_with_a_failing_host_ends() {
    let mut row = instance(RestartPolicy::Always);
    row.decision = Some(decision(1));
    row.last_epoch = Epoch(1);
    row.observed.epoch = Epoch(1);
    row.observed.state = ObservedState::Failed { reason: "no disk".into() };
    let situation = Situation {
        instance: row,
        standing: Standing::Connected,
        wants_to_run: true,
        spot_allows: true,
        lost: false,
        gone: false,
        has_data: false,
        lacks_key: false,
        is_off: false,
        lacks_memory: false,
        awaits_room: false,
    };
    let facts = situation.facts();
    let step = next_step(&facts);
    let at = |ms| {
        let operation = operation(OperationKind::Create, 1);
        operation_state(&operation, &facts, &step, UnixMs(ms), PATIENCE)
    };
    assert!(
        matches!(at(2), OperationState::Running { waiting_for, .. } if waiting_for.contains("no disk"))
    );
    assert!(
        matches!(at(60_001), OperationState::Failed { error } if error.message.contains("no disk"))
    );
}
