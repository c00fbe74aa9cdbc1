//! What the agents in guests have said, for whoever reads machines. A run of a machine is a domain
//! under one number of libvirt's; what an earlier run has said is not known any more.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use fairmazon_model::{
    id::InstanceId,
    machine::{CloudInit, GuestSeen},
    units::{Mib, Vcpus},
};
use parking_lot::Mutex;

/// Between two questions to one guest, at least and at most: the longer nothing was new, the longer.
const SPACES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After a guest has kept a thread waiting, and at most when it does so again and again.
const LATE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(320));
/// How long addresses are believed of an agent that does not answer any more.
const BELIEVED: Duration = Duration::from_secs(600);

/// All guests of a host.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    runs: Mutex<HashMap<InstanceId, Run>>,
}

/// What is known of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) guest: GuestSeen,
    /// None where no agent says any.
    pub(crate) addresses: Vec<String>,
}

/// The processors and the memory of a machine.
pub(crate) type Size = (Vcpus, Mib);

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The agent has answered; its addresses where it says them; what it was seen to use all of.
    Answered { addresses: Option<Vec<String>>, cloud_init: CloudInit, uses: Option<Size> },
    /// There is none, or it answered what nobody understands.
    Silent,
    /// It kept a thread waiting for nothing.
    Late,
}

#[derive(Debug)]
struct Run {
    id: u32,
    heard: Heard,
    /// Being asked now, or held still for a copy.
    busy: bool,
    /// It was seen that nothing holds its file systems still.
    thawed: bool,
    /// The size of its machine that it was seen to use all of.
    uses: Option<Size>,
    next: Instant,
    /// When something was new last.
    changed: Instant,
    answered: Option<Instant>,
    /// How often it was late since it answered.
    late: u32,
}

impl Run {
    fn new(id: u32, now: Instant) -> Self {
        Self {
            id,
            heard: Heard::default(),
            busy: false,
            thawed: false,
            uses: None,
            next: now,
            changed: now,
            answered: None,
            late: 0,
        }
    }
}

/// Whether a guest can be held still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// In this run.
    Run(u32),
    /// Once it has answered what it is asked now.
    Later,
    /// Its agent did not answer when it was asked last.
    No,
}

/// A question that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) instance: InstanceId,
    pub(crate) run: u32,
    /// Whether it has to be seen first that nothing holds its file systems still.
    pub(crate) thaw: bool,
    /// Whether cloud-init was not done when it was asked last.
    pub(crate) cloud_init: bool,
    /// The size of its machine that it was seen to use all of.
    pub(crate) uses: Option<Size>,
}

impl Guests {
    /// What is known now of a guest in this run.
    pub(crate) fn heard(&self, instance: InstanceId, run: Option<u32>, now: Instant) -> Heard {
        let runs = self.runs.lock();
        let Some(found) = runs.get(&instance).filter(|found| Some(found.id) == run) else {
            return Heard::default();
        };
        let mut heard = found.heard.clone();
        if found.answered.is_none_or(|at| now.duration_since(at) > BELIEVED) {
            heard.addresses.clear();
        }
        heard
    }

    /// Whom to ask now, of these runs. Others are forgotten.
    pub(crate) fn due(&self, running: &[(InstanceId, u32)], now: Instant) -> Vec<Question> {
        let mut runs = self.runs.lock();
        let here: HashMap<_, _> = running.iter().copied().collect();
        runs.retain(|instance, run| here.get(instance) == Some(&run.id));
        let mut questions = Vec::new();
        for &(instance, id) in running {
            let run = runs.entry(instance).or_insert_with(|| Run::new(id, now));
            if !run.busy && run.next <= now {
                run.busy = true;
                let cloud_init = run.heard.guest.cloud_init == CloudInit::Unknown;
                let (thaw, uses) = (!run.thawed, run.uses);
                questions.push(Question { instance, run: id, thaw, cloud_init, uses });
            }
        }
        questions
    }

    /// Notes what came of a question; whether that is new to whoever reads the machine.
    pub(crate) fn note(&self, question: Question, outcome: Outcome, now: Instant) -> bool {
        let mut runs = self.runs.lock();
        let found = runs.get_mut(&question.instance).filter(|found| found.id == question.run);
        let Some(run) = found else { return false };
        run.busy = false;
        let before = run.heard.clone();
        match outcome {
            Outcome::Answered { addresses, cloud_init, uses } => {
                run.uses = uses.or(run.uses);
                run.answered = Some(now);
                run.late = 0;
                run.thawed = true;
                run.heard.guest.agent = true;
                if cloud_init != CloudInit::Unknown {
                    run.heard.guest.cloud_init = cloud_init;
                }
                if let Some(addresses) = addresses {
                    run.heard.addresses = addresses;
                }
            }
            Outcome::Silent => {}
            Outcome::Late => {
                let wait = LATE.0.saturating_mul(1 << run.late.min(10)).min(LATE.1);
                run.late += 1;
                run.next = now + wait;
                return false;
            }
        }
        let is_new = run.heard != before;
        if is_new {
            run.changed = now;
        }
        run.next = now + (now.duration_since(run.changed) / 4).clamp(SPACES.0, SPACES.1);
        is_new
    }

    /// Has a guest asked soon that has something to hear, however long ago something was new.
    pub(crate) fn ask_soon(&self, instance: InstanceId, now: Instant) {
        if let Some(run) = self.runs.lock().get_mut(&instance).filter(|run| run.late == 0) {
            run.next = now;
            run.changed = now;
        }
    }

    /// Keeps a guest from being asked while its file systems are held still.
    pub(crate) fn hold(&self, instance: InstanceId) -> Hold {
        let mut runs = self.runs.lock();
        let Some(run) = runs.get_mut(&instance) else { return Hold::No };
        let answers = run.answered.is_some() && run.late == 0 && run.thawed;
        match (answers, run.busy) {
            (false, _) => Hold::No,
            (true, true) => Hold::Later,
            (true, false) => {
                run.busy = true;
                Hold::Run(run.id)
            }
        }
    }

    /// Ends what [`hold`](Self::hold) began. One that is not `thawed` is thawed with the next
    /// question.
    pub(crate) fn release(&self, instance: InstanceId, run: u32, thawed: bool, now: Instant) {
        let mut runs = self.runs.lock();
        if let Some(found) = runs.get_mut(&instance).filter(|found| found.id == run) {
            found.busy = false;
            found.thawed = thawed;
            if !thawed {
                found.next = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::instance;

    use super::*;

    const AGENT: GuestSeen = GuestSeen { agent: true, cloud_init: CloudInit::Unknown };

    fn answered(address: &str) -> Outcome {
        let cloud_init = CloudInit::Unknown;
        Outcome::Answered { addresses: Some(vec![address.into()]), cloud_init, uses: None }
    }

    /// A clock that only goes on here.
    struct Clock(Instant);

    impl Clock {
        fn advance(&mut self, by: Duration) {
            self.0 += by;
        }

        /// Waits until machine 1 is to be asked.
        fn asked(&mut self, guests: &Guests, run: u32) -> Question {
            loop {
                if let [question] = guests.due(&[(instance(1), run)], self.0)[..] {
                    return question;
                }
                self.advance(Duration::from_millis(100));
            }
        }
    }

    #[test]
    fn what_an_agent_said_stays_for_its_run_and_goes_with_it() {
        let (guests, mut clock) = (Guests::default(), Clock(Instant::now()));
        let heard = |run, clock: &Clock| guests.heard(instance(1), Some(run), clock.0);
        let question = clock.asked(&guests, 7);
        assert!(question.thaw && question.cloud_init);
        assert_eq!(guests.due(&[(instance(1), 7)], clock.0), [], "it is asked now");
        assert!(guests.note(question, answered("10.0.0.1"), clock.0));
        let now = heard(7, &clock);
        assert_eq!((now.guest, now.addresses), (AGENT, vec!["10.0.0.1".to_owned()]));
        // One question that it does not understand changes nothing, and one more answer neither.
        for outcome in [Outcome::Silent, Outcome::Late, answered("10.0.0.1")] {
            let question = clock.asked(&guests, 7);
            assert!(!question.thaw && !guests.note(question, outcome, clock.0));
            assert_eq!(heard(7, &clock).addresses, ["10.0.0.1"]);
        }
        clock.advance(BELIEVED + Duration::from_secs(1));
        let now = heard(7, &clock);
        assert_eq!((now.guest, now.addresses), (AGENT, Vec::new()), "the host's view again");
        // Another run has said nothing, and what is told of the earlier one is not its.
        let old = clock.asked(&guests, 7);
        assert_eq!(heard(8, &clock), Heard::default());
        let question = clock.asked(&guests, 8);
        assert!(!guests.note(old, answered("10.0.0.2"), clock.0));
        assert!(guests.note(question, answered("10.0.0.3"), clock.0));
        assert_eq!(heard(8, &clock).addresses, ["10.0.0.3"]);
        assert_eq!(guests.due(&[], clock.0), []);
        assert_eq!(heard(8, &clock), Heard::default());
    }

    #[test]
    fn who_has_something_to_hear_is_asked_soon_and_what_it_uses_is_known() {
        let (guests, mut clock) = (Guests::default(), Clock(Instant::now()));
        for _ in 0..50 {
            let question = clock.asked(&guests, 1);
            guests.note(question, answered("10.0.0.1"), clock.0);
        }
        let due = |clock: &Clock| guests.due(&[(instance(1), 1)], clock.0);
        assert_eq!(due(&clock), [], "nothing was new for long");
        guests.ask_soon(instance(1), clock.0);
        let question = due(&clock)[0];
        assert_eq!(question.uses, None);
        let uses = Some((Vcpus(2), Mib(4_096)));
        let outcome = Outcome::Answered { addresses: None, cloud_init: CloudInit::Unknown, uses };
        assert!(!guests.note(question, outcome, clock.0), "nobody else hears of it");
        assert_eq!(clock.asked(&guests, 1).uses, uses);
        // One that keeps others waiting does so no more often for that.
        let question = clock.asked(&guests, 2);
        guests.note(question, Outcome::Late, clock.0);
        guests.ask_soon(instance(1), clock.0);
        assert_eq!(guests.due(&[(instance(1), 2)], clock.0), []);
    }

    #[test]
    fn who_keeps_others_waiting_is_asked_ever_less() {
        let (guests, mut clock) = (Guests::default(), Clock(Instant::now()));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let question = clock.asked(&guests, 1);
            guests.note(question, Outcome::Late, clock.0);
            let begin = clock.0;
            let question = clock.asked(&guests, 1);
            waits.push(clock.0.duration_since(begin).as_secs());
            guests.note(question, Outcome::Late, clock.0);
        }
        assert!(waits.is_sorted() && waits[0] == 5 && waits[8] == 320, "{waits:?}");
        // One that has no agent costs little: it is asked soon at first, and then at times.
        let begin = clock.0;
        let mut questions = 0;
        while clock.0.duration_since(begin) < Duration::from_secs(3_600) {
            let question = clock.asked(&guests, 2);
            guests.note(question, Outcome::Silent, clock.0);
            questions += 1;
        }
        assert!((100..200).contains(&questions), "{questions}");
    }

    #[test]
    fn a_guest_is_held_still_only_when_it_answers_and_is_looked_after() {
        let (guests, mut clock) = (Guests::default(), Clock(Instant::now()));
        assert_eq!(guests.hold(instance(1)), Hold::No);
        let question = clock.asked(&guests, 1);
        assert_eq!(guests.hold(instance(1)), Hold::No, "nothing has answered yet");
        guests.note(question, answered("10.0.0.1"), clock.0);
        let question = clock.asked(&guests, 1);
        assert_eq!(guests.hold(instance(1)), Hold::Later, "it is asked now");
        guests.note(question, answered("10.0.0.1"), clock.0);
        assert_eq!(guests.hold(instance(1)), Hold::Run(1));
        assert_eq!(guests.hold(instance(1)), Hold::Later, "by one at a time");
        clock.advance(Duration::from_secs(60));
        let due = guests.due(&[(instance(1), 1)], clock.0);
        assert_eq!(due, [], "an agent answers nothing meanwhile");
        guests.release(instance(1), 1, false, clock.0);
        assert_eq!(guests.hold(instance(1)), Hold::No);
        let question = clock.asked(&guests, 1);
        assert!(question.thaw, "what was left held still is thawed first");
        guests.note(question, Outcome::Late, clock.0);
        assert!(clock.asked(&guests, 1).thaw);
    }
}
