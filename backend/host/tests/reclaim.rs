//! Taking memory back: what is asked of whom, against guests that follow and guests that do not.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use fairmazon_host::reclaim::{Reclaim, Round, floor, reserve};
use fairmazon_hypervisor::{HostMemory, MachineMemory, contract::instance};
use fairmazon_model::units::Mib;
use proptest::prelude::*;

const TOTAL: Mib = Mib(10_000);
const RESERVE: u64 = 500;

/// A spot machine of 2,000 MiB whose guest needs so much.
fn spot(number: u128, needs: impl Into<Option<u64>>) -> MachineMemory {
    MachineMemory {
        instance: instance(number),
        spot: true,
        defined: Mib(2_000),
        has: Mib(2_000),
        needs: needs.into().map(Mib),
    }
}

fn host(available: u64, machines: &[MachineMemory]) -> HostMemory {
    HostMemory { total: TOTAL, available: Mib(available), machines: machines.to_vec() }
}

fn all(reclaim: &mut Reclaim, host: &HostMemory) -> Round {
    reclaim.look(host, |_| true)
}

#[test]
fn a_host_keeps_a_part_free_within_bounds() {
    for (total, kept) in [(512, 128), (2_048, 256), (10_000, 500), (1 << 20, 4_096)] {
        assert_eq!(reserve(Mib(total)), Mib(kept));
    }
}

#[test]
fn a_guest_keeps_what_it_needs_and_half_in_any_case() {
    for (needs, least) in [(0, 1_000), (800, 1_000), (1_600, 1_832), (2_500, 2_000)] {
        assert_eq!(floor(&spot(1, needs)), Mib(least), "{needs}");
    }
    assert_eq!(floor(&spot(1, None)), Mib(2_000), "what it needs is not known");
}

#[test]
fn what_is_missing_is_asked_of_each_by_what_it_can_give() {
    let mut reclaim = Reclaim::default();
    // Of these the first can give 1,000, the second 168, the third nothing.
    let machines = [spot(1, 0), spot(2, 1_600), spot(3, None)];
    let round = all(&mut reclaim, &host(400, &machines));
    let asked: BTreeMap<_, _> = round.balloons.iter().copied().collect();
    assert_eq!(asked.len(), 2);
    let given = |number| 2_000 - asked[&instance(number)].0;
    assert!((350..=351).contains(&(given(1) + given(2))), "up to half the reserve more: {asked:?}");
    assert!(given(1) > 5 * given(2), "{asked:?}");
    assert!(reclaim.is_short());
    assert_eq!(round.give_up, None);
    // It is on its way: nothing more is asked for.
    assert_eq!(all(&mut reclaim, &host(400, &machines)).balloons, round.balloons);
}

#[test]
fn what_was_taken_is_given_again_when_there_is_twice_the_reserve() {
    let mut reclaim = Reclaim::default();
    let half = MachineMemory { has: Mib(1_000), ..spot(1, 100) };
    // A process that begins anew knows nothing of what an earlier one has asked for.
    for available in [RESERVE, 2 * RESERVE - 1] {
        let round = all(&mut reclaim, &host(available, &[half]));
        assert_eq!(round, Round::default(), "neither more nor less at {available}");
    }
    let round = all(&mut reclaim, &host(1_350, &[half]));
    assert_eq!(round.balloons, [(instance(1), Mib(1_600))], "as far as 750 stay free");
    let more = MachineMemory { has: Mib(1_600), ..half };
    let round = all(&mut reclaim, &host(9_000, &[more]));
    assert_eq!(round.balloons, [(instance(1), Mib(2_000))]);
    assert_eq!(all(&mut reclaim, &host(9_000, &[spot(1, 100)])), Round::default());
}

#[test]
fn memory_stays_short_until_there_is_twice_the_reserve() {
    let mut reclaim = Reclaim::default();
    for (available, is_short) in
        [(600, false), (499, true), (600, true), (999, true), (1_000, false), (500, false)]
    {
        all(&mut reclaim, &host(available, &[]));
        assert_eq!(reclaim.is_short(), is_short, "{available}");
    }
}

#[test]
fn others_than_spot_machines_have_all_of_their_memory() {
    let mut reclaim = Reclaim::default();
    let other = |has| MachineMemory { spot: false, has: Mib(has), ..spot(1, 0) };
    for _ in 0..10 {
        assert_eq!(all(&mut reclaim, &host(0, &[other(2_000)])), Round::default());
    }
    // One that was spot until now.
    let round = all(&mut reclaim, &host(0, &[other(1_200)]));
    assert_eq!(round.balloons, [(instance(1), Mib(2_000))]);
    assert_eq!(round.give_up, None);
}

#[test]
fn who_does_not_follow_goes_first_and_only_when_memory_is_nearly_gone() {
    let machines = [spot(1, 0), spot(2, 1_000), spot(3, 0)];
    for available in [300, 200] {
        let mut reclaim = Reclaim::default();
        let mut given_up = Vec::new();
        // The first follows; the others keep what they have.
        let mut now = machines;
        for _ in 0..12 {
            let round = all(&mut reclaim, &host(available, &now));
            if let Some((_, has)) = round.balloons.iter().find(|(id, _)| *id == instance(1)) {
                now[0].has = *has;
            }
            given_up.extend(round.give_up);
        }
        if available >= RESERVE / 2 {
            assert_eq!(given_up, [], "{available}");
        } else {
            assert_eq!(given_up.first(), Some(&instance(2)), "of two alike the first");
            assert!(!given_up.contains(&instance(1)), "{given_up:?}");
        }
    }
}

#[test]
fn who_says_nothing_goes_before_who_gives() {
    let mut reclaim = Reclaim::default();
    let small = MachineMemory { defined: Mib(500), has: Mib(500), ..spot(2, None) };
    let given = MachineMemory { has: Mib(1_000), ..spot(1, 0) };
    let rounds: Vec<_> = (0..3).map(|_| all(&mut reclaim, &host(0, &[given, small]))).collect();
    let given_up: Vec<_> = rounds.iter().filter_map(|round| round.give_up).collect();
    assert_eq!(given_up, [instance(2)], "{rounds:?}");
}

#[test]
fn what_is_not_free_is_left_alone() {
    let mut reclaim = Reclaim::default();
    for _ in 0..10 {
        let round = reclaim.look(&host(0, &[spot(1, 0)]), |_| false);
        assert_eq!(round, Round::default());
    }
}

/// A guest of the model: what it needs and has touched, and how it follows.
#[derive(Debug, Clone)]
struct Guest {
    spot: bool,
    defined: u64,
    needs: u64,
    touches: u64,
    /// How much it gives back from one look to the next at most.
    gives: u64,
    has: u64,
}

fn guest() -> impl Strategy<Value = Guest> {
    (
        any::<bool>(),
        64_u64..4_000,
        0_u64..4_000,
        0_u64..4_000,
        prop_oneof![Just(0_u64), Just(50), Just(100_000)],
    )
        .prop_map(|(spot, defined, needs, touches, gives)| Guest {
            spot,
            defined,
            needs: needs.min(defined),
            touches: touches.min(defined),
            gives,
            has: defined,
        })
}

/// The memory of a host of this size with these guests.
fn seen(total: u64, guests: &[(u128, Guest)]) -> HostMemory {
    let used: u64 = guests.iter().map(|(_, guest)| guest.touches.min(guest.has)).sum();
    let machines = guests.iter().map(|(number, guest)| MachineMemory {
        instance: instance(*number),
        spot: guest.spot,
        defined: Mib(guest.defined),
        has: Mib(guest.has),
        needs: Some(Mib(guest.needs)),
    });
    HostMemory {
        total: Mib(total),
        available: Mib(total.saturating_sub(used)),
        machines: machines.collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Under any load nobody is asked for what must not be asked for; and when all is over,
    /// everybody has all of the memory again.
    #[test]
    fn nobody_has_less_than_it_may_and_all_is_given_back_in_the_end(
        total in 1_000_u64..12_000,
        guests in proptest::collection::vec(guest(), 0..8),
        restarts in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let mut guests: Vec<_> = (1..).zip(guests).collect();
        let mut reclaim = Reclaim::default();
        let reserve = reserve(Mib(total)).0;
        let mut goals: BTreeMap<u128, u64> = BTreeMap::new();
        for (look, restarts) in restarts.into_iter().enumerate() {
            if look == 40 {
                guests.iter_mut().for_each(|(_, guest)| guest.touches = 0);
            }
            if restarts && look % 7 == 0 {
                reclaim = Reclaim::default();
                goals.clear();
            }
            let host = seen(total, &guests);
            let round = all(&mut reclaim, &host);
            for (id, has) in &round.balloons {
                let (number, guest) =
                    guests.iter_mut().find(|(number, _)| instance(*number) == *id).unwrap();
                let machine = host.machines.iter().find(|seen| seen.instance == *id).unwrap();
                prop_assert!(guest.spot || has.0 == guest.defined);
                prop_assert!(has.0 <= guest.defined);
                let before = goals.insert(*number, has.0).unwrap_or(machine.has.0);
                prop_assert!(has.0 >= floor(machine).0.min(before), "{has} {machine:?}");
                if host.available.0 >= reserve {
                    prop_assert!(has.0 >= before, "asked without need: {has} {machine:?}");
                }
                // It follows as far as it does.
                guest.has = guest.has.saturating_sub(guest.gives).max(has.0);
                guest.has = if has.0 > machine.has.0 { has.0 } else { guest.has };
            }
            if let Some(id) = round.give_up {
                prop_assert!(host.available.0 < reserve / 2);
                let gone = guests.iter().position(|(number, _)| instance(*number) == id).unwrap();
                prop_assert!(guests[gone].1.spot);
                guests.remove(gone);
            }
        }
        prop_assert!(!reclaim.is_short());
        for (_, guest) in &guests {
            prop_assert_eq!(guest.has, guest.defined);
        }
    }
}

#[test]
fn a_guest_that_has_grown_is_not_asked_for_what_it_got() {
    let mut reclaim = Reclaim::default();
    // Between once and twice the reserve: nothing is taken, and nothing is given back.
    let host = |defined, has| HostMemory {
        total: Mib(16_384),
        available: Mib(1_200),
        machines: vec![MachineMemory {
            instance: instance(1),
            spot: true,
            defined: Mib(defined),
            has: Mib(has),
            needs: None,
        }],
    };
    assert_eq!(reclaim.look(&host(2_048, 2_048), |_| true), Round::default());
    for _ in 0..5 {
        assert_eq!(reclaim.look(&host(4_096, 4_096), |_| true), Round::default());
    }
}

#[test]
fn a_guest_that_needs_more_by_now_has_it() {
    let mut reclaim = Reclaim::default();
    let host = |available, has, needs| HostMemory {
        total: Mib(16_384),
        available: Mib(available),
        machines: vec![MachineMemory {
            instance: instance(1),
            spot: true,
            defined: Mib(2_048),
            has: Mib(has),
            needs: Some(Mib(needs)),
        }],
    };
    let asked = reclaim.look(&host(200, 2_048, 100), |_| true).balloons;
    assert!(matches!(asked[..], [(_, has)] if has < Mib(2_048)), "{asked:?}");
    let given = reclaim.look(&host(1_200, 1_024, 1_500), |_| true).balloons;
    let machine = host(1_200, 1_024, 1_500).machines[0];
    assert_eq!(given, [(instance(1), floor(&machine))]);
}
