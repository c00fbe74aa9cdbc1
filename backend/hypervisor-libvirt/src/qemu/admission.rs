//! Who may have what: memory, and the volumes that one machine alone may write to. What a machine is
//! about to get counts from when it was admitted, so that nobody is kept waiting by a QEMU that does
//! not get there.

use std::collections::HashMap;

use fairmazon_hypervisor::{Machine, Result, RunState};
use fairmazon_model::id::InstanceId;
use parking_lot::{Mutex, MutexGuard};

use super::{host::Inner, session::Session};

/// What machines are about to have.
#[derive(Debug, Default)]
pub(super) struct Admission(Mutex<Claims>);

#[derive(Debug, Default)]
struct Claims {
    of: HashMap<InstanceId, Machine>,
    /// How many have ended: a list of the machines from before one has may not show what that one
    /// has got.
    ended: u64,
}

/// All machines, with what they are about to have. Nobody else is admitted until this is dropped, so
/// nothing is asked of a QEMU meanwhile.
pub(super) struct Admitted<'a> {
    of: &'a Admission,
    claims: MutexGuard<'a, Claims>,
    pub(super) machines: Vec<Machine>,
}

/// Something that a machine is about to have, until this is dropped: it has it by then, or has not
/// got it.
pub(super) struct Claim<'a> {
    of: &'a Admission,
    instance: InstanceId,
}

impl Inner {
    /// Waits for whoever is being admitted now, and nobody for the look at libvirt.
    pub(super) fn admitted(&self, session: &Session) -> Result<Admitted<'_>> {
        loop {
            let ended = self.admission.0.lock().ended;
            let mut machines = session.domains.list()?.machines;
            let claims = self.admission.0.lock();
            if claims.ended != ended {
                continue;
            }
            for machine in &mut machines {
                if let Some(claim) = claims.of.get(&machine.instance()) {
                    machine.clone_from(claim);
                }
            }
            return Ok(Admitted { of: &self.admission, claims, machines });
        }
    }
}

impl<'a> Admitted<'a> {
    /// Has the machine count as this one: by its definition, and as running in that state.
    pub(super) fn claim(mut self, machine: &Machine, run: RunState) -> Claim<'a> {
        let instance = machine.instance();
        self.claims.of.insert(instance, Machine { run, ..machine.clone() });
        Claim { of: self.of, instance }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.of.0.lock();
        claims.of.remove(&self.instance);
        claims.ended += 1;
    }
}
