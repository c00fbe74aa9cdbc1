//! Faults on demand: what a test makes of each call of a simulated hypervisor.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fairmazon_model::id::HostId;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::HypervisorError;

/// Which method was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Inventory, one machine, one volume, capacity; whether a key opens a volume.
    Look,
    /// `define`.
    Define,
    /// `mark`.
    Mark,
    /// `start`.
    Start,
    /// `ask_to_stop`.
    AskToStop,
    /// `force_stop`.
    ForceStop,
    /// `memory`.
    Memory,
    /// `guest_memory`.
    GuestMemory,
    /// `set_balloon`.
    SetBalloon,
    /// `undefine`.
    Undefine,
    /// `create_volume`.
    CreateVolume,
    /// `grow_volume`.
    GrowVolume,
    /// `delete_volume`.
    DeleteVolume,
    /// `give_key`.
    GiveKey,
    /// `forget_key`.
    ForgetKey,
    /// The first half of `change_key`: both keys open the volume afterwards.
    AddKey,
    /// The second half of `change_key`.
    RemoveKey,
    /// `read_volume`.
    ReadVolume,
    /// `begin_import`.
    BeginImport,
    /// `drop_import`.
    DropImport,
    /// `attach`.
    Attach,
    /// `detach`.
    Detach,
    /// `resize`.
    Resize,
    /// `hold`.
    Hold,
    /// `describe`.
    Describe,
    /// `prepare`.
    Prepare,
    /// The beginning of `depart`.
    Depart,
    /// `resume`.
    Resume,
    /// `refuse`.
    Refuse,
}

/// A call that is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// At which host.
    pub host: HostId,
    /// Which method.
    pub verb: Verb,
    /// How many calls this host had before, looks included.
    pub number: u64,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Fault {
    /// It is done.
    None,
    /// It is not done and fails.
    Fail(HypervisorError),
    /// It is done, and yet fails.
    FailAfter(HypervisorError),
    /// It is done after this time.
    Delay(Duration),
    /// It is not done and never returns: the agent is to be ended here.
    Hang,
    /// It is done and never returns: the agent is to be ended here.
    HangAfter,
}

/// Decides on the fault of each call.
pub trait Faults: Send + Sync {
    /// What becomes of this call.
    fn decide(&self, call: &Call) -> Fault;
}

impl<F: Fn(&Call) -> Fault + Send + Sync> Faults for F {
    fn decide(&self, call: &Call) -> Fault {
        self(call)
    }
}

/// Random errors, delays and hangs from a seed, for a given number of faults; then none, so that
/// a world under it can be expected to converge.
#[derive(Debug)]
pub struct SeededFaults {
    random: Mutex<ChaCha8Rng>,
    left: AtomicU64,
    percent: u32,
    longest_delay: Duration,
}

impl SeededFaults {
    /// About `percent` of the calls fail in some way, `most` in all. Hangs are not among them.
    pub fn new(seed: u64, percent: u32, most: u64, longest_delay: Duration) -> Self {
        Self {
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            left: AtomicU64::new(most),
            percent,
            longest_delay,
        }
    }
}

impl Faults for SeededFaults {
    fn decide(&self, call: &Call) -> Fault {
        let mut random = self.random.lock();
        if random.random_range(0..100) >= self.percent {
            return Fault::None;
        }
        let spent = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if spent.is_err() {
            return Fault::None;
        }
        let error = || HypervisorError::Driver {
            attempted: format!("{:?}", call.verb),
            source: "a fault was asked for".into(),
        };
        match random.random_range(0..3) {
            0 => Fault::Fail(error()),
            1 => Fault::FailAfter(error()),
            _ => Fault::Delay(self.longest_delay.mul_f64(random.random_range(0.0..1.0))),
        }
    }
}
