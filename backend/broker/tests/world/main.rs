//! The simulated world: broker, agents and hypervisors in one process, under a paused clock and
//! random faults from a seed. After each schedule everything is healed and must come right.
//!
//! `WORLD_SCHEDULES=n` sets how many schedules there are in all, `WORLD_SEED=n` runs that one
//! only. A failure prints its seed, what is wrong and the log of what happened.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "helpers of one test binary")]

#[path = "../../../host/tests/authority/mod.rs"]
mod authority;
#[path = "../../../host/tests/best_host/mod.rs"]
mod best_host;
mod check;
mod client;
mod clock;
mod faults;
mod gate;
mod images;
mod keys;
mod lost;
mod meter;
mod net;
mod peers;
mod restore;
mod run;
mod spot;
mod standard;
mod state;

/// Schedules in all, unless asked otherwise.
const SCHEDULES: u64 = 1_040;
/// The schedules are split into that many tests, which the runner spreads over the processors.
const PARTS: u64 = 8;

fn part(number: u64) {
    if let Some(seed) = asked("WORLD_SEED") {
        if seed % PARTS == number {
            run::schedule(seed);
        }
        return;
    }
    let most = asked("WORLD_SCHEDULES").unwrap_or(SCHEDULES);
    (0..most).filter(|seed| seed % PARTS == number).for_each(run::schedule);
}

fn asked(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is `{value}`, not a number")))
}

macro_rules! parts {
    ($($name:ident $number:literal)*) => {
        $(#[test]
        fn $name() {
            part($number);
        })*
    };
}

parts! {
    random_schedules_a 0
    random_schedules_b 1
    random_schedules_c 2
    random_schedules_d 3
    random_schedules_e 4
    random_schedules_f 5
    random_schedules_g 6
    random_schedules_h 7
}
