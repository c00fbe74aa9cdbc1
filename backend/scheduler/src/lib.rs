//! Pure placement of machines on provider hosts.
//!
//! A [`Fleet`] holds the hosts and the books of what is reserved on them. [`Fleet::place`]
//! answers with the best host that obeys every hard rule and says why it was chosen, or with
//! a [`WhyNot`] that says which rule excluded how many hosts and where the machine would fit.
//! The same fleet, request and seed always give the same answer. No clock, no I/O.

mod books;
mod choose;
mod explain;
mod fleet;
mod groups;
mod interrupt;
mod request;
mod rules;
mod together;

pub use books::{BookError, Imbalance, MachineBooking, Share, VolumeBooking};
pub use choose::Placed;
pub use explain::{RuleCount, SiteFit, WhyNot};
pub use fleet::{Fleet, Free};
pub use interrupt::{MadeRoom, SpotTerms};
pub use request::{Arrangement, FleetHost, Images, Near, Preferences, Request, Size};
pub use rules::Rule;
pub use together::Member;

/// Places one machine on one of `hosts`, all of them empty; for a few hosts or a test. Whoever
/// places more than one machine keeps a [`Fleet`].
///
/// # Errors
/// [`WhyNot`] when no host obeys every rule.
pub fn place(request: &Request, hosts: &[FleetHost], seed: u64) -> Result<Placed, Box<WhyNot>> {
    let mut fleet = Fleet::new(seed);
    for host in hosts {
        fleet.put_host(host.clone());
    }
    fleet.place(request)
}
