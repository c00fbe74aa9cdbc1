//! Machines of which something can't be read: their note, or what else says how they stand. No other
//! machine of the host waits for that.
//!
//! Such a one counts as on ([`RunState::Unread`]), with all the volumes that it may have: nobody else
//! gets those, and nothing is done to it but to end it. Whoever asks for it alone is told the failure.

use std::sync::Arc;

use fairmazon_hypervisor::{HypervisorError, Machine, Marks, Result, RunState};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    instance::{Power, RestartPolicy},
    machine::{Disk, GuestSeen, MachineSpec},
    units::{Mib, Vcpus},
};
use virt::domain::Domain;

use crate::{
    domains::{Domains, as_large_as_it_is, uuid},
    note::Note,
};

impl Domains {
    /// The machine of ours that this domain is, of which something could not be read; none of a
    /// domain that is not ours.
    ///
    /// # Errors
    /// The error itself, where it is of the connection and not of this domain.
    pub(crate) fn unreadable(
        &self,
        domain: &Domain,
        error: HypervisorError,
    ) -> Result<Option<Machine>> {
        if !self.connection.is_alive().unwrap_or(false) {
            return Err(error);
        }
        let Some(instance) = named(domain) else { return Ok(None) };
        tracing::error!(
            %instance, error = &error as &dyn std::error::Error,
            "a machine can't be read and counts as on, with its volumes: repair what the error names"
        );
        let text = self.noted_text(domain).ok().flatten();
        let note = text.as_deref().and_then(|text| Note::decode(text).ok());
        let (mut definition, marks) = match note {
            Some(note) => (note.spec, note.marks),
            None => {
                let marks = text.as_deref().and_then(Note::decode_marks).unwrap_or_default();
                (Arc::new(self.bare(domain, instance, marks)), marks)
            }
        };
        if let Ok(info) = domain.info() {
            as_large_as_it_is(&mut definition, &info);
        }
        Ok(Some(Machine {
            definition,
            marks,
            run: RunState::Unread,
            stalled: false,
            addresses: Vec::new(),
            guest: GuestSeen::default(),
        }))
    }

    /// What is known of a machine without its note.
    fn bare(&self, domain: &Domain, instance: InstanceId, marks: Marks) -> MachineSpec {
        let plugged = self.plugged.zip(domain.xml_desc(0).ok());
        let volumes = plugged.map(|(plugged, xml)| plugged(&xml)).unwrap_or_default();
        let disk = |volume: VolumeId| Disk { name: volume.to_string(), volume, read_only: false };
        let mut disks = volumes.into_iter().map(disk);
        // Where libvirt does not say either, no volume has this id: QEMU locks what it has open.
        let boot = disks.next().unwrap_or_else(|| disk(VolumeId::from_parts(0, 0)));
        MachineSpec {
            instance,
            epoch: marks.epoch,
            spec_version: 0,
            name: instance.to_string(),
            vcpus: Vcpus(0),
            memory: Mib(0),
            spot: false,
            image: String::new(),
            power: Power::Running,
            held: false,
            restart: RestartPolicy::Never,
            boot,
            disks: disks.collect(),
            user_data: String::new(),
            ssh_keys: Vec::new(),
            stop_timeout_ms: 0,
            reboots: marks.done.reboots,
            rebuilds: marks.done.rebuilds,
            first_boots: marks.done.first_boots,
            departure: None,
            arrival: None,
        }
    }
}

/// The machine that a domain is by its name and its UUID, which are those of its instance.
fn named(domain: &Domain) -> Option<InstanceId> {
    let instance: InstanceId = domain.name().ok()?.parse().ok()?;
    (domain.uuid_string().ok()? == uuid(instance)).then_some(instance)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use fairmazon_hypervisor::{
        Halt, OffReason,
        contract::{instance, spec},
    };
    use fairmazon_model::units::Epoch;
    use virt::connect::Connect;

    use super::*;
    use crate::{left::Left, xml};

    /// A host of libvirt's test driver whose machines 1 and 2 run, with these notes.
    fn running(notes: [&str; 2]) -> Domains {
        let connection = Connect::open(Some("test:///default")).unwrap();
        for domain in connection.list_all_domains(0).unwrap() {
            let _ = domain.destroy();
            domain.undefine().unwrap();
        }
        for (number, note) in (1..).zip(notes) {
            let spec = spec(number);
            // The test driver has no pools here, and looks for no volume.
            let xml = format!(
                "<domain type='test'><name>{0}</name><uuid>{1}</uuid><metadata>{2}</metadata>\
                 <memory unit='MiB'>64</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>",
                spec.instance,
                uuid(spec.instance),
                xml::note_element(note),
            );
            connection.define_domain_xml(&xml).unwrap().create().unwrap();
        }
        Domains::for_agents(connection, "test")
    }

    fn note(number: u128, marks: Marks) -> String {
        let note = Note { marks, spec: spec(number).into(), in_flux: Default::default() };
        note.encode().unwrap()
    }

    fn marks(halt: Halt) -> Marks {
        Marks { epoch: Epoch(7), halt, ..Marks::default() }
    }

    #[test]
    fn a_machine_whose_note_can_t_be_read_hides_no_other_and_can_be_ended() {
        let whole = note(1, marks(Halt::Started));
        let later = note(2, marks(Halt::Started)).replace("\"power\"", "\"power_of_later\"");
        for (unreadable, epoch) in [("{", Epoch(0)), (later.as_str(), Epoch(7))] {
            let domains = running([whole.as_str(), unreadable]);
            let listed = domains.list().unwrap();
            assert_eq!(listed.foreign, 0);
            let [one, two] = &listed.machines[..] else { panic!("{:?}", listed.machines) };
            assert_eq!((one.instance(), one.run), (instance(1), RunState::Running));
            assert_eq!((two.instance(), two.run), (instance(2), RunState::Unread));
            assert_eq!((two.marks.epoch, two.definition.memory), (epoch, Mib(64)));
            // Who asks for it alone is told.
            domains.machine(instance(2)).unwrap_err();
            domains.mark(instance(2), Marks::default()).unwrap_err();
            domains.force_stop(instance(2)).unwrap();
            domains.force_stop(instance(2)).unwrap();
            let domain = domains.domain(instance(2)).unwrap().unwrap();
            assert!(!domain.is_active().unwrap());
            // It may have left for another host: nobody knows.
            assert!(domains.list().unwrap().machines[1].runs());
            assert!(domains.list().unwrap().machines[0].runs());
        }
    }

    #[test]
    fn a_machine_that_may_have_left_hides_no_other_and_counts_as_on() {
        let folder = tempfile::tempdir().unwrap();
        let left = Left::open(folder.path().to_owned()).unwrap();
        let notes = [note(1, marks(Halt::Started)), note(2, marks(Halt::Leaving))];
        let domains = running([notes[0].as_str(), notes[1].as_str()]);
        let domains = Domains { left: Some(left), ..domains };
        domains.domain(instance(2)).unwrap().unwrap().destroy().unwrap();
        let machine = |at: usize| domains.list().unwrap().machines[at].clone();
        assert_eq!(machine(1).run, RunState::Off(OffReason::Host));
        fs::write(folder.path().join(instance(2).to_string()), "").unwrap();
        assert_eq!((machine(0).run, machine(1).run), (RunState::Running, RunState::Unread));
        assert_eq!(
            (machine(1).marks, machine(1).definition.boot.clone()),
            (marks(Halt::Leaving), spec(2).boot,)
        );
        domains.machine(instance(2)).unwrap_err();
    }
}
