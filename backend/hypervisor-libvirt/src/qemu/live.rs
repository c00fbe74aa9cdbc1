//! What is done to machines: blocking calls on one connection, for the host's threads.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use fairmazon_hypervisor::{
    Access, Halt, HypervisorError, Machine, Marks, Promised, Result, RunState,
};
use fairmazon_model::{
    id::{InstanceId, VolumeId},
    instance::Power,
    machine::{Disk, MachineSpec},
    units::{Gib, Mib, Vcpus},
};
use parking_lot::MutexGuard;
use virt::domain::Domain;
use virt_sys as sys;

use super::{
    accelerator::Accelerator,
    admission::Admitted,
    files::Found,
    growth::{self, Growth},
    host::Inner,
    image::{self, Kernel},
    keyring::Lent,
    migration::Places,
    session::Session,
    xml::{self, LiveDisk, Parts},
};
use crate::{domains::refuse_taken, error::failed, note::Note, xml::device_name};

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;

/// What the guest of a domain does in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// It runs.
    Runs,
    /// It rests while its disks are sent. Any host can take those, so that the domain is one in
    /// software: QEMU takes no guest from another accelerator. And libvirt copies no disk that is
    /// read-only, so none is; nobody writes to one but who copies it.
    Rests,
}

impl Guest {
    /// The machine as its domain has it.
    fn shown(self, spec: &MachineSpec) -> Cow<'_, MachineSpec> {
        if self == Self::Runs {
            return Cow::Borrowed(spec);
        }
        let disks = spec.disks.iter().map(|disk| Disk { read_only: false, ..disk.clone() });
        Cow::Owned(MachineSpec { disks: disks.collect(), ..spec.clone() })
    }
}

impl Inner {
    pub(super) fn define(&self, session: &Session, spec: &MachineSpec, marks: Marks) -> Result<()> {
        let xml = self.domain(session, spec, Guest::Runs, None, None)?;
        let _alone = self.notes.lock();
        session.domains.define(spec, marks, xml)
    }

    /// Defines a machine anew as it was seen, unless it is written down otherwise by now.
    pub(super) fn define_as_seen(
        &self,
        session: &Session,
        seen: &Machine,
        xml: impl FnOnce(&str, &str) -> String,
    ) -> Result<()> {
        let _alone = self.notes.lock();
        let noted = session.domains.noted(seen.instance())?;
        if (noted.marks, &noted.spec) != (seen.marks, &seen.definition) {
            return Err(HypervisorError::busy(seen.instance(), "it was changed meanwhile"));
        }
        session.domains.define(&seen.definition, seen.marks, xml)
    }

    /// Writes down what has changed of a machine. What else is written down stays: a disk may be on
    /// its way into a machine that does not have it yet.
    pub(super) fn write(
        &self,
        session: &Session,
        instance: InstanceId,
        change: impl FnOnce(&mut Note),
    ) -> Result<()> {
        self.write_alone(&self.notes.lock(), session, instance, change)
    }

    /// As [`write`](Self::write), for who has the lock already.
    fn write_alone(
        &self,
        _alone: &MutexGuard<'_, ()>,
        session: &Session,
        instance: InstanceId,
        change: impl FnOnce(&mut Note),
    ) -> Result<()> {
        let mut note = session.domains.noted(instance)?;
        change(&mut note);
        let xml = self.domain(session, &note.spec, Guest::Runs, None, None)?;
        session.domains.write(&note, xml)
    }

    /// Makes the domain of a machine from its UUID and note. Its kernel is named at the start only,
    /// when it has just been verified; where its devices are, when they can't be elsewhere.
    pub(super) fn domain<'a>(
        &'a self,
        session: &Session,
        spec: &'a MachineSpec,
        guest: Guest,
        kernel: Option<Kernel>,
        places: Option<&'a Places>,
    ) -> Result<impl FnOnce(&str, &str) -> String + use<'a>> {
        let mut files = Vec::with_capacity(1 + spec.disks.len());
        for disk in spec.all_disks() {
            // A volume that is still to be made is looked up again at the start.
            let found = self.files.find(disk.volume)?.map(|found| found.path);
            files.push(found.unwrap_or_else(|| self.files.nowhere(disk.volume)));
        }
        let console = self.consoles.path(spec.instance);
        let seed = self.seeds.path(spec.instance);
        let domain_type = match guest {
            Guest::Runs => session.domains.domain_type,
            Guest::Rests => Accelerator::Tcg.domain_type(),
        };
        Ok(move |uuid: &str, note: &str| {
            let kernel = kernel.as_ref();
            let network = &self.config.network;
            let (console, seed) = (console.as_path(), seed.as_path());
            let growth = match places {
                None => Growth::at_start(spec, &self.config.capacity),
                // What was started without room to grow has none.
                Some(places) => places.growth.clone(),
            };
            let growth = growth.as_ref();
            let parts = Parts {
                domain_type,
                uuid,
                note,
                network,
                console,
                seed,
                kernel,
                files,
                places,
                growth,
            };
            xml::domain(&guest.shown(spec), &parts)
        })
    }

    /// Starts a machine; the volumes that may be why it did not start, with its error.
    pub(super) fn start(
        &self,
        session: &Session,
        instance: InstanceId,
    ) -> std::result::Result<(), NotStarted> {
        let (_, machine) = session.domains.expect(instance)?;
        match machine.run {
            RunState::Held => Err(HypervisorError::busy(instance, "it is held").into()),
            RunState::Off(_) => self.launch(session, &machine, RunState::Running),
            RunState::Running | RunState::Incoming | RunState::Arrived | RunState::Unread => Ok(()),
        }
    }

    /// Opens the volumes of a machine that is off, to send it; the volumes that may be why it could
    /// not be done, with its error.
    pub(super) fn hold(
        &self,
        session: &Session,
        instance: InstanceId,
    ) -> std::result::Result<(), NotStarted> {
        let (_, machine) = session.domains.expect(instance)?;
        let why_not = match machine.run {
            RunState::Held => return Ok(()),
            RunState::Off(_) if machine.marks.halt == Halt::Held => {
                return self.launch(session, &machine, RunState::Held);
            }
            RunState::Off(_) => "it is not marked to be held",
            RunState::Running | RunState::Incoming | RunState::Arrived | RunState::Unread => {
                "it runs"
            }
        };
        Err(HypervisorError::busy(instance, why_not).into())
    }

    /// Has libvirt start a machine that is off, to run or to be held.
    fn launch(
        &self,
        session: &Session,
        machine: &Machine,
        run: RunState,
    ) -> std::result::Result<(), NotStarted> {
        let (instance, spec) = (machine.instance(), &machine.definition);
        let (opened, admitted) = self.take_place(session, machine)?;
        let _claim = admitted.claim(machine, run);
        let kernel = image::kernel(&self.images, &spec.image)?;
        // Names the files of volumes that were made after the machine was defined, too.
        let guest = if run == RunState::Held { Guest::Rests } else { Guest::Runs };
        let xml = self.domain(session, spec, guest, kernel, None)?;
        self.define_as_seen(session, machine, xml)?;
        // Taken back at the end of this function: QEMU has them by then, or has failed.
        let _lent = spec
            .all_disks()
            .map(|disk| self.lend(session, disk.volume))
            .collect::<Result<Vec<_>>>()?;
        let launched = match run {
            RunState::Held => session.domains.hold(instance),
            _ => session.domains.start(instance),
        };
        launched.map_err(|error| NotStarted { error, opened })
    }

    /// Whether a machine that is off can run, be held or come here, with its console and its seed
    /// made ready for it; the files of its volumes, and what nobody else is admitted until then.
    pub(super) fn take_place(
        &self,
        session: &Session,
        machine: &Machine,
    ) -> Result<(Vec<(VolumeId, PathBuf)>, Admitted<'_>)> {
        let (instance, spec) = (machine.instance(), &machine.definition);
        let admitted = self.admitted(session)?;
        let others = &admitted.machines;
        let mut opened = Vec::with_capacity(1 + spec.disks.len());
        for disk in spec.all_disks() {
            opened.push((disk.volume, self.require(disk.volume)?.path));
            refuse_taken(others, instance, disk)?;
        }
        let more = match (machine.marks.halt, spec.power) {
            (Halt::Held, _) | (Halt::Arriving, Power::Stopped) => None,
            _ => Some(Promised::from(spec.as_ref())),
        };
        if let Some(more) = more {
            self.has_memory(others, more)?;
        }
        self.consoles.prepare(instance).map_err(|error| HypervisorError::Driver {
            attempted: format!("prepare the console of {instance}"),
            source: error.into(),
        })?;
        self.seeds.write(spec, machine.marks, &self.config.network)?;
        Ok((opened, admitted))
    }

    /// Whether there is so much memory beside what these machines have.
    fn has_memory(&self, machines: &[Machine], more: Promised) -> Result<()> {
        let running = machines.iter().filter(|machine| takes_memory(machine));
        let promised: Promised = running.map(|machine| machine.definition.as_ref()).collect();
        let kept = self.landings.kept(machines);
        promised.plus(kept).plus(more).check(self.config.capacity.memory)
    }

    /// Gives a machine that runs as much as this, and its guest a word where that listens.
    pub(super) fn resize(
        &self,
        session: &Session,
        instance: InstanceId,
        (vcpus, memory): (Vcpus, Mib),
    ) -> Result<()> {
        let (domain, machine) = session.domains.expect(instance)?;
        if machine.run != RunState::Running {
            return Err(HypervisorError::busy(instance, "it does not run"));
        }
        if self.departures.has(instance) {
            return Err(HypervisorError::busy(instance, "it is being sent to another host"));
        }
        // As it is, whatever an earlier call has written down before it ended.
        let spec = &machine.definition;
        let attempted = || failed(format!("resize {instance}"));
        if (spec.vcpus, spec.memory) != (vcpus, memory) {
            let live = domain.xml_desc(0).map_err(attempted())?;
            let growth = Growth::read(&live).ok().flatten();
            let fits = growth.is_some_and(|growth| growth.takes(spec, vcpus, memory));
            if !fits {
                return Err(growth::CANT_GROW);
            }
            let more = memory.saturating_sub(spec.memory);
            let module = MachineSpec { memory: more, ..(**spec).clone() };
            let admitted = self.admitted(session)?;
            self.has_memory(&admitted.machines, Promised::from(&module))?;
            let grown = Arc::new(MachineSpec { vcpus, memory, ..(**spec).clone() });
            let grown = Machine { definition: grown, ..machine.clone() };
            let _claim = admitted.claim(&grown, machine.run);
            if more > Mib(0) {
                let module = growth::module(more, None);
                domain.attach_device_flags(&module, LIVE).map_err(attempted())?;
            }
            if vcpus > spec.vcpus {
                domain.set_vcpus_flags(vcpus.0, LIVE).map_err(attempted())?;
            }
        }
        self.write(session, instance, |note| {
            let spec = Arc::make_mut(&mut note.spec);
            (spec.vcpus, spec.memory) = (vcpus, memory);
        })?;
        self.agents.ask_soon(instance);
        Ok(())
    }

    /// Writes the marks of a machine that is off. What else is in its definition stays: it may be
    /// made ready for one that comes.
    pub(super) fn mark(&self, session: &Session, instance: InstanceId, marks: Marks) -> Result<()> {
        let alone = self.notes.lock();
        let has_left = session.domains.noted(instance)?.marks.halt == Halt::Left;
        if has_left || session.domains.is_on(instance)? {
            // One that has left is maybe still on for libvirt. See below.
            return self.write_alone(&alone, session, instance, |note| note.marks = marks);
        }
        session.domains.mark(instance, marks)
    }

    /// Writes the marks of a machine that is on; `false` of one that is off. Not in its metadata:
    /// libvirt writes these when whatever it does with the machine has ended, and takes a whole
    /// definition at any time.
    pub(super) fn mark_if_on(
        &self,
        session: &Session,
        instance: InstanceId,
        marks: Marks,
    ) -> Result<bool> {
        let alone = self.notes.lock();
        let is_on = session.domains.is_on(instance)?;
        if is_on {
            self.write_alone(&alone, session, instance, |note| note.marks = marks)?;
        }
        Ok(is_on)
    }

    pub(super) fn undefine(&self, session: &Session, instance: InstanceId) -> Result<()> {
        let _alone = self.notes.lock();
        session.domains.undefine(instance)?;
        self.consoles.remove(instance);
        self.seeds.remove(instance);
        Ok(())
    }

    /// Plugs in a disk; the volume that may be why not, with the error.
    pub(super) fn attach(
        &self,
        session: &Session,
        instance: InstanceId,
        disk: &Disk,
    ) -> std::result::Result<(), NotStarted> {
        let (domain, machine) = session.domains.expect(instance)?;
        refuse_coming(&machine)?;
        let spec = &machine.definition;
        // One of a machine that runs is looked for where it should be: it may not have got there, and a
        // guest may give one back that nobody asks for.
        if spec.disks.contains(disk) && !machine.runs() {
            return Ok(());
        }
        if spec.disks.iter().any(|other| other.name == disk.name && other != disk) {
            return Err(HypervisorError::busy(instance, "another disk has this name").into());
        }
        let found = self.require(disk.volume)?;
        let admitted = self.admitted(session)?;
        refuse_taken(&admitted.machines, instance, disk)?;
        let mut with = (**spec).clone();
        with.disks.retain(|each| each != disk);
        with.disks.push(disk.clone());
        let with = Machine { definition: Arc::new(with), ..machine.clone() };
        let _claim = admitted.claim(&with, machine.run);
        // Before it is plugged in, so that what is plugged in is always written down.
        self.write(session, instance, |note| {
            let disks = &mut Arc::make_mut(&mut note.spec).disks;
            disks.retain(|each| each.name != disk.name && each.volume != disk.volume);
            disks.push(disk.clone());
            note.in_flux.extend(machine.runs().then_some(disk.volume));
        })?;
        if machine.runs() {
            let live = live_disks(&domain, instance)?;
            // One that is plugged in already is left from a call that did not get to its end. It stays
            // in flux: the guest may have been asked to let go of it, and may do so at any time.
            if !live.iter().any(|each| each.file == found.path) {
                let lent = self.lend(session, disk.volume)?;
                let element = xml::disk(disk, &found.path, &free_device(&live), None);
                let attempted = failed(format!("attach {} to {instance}", disk.volume));
                let attached = domain.attach_device_flags(&element, LIVE).map_err(attempted);
                drop(lent);
                let opened = vec![(disk.volume, found.path)];
                if let Err(error) = attached {
                    self.write(session, instance, |note| without(note, disk))?;
                    return Err(NotStarted { error, opened });
                }
                self.write(session, instance, |note| {
                    note.in_flux.retain(|each| *each != disk.volume);
                })?;
            }
        }
        Ok(())
    }

    /// Asks the guest to let go of a disk; `true` once the machine is without it.
    pub(super) fn detach(
        &self,
        session: &Session,
        instance: InstanceId,
        name: &str,
    ) -> Result<bool> {
        let (domain, machine) = session.domains.expect(instance)?;
        refuse_coming(&machine)?;
        // Also one that is written down and did not get to be plugged in.
        let noted = session.domains.noted(instance)?.spec;
        let Some(gone) = noted.disks.iter().find(|other| other.name == name) else {
            return Ok(true);
        };
        if machine.runs()
            && let Some(found) = self.files.find(gone.volume)?
        {
            let live = |domain: &Domain| {
                let disks = live_disks(domain, instance)?;
                Ok::<_, HypervisorError>(disks.into_iter().find(|each| each.file == found.path))
            };
            if let Some(plugged) = live(&domain)? {
                self.write(session, instance, |note| note.in_flux.extend([gone.volume]))?;
                let asked = domain.detach_device_flags(&plugged.element, LIVE);
                if live(&domain)?.is_some() {
                    // A guest that still boots does not hear it, and QEMU refuses to ask again
                    // for a second: neither is a failure while there is time to repeat it.
                    tracing::debug!(%instance, name, ?asked, "the guest still has the disk");
                    return Ok(false);
                }
            }
        }
        self.write(session, instance, |note| without(note, gone))?;
        Ok(true)
    }

    /// Grows a volume that a running machine has; `false` when it has it no more.
    pub(super) fn grow_live(
        &self,
        session: &Session,
        instance: InstanceId,
        (volume, found): (VolumeId, &Found),
        to: Gib,
    ) -> Result<bool> {
        let (domain, machine) = session.domains.expect(instance)?;
        refuse_coming(&machine)?;
        let access = machine.uses(volume).filter(|_| machine.runs());
        let Some(access) = access else { return Ok(false) };
        let live = live_disks(&domain, instance)?;
        let Some(disk) = live.into_iter().find(|each| each.file == found.path) else {
            return Ok(false);
        };
        if access == Access::Read {
            return Err(HypervisorError::busy(volume, "a machine reads it"));
        }
        domain
            .block_resize(&disk.device, to.0 << 30, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            .map_err(failed(format!("grow {volume}")))?;
        Ok(true)
    }

    pub(super) fn delete_volume(&self, session: &Session, volume: VolumeId) -> Result<()> {
        let admitted = self.admitted(session)?;
        let uses = |machine: &Machine| machine.runs() && machine.uses(volume).is_some();
        if admitted.machines.iter().any(uses) {
            return Err(HypervisorError::busy(volume, "a running machine uses it"));
        }
        self.files.delete(volume)
    }

    pub(super) fn require(&self, volume: VolumeId) -> Result<Found> {
        self.files.find(volume)?.ok_or_else(|| HypervisorError::not_found(volume))
    }

    pub(super) fn lend(&self, session: &Session, volume: VolumeId) -> Result<Lent> {
        self.keys.lend(&session.domains.connection, volume)
    }
}

/// Why a machine was not started or a disk not attached.
pub(super) struct NotStarted {
    pub(super) error: HypervisorError,
    /// The volumes that QEMU was to open: one of their keys may be the reason.
    pub(super) opened: Vec<(VolumeId, PathBuf)>,
}

impl From<HypervisorError> for NotStarted {
    fn from(error: HypervisorError) -> Self {
        Self { error, opened: Vec::new() }
    }
}

/// Whether a machine that is on has memory of the host. Of one whose guest was not let run, here or
/// where it comes from, nothing was ever written to.
fn takes_memory(machine: &Machine) -> bool {
    match machine.run {
        RunState::Running | RunState::Unread => true,
        RunState::Incoming | RunState::Arrived => machine.definition.power == Power::Running,
        RunState::Held | RunState::Off(_) => false,
    }
}

/// Notes that a machine is without a disk.
fn without(note: &mut Note, disk: &Disk) {
    Arc::make_mut(&mut note.spec).disks.retain(|each| each != disk);
    note.in_flux.remove(&disk.volume);
}

/// Refuses to change a machine whose guest is not all here.
fn refuse_coming(machine: &Machine) -> Result<()> {
    match machine.run {
        RunState::Held => Err(HypervisorError::busy(machine.instance(), "it goes to another host")),
        RunState::Incoming | RunState::Arrived => {
            Err(HypervisorError::busy(machine.instance(), "it comes from another host"))
        }
        RunState::Unread => Err(HypervisorError::busy(machine.instance(), "it can't be read")),
        RunState::Running | RunState::Off(_) => Ok(()),
    }
}

fn live_disks(domain: &Domain, instance: InstanceId) -> Result<Vec<LiveDisk>> {
    let xml = domain.xml_desc(0).map_err(failed(format!("look at the disks of {instance}")))?;
    Ok(xml::live_disks(&xml))
}

fn free_device(live: &[LiveDisk]) -> String {
    let taken = |name: &String| live.iter().any(|disk| disk.device == *name);
    // Among one more name than there are disks, one is free.
    let mut names = (0..=live.len()).map(device_name);
    names.find(|name| !taken(name)).unwrap_or_default()
}
