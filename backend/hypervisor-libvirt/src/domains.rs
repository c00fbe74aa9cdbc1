//! Domains as machines: blocking calls on one connection, for the host's threads.
//!
//! A domain is the platform's when its UUID is the instance's id and its metadata has the note;
//! every other one is foreign and only counted.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use fairmazon_hypervisor::{
    Halt, HypervisorError, Machine, Marks, OffReason, Result, RunState, keeps, same_disks,
    same_shape,
};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    machine::{Disk, MachineSpec},
    units::{Mib, Vcpus},
};
use parking_lot::Mutex;
use virt::{
    connect::Connect,
    domain::{Domain, DomainInfo, DomainState},
};
use virt_sys as sys;

use crate::{
    error::{failed, is_missing},
    guests::{Guests, Heard},
    jobs,
    left::Left,
    note::Note,
    run_state::run_state,
    user_data::UserData,
    xml,
};

/// The persistent definition, not that of the running guest: the note is kept there.
const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;
const ELEMENT: i32 = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;

/// The machines of one connection.
#[derive(Debug)]
pub(crate) struct Domains {
    pub(crate) connection: Connect,
    /// `test`, `qemu` or `kvm`.
    pub(crate) domain_type: &'static str,
    /// Who knows the addresses of guests: a `VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_` of libvirt's.
    pub(crate) address_source: u32,
    pub(crate) addresses: Mutex<HashMap<InstanceId, Addresses>>,
    /// Where user data is kept; without, in the note.
    pub(crate) user_data: Option<UserData>,
    /// What has left and has no mark of it yet, where machines move.
    pub(crate) left: Option<Left>,
    /// What guests' agents have said, where they are asked.
    pub(crate) guests: Option<Arc<Guests>>,
    /// How a guest is asked to shut down: a `VIR_DOMAIN_SHUTDOWN_` of libvirt's. Left to libvirt,
    /// it asks the guest's agent first, and a guest may let it wait for a minute.
    pub(crate) shutdown: u32,
    /// How a machine is started: `VIR_DOMAIN_START_` of libvirt's.
    pub(crate) start: u32,
    /// Which volumes a domain has by libvirt's description of it, where disks come and go while it
    /// runs.
    pub(crate) plugged: Option<fn(&str) -> Vec<VolumeId>>,
}

/// The addresses that a machine was last seen with, and in which run.
#[derive(Debug)]
pub(crate) struct Addresses {
    run: Option<u32>,
    addresses: Vec<String>,
}

/// All machines, and how many domains are foreign.
pub(crate) struct Listed {
    pub(crate) machines: Vec<Machine>,
    pub(crate) foreign: usize,
}

impl Domains {
    /// The machines of a connection that is only for speaking to guests.
    pub(crate) fn for_agents(connection: Connect, domain_type: &'static str) -> Self {
        Self {
            connection,
            domain_type,
            address_source: sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
            addresses: Mutex::default(),
            user_data: None,
            left: None,
            guests: None,
            shutdown: sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            start: sys::VIR_DOMAIN_START_FORCE_BOOT,
            plugged: None,
        }
    }

    /// All machines. One of which something can't be read counts as on, with all the volumes that it
    /// may have.
    pub(crate) fn list(&self) -> Result<Listed> {
        let all = self.connection.list_all_domains(0).map_err(failed("list its domains"))?;
        let count = all.len();
        let mut machines = Vec::with_capacity(count);
        for domain in all {
            // One that goes while it is looked at is no failure of the list.
            let seen = self.read(&domain).or_else(|error| self.unreadable(&domain, error));
            machines.extend(seen?);
        }
        machines.sort_unstable_by_key(Machine::instance);
        Ok(Listed { foreign: count - machines.len(), machines })
    }

    /// Shows each machine that can be read.
    pub(crate) fn each(&self, mut look: impl FnMut(&Domain, &Machine)) {
        for domain in self.connection.list_all_domains(0).unwrap_or_default() {
            if let Ok(Some(machine)) = self.read(&domain) {
                look(&domain, &machine);
            }
        }
    }

    pub(crate) fn machine(&self, instance: InstanceId) -> Result<Option<Machine>> {
        match self.domain(instance)? {
            Some(domain) => self.read(&domain),
            None => Ok(None),
        }
    }

    /// Defines the machine, or refuses to when it runs and its guest would see the change. `xml`
    /// makes the domain from its UUID and note.
    pub(crate) fn define(
        &self,
        spec: &MachineSpec,
        marks: Marks,
        xml: impl FnOnce(&str, &str) -> String,
    ) -> Result<()> {
        self.refuse_foreign(spec.instance)?;
        let mut note = Note { marks, spec: Arc::new(spec.clone()), in_flux: BTreeSet::new() };
        if let Some(had) = self.machine(spec.instance)?
            && had.runs()
        {
            if !same_shape(&had.definition, spec) || !same_disks(&had.definition, spec) {
                return Err(HypervisorError::busy(spec.instance, "it runs with another shape"));
            }
            note.in_flux = self.noted(spec.instance)?.in_flux;
        }
        self.write(&note, xml)
    }

    /// Writes the definition of a machine of ours as it is from now on.
    pub(crate) fn write(&self, note: &Note, xml: impl FnOnce(&str, &str) -> String) -> Result<()> {
        let spec = &note.spec;
        let xml = xml(&uuid(spec.instance), &self.text_of(note)?);
        if let Some(kept) = &self.user_data {
            kept.write(spec.instance, &spec.user_data)?;
        }
        self.connection
            .define_domain_xml(&xml)
            .map_err(failed(format!("define {}", spec.instance)))?;
        self.marked(spec.instance, note.marks);
        Ok(())
    }

    pub(crate) fn mark(&self, instance: InstanceId, marks: Marks) -> Result<()> {
        let (domain, note) = self.found(instance)?;
        let note = Note { marks, ..note };
        domain
            .set_metadata(
                ELEMENT,
                Some(&xml::bare_note_element(&self.text_of(&note)?)),
                Some(xml::NOTE_KEY),
                Some(xml::NOTE_URI),
                CONFIG,
            )
            .map_err(failed(format!("mark {instance}")))?;
        self.marked(instance, marks);
        Ok(())
    }

    /// Marks have been written: what was noted of the machine in their place is old, but for those
    /// that were read before that was noted.
    fn marked(&self, instance: InstanceId, marks: Marks) {
        let Some(left) = &self.left else { return };
        match left.has(instance, marks) {
            Ok(false) => left.forget(instance),
            Ok(true) => {}
            Err(error) => {
                tracing::warn!(%instance, %error, "the note that a machine has left stays");
            }
        }
    }

    /// The text of a note: without the machine's user data where that is kept elsewhere.
    fn text_of(&self, note: &Note) -> Result<String> {
        let mut note = Cow::Borrowed(note);
        if self.user_data.is_some() && !note.spec.user_data.is_empty() {
            Arc::make_mut(&mut note.to_mut().spec).user_data.clear();
        }
        note.encode()
    }

    /// Starts a machine that may be started.
    pub(crate) fn start(&self, instance: InstanceId) -> Result<()> {
        let (domain, machine) = self.expect(instance)?;
        if machine.runs() {
            return Ok(());
        }
        domain.create_with_flags(self.start).map_err(failed(format!("start {instance}")))
    }

    /// Starts a machine without letting its guest run.
    pub(crate) fn hold(&self, instance: InstanceId) -> Result<()> {
        let (domain, _) = self.expect(instance)?;
        let held = domain.create_with_flags(self.start | sys::VIR_DOMAIN_START_PAUSED);
        held.map_err(failed(format!("hold {instance} to send it")))
    }

    pub(crate) fn ask_to_stop(&self, instance: InstanceId) -> Result<()> {
        let press = |domain: &Domain| domain.shutdown_flags(self.shutdown);
        self.unless_off(instance, press, "ask to shut down")
    }

    pub(crate) fn force_stop(&self, instance: InstanceId) -> Result<()> {
        let domain = self.existing(instance)?;
        let unreadable = match self.read(&domain) {
            Ok(_) => None,
            Err(error) => self.unreadable(&domain, error)?,
        };
        if unreadable.is_none() {
            return self.unless_off(instance, Domain::destroy, "end");
        }
        // What can't be read may run, and is ended all the same.
        match domain.destroy() {
            Err(_) if matches!(domain.is_active(), Ok(false)) => Ok(()),
            other => other.map_err(failed(format!("end {instance}"))),
        }
    }

    /// Does `act` to a machine that is on. One that went off meanwhile is no failure: drivers
    /// have different errors for that, so it is looked at again.
    fn unless_off(
        &self,
        instance: InstanceId,
        act: impl FnOnce(&Domain) -> std::result::Result<(), virt::error::Error>,
        verb: &str,
    ) -> Result<()> {
        let (domain, machine) = self.expect(instance)?;
        if !machine.runs() {
            return Ok(());
        }
        match act(&domain) {
            Err(_) if self.read(&domain)?.is_none_or(|machine| !machine.runs()) => Ok(()),
            other => other.map_err(failed(format!("{verb} {instance}"))),
        }
    }

    pub(crate) fn undefine(&self, instance: InstanceId) -> Result<()> {
        let (domain, machine) = match self.expect(instance) {
            Ok(found) => found,
            Err(HypervisorError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if machine.runs() {
            return Err(HypervisorError::busy(instance, "it runs"));
        }
        self.addresses.lock().remove(&instance);
        // With the memory that somebody has saved of it, which libvirt keeps a definition for.
        match domain.undefine_flags(sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE) {
            Err(error) if is_missing(&error) => {}
            other => other.map_err(failed(format!("undefine {instance}")))?,
        }
        if let Some(kept) = &self.user_data {
            kept.remove(instance);
        }
        if let Some(left) = &self.left {
            left.forget(instance);
        }
        Ok(())
    }

    /// The domain and what it is as a machine.
    pub(crate) fn expect(&self, instance: InstanceId) -> Result<(Domain, Machine)> {
        let domain = self.existing(instance)?;
        let machine = self.read(&domain)?.ok_or_else(|| foreign(instance))?;
        Ok((domain, machine))
    }

    /// Whether a machine is on, by a look that waits for no QEMU.
    pub(crate) fn is_on(&self, instance: InstanceId) -> Result<bool> {
        let seen = self.glance(&self.existing(instance)?)?;
        let (_, run, _) = seen.ok_or_else(|| foreign(instance))?;
        Ok(!matches!(run, RunState::Off(_)))
    }

    /// What is written down of a machine whose guest runs here, and what it has and has used; none
    /// of any other.
    pub(crate) fn running(&self, domain: &Domain) -> Result<Option<(Note, DomainInfo)>> {
        let info = match domain.info() {
            Ok(info) => info,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed("read the state of a machine")(error)),
        };
        let Some(mut note) = self.note_of(domain)? else { return Ok(None) };
        if self.has_left(&mut note)? {
            return Ok(None);
        }
        // Only what stands still does so for a reason, which takes another call.
        let runs = info.state.is(DomainState::Running)
            || matches!(run_state(domain, note.marks), Ok((RunState::Running, _)));
        Ok(runs.then_some((note, info)))
    }

    /// What is written down of a machine, whatever it has of that.
    pub(crate) fn noted(&self, instance: InstanceId) -> Result<Note> {
        Ok(self.found(instance)?.1)
    }

    /// The domain of a machine and what is written down of it.
    fn found(&self, instance: InstanceId) -> Result<(Domain, Note)> {
        let domain = self.existing(instance)?;
        let mut note = self.note_of(&domain)?.ok_or_else(|| foreign(instance))?;
        self.has_left(&mut note)?;
        Ok((domain, note))
    }

    /// The note of a domain; none when it is not the platform's, or has just gone.
    fn note_of(&self, domain: &Domain) -> Result<Option<Note>> {
        let Some(mut note) = self.noted_text(domain)?.as_deref().map(Note::decode).transpose()?
        else {
            return Ok(None);
        };
        let uuid_seen = domain.uuid_string().map_err(failed("read the UUID of a machine"))?;
        if uuid_seen != uuid(note.spec.instance) {
            return Ok(None);
        }
        let kept = self.user_data.as_ref().map(|kept| kept.read(note.spec.instance)).transpose()?;
        if let Some(text) = kept.flatten() {
            Arc::make_mut(&mut note.spec).user_data = text;
        }
        Ok(Some(note))
    }

    /// The text of a domain's note; none when it is not the platform's, or has just gone.
    pub(crate) fn noted_text(&self, domain: &Domain) -> Result<Option<String>> {
        match domain.metadata(ELEMENT, Some(xml::NOTE_URI), CONFIG) {
            Ok(element) => Ok(xml::note_of(&element)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("read the note of a machine")(error)),
        }
    }

    /// The domain as a machine; none when it is not the platform's, or has just gone.
    fn read(&self, domain: &Domain) -> Result<Option<Machine>> {
        let Some((mut note, mut run, stalled)) = self.glance(domain)? else { return Ok(None) };
        if matches!(run, RunState::Running | RunState::Arrived) {
            match domain.info() {
                Ok(info) => as_large_as_it_is(&mut note.spec, &info),
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(failed("read the size of a machine")(error)),
            }
        }
        if run == RunState::Running && !note.in_flux.is_empty() {
            match self.settle_disks(domain, &mut note)? {
                Some(seen) => run = seen,
                None => return Ok(None),
            }
        }
        let Heard { guest, addresses } = match run {
            RunState::Running => self.heard(domain, note.spec.instance),
            RunState::Held
            | RunState::Incoming
            | RunState::Arrived
            | RunState::Unread
            | RunState::Off(_) => Heard::default(),
        };
        let definition = Arc::clone(&note.spec);
        Ok(Some(Machine { definition, marks: note.marks, run, stalled, addresses, guest }))
    }

    /// What is written down of a domain, how it runs, and whether its guest has stalled; none when it
    /// is not the platform's, or has just gone.
    fn glance(&self, domain: &Domain) -> Result<Option<(Note, RunState, bool)>> {
        let Some(mut note) = self.note_of(domain)? else { return Ok(None) };
        if self.has_left(&mut note)? {
            // Also before libvirt has seen the end of its QEMU.
            return Ok(Some((note, RunState::Off(OffReason::Moved), false)));
        }
        match run_state(domain, note.marks) {
            Ok((run, stalled)) => Ok(Some((note, run, stalled))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("read the state of a machine")(error)),
        }
    }

    /// Whether a machine has left and is not marked so yet; it reads as if it were.
    fn has_left(&self, note: &mut Note) -> Result<bool> {
        let Some(left) = &self.left else { return Ok(false) };
        let has_left = left.has(note.spec.instance, note.marks)?;
        if has_left {
            note.marks.halt = Halt::Left;
        }
        Ok(has_left)
    }

    /// Leaves of the disks in flux those that are plugged in; how the machine runs by then, none when
    /// it has gone. While QEMU is asked for something, which may be a disk, all of them count: whoever
    /// looks does not wait for QEMU.
    fn settle_disks(&self, domain: &Domain, note: &mut Note) -> Result<Option<RunState>> {
        let Some(plugged) = self.plugged else { return Ok(Some(RunState::Running)) };
        let look = || {
            let is_asked = jobs::is_asked(domain)?;
            if is_asked { Ok(None) } else { domain.xml_desc(0).map(Some) }
        };
        match look() {
            Ok(Some(live)) => {
                let volumes = plugged(&live);
                let in_flux = &note.in_flux;
                let has =
                    |disk: &Disk| !in_flux.contains(&disk.volume) || volumes.contains(&disk.volume);
                Arc::make_mut(&mut note.spec).disks.retain(has);
            }
            Ok(None) => {}
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => match run_state(domain, note.marks) {
                // It has ended meanwhile.
                Ok((off @ RunState::Off(_), _)) => return Ok(Some(off)),
                _ => return Err(failed("read the disks of a machine")(error)),
            },
        }
        Ok(Some(RunState::Running))
    }

    /// What is known of a guest: by what it says itself, else by what is seen of it from outside.
    fn heard(&self, domain: &Domain, instance: InstanceId) -> Heard {
        let heard =
            self.guests.as_ref().map(|guests| guests.heard(instance, domain.id(), Instant::now()));
        let mut heard = heard.unwrap_or_default();
        if heard.addresses.is_empty() {
            heard.addresses = self.addresses(domain, instance);
        }
        heard
    }

    /// The addresses that are known; none where none is. Neighbours of the host are forgotten and
    /// found again all the time: a run keeps the addresses that it was last seen with.
    fn addresses(&self, domain: &Domain, instance: InstanceId) -> Vec<String> {
        let interfaces = domain.interface_addresses(self.address_source, 0).unwrap_or_default();
        let now: Vec<_> =
            interfaces.into_iter().flat_map(|each| each.addrs).map(|each| each.addr).collect();
        let run = domain.id();
        let mut last = self.addresses.lock();
        match last.get(&instance) {
            Some(last) if now.is_empty() && last.run == run => last.addresses.clone(),
            _ => {
                last.insert(instance, Addresses { run, addresses: now.clone() });
                now
            }
        }
    }

    fn existing(&self, instance: InstanceId) -> Result<Domain> {
        self.domain(instance)?.ok_or_else(|| HypervisorError::not_found(instance))
    }

    /// The domain that has the UUID of a machine, whosever it is.
    pub(crate) fn domain(&self, instance: InstanceId) -> Result<Option<Domain>> {
        match self.connection.lookup_domain_by_uuid_string(&uuid(instance)) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(format!("look {instance} up"))(error)),
        }
    }

    /// Refuses an instance whose name or UUID something else has.
    fn refuse_foreign(&self, instance: InstanceId) -> Result<()> {
        if let Some(domain) = self.domain(instance)? {
            return self.read(&domain)?.map(drop).ok_or_else(|| foreign(instance));
        }
        match self.connection.lookup_domain_by_name(&instance.to_string()) {
            Ok(_) => Err(foreign(instance)),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed(format!("look {instance} up"))(error)),
        }
    }
}

/// With the UUID or the name of a machine of ours and without our note: not ours to touch.
fn foreign(instance: InstanceId) -> HypervisorError {
    HypervisorError::Foreign { what: instance.to_string() }
}

/// A machine that runs has what it was given, whatever was written down when that was done.
pub(crate) fn as_large_as_it_is(spec: &mut Arc<MachineSpec>, info: &DomainInfo) {
    let size = (Vcpus(info.nr_virt_cpu), Mib(info.max_mem / 1_024));
    if (spec.vcpus, spec.memory) != size {
        let spec = Arc::make_mut(spec);
        (spec.vcpus, spec.memory) = size;
    }
}

/// Refuses a disk whose volume another running machine has, when one of the two may write.
pub(crate) fn refuse_taken(machines: &[Machine], instance: InstanceId, disk: &Disk) -> Result<()> {
    let taken = machines.iter().any(|other| {
        other.runs() && other.instance() != instance && keeps(&other.definition, disk)
    });
    if taken {
        return Err(HypervisorError::busy(disk.volume, "another machine uses it"));
    }
    Ok(())
}

/// The instance's id in the form of a UUID: both are 128 bits.
pub(crate) fn uuid(instance: InstanceId) -> String {
    xml::uuid(instance.ulid())
}
