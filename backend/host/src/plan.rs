//! What to do next about one machine or one volume: pure functions, with the reason in the answer.
//!
//! Start-up, timer and event all come here; nothing here remembers anything. A machine's steps
//! end because each one moves it nearer to what is desired, and a crash between any two of them
//! is only one more look. Refuses: to run a machine without a lease, to delete a volume without
//! the wish, and to touch anything while no desired set is known.

mod files;
mod moving;

use std::sync::Arc;

use fairmazon_hypervisor::{
    Counters, Features, Halt, Machine, Marks, OffReason, RunState, Volume, only_grows, same_disks,
    same_shape,
};
use fairmazon_model::{
    id::VolumeId,
    instance::{Power, RestartPolicy},
    machine::{Disk, HostVolume, MachineSpec, VolumeWish},
    units::{Gib, Mib, Vcpus},
};

/// What the desired set says of one thing.
#[derive(Debug, Clone, Copy)]
pub enum Wish<'a, T> {
    /// No set is known yet: nothing follows from that.
    Unknown,
    /// The set does not name it.
    Absent,
    /// The set names it.
    Present(&'a T),
}

/// Whether a volume can be used by a machine now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskReady {
    /// It is there and free.
    Ready,
    /// It is not there (yet).
    Missing,
    /// It is there, and its key is not with the hypervisor (yet).
    Locked,
    /// Another running machine has it, and one of the two may write.
    Taken,
}

impl DiskReady {
    /// What is waited for; none where it can be used.
    const fn waits_for(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::Missing => Some("a volume is not there yet"),
            Self::Locked => Some("a volume's key is not there yet"),
            Self::Taken => Some("another machine still has a volume"),
        }
    }
}

/// All that the next step of a machine depends on.
pub struct MachineCase<'a> {
    /// What is desired.
    pub wish: Wish<'a, Arc<MachineSpec>>,
    /// What the hypervisor has; none when it is not defined.
    pub seen: Option<&'a Machine>,
    /// Whether the host holds a lease now.
    pub leased: bool,
    /// How long ago the guest was asked to shut down, in ms.
    pub asked_ms_ago: Option<u64>,
    /// What the hypervisor can do.
    pub features: Features,
    /// Whether it may be tried to have the machine grow while it runs: it was not found in this run
    /// that it can't.
    pub may_grow: bool,
    /// How it stands with the host's memory for it.
    pub memory: MemoryCase,
    /// Counted wishes known to be done, for a machine that is not defined (any more).
    pub done_before: Option<Counters>,
    /// Whether the disk's volume is there and free for this machine.
    pub disk_ready: &'a dyn Fn(&Disk) -> DiskReady,
    /// Whether its boot volume is there and smaller than desired.
    pub boot_is_small: bool,
    /// Whether the volume is there.
    pub volume_there: &'a dyn Fn(VolumeId) -> bool,
}

/// How it stands with the host's memory for a machine. For one that is not spot there is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryCase {
    /// It may have its memory.
    Enough,
    /// It may go on, and is not started.
    Short,
    /// It is to be ended at once, and is not started.
    GivenUp,
}

/// The next step of a machine, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<A> {
    /// What to do.
    pub action: A,
    /// Why, for the log.
    pub reason: &'static str,
}

/// What to do about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineAction {
    /// It is as desired.
    Settled,
    /// Something else has to happen first.
    Wait,
    /// Define it as desired, with these marks.
    Define(Marks),
    /// Write these marks.
    Mark(Marks),
    /// Start it.
    Start,
    /// Open its volumes without letting its guest run, to send it.
    Hold,
    /// Ask its guest to shut down.
    AskToStop,
    /// End it at once.
    ForceStop,
    /// Remove its definition.
    Undefine,
    /// Plug in this disk.
    Attach(Disk),
    /// Unplug the disk of this name.
    Detach(String),
    /// Give it as many processors and as much memory as this while it runs.
    Resize(Vcpus, Mib),
    /// Destroy its boot volume, which is to be made anew.
    DeleteBoot(VolumeId),
    /// Send it to the host that it shall go on at.
    Depart,
    /// Let it run, since all of it has come, or go on where its guest stands still.
    Resume,
    /// End what has come of it, which was never let run.
    Refuse,
}

const fn step<A>(action: A, reason: &'static str) -> Step<A> {
    Step { action, reason }
}

use MachineAction as Do;
use files::unwanted_file;
pub(crate) use moving::lands_as;
use moving::{UNREAD, arriving, before_arrival, held, leaves_off, may_leave};

/// The next step of a machine.
pub fn next_machine_step(case: &MachineCase<'_>) -> Step<MachineAction> {
    let Some(seen) = case.seen else { return undefined(case) };
    if seen.runs() && !case.leased {
        return step(Do::ForceStop, "the lease has ended");
    }
    if seen.run == RunState::Unread {
        return match case.wish {
            Wish::Absent => step(Do::ForceStop, "it is not desired here, and can't be read"),
            Wish::Unknown | Wish::Present(_) => step(Do::Wait, UNREAD),
        };
    }
    if let Wish::Present(spec) = case.wish
        && spec.arrival.is_some()
        && spec.epoch > seen.marks.epoch
    {
        return before_arrival(case, seen);
    }
    let is_known = !matches!(case.wish, Wish::Unknown);
    if is_known && seen.marks.halt == Halt::Arriving {
        return arriving(seen, &case.wish);
    }
    match case.wish {
        Wish::Unknown => step(Do::Wait, "no desired set is known"),
        // Their guests hear nothing.
        Wish::Absent if matches!(seen.run, RunState::Held | RunState::Arrived) => {
            step(Do::ForceStop, "it is not desired here")
        }
        Wish::Absent if seen.runs() => stop(case, seen, "it is not desired here"),
        Wish::Absent => step(Do::Undefine, "it is not desired here"),
        Wish::Present(spec) if spec.epoch < seen.marks.epoch => {
            step(Do::Wait, "the desired epoch is older than the one it has")
        }
        Wish::Present(_) if seen.run == RunState::Arrived && seen.marks.halt == Halt::Idle => {
            step(Do::Refuse, "all of it has come, and it is off here first")
        }
        Wish::Present(_) if seen.run == RunState::Arrived => {
            step(Do::Resume, "all of it has come, and it may run")
        }
        Wish::Present(spec) if seen.run == RunState::Held => held(seen, spec),
        Wish::Present(spec) if seen.runs() => running(case, seen, spec),
        Wish::Present(spec) => off(case, seen, spec),
    }
}

fn undefined(case: &MachineCase<'_>) -> Step<MachineAction> {
    let Wish::Present(spec) = case.wish else { return step(Do::Settled, "it is not there") };
    // Counts that nobody remembers are taken as done: to repeat a rebuild would destroy data.
    let done = case.done_before.unwrap_or(Counters::wished(spec));
    let halt = match &spec.arrival {
        Some(arrival) if !arrival.open => return step(Do::Settled, "it does not come any more"),
        Some(_) => Halt::Arriving,
        None => Halt::Idle,
    };
    let marks = Marks { epoch: spec.epoch, done, halt, ..Marks::default() };
    step(Do::Define(marks), "it is desired here")
}

/// One step of a stop: note it, ask, wait, force. What was begun is finished, so that a guest
/// that is shutting down is never taken for one that ended by itself.
fn stop(case: &MachineCase<'_>, seen: &Machine, reason: &'static str) -> Step<MachineAction> {
    if seen.marks.halt != Halt::Stopping {
        return step(Do::Mark(Marks { halt: Halt::Stopping, ..seen.marks }), reason);
    }
    match case.asked_ms_ago {
        None => step(Do::AskToStop, reason),
        Some(ago) if ago >= stop_timeout_ms(&case.wish, seen) => {
            step(Do::ForceStop, "the guest did not shut down in time")
        }
        Some(_) => step(Do::Wait, "the guest is shutting down"),
    }
}

/// How long the guest has to shut down, from when it was asked to, in ms: as the set says now,
/// or as it said last of a machine that it does not name any more.
pub fn stop_timeout_ms(wish: &Wish<'_, Arc<MachineSpec>>, seen: &Machine) -> u64 {
    match wish {
        Wish::Present(spec) => spec.stop_timeout_ms,
        Wish::Unknown | Wish::Absent => seen.definition.stop_timeout_ms,
    }
}

fn running(case: &MachineCase<'_>, seen: &Machine, spec: &Arc<MachineSpec>) -> Step<MachineAction> {
    let (marks, had) = (seen.marks, &seen.definition);
    let can_grow = case.features.resize && case.may_grow;
    if case.memory == MemoryCase::GivenUp {
        let reason = "the host has no memory left for it";
        return match marks.halt {
            Halt::Stopping => step(Do::ForceStop, reason),
            _ => step(Do::Mark(Marks { halt: Halt::Stopping, ..marks }), reason),
        };
    }
    let why_stop = if marks.halt == Halt::Stopping {
        Some("a stop was begun")
    } else if spec.epoch > marks.epoch {
        Some("its earlier run ends before the next begins")
    } else if spec.power == Power::Stopped {
        Some("it shall be off")
    } else if spec.reboots > marks.done.reboots {
        Some("a reboot was asked for")
    } else if spec.rebuilds > marks.done.rebuilds {
        Some("a rebuild was asked for")
    } else if !(same_shape(had, spec) || can_grow && only_grows(had, spec)) {
        Some("its shape changes")
    } else if !case.features.hotplug && !same_disks(had, spec) {
        Some("its disks change and this hypervisor can't do that while it runs")
    } else {
        None
    };
    if let Some(reason) = why_stop {
        return stop(case, seen, reason);
    }
    if seen.stalled {
        // Nothing is asked of a guest that can't answer.
        return step(Do::Resume, "its guest stands still for want of room on the disk");
    }
    let leaves = marks.halt == Halt::Leaving && spec.departure.is_some();
    if marks.halt != Halt::Started && !leaves {
        return step(Do::Mark(Marks { halt: Halt::Started, ..marks }), "it runs here");
    }
    if !same_shape(had, spec) {
        if case.memory == MemoryCase::Short && spec.memory > had.memory {
            return step(Do::Wait, "the host is short of memory");
        }
        return step(Do::Resize(spec.vcpus, spec.memory), "it grows while it runs");
    }
    if let Some(gone) = had.disks.iter().find(|disk| !spec.disks.contains(disk)) {
        return step(Do::Detach(gone.name.clone()), "the disk is not desired");
    }
    if let Some(new) = spec.disks.iter().find(|disk| !had.disks.contains(disk)) {
        return match (case.disk_ready)(new).waits_for() {
            None => step(Do::Attach(new.clone()), "the disk is desired"),
            Some(why) => step(Do::Wait, why),
        };
    }
    let spec_version = if case.boot_is_small { marks.spec_version } else { spec.spec_version };
    let brought_about = Marks { spec_version, whole: true, ..marks };
    if !same_definition(had, spec) {
        return step(Do::Define(brought_about), "its definition changes");
    }
    if marks != brought_about {
        return step(Do::Mark(brought_about), "its spec is brought about");
    }
    if case.boot_is_small {
        return step(Do::Wait, "its boot volume grows first");
    }
    match may_leave(spec) {
        Err(why) => step(Do::Settled, why.unwrap_or("it runs as desired")),
        Ok(()) if !leaves => {
            step(Do::Mark(Marks { halt: Halt::Leaving, ..marks }), "it is about to leave")
        }
        Ok(()) => step(Do::Depart, "it shall go on at another host"),
    }
}

fn off(case: &MachineCase<'_>, seen: &Machine, spec: &Arc<MachineSpec>) -> Step<MachineAction> {
    let mut marks = seen.marks;
    if spec.epoch == marks.epoch && matches!(marks.halt, Halt::Leaving | Halt::Left) {
        if seen.run == RunState::Off(OffReason::Moved) && marks.halt == Halt::Leaving {
            return step(Do::Mark(Marks { halt: Halt::Left, ..marks }), "it was handed over");
        }
        return step(Do::Wait, "it may run at another host");
    }
    let leaves = spec.epoch == marks.epoch
        && marks.halt == Halt::Held
        && spec.power == Power::Stopped
        && may_leave(spec).is_ok();
    if spec.rebuilds > marks.done.rebuilds {
        if (case.volume_there)(seen.definition.boot.volume) {
            let boot = seen.definition.boot.volume;
            return step(Do::DeleteBoot(boot), "a rebuild was asked for");
        }
        marks.done.rebuilds = spec.rebuilds;
        marks.spec_version = 0;
        marks.whole = false;
        marks.halt = Halt::Idle;
    }
    if spec.reboots > marks.done.reboots {
        // It is off: what is left of the reboot is the start.
        marks.done.reboots = spec.reboots;
        marks.halt = Halt::Idle;
    }
    if spec.epoch > marks.epoch {
        marks.epoch = spec.epoch;
        marks.spec_version = 0;
        marks.halt = Halt::Idle;
    }
    let ends = matches!(marks.halt, Halt::Stopping | Halt::Held) || spec.power == Power::Stopped;
    if ends && !leaves {
        marks.halt = Halt::Idle;
    }
    // The guest learns of a first boot from the definition that it starts with.
    marks.done.first_boots = marks.done.first_boots.max(spec.first_boots);
    if !same_definition(&seen.definition, spec) {
        marks.spec_version = 0;
        // The volume of a new disk may still be to be made.
        let same_volumes = seen.definition.boot == spec.boot && same_disks(&seen.definition, spec);
        marks.whole &= same_volumes;
        return step(Do::Define(marks), "its definition changes");
    }
    if marks != seen.marks {
        return step(Do::Mark(marks), "it is off");
    }
    if spec.power == Power::Stopped || !may_restart(seen, spec.restart) {
        return stays_off(case, seen, spec);
    }
    if spec.held {
        return match disks_wait_for(case, spec) {
            None => step(Do::Settled, "it is made, and not to be started yet"),
            Some(why) => step(Do::Wait, why),
        };
    }
    if !case.leased {
        return step(Do::Wait, "there is no lease");
    }
    if case.memory != MemoryCase::Enough {
        return step(Do::Wait, "the host is short of memory");
    }
    match disks_wait_for(case, spec) {
        None => step(Do::Start, "it shall run"),
        Some(why) => step(Do::Wait, why),
    }
}

/// What the first disk that can't be used waits for; none where all of them can be.
fn disks_wait_for(case: &MachineCase<'_>, spec: &MachineSpec) -> Option<&'static str> {
    spec.all_disks().find_map(|disk| (case.disk_ready)(disk).waits_for())
}

fn stays_off(case: &MachineCase<'_>, seen: &Machine, spec: &MachineSpec) -> Step<MachineAction> {
    let mut disks = spec.all_disks();
    if !disks.all(|disk| (case.volume_there)(disk.volume)) {
        return step(Do::Wait, "a volume is not there yet");
    }
    if case.boot_is_small {
        return step(Do::Wait, "its boot volume grows first");
    }
    let brought_about = Marks { spec_version: spec.spec_version, whole: true, ..seen.marks };
    if seen.marks != brought_about {
        return step(Do::Mark(brought_about), "its spec is brought about");
    }
    // One that has ended by itself is not told to be off.
    match may_leave(spec).and(if spec.power == Power::Stopped { Ok(()) } else { Err(None) }) {
        Err(why) => step(Do::Settled, why.unwrap_or("it is off as desired")),
        Ok(()) if !case.leased => step(Do::Settled, "there is no lease"),
        Ok(()) => leaves_off(case, seen, spec),
    }
}

/// Whether a machine that is off may be started under this policy.
pub(crate) fn may_restart(seen: &Machine, policy: RestartPolicy) -> bool {
    let RunState::Off(reason) = seen.run else { return false };
    if seen.marks.halt != Halt::Started || reason == OffReason::NeverStarted {
        return true;
    }
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnHostFailure => reason == OffReason::Host,
        RestartPolicy::Never => false,
    }
}

/// Whether a definition says what the spec says, in what is not kept in the marks.
fn same_definition(had: &MachineSpec, spec: &MachineSpec) -> bool {
    same_shape(had, spec)
        && same_disks(had, spec)
        && had.name == spec.name
        && had.image == spec.image
        && had.restart == spec.restart
        && had.user_data == spec.user_data
        && had.ssh_keys == spec.ssh_keys
        && had.stop_timeout_ms == spec.stop_timeout_ms
        && had.first_boots == spec.first_boots
        && had.spot == spec.spot
}

/// All that the next step of a volume depends on.
#[derive(Debug)]
pub struct VolumeCase<'a> {
    /// What is desired.
    pub wish: Wish<'a, Arc<HostVolume>>,
    /// What the hypervisor has.
    pub seen: Option<&'a Volume>,
    /// A machine's rebuild is between the end of this volume and its being made anew.
    pub held: bool,
    /// A machine, running or not, is defined with it.
    pub in_use: bool,
    /// It was there, as the broker or a machine that is defined with it says, on a hypervisor that
    /// keeps volumes: its data was lost, or is not mounted, and a new empty one would hide that.
    pub must_be_there: bool,
    /// The volume that it is to be made as a copy of is there and can be opened; `true` for one
    /// that is no copy.
    pub source_ready: bool,
    /// How it stands with the file that it is imported from.
    pub file: FileCase,
    /// How it stands with its key.
    pub key: KeyCase,
    /// How it stands with the exchange of its key.
    pub change: ChangeCase,
}

/// How it stands with the file that a volume is imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileCase {
    /// Nothing of one is there.
    None,
    /// A part of one is there, or one that is not the one that is wished for.
    Part,
    /// Somebody writes it.
    Comes,
    /// All of the one that is wished for is there.
    Whole,
}

/// How it stands with a volume's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCase {
    /// The hypervisor encrypts nothing and no key came.
    NotNeeded,
    /// The customer has not given it yet.
    Awaited,
    /// It came sealed, and the hypervisor does not have it yet.
    Sealed,
    /// The hypervisor has it.
    Given,
}

impl KeyCase {
    /// Whether the volume can be opened.
    pub const fn opens(self) -> bool {
        matches!(self, Self::NotNeeded | Self::Given)
    }
}

/// How it stands with the exchange of a volume's key for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeCase {
    /// No other key is desired, or it is done.
    Settled,
    /// It was not tried by this process: which of the two keys opens the volume is not known.
    Untried,
    /// It was tried and is to be repeated; the key that the hypervisor has opens the volume.
    Tried,
    /// A copy is being made of the volume, or its machine is starting or on its way elsewhere.
    Held,
    /// It is over or was never desired, and the set does not name the key that should open it now.
    Unproven,
}

/// What to do about a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeAction {
    /// It is as desired.
    Settled,
    /// Something else has to happen first.
    Wait,
    /// It is gone, or can't be used, and nothing that the host does changes that.
    Lost,
    /// Open the seal of its key and give that to the hypervisor.
    GiveKey,
    /// Have the hypervisor forget its key.
    ForgetKey,
    /// Open the seal of the next key as well, and have the hypervisor exchange the two.
    ChangeKey,
    /// Try whether the key that it has opens it, to tell the broker.
    ProveKey,
    /// Make it.
    Create,
    /// Grow it to this size.
    Grow(Gib),
    /// Destroy its data.
    Delete,
    /// Remove what has come of its file.
    DropFile,
}

/// The next step of a volume.
pub fn next_volume_step(case: &VolumeCase<'_>) -> Step<VolumeAction> {
    if let Some(step) = unwanted_file(case) {
        return step;
    }
    let Wish::Present(wish) = case.wish else {
        if matches!(case.wish, Wish::Absent) && case.key == KeyCase::Given {
            return step(VolumeAction::ForgetKey, "no set names the volume any more");
        }
        return step(VolumeAction::Settled, "a volume that no set names is kept");
    };
    match (wish.wish, case.seen) {
        (VolumeWish::Delete, _) if case.key == KeyCase::Given && !case.in_use => {
            step(VolumeAction::ForgetKey, "its deletion is desired")
        }
        (VolumeWish::Delete, None) => step(VolumeAction::Settled, "it is deleted"),
        (VolumeWish::Delete, Some(_)) if case.in_use => {
            step(VolumeAction::Wait, "a machine still uses it")
        }
        (VolumeWish::Delete, Some(_)) => step(VolumeAction::Delete, "its deletion is desired"),
        (VolumeWish::Keep, None) if case.held => {
            step(VolumeAction::Wait, "the rebuild of its machine goes first")
        }
        (VolumeWish::Keep, None) if case.must_be_there => {
            step(VolumeAction::Lost, "its data is gone from the host")
        }
        (VolumeWish::Keep, Some(Volume { damage: Some(damage), .. })) => {
            step(VolumeAction::Lost, damage.for_customer())
        }
        (VolumeWish::Keep, _) if case.key == KeyCase::Sealed => {
            step(VolumeAction::GiveKey, "its key has come")
        }
        (VolumeWish::Keep, None) if !case.key.opens() => {
            step(VolumeAction::Wait, "its customer has not given its key yet")
        }
        (VolumeWish::Keep, None) if !case.source_ready => {
            step(VolumeAction::Wait, "what it is a copy of can't be read yet")
        }
        (VolumeWish::Keep, None) if wish.imports().is_some() && case.file != FileCase::Whole => {
            step(VolumeAction::Wait, "its customer has not sent its file yet")
        }
        (VolumeWish::Keep, None) => step(VolumeAction::Create, "it is desired here"),
        (VolumeWish::Keep, Some(_)) if case.change == ChangeCase::Untried => {
            step(VolumeAction::ChangeKey, "its next key has come")
        }
        (VolumeWish::Keep, Some(seen)) if seen.size < wish.size && !case.key.opens() => {
            step(VolumeAction::Wait, "its customer has not given its key yet")
        }
        (VolumeWish::Keep, Some(seen)) if seen.size < wish.size => {
            step(VolumeAction::Grow(wish.size), "a larger size is desired")
        }
        (VolumeWish::Keep, Some(_)) => match case.change {
            ChangeCase::Tried | ChangeCase::Untried => {
                step(VolumeAction::ChangeKey, "its key could not be exchanged before")
            }
            ChangeCase::Held => step(VolumeAction::Wait, "its key changes once it stays as it is"),
            ChangeCase::Unproven => {
                step(VolumeAction::ProveKey, "the set does not have the key that it has")
            }
            ChangeCase::Settled => step(VolumeAction::Settled, "it is there as desired"),
        },
    }
}
